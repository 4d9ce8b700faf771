"""The dead branch: 0 times an infinite slope, where nobody asked for a slope."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, pulled, same, shapes


def broken():
    mine = {}

    def surprise_dp(g, y, p):
        asked = tg.where(p > 0, g, 0.0)
        return -asked * (tg.log(p) + 1)

    @tg.primitive(surprise_dp, registry=mine)
    def surprise(p):
        """y = -p log p, a term of an entropy; 0 at p = 0, where dp is 0 too."""
        return -p * np.log(np.where(p > 0, p, 1))

    return surprise


def solution():
    mine = {}

    def surprise_dp(g, y, p):
        asked = tg.where(p > 0, g, 0.0)
        safe = tg.where(p > 0, p, 1.0)
        return -asked * (tg.log(safe) + 1)

    @tg.primitive(surprise_dp, registry=mine)
    def surprise(p):
        """y = -p log p, a term of an entropy; 0 at p = 0, where dp is 0 too."""
        return -p * np.log(np.where(p > 0, p, 1))

    return surprise


def judge(surprise, rng):
    n = int(rng.integers(3, 9))
    certify(surprise, [rng.uniform(0.2, 1, n)], rng, order=2)
    p = rng.uniform(0.1, 1, n)
    p[0], p[1] = 0.0, 10 ** rng.uniform(-14, -3)
    p = rng.permutation(p)
    g = rng.uniform(0.5, 2, n)
    y, (dp,) = pulled(surprise, [p], g)
    there = p > 0
    log = np.log(p[there])
    if np.isnan(dp).any():
        i = int(np.isnan(dp).argmax())
        raise Failed(f"surprise: the gradient is NaN at index ({i},), where p is {p[i]:.3g}")
    same("surprise", y[there], -p[there] * log, told=f"p {p[there].tolist()}")
    same("surprise where p is 0", y[~there], np.zeros((~there).sum()))
    same(
        "the gradient of surprise", dp[there], -g[there] * (log + 1), told=f"p {p[there].tolist()}"
    )
    same("the gradient of surprise where p is 0", dp[~there], np.zeros((~there).sum()))


EXHIBIT = Exhibit(
    title="Nobody asked for that element",
    mechanism="0 · inf: a branch that was not taken has an infinite slope",
    seen="autograd#151 and #802, jax#6811 (0 · log 0)",
    story="""
        An entropy is added to the loss. It is 0 · log 0 = 0 for an event that never happens, and
        the code takes care of that: `where` sends such an element no gradient. After the first
        such event all weights are NaN, and not only those behind that element.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.uniform(0.1, 1, (2, 3))]),
    judge=judge,
    hints=(
        "What are the two factors of the product in the rule at p = 0?",
        "0 · inf is NaN in floating-point numbers. `where` made the first factor 0; it cannot undo "
        "what the second one is.",
        "Masking the result of a function does not help if its slope is infinite. Mask what goes "
        "into it too.",
        "Take the logarithm of where(p > 0, p, 1.0): where nobody asks, of 1. (A small number "
        "added to p would make every other gradient a little wrong.)",
    ),
    why="""
        The gradient of where(c, f(x), 0) is where(c, g, 0) · f'(x), and a product with an infinite
        factor is NaN even if the other is 0. One NaN in dp then meets every weight in a matrix
        product: 0 · NaN is NaN again.

        So the *input* of f is made harmless where c does not hold, which changes no result: the
        "double where". The ops of tinygrad_mha do it inside.
        """,
    withheld=("pow",),
)
