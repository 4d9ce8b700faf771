"""Examples to try an op on: ``op.sample(rng) -> (args, params)``, in NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Sample = Callable[["np.random.Generator"], tuple[tuple, dict]]  # quoted: an import of 10 ms


def normal(*shapes: tuple[int, ...], **params: Any) -> Sample:
    """Arrays of these shapes, drawn from the standard normal distribution."""
    return lambda rng: (tuple(rng.standard_normal(s) for s in shapes), params)


def positive(*shapes: tuple[int, ...], **params: Any) -> Sample:
    """Arrays of numbers between 0.5 and 2: for logarithms, roots and quotients."""
    return lambda rng: (tuple(rng.uniform(0.5, 2, s) for s in shapes), params)


def distinct(*shapes: tuple[int, ...], **params: Any) -> Sample:
    """Numbers at least 0.1 from each other and from 0: for ops with a kink or a maximum."""

    def sample(rng: np.random.Generator) -> tuple[tuple, dict]:
        sizes = [int(np.prod(s)) for s in shapes]
        numbers = (rng.permutation(sum(sizes)) - sum(sizes) // 2 + 0.5) * 0.25
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        return tuple(p.reshape(s) for p, s in zip(parts, shapes, strict=True)), params

    return sample
