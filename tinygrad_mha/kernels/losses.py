"""Cross-entropy on a GPU: one launch each way."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

from ..backend import xp
from ..losses import _beside, _rows, share
from .columns import tickets
from .launch import blocks, dense, launch, usable

FILE, THREADS = "losses.cu", 128
GOAL = {"f": Struct("Qf4xq2i"), "d": Struct("Qdq2i")}  # struct Goal of the kernels, by dtype


def cross_entropy(
    logits, targets, *, weight=None, label_smoothing=0.0, ignore_index=None, reduction="mean"
) -> Any:
    """The loss, the sum over the rows included."""
    if not usable(logits) or not logits.size or not 0 <= label_smoothing <= 1:
        return None
    share(reduction, 1)  # is it one of the three?
    rows, goal = _rows(dense(logits), targets, ignore_index)
    m, (n, classes), dtype = xp(rows), rows.shape, rows.dtype
    goal = goal.astype(np.int64, copy=False)
    w = None
    if weight is not None:
        w = dense(_beside(weight, rows))
        if w.shape != (classes,):
            return None  # where it is explained
    pack = GOAL[dtype.char].pack
    ignores = ignore_index is not None
    struct = np.void(
        pack(0 if w is None else w.data.ptr, label_smoothing, ignore_index or 0, ignores, classes)
    )
    losses, logs, counted = m.empty((3, n), dtype)
    result = m.empty(2, dtype)
    grid = blocks(n * 32, THREADS)
    launch(
        FILE, "cross_entropy", rows, grid, THREADS,
        rows, goal, losses, logs, counted, result, tickets(rows, 1), struct, n,
        int(reduction == "mean"),
    )  # fmt: skip
    each = reduction == "none"

    def pullback(g, _=w):  # so that the weights live as long as this function
        g = dense(g)
        dx = m.empty_like(rows)
        launch(
            FILE, "cross_entropy_back", rows, grid, THREADS,
            rows, goal, logs, g, None if each else result[1:], dx, struct, n, int(each),
        )  # fmt: skip
        return dx.reshape(logits.shape), None

    return (losses.reshape(logits.shape[:-1]) if each else result[0]), pullback
