"""Sums over the rows of a table, which is how a bias gets its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, xp
from .launch import blocks, launch

FILE = "columns.cu"
ACROSS, DOWN = 32, 16
STRETCHES = 64  # at most: so many blocks share the rows of 32 columns


def column_sum(x: Array, z: Array | None = None) -> Array:
    """Σ x over the rows of x (N, n): (n,); with a z (N, n), (2, n): Σ x and Σ x · z.

    The same bits every time: who adds what to what does not depend on who comes first.
    """
    m, (rows, n) = xp(x), x.shape
    y = m.empty((n,) if z is None else (2, n), x.dtype)
    if not y.size:
        return y
    across = blocks(n, ACROSS)
    stretches = min(STRETCHES, blocks(rows, 8 * DOWN))
    parts = m.empty((stretches, 2, n), x.dtype) if stretches > 1 else None
    launch(
        FILE, "column_sum", x, (across, stretches), ACROSS * DOWN,
        x, z, y, parts, tickets(x, across), rows, n,
    )  # fmt: skip
    return y


def add_bias(y: Array, bias: Array) -> None:
    """Add a bias (n,) to every row of y (..., n), in place."""
    if y.size:
        grid = min(blocks(y.size, 256), 4096)
        launch(FILE, "add_bias", y, grid, 256, y, bias, y.size, len(bias))


_tickets: dict[int, Any] = {}


def tickets(like: Array, count: int) -> Array:
    """``count`` zeros on the device of ``like``, which every kernel leaves as zeros."""
    found = _tickets.get(like.device.id)
    if found is None or found.size < count:
        with like.device:
            found = _tickets[like.device.id] = xp(like).zeros(max(count, 1024), np.uint32)
    return found
