"""GELU on a GPU, alone or after a linear layer and its bias: one launch each way."""

from __future__ import annotations

from typing import Any

from ..backend import Array, xp
from ..linear import _check, as_rows, from_rows, order_in_memory
from .columns import column_sum
from .launch import blocks, dense, launch, usable

FILE = "gelu.cu"
NAMES = {"none": "gelu", "tanh": "gelu_tanh"}  # by CUDA's own error function, or its own tanh


def gelu(x, *, approximate="none") -> Any:
    if not usable(x) or not x.size or approximate not in NAMES:
        return None
    x = dense(x)
    y, slope = xp(x).empty_like(x), xp(x).empty_like(x)
    forward(NAMES[approximate], x, None, y, slope)
    return y, lambda g: (back(g, slope),)


def linear_gelu(x, weight, bias=None, *, approximate="none") -> Any:
    """One product and one launch forward; two products and two launches back."""
    arrays = [a for a in (x, weight, bias) if a is not None]
    fits = all(usable(a) and a.dtype == x.dtype and a.size for a in arrays)
    if not fits or approximate not in NAMES:
        return None
    _check(x, weight, bias)
    order = order_in_memory(x)
    rows = dense(as_rows(x, order))
    y = rows @ weight.T
    slope = xp(y).empty_like(y)
    forward(NAMES[approximate], y, None if bias is None else dense(bias), y, slope)

    def pullback(g):
        du = back(as_rows(g, order), slope)
        return (
            lambda: from_rows(du @ weight, order, x.shape),
            lambda: du.T @ rows,
            lambda: column_sum(du),
        )

    return from_rows(y, order, (*x.shape[:-1], len(weight))), pullback


def forward(name: str, x: Array, bias: Array | None, y: Array, slope: Array) -> None:
    n = 1 if bias is None else len(bias)
    launch(FILE, name, x, grid(x), 256, x, bias, y, slope, x.size, n)


def back(g: Array, slope: Array) -> Array:
    """g · slope"""
    dx = xp(slope).empty_like(slope)
    launch(FILE, "gelu_back", g, grid(slope), 256, dense(g), slope, dx, slope.size)
    return dx


def grid(x: Array) -> int:
    return min(blocks(x.size, 256), 4096)
