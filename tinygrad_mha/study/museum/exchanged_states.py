"""Exchanged states: two gradients of one shape, in the wrong order."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def lstm_step_reference(a, h, c, u):
        i, f, g, o = tg.split(a + h @ u, 4, axis=1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c

    @tg.fused(reference=lstm_step_reference, registry=mine)
    def lstm_step(a, h, c, u):
        """The next h, c: a (B, 4H) from the input, h, c (B, H), u (H, 4H)."""
        i, f, g, o = np.split(a + h @ u, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f, o))
        g = np.tanh(g)
        next_c = f * c + i * g
        s = np.tanh(next_c)

        def pullback(gradients):
            dh, dc = (0 * c if d is None else d for d in gradients)
            dc = dc + dh * o * (1 - s * s)
            di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
            dg, do = dc * i * (1 - g * g), dh * s * o * (1 - o)
            da = np.concatenate([di, df, dg, do], axis=1)
            return da, dc * f, da @ u.T, h.T @ da

        return (o * s, next_c), pullback

    return lstm_step


def solution():
    mine = {}

    def lstm_step_reference(a, h, c, u):
        i, f, g, o = tg.split(a + h @ u, 4, axis=1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c

    @tg.fused(reference=lstm_step_reference, registry=mine)
    def lstm_step(a, h, c, u):
        """The next h, c: a (B, 4H) from the input, h, c (B, H), u (H, 4H)."""
        i, f, g, o = np.split(a + h @ u, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f, o))
        g = np.tanh(g)
        next_c = f * c + i * g
        s = np.tanh(next_c)

        def pullback(gradients):
            dh, dc = (0 * c if d is None else d for d in gradients)
            dc = dc + dh * o * (1 - s * s)
            di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
            dg, do = dc * i * (1 - g * g), dh * s * o * (1 - o)
            da = np.concatenate([di, df, dg, do], axis=1)
            return da, da @ u.T, dc * f, h.T @ da

        return (o * s, next_c), pullback

    return lstm_step


def draw(rng):
    batch, width = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    shapes = (batch, 4 * width), (batch, width), (batch, width), (width, 4 * width)
    return [rng.standard_normal(s) for s in shapes]


def judge(lstm_step, rng):
    args = draw(rng)
    a, h, c, u = args
    i, f, g, o = np.split(a + h @ u, 4, axis=1)
    next_c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    for name, got, wanted in zip(
        ("h", "c"), lstm_step(*args), (np.tanh(next_c) / (1 + np.exp(-o)), next_c), strict=True
    ):
        same(f"lstm_step: the next {name}", got, wanted)
    certify(lstm_step, args, rng)

    def next_h_only(a, h, c, u):
        return lstm_step(a, h, c, u)[0]

    certify(next_h_only, args, rng)


EXHIBIT = Exhibit(
    title="Two states of one shape",
    mechanism="two gradients of one shape are returned in each other's place",
    seen="nni PR#2842 (h and c in the wrong order); its sister: chainer#2505 (only h is used)",
    story="""
        An LSTM hands two states from step to step, h and c, and both are (B, H). The last lines of
        its backward pass were checked for shapes, twice. It learns, badly; with one step a text it
        even learns well.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(draw),
    judge=judge,
    hints=(
        "Which of the four gradients does the certificate complain about? Which are right?",
        "The formulas may all be right, and still not be where they belong.",
        "In which order does lstm_step take its arguments, and in which order does the pullback "
        "give their gradients?",
        "dc · f belongs to c, since next_c = f c + i g; da uᵀ belongs to h, which enters by h u.",
    ),
    why="""
        h enters the step through the gates only, a + h u, so dh = da uᵀ. c enters through f c only,
        so dc = dc' f. Both are (B, H): a shape check cannot tell them apart, and nor can one that
        starts from zero states, where either is multiplied with 0 afterwards.

        A name for each gradient, in a line of its own before the return, makes this hard to get
        wrong.
        """,
    withheld=("lstm",),
    cases=10,
)
