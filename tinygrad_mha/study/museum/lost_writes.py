"""Lost writes: reshape(-1) of a transposed array is a copy, and what is written there is lost."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def picked_reference(x, places):
        return x.reshape(-1)[places]

    @tg.fused(reference=picked_reference, registry=mine)
    def picked(x, places):
        """The numbers at some places of x, counted row by row: places (n,)."""

        def pullback(g):
            dx = np.zeros_like(x)
            np.add.at(dx.reshape(-1), places, g)
            return dx, None

        return x.reshape(-1)[places], pullback

    return picked


def solution():
    mine = {}

    def picked_reference(x, places):
        return x.reshape(-1)[places]

    @tg.fused(reference=picked_reference, registry=mine)
    def picked(x, places):
        """The numbers at some places of x, counted row by row: places (n,)."""

        def pullback(g):
            dx = np.zeros(x.size, x.dtype)
            np.add.at(dx, places, g)
            return dx.reshape(x.shape), None

        return x.reshape(-1)[places], pullback

    return picked


def judge(picked, rng):
    shape = tuple(int(n) for n in rng.integers(2, 5, rng.integers(2, 4)))
    x = rng.standard_normal(shape)
    for view in (x, x.T, x[::-1], rng.standard_normal((2 * shape[0], *shape[1:])).T[..., ::2]):
        places = rng.integers(0, view.size, int(rng.integers(1, 6)))
        same("picked", picked(view, places), view.flatten()[places], told=f"x {view.shape}")
        certify(picked, [view, places], rng)


EXHIBIT = Exhibit(
    title="It depends on how it lies",
    mechanism="writes go to a copy: reshape of an array that is not contiguous",
    seen="torch/nn PR#345, flash-attention#355, candle#3735 (all assume contiguous arrays)",
    story="""
        The gradient is right. Somebody upstream replaces x by the transpose of another array, equal
        to x in shape and in every number, and the gradient is 0. Printing x shows no difference.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((3, 4)), np.array([0, 5, 5, 11])]),
    judge=judge,
    hints=(
        "np.zeros_like(x) has the shape and the dtype of x. What else does it have of x?",
        "It has the memory order of x. When is a.reshape(-1) a view of a, and when a copy?",
        "The flat view of a transposed array does not exist, so NumPy makes a copy. Who ever reads "
        "that copy?",
        "Make the buffer flat to begin with, np.zeros(x.size, x.dtype), write into it, and reshape "
        "it at the end.",
    ),
    why="""
        places count row by row, so in memory order only if x is C-contiguous. reshape promises
        values, not identity: it gives a view if strides allow, else a copy. Reading through either
        is the same; writing is not.

        Reshaping *after* the writes is safe both ways. A gradient check has to include arrays that
        are transposed, reversed and strided, since their values say nothing about it.
        """,
    withheld=("take", "take_along_axis"),
)
