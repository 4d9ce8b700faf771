"""Chapter 10: layer normalisation, alone and at the end of a block, and its shorter sister."""

from __future__ import annotations

import math

from .backend import xp
from .primitives import attach, sqrt
from .sampling import normal
from .tensor import floating, fused


def layer_norm_reference(x, weight=None, bias=None, *, eps=1e-5):
    """The definition: subtract the mean, divide by the standard deviation, then scale and shift."""
    axes = _axes(x, weight, bias)
    centred = x - row_mean(x, axes)
    y = centred / sqrt(row_mean(centred * centred, axes) + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


@fused(reference=layer_norm_reference, sample=normal((2, 3, 4), (4,), (4,)))
def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Each row brought to mean 0 and variance 1, then scaled and shifted.

    z = (x − mean x) / s,   s = √(var x + eps)        y = z · weight + bias

    x: (..., d)   weight, bias: (d,)   (or several last axes: those of weight)

    Let h = g · weight be the gradient of z, and n the number of elements of a row. x reaches the
    loss in three ways: through itself, through the mean and through s. Since ∂s/∂x_j = z_j / n,
        dx = (h − mean(h) − z · mean(h · z)) / s
        dweight = Σ g · z        dbias = Σ g        (over all rows)

    The variance is the mean of squares of the *centred* row: E[x²] − E[x]² loses every digit when
    the mean is large. Source: Ba, Kiros, Hinton, Layer Normalization, §3.
    """
    axes = _axes(x, weight, bias)
    z = x - row_mean(x, axes)
    s = row_mean(z * z, axes)
    s += eps
    xp(x).sqrt(s, out=s)
    z /= s
    y = z * 1 if weight is None else z * weight
    if bias is not None:
        y += bias

    def pullback(g):
        rows = tuple(range(x.ndim - len(axes)))
        dx = g * weight if weight is not None else g * 1
        along_z = row_mean(dx * z, axes)
        dx -= row_mean(dx, axes)
        dx -= z * along_z
        dx /= s
        return dx, lambda: (g * z).sum(axis=rows), lambda: g.sum(axis=rows)

    return y, pullback


def add_layer_norm_reference(x, residual, weight=None, bias=None, *, eps=1e-5):
    """The definition."""
    return layer_norm(x + residual, weight, bias, eps=eps)


@fused(reference=add_layer_norm_reference, sample=normal((2, 3, 4), (2, 3, 4), (4,), (4,)))
def add_layer_norm(x, residual, weight=None, bias=None, *, eps=1e-5):
    """y = layer_norm(x + residual): how a block of a transformer ends.

    x, residual: (..., d)   weight, bias: (d,)   (or several last axes: those of weight)

    The sum hands its gradient to both of its terms, and that is what :func:`layer_norm` gives:
        dx = dresidual = (h − mean(h) − z · mean(h · z)) / s       h, z, s as there

    Source: Vaswani et al., Attention Is All You Need, §3.1: LayerNorm(x + Sublayer(x)).
    """
    if x.shape != residual.shape:
        raise ValueError(f"x {x.shape} and residual {residual.shape} should have one shape")
    y, of_sum = layer_norm.forward(x + residual, weight, bias, eps=eps)

    def pullback(g):
        dx, dweight, dbias = of_sum(g)
        return dx, dx, dweight, dbias

    return y, pullback


def rms_norm_reference(x, weight=None, *, eps=1e-5):
    """The definition: divide by the root of the mean square, then scale."""
    y = x / sqrt(row_mean(x * x, _axes(x, weight)) + eps)
    return y if weight is None else y * weight


@fused(reference=rms_norm_reference, sample=normal((2, 3, 4), (4,)))
def rms_norm(x, weight=None, *, eps=1e-5):
    """Each row brought to mean square 1, then scaled: layer norm without the mean.

    z = x / s,   s = √(mean x² + eps)       y = z · weight

    x: (..., d)   weight: (d,)   (or several last axes: those of weight)

    Let h = g · weight be the gradient of z. x reaches the loss through itself and through s. Since
    ∂s/∂x_j = z_j / n, where n is the number of elements of a row,
        dx = (h − z · mean(h · z)) / s
        dweight = Σ g · z        (over all rows)

    Source: Zhang, Sennrich, Root Mean Square Layer Normalization, 2019, §3.
    """
    axes = _axes(x, weight)
    x = floating(x)
    s = row_mean(x * x, axes)
    s += eps
    xp(x).sqrt(s, out=s)
    z = x / s

    def pullback(g):
        rows = tuple(range(x.ndim - len(axes)))
        dx = g * 1 if weight is None else g * weight
        dx -= z * row_mean(dx * z, axes)
        dx /= s
        return dx, lambda: (g * z).sum(axis=rows)

    return z * 1 if weight is None else z * weight, pullback


def _axes(x, weight, bias=None):
    """The axes that make up a row: those of the weight, or the last one."""
    shape = next((p.shape for p in (weight, bias) if p is not None), x.shape[-1:])
    n = len(shape)
    if x.shape[x.ndim - n :] != shape or not n:
        raise ValueError(f"a weight of shape {shape} does not fit the last axes of x {x.shape}")
    if bias is not None and bias.shape != shape:
        raise ValueError(f"weight {shape} and bias {bias.shape} should have one shape")
    return tuple(range(x.ndim - n, x.ndim))


def row_mean(x, axes):
    """The mean of each row; 0 for a row without elements, which nobody will subtract it from."""
    if not x.size or x.dtype.itemsize < 4:  # half precision: mean() sums in float32
        return (x.mean if x.size else x.sum)(axis=axes, keepdims=True)
    return x.sum(axis=axes, keepdims=True) / math.prod(x.shape[axis] for axis in axes)


attach("layer_norm", layer_norm)
attach("add_layer_norm", add_layer_norm)
attach("rms_norm", rms_norm)
