"""Softmax and its logarithm on a GPU: one launch each way."""

from __future__ import annotations

from typing import Any

from ..backend import Array, xp
from .launch import blocks, dense, launch, usable

THREADS = 128


def softmax(x, *, axis=-1) -> Any:
    """Along the last axis; the array code has all others."""
    return rowwise("softmax", x, axis)


def log_softmax(x, *, axis=-1) -> Any:
    return rowwise("log_softmax", x, axis)


def rowwise(name: str, x: Array, axis: Any) -> Any:
    """y, and what makes dx of g, by the kernels ``name`` and ``name_back``."""
    if not usable(x) or not x.size or not x.ndim or axis not in (-1, x.ndim - 1):
        return None

    def run(kernel: str, *arrays: Array) -> Array:
        out = xp(x).empty(x.shape, x.dtype)
        n = x.shape[-1]
        rows = x.size // n
        launch("softmax.cu", kernel, x, blocks(rows * 32, THREADS), THREADS, *arrays, out, rows, n)
        return out

    y = run(name, dense(x))
    return y, lambda g: (run(f"{name}_back", dense(g), y),)
