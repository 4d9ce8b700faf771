"""Huge inputs: e^x overflows, and infinity over infinity is no number."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, pulled, same, shapes


def broken():
    mine = {}

    def logistic_dx(g, y, x):
        e = tg.exp(x)
        return g * e / (1 + e) ** 2

    @tg.primitive(logistic_dx, registry=mine)
    def logistic(x):
        """y = e^x / (1 + e^x), without overflow for any x."""
        e = np.exp(x)
        return e / (1 + e)

    return logistic


def solution():
    mine = {}

    def logistic_dx(g, y, x):
        return g * y * (1 - y)

    @tg.primitive(logistic_dx, registry=mine)
    def logistic(x):
        """y = e^x / (1 + e^x), without overflow for any x."""
        e = np.exp(-np.abs(x))
        return np.where(x < 0, e, 1) / (1 + e)

    return logistic


def judge(logistic, rng):
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 3)))
    certify(logistic, [rng.standard_normal(shape) * 2], rng, order=2)
    sizes = np.concatenate([rng.uniform(15, 30, 4), 10 ** rng.uniform(1.5, 4, 4)])
    x = sizes * rng.choice([-1, 1], sizes.size)
    x[-1] = 1000 * rng.choice([-1, 1])
    e = np.exp(-np.abs(x))
    g = rng.uniform(0.5, 2, x.shape)
    try:
        with np.errstate(over="raise", invalid="raise"):
            y, (dx,) = pulled(logistic, [x], g)
    except FloatingPointError as error:
        raise Failed(f"logistic: {error}, x from {x.min():.4g} to {x.max():.4g}") from error
    told = f"x {x.round(1).tolist()}"
    same("logistic", y, np.where(x < 0, e, 1) / (1 + e), told=told)
    same("the gradient of logistic", dx, g * e / (1 + e) ** 2, told=told)


EXHIBIT = Exhibit(
    title="Too sure of itself",
    mechanism="an exponential overflows, and inf / inf is NaN",
    seen="neunet (1 / (1 + e^-x) overflows); thinc cuts inputs off at ±20 instead",
    story="""
        A classifier trains for an hour and becomes very sure of one example. Its logit passes 710,
        and from the next step on every weight is NaN. The gradient check had looked at inputs
        around 0.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((2, 3))]),
    judge=judge,
    hints=(
        "How large can e^x be in float64, and what is inf / inf?",
        "e^x / (1 + e^x) = 1 / (1 + e^-x). One form is safe for x < 0, the other for x > 0. "
        "(To clip x would give a slope of 0 where there is one.)",
        "Only ever compute e^-|x|, which is at most 1. And the slope needs no exponential: it can "
        "be written with y alone.",
        "y = where(x < 0, e, 1) / (1 + e) with e = exp(-|x|), and dx = g y (1 - y).",
    ),
    why="""
        With e = e^-|x| ≤ 1 both branches are the same function,

            x ≥ 0:  1 / (1 + e)        x < 0:  e / (1 + e)

        and nothing can overflow; where e underflows to 0, so does the result. y (1 − y) is the
        slope e^x / (1 + e^x)² in terms of numbers between 0 and 1.
        """,
    withheld=("sigmoid", "silu", "tanh"),
)
