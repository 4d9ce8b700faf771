"""Ties: every maximum of a row gets the whole gradient."""

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, pulled, same, shapes


def broken():
    mine = {}

    def largest_dx(g, y, x):
        return g[..., None] * (x == y[..., None])

    @tg.primitive(largest_dx, registry=mine)
    def largest(x):
        """y = the largest number of each row of x (..., n)."""
        return x.max(axis=-1)

    return largest


def solution():
    mine = {}

    def largest_dx(g, y, x):
        top = x == y[..., None]
        return g[..., None] * (top / top.sum(axis=-1, keepdims=True))

    @tg.primitive(largest_dx, registry=mine)
    def largest(x):
        """y = the largest number of each row of x (..., n)."""
        return x.max(axis=-1)

    return largest


def judge(largest, rng):
    rows, n = int(rng.integers(1, 5)), int(rng.integers(2, 6))
    certify(largest, [rng.permutation(rows * n).reshape(rows, n) * 0.3], rng, order=2)
    x = rng.integers(-2, 2, (rows, n)).astype(float)
    x[0, : rng.integers(2, n + 1)] = 2.0
    x = x[..., rng.permutation(n)]
    g = rng.uniform(0.5, 2, rows)
    y, (dx,) = pulled(largest, [x], g)
    same("largest", y, x.max(axis=-1))
    told = f"rows with ties, such as {x[0].tolist()} with the gradient {dx[0].round(3).tolist()}"
    if (dx * (x < y[:, None])).any() or (dx < 0).any():
        raise Failed(f"largest: the gradient should go to the largest numbers only\n  {told}")
    same("largest: the gradients of a row, summed, beside g", dx.sum(axis=-1), g, told=told)


EXHIBIT = Exhibit(
    title="The gradient that multiplies",
    mechanism="ties: each of several maxima gets the whole gradient",
    seen="DeZero (all of them get it); autograd shares; MyGrad gives it to the first",
    story="""
        Max pooling over words. On random numbers the gradient check passes, at order two as well.
        On real data, where relu has left many zeros, padded rows grow gradients several times as
        large as those that come in.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.permutation(12).reshape(3, 4) * 0.5]),
    judge=judge,
    hints=(
        "What does the rule give for the row 0, 0, 0, and how much should the row get in all?",
        "max(x + t) = max(x) + t. So if all numbers of a row move by t, y moves by t: what does "
        "that say about the sum of the gradients of a row?",
        "The gradients of a row have to add up to g. Several numbers that tie must share it, or "
        "one of them takes it.",
        "Divide the mask by how many are True in each row: mask.sum(axis=-1, keepdims=True).",
    ),
    why="""
        At a tie, max has a kink, and any sharing dx = g p with p ≥ 0, Σ p = 1 over the largest
        numbers is a subgradient. p = 1 for each of k is none: along the direction (1, …, 1) it
        claims a slope of k, where max(x + t) = max(x) + t has the slope 1.

        A gradient check keeps away from kinks, and does not see this.
        """,
    withheld=("max", "min", "maximum", "minimum"),
)
