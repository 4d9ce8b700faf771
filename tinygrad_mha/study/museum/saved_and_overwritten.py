"""Saved and overwritten: two names, one array, and the way back reads what the way there wrote."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def silu_reference(x):
        return x * tg.sigmoid(x)

    @tg.fused(reference=silu_reference, registry=mine)
    def silu(x):
        """y = x s with s = sigmoid(x)        dx = g (s + y (1 - s))"""
        s = 1 / (1 + np.exp(-x))
        y = s
        y *= x

        def pullback(g):
            return (g * (s + y * (1 - s)),)

        return y, pullback

    return silu


def solution():
    mine = {}

    def silu_reference(x):
        return x * tg.sigmoid(x)

    @tg.fused(reference=silu_reference, registry=mine)
    def silu(x):
        """y = x s with s = sigmoid(x)        dx = g (s + y (1 - s))"""
        s = 1 / (1 + np.exp(-x))
        y = s * x

        def pullback(g):
            return (g * (s + y * (1 - s)),)

        return y, pullback

    return silu


def judge(silu, rng):
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 4)))
    x = rng.standard_normal(shape) * 2
    x = x.T if rng.random() < 0.3 else x
    same("silu", silu(x), x / (1 + np.exp(-x)), told=f"x {x.shape}")
    certify(silu, [x], rng)


EXHIBIT = Exhibit(
    title="The formula that is right",
    mechanism="an array that the backward pass needs is overwritten in the forward pass",
    seen="autograd#58, ml-by-hand",
    story="""
        The values are right, digit for digit. The formula of the gradient is right too, as anybody
        can check on paper. The gradient is wrong. Somebody had saved an array.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((2, 3))]),
    judge=judge,
    hints=(
        "What does s hold when the pullback reads it?",
        "y = s makes a second name, not a second array. Which of the lines writes into it?",
        "Let y be an array of its own, and leave s as it was.",
    ),
    why="""
        With s overwritten by y, the pullback computes g (y + y (1 − y)). The sigmoid itself is
        needed on the way back:

            dy/dx = s + x s (1 − s) = s + y (1 − s)

        An op may write into what it has allocated, as long as nothing that its pullback reads lives
        there. Engines with in-place operators count versions to notice this.
        """,
    withheld=("silu",),
)
