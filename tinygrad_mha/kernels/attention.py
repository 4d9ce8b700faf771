"""Attention on a GPU: one kernel forward, two backward, and no table of scores."""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np

from ..attention import _check, _mask, _scale
from ..backend import Array, xp
from ..random import keep_scale
from . import dropout as dropouts
from .launch import blocks, launch, usable

FILE, THREADS = "attention.cu", 64
# Of a query or a value: they are kept in registers, and tiles of them in shared memory. (Of 1024
# bytes, two tiles would not fit into the 48 KB that a kernel may declare.)
WIDEST_BYTES = 512

PLACE, MASK = Struct("3q"), Struct("2Q4qi4x")  # struct Place and struct Mask of the kernels


def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, seed=None, recompute=False
) -> Any:
    """For one or two leading axes, the same ones in all; any length of text."""
    lead = q.shape[:-2]
    if not (
        all(usable(x) and x.dtype == q.dtype and x.shape[:-2] == lead for x in (q, k, v))
        and len(lead) in (1, 2)
        and all(x.size for x in (q, k, v))
        and max(q.shape[-1], v.shape[-1]) * q.itemsize <= WIDEST_BYTES
        and max(lead) < 1 << 16
    ):
        return None
    _check(q, k, v)
    m, (tq, tk) = xp(q), (q.shape[-2], k.shape[-2])
    q, k, v = (with_dense_rows(x) for x in (q, k, v))
    mask, held = mask_struct(_mask(mask, (*lead, tq, tk), q), is_causal, (*lead, tq, tk), q)
    bits = dropouts.struct(dropout_p, seed, (*lead, tq, tk))
    scale, grow = float(_scale(q, scale)), float(keep_scale(dropout_p))
    y = heads_like(q, (*q.shape[:-1], v.shape[-1]))
    sums = m.empty((*lead, tq), q.dtype)
    heads, batch = (lead[1] if len(lead) == 2 else 1), lead[0]
    widths = {"WIDTH": q.shape[-1], "WIDTH_V": v.shape[-1]}
    numbers = mask, bits, scale, grow, tq, tk

    def run(name: str, rows: int, *arguments: Any) -> None:
        grid = blocks(rows, THREADS), heads, batch
        launch(FILE, name, q, grid, THREADS, *arguments, strides=True, **widths)

    run("attention", tq, q, k, v, y, sums, *map(place, (q, k, v, y)), *numbers)

    def pullback(g, _=held):  # so that the mask's array lives as long as this function
        g = with_dense_rows(g)
        dq, dk, dv = (heads_like(x, x.shape) for x in (q, k, v))
        along = m.empty_like(sums)
        run(
            "attention_dq", tq, q, k, v, y, g, sums, dq, along,
            *map(place, (q, k, v, y, g, dq)), *numbers,
        )  # fmt: skip
        run(
            "attention_dkv", tk, q, k, v, g, sums, along, dk, dv,
            *map(place, (q, k, v, g, dk, dv)), *numbers,
        )  # fmt: skip
        return dq, dk, dv

    return y, pullback


def with_dense_rows(x: Array) -> Array:
    """x itself, if its rows have no gaps; else a copy."""
    dense = x.strides[-1] == x.itemsize or x.shape[-1] == 1
    return x if dense and all(s >= 0 for s in x.strides) else xp(x).ascontiguousarray(x)


def heads_like(x: Array, shape: tuple) -> Array:
    """An empty array whose heads lie in memory as those of x, so that none need be copied later."""
    if len(shape) == 4 and x.strides[1] < x.strides[2]:  # (B, T, h, d) seen as (B, h, T, d)
        b, h, t, d = shape
        return xp(x).empty((b, t, h, d), x.dtype).transpose(0, 2, 1, 3)
    return xp(x).empty(shape, x.dtype)


def place(x: Array) -> np.void:
    """The strides of x (B, h, T, d) or (B, T, d), in numbers."""
    return np.void(PLACE.pack(*strides(x)[:3]))


def strides(x: Array) -> tuple[int, int, int, int]:
    """From one text, head, row, column of x to the next; 0 for the heads of (B, T, d)."""
    batch, *head, row, column = (s // x.itemsize for s in x.strides)
    return batch, head[0] if head else 0, row, column


def mask_struct(mask: Array | None, causal: bool, shape: tuple, like: Array) -> tuple[Any, Any]:
    """What the kernels know of the mask, and the array behind it, which somebody has to keep."""
    if mask is None:
        return np.void(MASK.pack(0, 0, 0, 0, 0, 0, causal)), None
    if mask.dtype != bool:
        mask = mask.astype(like.dtype, copy=False)
    allowed, added = (mask.data.ptr, 0) if mask.dtype == bool else (0, mask.data.ptr)
    wide = xp(mask).broadcast_to(mask, shape)
    return np.void(MASK.pack(allowed, added, *strides(wide), causal)), mask
