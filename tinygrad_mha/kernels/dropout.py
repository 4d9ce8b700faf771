"""Dropout on a GPU: the bits are drawn there, and drawn again on the way back."""

from __future__ import annotations

import math
from struct import Struct
from typing import Any

import numpy as np

from ..backend import Array, xp
from ..random import MaskKey, keep_scale, threshold
from .launch import blocks, dense, launch, usable


def dropout(x, *, p, training=True, seed=None) -> Any:
    """One launch each way."""
    if not (training and p and usable(x) and x.size):
        return None
    key = struct(p, seed, x.shape)
    return masked(x, key, p), lambda g: (masked(g, key, p),)


def masked(x: Array, key: np.void, p: float) -> Array:
    x = dense(x)  # (not ascontiguousarray, which makes an axis of none)
    y, rows = xp(x).empty_like(x), x.shape[0] if x.ndim else 1
    launch(
        "dropout.cu", "dropout", x, min(blocks(x.size, 16 * 128), 1024), 128,
        x, y, key, keep_scale(p), rows, x.size // rows,
    )  # fmt: skip
    return y


def struct(p: float, key: MaskKey | None, shape: tuple[int, ...]) -> np.void:
    """What a kernel knows of the mask of an array of this shape, whose rows are along axis 0.

    That is ``struct Dropout`` of philox.cuh, as bytes.
    """
    if not p or key is None:
        return np.void(struct_of.pack(0, 0, 0, 0, 0, 0))
    of_a_row = -(-math.prod(shape[1:]) // 16)
    first = key.first_row * of_a_row
    return np.void(
        struct_of.pack(key.seed % 2**64, key.layer, key.step, first, of_a_row, threshold(p))
    )


struct_of = Struct("5Qi4x")
