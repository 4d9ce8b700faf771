"""Chapter 6b: the linear layer, one matrix product for all the vectors of a batch."""

from __future__ import annotations

import math

from .movement import mT
from .primitives import attach
from .products import matmul
from .sampling import normal
from .tensor import fused


def linear_reference(x, weight, bias=None):
    """The definition."""
    y = matmul(x, mT(weight))
    return y if bias is None else y + bias


@fused(reference=linear_reference, sample=normal((2, 3, 4), (5, 4), (5,)))
def linear(x, weight, bias=None):
    """y = x Wᵀ + b, along the last axis.

    x: (..., n)    weight: (m, n)    bias: (m,) or None    y: (..., m)

    Read x and y as tables of N rows, one for each vector; then
        dx = g W        dW = gᵀ x        db = Σ g        (over the rows)

    The rows may stand in any order, the same for x and y. They are taken as they lie in memory: a
    batch of texts that was computed step by step, (T, B, n) in memory and (B, T, n) to its user,
    need not be copied.
    """
    _check(x, weight, bias)
    if x.dtype.kind != "f":
        x = x.astype(weight.dtype)
    order = order_in_memory(x)
    rows = as_rows(x, order)
    y = rows @ weight.T
    if bias is not None:
        y += bias

    def pullback(g):
        dy = as_rows(g, order)
        return (
            lambda: from_rows(dy @ weight, order, x.shape),
            lambda: dy.T @ rows,
            lambda: dy.sum(axis=0),
        )

    return from_rows(y, order, (*x.shape[:-1], len(weight))), pullback


def order_in_memory(x):
    """The axes but the last, outermost first; as they stand, if x is not in one piece either way.

    >>> import numpy as np
    >>> order_in_memory(np.zeros((5, 3, 2)).swapaxes(0, 1))
    (1, 0)
    """
    lead = tuple(range(x.ndim - 1))
    if x.flags.c_contiguous:
        return lead
    order = tuple(sorted(lead, key=lambda axis: -x.strides[axis]))
    in_one_piece = x.transpose(*order, x.ndim - 1).flags.c_contiguous
    return order if in_one_piece else lead


def as_rows(x, order):
    """(..., n) -> (N, n), with the axes in this order"""
    if x.flags.c_contiguous and order == tuple(range(x.ndim - 1)):
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return x.transpose(*order, x.ndim - 1).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def from_rows(rows, order, shape):
    """(N, n) -> (..., n) of this shape, the inverse of :func:`as_rows`"""
    if order == tuple(range(len(order))):
        return rows.reshape(shape)
    x = rows.reshape(*(shape[axis] for axis in order), shape[-1])
    return x.transpose(*(order.index(axis) for axis in range(len(order))), len(order))


def _check(x, weight, bias):
    if not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x {x.shape} and weight {weight.shape} must agree in their last axis")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias {bias.shape} should be {weight.shape[:1]}, as weight {weight.shape}"
        )


attach("linear", linear)
