"""The linear layer on a GPU: cuBLAS multiplies, kernels add the bias and sum its gradient."""

from __future__ import annotations

from typing import Any

from ..linear import _check, as_rows, from_rows, order_in_memory
from .columns import add_bias, column_sum
from .launch import dense, usable


def linear(x, weight, bias=None) -> Any:
    """One product and one launch forward; two products and one launch back."""
    arrays = [a for a in (x, weight, bias) if a is not None]
    if not all(usable(a) and a.dtype == x.dtype and a.size for a in arrays):
        return None
    _check(x, weight, bias)
    order = order_in_memory(x)
    rows = dense(as_rows(x, order))
    y = rows @ weight.T
    if bias is not None:
        add_bias(y, bias)

    def pullback(g):
        dy = dense(as_rows(g, order))
        return (
            lambda: from_rows(dy @ weight, order, x.shape),
            lambda: dy.T @ rows,
            lambda: column_sum(dy),
        )

    return from_rows(y, order, (*x.shape[:-1], len(weight))), pullback
