"""Optimizers and clipping on a GPU, for all parameters at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any

import numpy as np

from ..backend import Array, xp
from .columns import tickets
from .launch import launch, usable

FILE = "optim.cu"
COUNT = 64  # arrays in one launch: kernels take 4 KB of arguments
MOVED = Struct("4Qq")  # struct Moved


def tables(rows: Sequence[tuple[Array, ...]]) -> Iterator[tuple[np.void, int, Array]]:
    """Rows (p, g, ...) of arrays of one dtype as a kernel takes them, how many, one of them."""
    for start in range(0, len(rows), COUNT):
        part = rows[start : start + COUNT]
        pointers = ([*(a.data.ptr for a in arrays), 0, 0][:4] for arrays in part)
        packed = b"".join(MOVED.pack(*p, a[0].size) for p, a in zip(pointers, part, strict=True))
        yield np.void(packed.ljust(COUNT * MOVED.size, b"\0")), len(part), part[0][0]


def grid(rows: Sequence[tuple[Array, ...]], count: int) -> tuple[int, int]:
    largest = max(a[0].size for a in rows)
    return max(1, min(-(-largest // 1024), 512)), count


def fits(p: Array, g: Array) -> bool:
    """Whether kernels move p: in one piece, with a gradient in one piece, of the same dtype."""
    return (
        usable(p) and p.dtype == g.dtype and bool(p.size)
        and p.flags.c_contiguous and g.flags.c_contiguous
    )  # fmt: skip


def adam(
    rows: Sequence[tuple], t: int, group: dict, decoupled: bool, only_if: Array | None
) -> None:
    """One step of Adam for (p, g, mean, square) of one dtype, all in their t-th step."""
    lr, eps, decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
    b1, b2 = (float(b) for b in group["betas"])
    for table, count, like in tables(rows):
        launch(
            FILE, "adam", like, grid(rows, count), 256,
            table, only_if, b1, b2, eps, lr / (1 - b1**t), math.sqrt(1 - b2**t),
            1 - lr * decay if decoupled else 1.0, 0.0 if decoupled else decay, COUNT=COUNT,
        )  # fmt: skip


def sgd(rows: Sequence[tuple], group: dict, only_if: Array | None) -> None:
    """One step of SGD for (p, g) or, with momentum, (p, g, velocity) of one dtype."""
    lr, momentum, decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
    for table, count, like in tables(rows):
        launch(
            FILE, "sgd", like, grid(rows, count), 256,
            table, only_if, lr, momentum, decay, int(group["nesterov"]), COUNT=COUNT,
        )  # fmt: skip


def clipped(gradients: Sequence[Array], max_norm: float) -> Any:
    """The norm of the gradients, and each of them scaled; None if kernels cannot."""
    first = gradients[0]
    if len(gradients) > COUNT or not all(fits(g, g) and g.dtype == first.dtype for g in gradients):
        return None
    m = xp(first)
    rows = [(m.empty_like(g), g) for g in gradients]
    [(table, count, _)] = tables(rows)
    size = grid(rows, count)
    size = min(size[0], 64), count
    parts, result = m.empty(size[0] * size[1], first.dtype), m.empty(2, first.dtype)
    launch(
        FILE, "grad_norm", first, size, 256,
        table, parts, result, tickets(first, 1), float(max_norm), COUNT=COUNT,
    )  # fmt: skip
    launch(FILE, "scale", first, grid(rows, count), 256, table, result[1:], COUNT=COUNT)
    return result[0], [new for new, _ in rows]
