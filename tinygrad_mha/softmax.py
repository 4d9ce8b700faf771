"""Chapter 8: softmax, its logarithm, and the sum under both.

Each op is a pair. The ``*_reference`` is the definition in primitives: read it first. The fused op
under it computes the same numbers with one recorded node and no more arrays than it needs.
"""

from __future__ import annotations

import numpy as np

from .backend import xp
from .primitives import attach, exp, log, where
from .reductions import axes_of, kept, sum
from .sampling import normal
from .tensor import floating, fused, value

# ----------------------------------------------------------------------------------- softmax


def shift_of(x, axis):
    """The maximum, as a constant: subtracting it changes no quotient and prevents overflow.

    A row of nothing but -inf has no finite maximum; 0 is as good there, and -inf - (-inf) is not.
    """
    if not x.size:
        return xp(x).zeros((), x.dtype)
    top = x.max(axis=axis, keepdims=True)
    return xp(x).where(top == -np.inf, x.dtype.type(0), top)


def softmax_reference(x, *, axis=-1):
    """The definition; a row of nothing but -inf has no exponential to share and stays 0."""
    e = exp(x - shift_of(value(x), axis))
    total = sum(e, axis=axis, keepdims=True)
    return e / where(value(total) == 0, 1.0, total)


def softmax_into(x, axis):
    """Overwrite array x, which the caller owns, with its softmax; returns x."""
    m = xp(x)
    x -= shift_of(x, axis)
    m.exp(x, out=x)
    total = x.sum(axis=axis, keepdims=True)
    total += total == 0
    x /= total
    return x


@fused(reference=softmax_reference, sample=normal((2, 5), axis=-1))
def softmax(x, *, axis=-1):
    """Exponentials that sum to one along ``axis`` (or several, given a tuple).

    y_i = e^(x_i) / Σ_j e^(x_j)        dx = y · (g − ⟨g, y⟩)

    Since ∂y_i/∂x_j = y_i (δ_ij − y_j), every input moves every output of its row; the sum over i
    leaves one inner product a row. A row of nothing but -inf gives zeros, and zero gradients.
    """
    y = softmax_into(xp(x).asarray(floating(x) * 1), axis)  # a single number is no array by itself

    def pullback(g):
        dx = g * y
        dx -= y * dx.sum(axis=axis, keepdims=True)
        return (dx,)

    return y, pullback


# ------------------------------------------------------------------------------- log-softmax


def log_softmax_reference(x, *, axis=-1):
    """The definition; never as log(softmax(x)), whose logarithm of 0 would be -inf too early."""
    shifted = x - shift_of(value(x), axis)
    total = sum(exp(shifted), axis=axis, keepdims=True)
    return shifted - log(where(value(total) == 0, 1.0, total))


@fused(reference=log_softmax_reference, sample=normal((2, 5), axis=-1))
def log_softmax(x, *, axis=-1):
    """The logarithm of softmax, without ever leaving the logarithms.

    y_i = x_i − log Σ_j e^(x_j)        dx = g − e^y · Σ g
    """
    m, x = xp(x), floating(x)
    y = m.asarray(x - shift_of(x, axis))
    total = m.exp(y).sum(axis=axis, keepdims=True)
    total += total == 0
    y -= m.log(total)

    def pullback(g):
        dx = m.asarray(m.exp(y))
        dx *= g.sum(axis=axis, keepdims=True)
        return (m.subtract(g, dx, out=dx),)

    return y, pullback


# -------------------------------------------------------------------------------- log-sum-exp


def logsumexp_reference(x, *, axis=None, keepdims=False):
    """The definition, log Σ e^x, with the maximum m taken out: m + log Σ e^(x − m)."""
    top = top_of(value(x), axis)
    settled = xp(top).isinf(top)
    x = where(settled, -np.inf, x)
    shift = shift_of(value(x), axis)
    total = sum(exp(lowered(x, shift)), axis=axis, keepdims=True)
    y = where(settled, top, log(where(settled, 1.0, total)) + shift)
    return y if keepdims else y.reshape(left_over(x, axis))


@fused(reference=logsumexp_reference, sample=normal((2, 5), axis=-1))
def logsumexp(x, *, axis=None, keepdims=False):
    """log Σ e^x, a maximum with rounded corners, over all axes, one or several.

    y = m + log Σ e^(x − m),   m = max x        dx = g · softmax(x)

    Nothing overflows, since no exponent is above 0. A row whose maximum is infinite is settled: a
    +inf outweighs everything, and where all is -inf, or there is nothing at all, the sum is 0 and
    its logarithm -inf. Such a row sends back zeros.
    """
    m, x = xp(x), floating(x)
    top = top_of(x, axis)
    settled = m.isinf(top)
    low, zero = x.dtype.type(-np.inf), x.dtype.type(0)
    e = m.where(settled, low, x)  # a row of -inf instead, since inf − inf is no number
    shift = m.where(settled, zero, top)
    e = m.exp(lowered(e, shift))
    total = e.sum(axis=axis, keepdims=True) + settled
    y = m.where(settled, top, m.log(total) + shift)

    def pullback(g):
        return (e * (g.reshape(y.shape) / total),)

    return y if keepdims else y.reshape(left_over(x, axis)), pullback


def lowered(x, shift):
    """x − shift; the overflow of −1e308 − 1e308 is welcome: e to the −inf is 0, as it should be."""
    with np.errstate(over="ignore"):
        return x - shift


def top_of(x, axis):
    """The maximum along axis, which is kept; -inf where there is nothing."""
    if x.size:
        return x.max(axis=axis, keepdims=True)
    return xp(x).full(kept(x, axis), -np.inf, x.dtype)


def left_over(x, axis):
    """The shape of x without the axes that are reduced."""
    axes = axes_of(x, axis)
    return tuple(n for a, n in enumerate(x.shape) if a not in axes)


attach("softmax", softmax)
attach("log_softmax", log_softmax)
attach("logsumexp", logsumexp)
