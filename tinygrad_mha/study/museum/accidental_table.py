"""The accidental table: (n, 1) - (n,) is (n, n)."""

import numpy as np

from .exhibit import Exhibit
from .judging import certify, pulled, same, shapes


def broken():
    def mse(prediction, target):
        """The mean squared error of outputs (n, 1) for targets (n,)."""
        difference = prediction - target
        return (difference * difference).mean()

    return mse


def solution():
    def mse(prediction, target):
        """The mean squared error of outputs (n, 1) for targets (n,)."""
        difference = prediction - target.reshape(-1, 1)
        return (difference * difference).mean()

    return mse


def judge(mse, rng):
    n = int(rng.integers(2, 9))
    prediction, target = rng.standard_normal((n, 1)), rng.standard_normal(n)
    g = rng.standard_normal()
    loss, (dprediction, dtarget) = pulled(mse, [prediction, target], g)
    apart = prediction[:, 0] - target
    told = f"prediction ({n}, 1), target ({n},)"
    same("mse", loss, np.asarray((apart**2).mean()), told=told)
    same("the gradient of prediction", dprediction, (g * 2 * apart / n)[:, None], told=told)
    same("the gradient of target", dtarget, -g * 2 * apart / n, told=told)
    certify(mse, [prediction, target], rng, order=2)


EXHIBIT = Exhibit(
    title="The model that predicts the mean",
    mechanism="an accidental broadcast compares every output with every target",
    seen="pytorch#16045 and #4938, tensorflow#37770",
    story="""
        A linear regression that has an exact answer will not find it. The loss falls, stops too
        early, and the model gives nearly the same number for every input: the mean of the targets.
        No error, no warning. Every gradient has the right shape, and the gradient check passes.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((4, 1)), rng.standard_normal(4)]),
    judge=judge,
    hints=(
        "The loss is a single number, whatever happens before. What is the shape of `difference`?",
        """
        (4, 1) - (4,) is a table of (4, 4): NumPy puts new axes in front, so the targets become a
        row, and each output meets each target.
        """,
        "Give the targets the shape of the outputs before you subtract: (n, 1), as a column.",
    ),
    why="""
        With the broadcast, the loss is 1/n² Σᵢ Σⱼ (pᵢ − tⱼ)², and its gradient is

            dpᵢ = 2/n (pᵢ − mean t)

        so all outputs are drawn to one number. It is the right gradient of the wrong function: a
        gradient check compares a function with itself, and cannot know which one was meant. That
        takes a value computed some other way.
        """,
    withheld=("mse_loss",),
)
