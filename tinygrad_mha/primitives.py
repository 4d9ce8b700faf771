"""Chapter 2, the formula table: one rule per argument, easy ones first.

A rule ``(g, y, *inputs, **params)`` turns ``g``, the gradient of the output ``y``, into the
gradient of one input. Rules are written in operators and in the ops of these pages, which mean the
same on arrays and on Tensors; that is why every primitive can be differentiated as often as one
likes. What a rule takes from ``value(...)`` is a constant to it: a mask, a shape, a sign.

This page holds the ops that act on each element by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import Array, DeviceError, device_of, is_array, xp
from .sampling import distinct, normal, positive
from .tensor import Tensor, floating, misfit, primitive, value

# ------------------------------------------------------------- products with a gradient of zero
#
# ``where(x > 0, log(x), 0)`` sends the logarithm a gradient of 0 where x = 0: nobody asked for that
# element. Its slope there is infinite, and in floating-point numbers 0 · inf is NaN, which would
# travel on and poison every weight behind it. So in the rules below a gradient of 0 stays 0.


def times(g: Any, slope: Any) -> Any:
    """g · slope; 0 where g is 0, even if the slope is infinite or NaN there."""
    if type(slope) is np.ndarray and finite(slope):
        return g * slope
    return g * tame(g, slope)


def tame(g: Any, x: Any) -> Any:
    """x, but 0 where g is 0 and x is infinite or NaN."""
    if all_finite(x):
        return x
    dead = (value(g) == 0) & ~xp(value(x)).isfinite(value(x))
    return where(dead, 0.0, x)


def over(g: Any, x: Any) -> Any:
    """g / x; 0 where g is 0, even if x is 0 or NaN there."""
    if isinstance(x, int | float):
        return g / x
    dead = (value(g) == 0) & ~(xp(value(x)).abs(value(x)) > 0)
    if is_host(dead) and not dead.any():
        return g / x
    return g / where(dead, 1.0, x)


def all_finite(x: Any) -> bool:
    """Whether x is known to hold no infinity and no NaN. On a GPU nobody waits for the answer."""
    x = value(x)
    if isinstance(x, int | float):
        return math.isfinite(x)
    return is_host(x) and finite(x)


def finite(x: np.ndarray) -> bool:
    """Whether x is known to hold no infinity and no NaN.

    A sum is finite only if every term is. Of squares, BLAS makes it in one pass and without an
    array of booleans; but for a handful of numbers Python is faster than any call of NumPy.
    """
    if x.size < 9 and x.ndim < 2:
        return math.isfinite(sum(x.tolist()) if x.ndim else x.item())
    return math.isfinite(np.vdot(x, x))


def is_host(x: Any) -> bool:
    return xp(x) is np


# ---------------------------------------------------------------- arithmetic, element by element


@primitive(lambda g, y, x: g, sample=normal((2, 3)))
def identity(x):
    """y = x            dx = g"""
    return x


@primitive(lambda g, y, a, b: g, lambda g, y, a, b: g, sample=normal((2, 3), (3,)))
def add(a, b):
    """y = a + b        da = g          db = g"""
    return a + b


@primitive(lambda g, y, a, b: g, lambda g, y, a, b: -g, sample=normal((2, 3), (3,)))
def sub(a, b):
    """y = a - b        da = g          db = -g"""
    return a - b


@primitive(
    lambda g, y, a, b: times(g, b), lambda g, y, a, b: times(g, a), sample=normal((2, 3), (3,))
)
def mul(a, b):
    """y = a b          da = g b        db = g a"""
    return a * b


@primitive(
    lambda g, y, a, b: over(g, b),
    lambda g, y, a, b: -over(times(g, y), b),
    sample=positive((2, 3), (3,)),
)
def div(a, b):
    """y = a / b        da = g / b      db = -g y / b"""
    return a / b


@primitive(lambda g, y, x: -g, sample=normal((2, 3)))
def neg(x):
    """y = -x           dx = -g"""
    return -x


def pow_da(g, y, a, b):
    """g b a^(b-1), which is not g b y / a: that would be 0 / 0 at a = 0."""
    if isinstance(b, int | float) and (b == 0 or (b >= 1 and b == b // 1)):
        return times(g, b * a ** (b - 1)) if b else g * 0.0
    # At a = 0: constant for b = 0, infinitely steep for 0 < b < 1 (0 by convention, as for sqrt).
    # For b < 0 the slope is infinite too, but so is the value: that is the caller's to know. So is
    # NaN, for a < 0 and b no whole number. Where g is 0, nobody asked, and nothing is computed.
    if is_array(value(b)) and value(b).dtype.kind in "ub":  # for which b - 1 wraps around at 0
        b = b.astype(value(a).dtype)
    v, at_zero = value(b), value(a) == 0
    undefined = at_zero | (value(a) < 0) & (xp(v).floor(v) != v)
    flat = at_zero & (v >= 0) & (v < 1) | undefined & (value(g) == 0)
    return where(flat, 0.0, times(g, b * where(flat, 1.0, a) ** (b - 1)))


def pow_db(g, y, a, b):
    """g y log a. Where a = 0 the power does not move with b (0 for b > 0), whatever log 0 is."""
    if isinstance(a, int | float):
        return times(times(g, y), math.log(a) if a > 0 else 0.0 if a == 0 else math.nan)
    v = value(a)
    none = (v == 0) | (v < 0) & (value(g) == 0)
    return times(times(g, y), log(where(none, 1.0, a)))


@primitive(pow_da, pow_db, sample=positive((2, 3), (3,)))
def pow(a, b):
    """y = a^b          da = g b a^(b-1)        db = g y log a

    At a = 0: da = 0 for 0 < b < 1, where the slope is infinite (as for sqrt), and for b = 0, where
    the power is 1 whatever a is; db = 0.
    """
    return a**b


@primitive(lambda g, y, x: times(g, y), sample=normal((2, 3)))
def exp(x):
    """y = e^x          dx = g y"""
    return xp(x).exp(x)


@primitive(lambda g, y, x: times(g, y + 1), sample=normal((2, 3)))
def expm1(x):
    """y = e^x - 1      dx = g (y + 1)          (exact where x is tiny and e^x rounds to 1)"""
    return xp(x).expm1(x)


@primitive(lambda g, y, x: over(g, x), sample=positive((2, 3)))
def log(x):
    """y = log x        dx = g / x"""
    return xp(x).log(x)


@primitive(lambda g, y, x: over(g, 1 + x), sample=positive((2, 3)))
def log1p(x):
    """y = log(1 + x)   dx = g / (1 + x)        (exact where x is tiny and 1 + x rounds to 1)"""
    return xp(x).log1p(x)


def sqrt_dx(g, y, x):
    at_zero = value(y) == 0
    return where(at_zero, 0.0, over(0.5 * g, where(at_zero, 1.0, y)))


@primitive(sqrt_dx, sample=positive((2, 3)))
def sqrt(x):
    """y = √x           dx = g / (2 y)          (0 at x = 0, where the slope is infinite)

    With that convention the norm √Σx² has the gradient 0 at the origin, which is one of its
    subgradients, and not inf · 0 = NaN.
    """
    return xp(x).sqrt(x)


@primitive(lambda g, y, x: g * cos(tame(g, x)), sample=normal((2, 3)))
def sin(x):
    """y = sin x        dx = g cos x"""
    return xp(x).sin(x)


@primitive(lambda g, y, x: -g * sin(tame(g, x)), sample=normal((2, 3)))
def cos(x):
    """y = cos x        dx = -g sin x"""
    return xp(x).cos(x)


@primitive(lambda g, y, x: times(g, xp(value(x)).sign(value(x))), sample=distinct((2, 3)))
def abs(x):
    """y = |x|          dx = g sign x           (0 at the kink)"""
    return xp(x).abs(x)


@primitive(lambda g, y, x: times(g, 1 - y * y), sample=normal((2, 3)))
def tanh(x):
    """y = tanh x       dx = g (1 - y²)"""
    return xp(x).tanh(x)


@primitive(lambda g, y, x: times(g, y * (1 - y)), sample=normal((2, 3)))
def sigmoid(x):
    """y = 1 / (1 + e^-x)       dx = g y (1 - y)

    Computed from e^-|x|, which cannot overflow, and is exact in the digits of a tiny result too.
    """
    m, x = xp(x), floating(x)  # minus a number without a sign is a large one
    e = m.exp(-m.abs(x))
    return m.where(x < 0, e, 1) / (1 + e)


@primitive(lambda g, y, x: where(value(x) > 0, g, 0.0), sample=distinct((2, 3)))
def relu(x):
    """y = max(x, 0)    dx = g where x > 0      (0 at the kink)"""
    return xp(x).maximum(x, 0)


def silu_dx(g, y, x):
    s = sigmoid(x)
    return times(g, s + y * (1 - s))


@primitive(silu_dx, sample=normal((2, 3)))
def silu(x):
    """y = x σ(x)       dx = g (σ(x) + y (1 - σ(x)))        where σ is the sigmoid

    Also known as swish. Source: Elfwing, Uchibe, Doya, Sigmoid-Weighted Linear Units, §2.
    """
    return x * sigmoid(x)


@primitive(lambda g, y, x: times(g, sigmoid(x)), sample=normal((2, 3)))
def softplus(x):
    """y = log(1 + e^x)         dx = g / (1 + e^-x)

    Computed as max(x, 0) + log(1 + e^-|x|), which cannot overflow.
    """
    m, x = xp(x), floating(x)
    return m.maximum(x, 0) + m.log1p(m.exp(-m.abs(x)))


def share(a: Array, b: Array, dtype: Any) -> Array:
    """1 where a > b, 0 where a < b, 1/2 where they tie."""
    m = xp(a) if is_array(a) else xp(b)
    return (m.asarray(a > b).astype(dtype) + m.asarray(a >= b)) / 2


@primitive(
    lambda g, y, a, b: times(share(value(a), value(b), g.dtype), g),
    lambda g, y, a, b: times(share(value(b), value(a), g.dtype), g),
    sample=distinct((2, 3), (3,)),
)
def maximum(a, b):
    """y = max(a, b)    da = g where a > b      db = g where b > a      (half each at a tie)"""
    return xp(a if is_array(a) else b).maximum(a, b)


@primitive(
    lambda g, y, a, b: times(share(value(b), value(a), g.dtype), g),
    lambda g, y, a, b: times(share(value(a), value(b), g.dtype), g),
    sample=distinct((2, 3), (3,)),
)
def minimum(a, b):
    """y = min(a, b)    da = g where a < b      db = g where b < a      (half each at a tie)"""
    return xp(a if is_array(a) else b).minimum(a, b)


def clip_dx(g, y, x, low, high):
    inside = value(x) == value(x)  # a NaN stays outside, whatever the limits
    if low is not None:
        inside = inside & (value(x) >= value(low))
    if high is not None:
        inside = inside & (value(x) <= value(high))
    return where(inside, g, 0.0)


def clip_dlow(g, y, x, low, high):
    used = value(x) < value(low)
    if high is not None:
        used = used & (value(low) <= value(high))
    return where(used, g, 0.0)


def clip_dhigh(g, y, x, low, high):
    raised = value(x) if low is None else xp(value(y)).maximum(value(x), value(low))
    return where(raised > value(high), g, 0.0)


@primitive(
    clip_dx,
    clip_dlow,
    clip_dhigh,
    sample=lambda rng: (distinct((2, 3))(rng)[0] + (-0.3, 0.4), {}),
)
def clip(x, low=None, high=None):
    """y = x, but low where x is lower, and high where it is higher (than that)

    dx = g where low ≤ x ≤ high, else 0         dlow, dhigh = g where they are the result

    Either limit may be a number, an array or None. At a limit, x gets the gradient.
    """
    m = xp(x) if is_array(x) else xp(low if is_array(low) else high)
    y = x if low is None else m.maximum(x, low)
    return y if high is None else m.minimum(y, high)


@primitive(
    None,
    lambda g, y, c, a, b: where(c, g, 0.0),
    lambda g, y, c, a, b: where(c, 0.0, g),
    sample=lambda rng: ((rng.random((2, 3)) < 0.5, *normal((2, 3), (3,))(rng)[0]), {}),
)
def where(condition, a, b):
    """y = a where the condition holds, else b       da = g where it holds, else 0; db the rest

    The branch that was not taken is sent a plain 0, not 0 · g, which would be NaN for an infinite
    g; and the rules of this page leave a gradient of 0 at 0. So ``where(x > 0, log(x), 0)`` has the
    gradient 0 at x = 0, though log 0 and its slope are infinite.
    """
    return xp(condition).where(condition, a, b)


@primitive(
    lambda g, y, x, mask, value: where(mask, 0.0, g),
    None,
    sample=lambda rng: ((rng.standard_normal((2, 3)), rng.random((2, 3)) < 0.5), {"value": 7.0}),
)
def masked_fill(x, mask, *, value):
    """y = value where the mask is True, else x      dx = 0 where it is True, else g"""
    if x.dtype.kind != "f" and not float(value).is_integer():
        raise ValueError(f"{value} is no {x.dtype}: convert x, as with .astype(np.float32)")
    return xp(x).where(mask, x.dtype.type(value), x)


# --------------------------------------------------------------- the vocabulary of the operators


def _compare(name: str) -> Any:
    def method(a: Tensor, b: Any) -> Array:
        try:
            return getattr(a.data, name)(value(b))
        except (ValueError, TypeError) as e:
            other = f" {tuple(b.shape)} on {device_of(value(b))}" if hasattr(b, "shape") else ""
            if other and device_of(value(b)) != a.device:
                raise DeviceError(
                    f"{name.strip('_')}: a {a.shape} on {a.device} and b{other}: "
                    f"bring them together, as with .to({max(a.device, device_of(value(b)))!r})"
                ) from None
            why = misfit({"a": a.shape, "b": b.shape}) if other else ""
            raise type(e)(
                f"{name.strip('_')}: a {a.shape} on {a.device} and b{other}: {why or e}"
            ) from None

    method.__name__ = name
    return method


def attach(name: str, op: Any) -> None:
    """Make ``op`` a method of Tensor."""
    _put(name, lambda *args, **params: op(*args, **params), op)


def attach_operator(name: str, op: Any) -> None:
    """Make ``op`` the operator ``__name__`` of Tensor, whichever side the Tensor stands on."""
    _put(f"__{name}__", lambda a, b: op(a, b), op)
    _put(f"__r{name}__", lambda a, b: op(b, a), op)


def _put(name: str, method: Any, op: Any) -> None:
    method.__name__, method.__qualname__, method.__doc__ = name, f"Tensor.{name}", op.__doc__
    setattr(Tensor, name, method)


for _name, _op in {"add": add, "sub": sub, "mul": mul, "truediv": div, "pow": pow}.items():
    attach_operator(_name, _op)
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    setattr(Tensor, _name, _compare(_name))
attach("__neg__", neg)
attach("__abs__", abs)
for _op in (add, sub, mul, div, neg, pow, exp, expm1, log, log1p, sqrt, sin, cos, abs, tanh,
            sigmoid, relu, silu, softplus, maximum, minimum, clip, masked_fill):  # fmt: skip
    attach(_op.name, _op)
