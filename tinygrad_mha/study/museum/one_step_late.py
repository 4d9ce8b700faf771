"""One step late: the state that a step leaves, for the one it found."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def fading_reference(x, keep):
        rows = [x[0]]
        for t in range(1, len(x)):
            rows.append(keep * rows[-1] + x[t])
        return tg.stack(rows)

    @tg.fused(reference=fading_reference, registry=mine)
    def fading(x, keep):
        """y[t] = keep y[t-1] + x[t], from y[-1] = 0: x (T, d), keep (d,)."""
        y = x * 1
        for t in range(1, len(x)):
            y[t] += keep * y[t - 1]

        def pullback(g):
            dx, dkeep, dy = np.zeros_like(x), np.zeros_like(keep), 0
            for t in reversed(range(len(x))):
                dy = g[t] + keep * dy
                dx[t] = dy
                dkeep += dy * y[t]
            return dx, dkeep

        return y, pullback

    return fading


def solution():
    mine = {}

    def fading_reference(x, keep):
        rows = [x[0]]
        for t in range(1, len(x)):
            rows.append(keep * rows[-1] + x[t])
        return tg.stack(rows)

    @tg.fused(reference=fading_reference, registry=mine)
    def fading(x, keep):
        """y[t] = keep y[t-1] + x[t], from y[-1] = 0: x (T, d), keep (d,)."""
        y = x * 1
        for t in range(1, len(x)):
            y[t] += keep * y[t - 1]

        def pullback(g):
            dx, dkeep, dy = np.zeros_like(x), np.zeros_like(keep), 0
            for t in reversed(range(len(x))):
                dy = g[t] + keep * dy
                dx[t] = dy
                if t > 0:
                    dkeep += dy * y[t - 1]
            return dx, dkeep

        return y, pullback

    return fading


def judge(fading, rng):
    steps, width = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    x, keep = rng.standard_normal((steps, width)), rng.uniform(-0.9, 0.9, width)
    y = [x[0]]
    for row in x[1:]:
        y.append(keep * y[-1] + row)
    same("fading", fading(x, keep), np.stack(y), told=f"x {x.shape}, keep {keep.shape}")
    certify(fading, [x, keep], rng)


EXHIBIT = Exhibit(
    title="The memory that remembers today",
    mechanism="off by one: the gradient takes the state after the step, not before it",
    seen="zero_to_gpt#9 (a reader asks why the state of one step is used twice)",
    story="""
        A memory that fades: each step keeps a part of the last and adds what is new. How much is
        kept is learned. Gradients of the inputs are right at every step; the one of `keep` is
        finite, of the right shape, often of the right sign.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((4, 2)), rng.uniform(0.2, 0.8, 2)]),
    judge=judge,
    hints=(
        "In y[t] = keep y[t-1] + x[t], what is the derivative with respect to keep alone?",
        "Which y is `keep` multiplied with at step t? Which one does the pullback multiply with?",
        "y[t - 1]. But mind the first step: what is y[0 - 1] in Python, and what should it be?",
        "if t > 0: dkeep += dy * y[t - 1]",
    ),
    why="""
        With dy[t] = g[t] + keep · dy[t+1], the whole gradient that reaches y[t],

            dx[t] = dy[t]        dkeep = Σₜ dy[t] · y[t−1],   y[−1] = 0

        The state *before* the step is what the weight was multiplied with. Python's y[-1] is the
        last state, not zero, so the first step has to be left out.
        """,
)
