"""Chapter 4: reductions. Many numbers become one; on the way back, one gradient becomes many."""

from __future__ import annotations

import builtins
import math
from typing import Any

from .backend import xp
from .movement import broadcast_to, concatenate, flip
from .primitives import attach, over, where
from .sampling import distinct, normal
from .tensor import floating, fused, primitive, value


def axes_of(x: Any, axis: Any) -> tuple[int, ...]:
    """The axes that ``axis`` means: all of them, one, or a tuple; counted from the front."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(a % x.ndim for a in axes) if x.ndim else ()


def kept(x: Any, axis: Any) -> tuple[int, ...]:
    """The shape of x reduced over ``axis`` with ``keepdims=True``."""
    axes = axes_of(x, axis)
    return tuple(1 if a in axes else n for a, n in enumerate(x.shape))


def spread(g: Any, x: Any, axis: Any) -> Any:
    """The gradient of a reduction, copied back to every element that was reduced."""
    return broadcast_to(g.reshape(kept(x, axis)), shape=x.shape)


def count_of(x: Any, axis: Any) -> int:
    """How many elements are reduced to one."""
    n = 1
    for a in axes_of(x, axis):
        n *= x.shape[a]
    return n


def per(x: Any, axis: Any, correction: float = 0) -> float:
    """1 / (n - correction); NaN where that is not a number of anything."""
    n = count_of(x, axis) - correction
    return 1 / n if n > 0 else math.nan


@primitive(lambda g, y, x, axis, keepdims: spread(g, x, axis), sample=normal((2, 3), axis=1))
def sum(x, *, axis=None, keepdims=False):
    """y = Σ x          dx = g, copied to every element"""
    return x.sum(axis=axis, keepdims=keepdims)


@primitive(
    lambda g, y, x, axis, keepdims: spread(g * per(x, axis), x, axis),
    sample=normal((2, 3), axis=1),
)
def mean(x, *, axis=None, keepdims=False):
    """y = Σ x / n      dx = g / n, copied to every element"""
    return x.mean(axis=axis, keepdims=keepdims)


def centred(x: Any, axis: Any) -> Any:
    """x minus its mean."""
    return x - x.mean(axis=axis, keepdims=True)


def var_dx(g, y, x, axis, keepdims, correction):
    return spread(g * (2 * per(x, axis, correction)), x, axis) * centred(x, axis)


@primitive(var_dx, sample=normal((2, 3), axis=1, correction=1))
def var(x, *, axis=None, keepdims=False, correction=0):
    """y = Σ (x - mean x)² / (n - correction)       dx = 2 g (x - mean x) / (n - correction)

    x moves the mean too, but that has no effect: the distances from the mean sum to 0. They are
    squared after the subtraction, since E[x²] - E[x]² loses every digit when the mean is large.
    ``correction=1`` is Bessel's: the variance of a population, estimated from a sample.
    """
    return _variance(x, axis, keepdims, correction)


def _variance(x, axis, keepdims, correction):
    c = centred(floating(x), axis)
    n = builtins.max(count_of(x, axis) - correction, 0)  # 0: NaN, with NumPy's warning
    return (c * c).sum(axis=axis, keepdims=keepdims) / c.dtype.type(n)


def std_dx(g, y, x, axis, keepdims, correction):
    still = value(y) == 0  # all numbers are equal: a kink, with the slope 0
    g = where(still, 0.0, over(g, where(still, 1.0, y))) * per(x, axis, correction)
    return spread(g, x, axis) * centred(x, axis)


@primitive(std_dx, sample=normal((2, 3), axis=1))
def std(x, *, axis=None, keepdims=False, correction=0):
    """y = √var x       dx = g (x - mean x) / (y (n - correction))      (0 where all x are equal)"""
    return xp(x).sqrt(_variance(x, axis, keepdims, correction))


def extremum_dx(g, y, x, axis, keepdims):
    shape = kept(x, axis)
    best = value(x) == value(y).reshape(shape)
    best |= value(x) != value(x)  # a NaN is the maximum, and equal to nothing
    best = best / best.sum(axis=axis, keepdims=True).astype(g.dtype)
    return g.reshape(shape) * best.astype(g.dtype)


@primitive(extremum_dx, sample=distinct((2, 3), axis=1))
def max(x, *, axis=None, keepdims=False):
    """y = max x        dx = g at the maximum, in equal parts where several tie"""
    return x.max(axis=axis, keepdims=keepdims)


@primitive(extremum_dx, sample=distinct((2, 3), axis=1))
def min(x, *, axis=None, keepdims=False):
    """y = min x        dx = g at the minimum, in equal parts where several tie"""
    return x.min(axis=axis, keepdims=keepdims)


# ----------------------------------------------------------------------------- products, running


def prod_reference(x, *, axis=None, keepdims=False):
    """The definition: the first half of the factors times the second half, until one is left."""
    rows = rows_of(x, axis)
    while len(rows) > 1:
        half = len(rows) // 2
        pairs, odd = rows[:half] * rows[half : 2 * half], rows[2 * half :]
        rows = concatenate(pairs, odd) if len(odd) else pairs
    y = rows[0] if len(rows) else sum(rows, axis=0) + 1.0  # nothing to multiply: 1
    return y.reshape(kept(x, axis)) if keepdims else y


def rows_of(x: Any, axis: Any) -> Any:
    """x as (n, ...): what is reduced along the first axis, the other axes after it."""
    axes = axes_of(x, axis)
    others = [a for a in range(x.ndim) if a not in axes]
    shape = (count_of(x, axis), *[x.shape[a] for a in others])
    return x.transpose((*axes, *others)).reshape(shape)


@fused(reference=prod_reference, sample=normal((2, 3), axis=1))
def prod(x, *, axis=None, keepdims=False):
    """y = Π x          dx_i = g · the product of all the others

    That is g y / x_i, but not where an x_i is 0. So it is computed as the product of everything
    before x_i times that of everything after it: two running products, and no division.
    """

    def pullback(g):
        m, rows = xp(x), rows_of(x, axis)
        before, after = m.ones_like(rows), m.ones_like(rows)
        m.cumprod(rows[:-1], axis=0, out=before[1:])
        m.cumprod(rows[:0:-1], axis=0, out=after[-2::-1])
        dx = before * after * g.reshape(rows.shape[1:])
        axes = axes_of(x, axis)
        order = [*axes, *(a for a in range(x.ndim) if a not in axes)]
        dx = dx.reshape([x.shape[a] for a in order])
        return (dx.transpose([order.index(a) for a in range(x.ndim)]),)

    return x.prod(axis=axis, keepdims=keepdims), pullback


def cumsum_dx(g, y, x, axis):
    return flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis).reshape(x.shape)


@primitive(cumsum_dx, sample=normal((2, 3), axis=1))
def cumsum(x, *, axis=None):
    """y_i = x_0 + … + x_i along an axis, or along x as one row

    dx_i = g_i + … + g_n, since x_i is in every sum from the i-th on: a running sum from the back
    """
    return x.cumsum(axis=axis)


for _op in (sum, mean, var, std, max, min, prod, cumsum):
    attach(_op.name, _op)
