"""Embedding on a GPU. Ids are sorted on the host, and go up together with their order."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import placed, xp
from ..embedding import _ids, padding_row
from .launch import blocks, dense, launch, usable

FILE = "embedding.cu"


def embedding(ids, weight, *, padding_idx=None) -> Any:
    """One launch each way, and one copy to the device for both."""
    if not usable(weight) or not weight.size:
        return None
    ids, padding_idx = _ids(ids, weight.shape), padding_row(padding_idx, weight.shape[0])
    if not ids.size:
        return None
    m, d = xp(weight), weight.shape[1]
    weight = dense(weight)
    there, *sorted_ids = placed(weight, ids.astype(np.int64), *by_word(ids, padding_idx))
    y = m.empty((*ids.shape, d), weight.dtype)
    grid = min(blocks(y.size, 256), 4096)
    launch(FILE, "embedding", weight, grid, 256, there, weight, y, y.size, d)

    def dweight(g):
        out = m.zeros(weight.shape, g.dtype)
        order, starts, words = sorted_ids
        if words.size:
            launch(
                FILE, "embedding_back", g, (words.size, blocks(d, 32)), 32 * 8,
                dense(g), order, starts, words, out, d,
            )  # fmt: skip
        return out

    return y, lambda g: (None, lambda: dweight(g))


def by_word(ids: np.ndarray, padding_idx: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each word stands: places sorted by word, where each word's begin (and the end), words.

    >>> [a.tolist() for a in by_word(np.array([[7, 5], [7, 0]]), padding_idx=0)]
    [[1, 0, 2], [0, 1, 3], [5, 7]]
    """
    flat = ids.reshape(-1)
    if flat.max() < 1 << 16:  # which NumPy sorts by counting
        flat = flat.astype(np.uint16)
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    if padding_idx is not None:
        real = flat != padding_idx
        order, flat = order[real], flat[real]
    begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], begins, [len(flat)])) if len(flat) else np.zeros(1, np.int64)
    return order, starts, flat[starts[:-1]].astype(np.int64)
