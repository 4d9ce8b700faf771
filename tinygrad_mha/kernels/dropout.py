"""Dropout on a GPU: the bits are drawn there, and nothing is kept for the way back but their key."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, xp
from ..random import MaskKey, keep_scale, threshold
from .launch import blocks, dense, launch, usable

DROPOUT = np.dtype(
    [(n, "u8") for n in ("seed", "layer", "step", "first_block", "blocks_of_a_row")]
    + [("drop", "i4"), ("", "i4")]
)


def dropout(x, *, p, training=True, seed=None) -> Any:
    """One launch each way."""
    if not (training and p and usable(x) and x.size):
        return None
    key = struct(p, seed, x.shape)
    return masked(x, key, p), lambda g: (masked(g, key, p),)


def masked(x: Array, key: np.ndarray, p: float) -> Array:
    x = dense(x)  # (not ascontiguousarray, which makes an axis of none)
    y, rows = xp(x).empty_like(x), x.shape[0] if x.ndim else 1
    launch(
        "dropout.cu", "dropout", x, min(blocks(x.size, 16 * 128), 1024), 128,
        x, y, key, keep_scale(p), np.int64(rows), np.int64(x.size // rows),
    )  # fmt: skip
    return y


def struct(p: float, key: MaskKey | None, shape: tuple[int, ...]) -> np.ndarray:
    """What a kernel knows of the mask of an array of this shape, whose rows are along axis 0."""
    out = np.zeros((), DROPOUT)
    if p and key is not None:
        of_a_row = -(-int(np.prod(shape[1:], dtype=np.int64)) // 16)
        out["seed"], out["layer"], out["step"] = key.seed % 2**64, key.layer, key.step
        out["first_block"], out["blocks_of_a_row"] = key.first_row * of_a_row, of_a_row
        out["drop"] = threshold(p)
    return out
