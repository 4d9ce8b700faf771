"""Into the pads: a recurrent layer goes on after the text has ended."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, pulled, same, shapes


def broken():
    def last_state(x, u, lengths):
        """h after the last real token: x (T, B, H), u (H, H), lengths (B,).

        h = tanh(x[t] + h u) at every step, from zeros; then come pads.
        """
        h = tg.tanh(x[0])
        for t in range(1, len(x)):
            h = tg.tanh(x[t] + h @ u)
        return h

    return last_state


def solution():
    def last_state(x, u, lengths):
        """h after the last real token: x (T, B, H), u (H, H), lengths (B,).

        h = tanh(x[t] + h u) at every step, from zeros; then come pads.
        """
        h = tg.tanh(x[0])
        for t in range(1, len(x)):
            real = (t < lengths)[:, None]
            h = tg.where(real, tg.tanh(x[t] + h @ u), h)
        return h

    return last_state


def judge(last_state, rng):
    steps, batch, width = int(rng.integers(2, 6)), int(rng.integers(2, 4)), int(rng.integers(1, 4))
    x, u = rng.standard_normal((steps, batch, width)), rng.standard_normal((width, width))
    lengths = rng.integers(1, steps + 1, batch)
    lengths[:2] = rng.permutation([steps, rng.integers(1, steps)])
    g, told = rng.standard_normal((batch, width)), f"x {x.shape}, lengths {lengths.tolist()}"
    y, (dx, _) = pulled(last_state, [x, u, lengths], g)
    for b, n in enumerate(lengths):
        h = np.tanh(x[0, b])
        for t in range(1, n):
            h = np.tanh(x[t, b] + h @ u)
        same(f"last_state of text {b}, beside that text alone", y[b], h, told=told)
        if dx[n:, b].any():
            raise Failed(f"last_state: text {b} sends a gradient to its pads\n  {told}")
    certify(last_state, [x, u, lengths], rng)


EXHIBIT = Exhibit(
    title="Company changes the answer",
    mechanism="pads are read as if they were tokens",
    seen="practical-torchtext#5",
    story="""
        A text is classified by the last state of a recurrent layer. Alone it is classified one
        way, in a batch beside a longer text another way. The gradient check passes: the backward
        pass belongs to the forward pass perfectly.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(
        lambda rng: [rng.standard_normal((3, 2, 2)), rng.standard_normal((2, 2)), np.array([3, 2])]
    ),
    judge=judge,
    hints=(
        "Where are `lengths` used?",
        "A text of 2 tokens in a batch of 5 steps: how many steps change its state?",
        "The state of a text that has ended should stay what it was. tg.where chooses between two "
        "arrays, and sends the gradient to the one that it took.",
        "h = tg.where((t < lengths)[:, None], the new state, h)",
    ),
    why="""
        With real = 1 or 0,

            h[t] = real · tanh(x[t] + h[t−1] u) + (1 − real) · h[t−1]

        so the gradient goes through a pad unchanged, straight to the last real step, and none of it
        to the pad. A gradient check compares a function with its own gradient; that pads do not
        matter is a property of the function, and has to be tested as one: change the pads, and
        nothing may change.
        """,
    withheld=("lstm",),
    cases=10,
)
