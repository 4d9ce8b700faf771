"""The floor: only the matrix products of a training step, ``python bench/contestants/gemms.py …``.

Forward and backward, at the shapes that they have in the fused ops, with all operands at hand:
nothing is computed from what came out, nothing is allocated, and nobody waits for the step before.
Each thread has its half of the batch, BLAS is on one thread, as in the step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import HEADS, SIZES, measure

from tinygrad_mha.models.parallel import Workers


def products(d: int, batch: int, tokens: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(times, a, b) of every product of a half-batch."""
    rng = np.random.default_rng(0)

    def of(times: int, *shapes: tuple) -> tuple[int, np.ndarray, np.ndarray]:
        a, b = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        return times, a, b

    n, lead, head = batch * tokens, (batch, HEADS), d // HEADS
    return [
        of(1, (n, d), (d, 4 * d)),  # LSTM: what x gives to the gates of all steps
        of(tokens, (batch, d), (d, 4 * d)),  # what h gives, step after step
        of(tokens, (batch, 4 * d), (4 * d, d)),  # dh
        of(1, (n, 4 * d), (4 * d, d)),  # dx
        of(2, (4 * d, n), (n, d)),  # the two weights
        of(4, (n, d), (d, d)),  # attention: q, k, v and the output
        of(4, (n, d), (d, d)),  # their gradients
        of(4, (d, n), (n, d)),  # and those of the weights
        of(2, (*lead, tokens, head), (*lead, head, tokens)),  # scores, dp
        of(4, (*lead, tokens, tokens), (*lead, tokens, head)),  # the averages, dq, dk, dv
    ]


def main(name: str, what: str, threads: str) -> None:
    size, count = SIZES[name], int(threads)
    with Workers(count) as workers:
        halves = [
            [
                (times, a, b, np.matmul(a, b))
                for times, a, b in products(size.d_model, part.stop - part.start, size.tokens)
            ]
            for part in workers.cut(size.batch)
        ]

        def multiply(half: list) -> None:
            for times, a, b, out in half:
                for _ in range(times):
                    np.matmul(a, b, out=out)

        def step(ids: np.ndarray, targets: np.ndarray) -> float:
            workers.map(multiply, halves)
            return 0.0

        measure(step, name)


main(*sys.argv[1:])
