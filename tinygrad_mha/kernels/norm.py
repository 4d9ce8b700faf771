"""Layer norm, alone or of a sum, and rms norm on a GPU: one launch forward, two backward."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..backend import Array, xp
from ..layernorm import _axes
from .columns import column_sum
from .launch import blocks, dense, launch, usable

FILE, THREADS = "norm.cu", 128


def layer_norm(x, weight=None, bias=None, *, eps=1e-5) -> Any:
    """dweight and dbias come from one launch."""
    made = norm(x, None, weight, bias, eps, centred=1)
    if made is None:
        return None
    y, back = made

    def pullback(g):
        dx, sums = back(g)
        return dx, lambda: sums()[1], lambda: sums()[0]

    return y, pullback


def add_layer_norm(x, residual, weight=None, bias=None, *, eps=1e-5) -> Any:
    if x.shape != residual.shape:
        return None  # the array code says what is wrong
    made = norm(x, residual, weight, bias, eps, centred=1)
    if made is None:
        return None
    y, back = made

    def pullback(g):
        dx, sums = back(g)
        return dx, dx, lambda: sums()[1], lambda: sums()[0]

    return y, pullback


def rms_norm(x, weight=None, *, eps=1e-5) -> Any:
    made = norm(x, None, weight, None, eps, centred=0)
    if made is None:
        return None
    y, back = made

    def pullback(g):
        dx, sums = back(g)
        return dx, lambda: sums()[1]

    return y, pullback


def norm(x, residual, weight, bias, eps: float, centred: int) -> Any:
    """y, and a function of g that gives dx, and how to get (dbias, dweight): None if not usable."""
    if not usable(x) or not x.size:
        return None
    m, axes = xp(x), _axes(x, weight, bias)
    n = math.prod(x.shape[axis] for axis in axes)
    rows, shape = x.size // n, tuple(x.shape[axis] for axis in axes)
    arrays = x, residual, weight, bias
    x, residual, weight, bias = (None if a is None else dense(a) for a in arrays)
    y, z, scales = m.empty_like(x), m.empty((rows, n), x.dtype), m.empty(rows, x.dtype)
    grid = blocks(rows * 32, THREADS)
    launch(
        FILE, "row_norm", x, grid, THREADS,
        x, residual, weight, bias, y, z, scales, rows, n, float(eps), centred,
    )  # fmt: skip

    def back(g: Array) -> Any:
        g = dense(g)
        dx = m.empty_like(g)
        launch(FILE, "row_norm_back", g, grid, THREADS, g, weight, z, scales, dx, rows, n, centred)

        @functools.cache  # for dweight and dbias
        def sums() -> Array:
            return column_sum(g.reshape(rows, n), z).reshape(2, *shape)

        return dx, sums

    return y, back
