"""Chapter 7b: a linear layer and the GELU after it as one op, the wide half of a transformer block.

Apart, they go twice over the widest array of the block, for the bias and for GELU, and keep both of
its forms. Here bias and GELU take it in pieces that stay in the cache (on a GPU, in one launch) and
overwrite it: nobody needs it, the way back needs the slope.
"""

from __future__ import annotations

import numpy as np

from .backend import xp
from .gelu import GELU, gelu
from .linear import _check, as_rows, from_rows, linear, order_in_memory
from .primitives import attach, times
from .sampling import normal
from .stretches import stretches
from .tensor import fused

AT_A_TIME = 16384  # numbers: as many as gelu.py takes


def linear_gelu_reference(x, weight, bias=None, *, approximate="none"):
    """The definition."""
    return gelu(linear(x, weight, bias), approximate=approximate)


def linear_gelu_without_way_back(x, weight, bias=None, *, approximate="none"):
    """y alone: no slope is kept."""
    order, _, y = _product(x, weight, bias, approximate)
    bias_and_gelu(y, None, bias, approximate)
    return from_rows(y, order, (*x.shape[:-1], len(weight)))


@fused(
    reference=linear_gelu_reference,
    sample=normal((2, 3, 4), (5, 4), (5,)),
    without_way_back=linear_gelu_without_way_back,
)
def linear_gelu(x, weight, bias=None, *, approximate="none"):
    """y = gelu(u), u = x Wᵀ + b, along the last axis.

    x: (..., n)    weight: (m, n)    bias: (m,) or None    y: (..., m)

    Read x and y as tables of N rows. With the slope of GELU, e = g · gelu'(u) is the gradient of u:
        dx = e W        dW = eᵀ x        db = Σ e        (over the rows)

    ``approximate`` is that of :func:`gelu`. Source: Vaswani et al., Attention Is All You Need, §3.3
    (with a ReLU); Hendrycks, Gimpel, Gaussian Error Linear Units (GELUs), §2.
    """
    order, rows, y = _product(x, weight, bias, approximate)
    slope = xp(y).empty_like(y)
    bias_and_gelu(y, slope, bias, approximate)

    def pullback(g):
        du = times(as_rows(g, order), slope)
        return (
            lambda: from_rows(du @ weight, order, x.shape),
            lambda: du.T @ rows,
            lambda: du.sum(axis=0),
        )

    return from_rows(y, order, (*x.shape[:-1], len(weight))), pullback


def _product(x, weight, bias, approximate):
    """How x lies in memory, its rows, and x Wᵀ, a new array (N, m)."""
    _check(x, weight, bias)
    if approximate not in GELU:
        raise ValueError(f"approximate {approximate!r} is none of 'none', 'tanh'")
    if x.dtype.kind != "f":
        x = x.astype(weight.dtype)
    order = order_in_memory(x)
    rows = as_rows(x, order)
    return order, rows, rows @ weight.T


def bias_and_gelu(y, slope, bias, approximate):
    """y (N, m) becomes gelu(y + bias), and slope, unless it is None, what it rises by there."""
    of = GELU[approximate]
    with np.errstate(under="ignore"):  # the smallest tails are 0, as they should be
        for part in stretches(*y.shape, AT_A_TIME, y):
            u = y[part]
            if bias is not None:
                u += bias
            if slope is None:
                y[part], _ = of(u)
            else:
                y[part], slope[part] = of(u)


attach("linear_gelu", linear_gelu)
