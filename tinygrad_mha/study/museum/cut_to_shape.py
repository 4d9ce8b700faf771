"""Cut to shape: what was broadcast along an axis of 1 gets a slice of the gradient, not a sum."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, array_of, certify, lifted


def broken():
    def unbroadcast(g, shape):
        """The gradient of an array of ``shape`` that was broadcast to g's."""
        new_axes = tuple(range(g.ndim - len(shape)))
        g = g.sum(axis=new_axes)
        return g[tuple(slice(n) for n in shape)]

    return unbroadcast


def solution():
    def unbroadcast(g, shape):
        """The gradient of an array of ``shape`` that was broadcast to g's."""
        new_axes = tuple(range(g.ndim - len(shape)))
        g = g.sum(axis=new_axes)
        copied = tuple(k for k, n in enumerate(shape) if n == 1)
        return g.sum(axis=copied, keepdims=True)

    return unbroadcast


def judge(unbroadcast, rng):
    large = tuple(int(n) for n in rng.integers(2, 5, rng.integers(1, 4)))
    ones = rng.random(len(large)) < 0.5
    ones[rng.integers(len(large))] = True
    small = tuple(1 if one else n for n, one in zip(large, ones, strict=True))
    check(unbroadcast, small, large, rng)
    check(unbroadcast, small[rng.integers(len(large)) :], large, rng)
    check(unbroadcast, (), large, rng)
    check(unbroadcast, large, large, rng)
    check(unbroadcast, (2, 1, 3), (2, 4, 3), rng)


def check(unbroadcast, small, large, rng):
    """The certificate of a broadcast, with the learner's function as its way back."""

    def backward(x, y, g):
        dx = array_of("unbroadcast", unbroadcast(g, x.shape))
        if dx.shape != x.shape:  # the engine would sum it, and hide what is missing
            told = f"g {g.shape}, shape {x.shape}"
            raise Failed(f"unbroadcast gives {dx.shape}, and should give {x.shape} ({told})")
        return dx

    def reference(x):
        return tg.broadcast_to(x, shape=large)

    op = lifted("unbroadcast", lambda x: np.broadcast_to(x, large) * 1.0, backward, reference)
    certify(op, [rng.standard_normal(small)], rng)


def looks_fine(unbroadcast, rng):
    lines = []
    for large, small in (((2, 3, 4), (3, 4)), ((3, 4), (3, 1)), ((2, 3), ())):
        d = np.asarray(unbroadcast(rng.standard_normal(large), small))
        assert d.shape == small
        assert np.isfinite(d).all()
        lines.append(f"unbroadcast(g {large}, {small}) gives {d.shape}, all finite")
    return "\n".join(lines)


EXHIBIT = Exhibit(
    title="The column that listens to one neighbour",
    mechanism="an axis that was broadcast from 1 is cut, where it should be summed",
    seen="neunet ((2, 3, 4) @ (4,)), DeZero (3-D products), pytorch#13669",
    story="""
        A small engine undoes broadcasting after every op with one helper. Biases learn well. A
        scale factor a row, kept as a column (n, 1), hardly learns at all: its gradient has the
        right shape, and looks like a gradient. It is one.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    cases=8,
    hints=(
        "An array (3, 1) is added to one of (3, 4). Into how many places of the result goes each "
        "of its numbers?",
        "The first two lines sum the axes that broadcasting has put in front. What happens in the "
        "last line to an axis that had length 1 and has length 4 now?",
        "g[:, :1] has the right shape and keeps one of four gradients. The adjoint of a copy is a "
        "sum.",
        "Sum over every axis k with shape[k] == 1, and keep those axes: keepdims=True.",
    ),
    why="""
        Broadcasting copies: y[i, j] = x[i, 0] for every j. So

            dx[i, 0] = Σⱼ g[i, j]

        whether the axis was new or had length 1. A slice has the shape of the sum and none of its
        other terms. Where the length is 1 on both sides, the sum has one term and does no harm.
        """,
)
