"""Chapter 2, the formula table: one rule per argument, easy ones first.

A rule ``(g, y, *inputs, **params)`` turns ``g``, the gradient of the output ``y``, into the
gradient of one input. Rules are written in operators and in the ops of this page, which mean the
same on arrays and on Tensors; that is why every primitive can be differentiated as often as one
likes. What a rule takes from ``value(...)`` is a constant to it: a mask, a shape, a sign.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .backend import Array, check_device, device_of, is_array, place_like, to_device, xp
from .sampling import distinct, normal, positive
from .tensor import Tensor, number_dtype, primitive, primitive_of_many, value

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


@primitive(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a, sample=normal((2, 3), (3,)))
def mul(a, b):
    """y = a b          da = g b        db = g a"""
    return a * b


@primitive(lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b, sample=positive((2, 3), (3,)))
def div(a, b):
    """y = a / b        da = g / b      db = -g y / b"""
    return a / b


@primitive(lambda g, y, x: -g, sample=normal((2, 3)))
def neg(x):
    """y = -x           dx = -g"""
    return -x


def pow_da(g, y, a, b):
    # a^(b-1) is not y/a: that would be 0/0 at a = 0. And for b = 0 the derivative is 0, even there.
    if isinstance(b, int | float):
        return g * b * a ** (b - 1) if b else g * 0.0
    flat = (value(a) == 0) & (value(b) == 0)
    return where(flat, 0.0, g * b * a ** where(flat, 1.0, b - 1))


def pow_db(g, y, a, b):
    # where a = 0 the power is constant in b (0 for b > 0), so the logarithm there is irrelevant
    if isinstance(a, int | float):
        return g * y * (float(np.log(a)) if a else 0.0)
    return g * y * log(where(value(a) == 0, 1.0, a))


@primitive(pow_da, pow_db, sample=positive((2, 3), (3,)))
def pow(a, b):
    """y = a^b          da = g b a^(b-1)        db = g y log a"""
    return a**b


@primitive(lambda g, y, x: g * y, sample=normal((2, 3)))
def exp(x):
    """y = e^x          dx = g y"""
    return xp(x).exp(x)


@primitive(lambda g, y, x: g / x, sample=positive((2, 3)))
def log(x):
    """y = log x        dx = g / x"""
    return xp(x).log(x)


@primitive(lambda g, y, x: g * 0.5 / y, sample=positive((2, 3)))
def sqrt(x):
    """y = √x           dx = g / (2 y)"""
    return xp(x).sqrt(x)


@primitive(lambda g, y, x: g * xp(value(x)).sign(value(x)), sample=distinct((2, 3)))
def abs(x):
    """y = |x|          dx = g sign x           (0 at the kink)"""
    return xp(x).abs(x)


@primitive(lambda g, y, x: g * (1 - y * y), sample=normal((2, 3)))
def tanh(x):
    """y = tanh x       dx = g (1 - y²)"""
    return xp(x).tanh(x)


@primitive(lambda g, y, x: g * y * (1 - y), sample=normal((2, 3)))
def sigmoid(x):
    """y = 1 / (1 + e^-x)       dx = g y (1 - y)

    Computed as (1 + tanh(x/2)) / 2, which cannot overflow.
    """
    return xp(x).tanh(x * 0.5) * 0.5 + 0.5


@primitive(lambda g, y, x: g * (value(x) > 0), sample=distinct((2, 3)))
def relu(x):
    """y = max(x, 0)    dx = g where x > 0      (0 at the kink)"""
    return xp(x).maximum(x, 0)


def share(a: Array, b: Array, dtype: Any) -> Array:
    """1 where a > b, 0 where a < b, 1/2 where they tie."""
    m = xp(a) if is_array(a) else xp(b)
    return (m.asarray(a > b).astype(dtype) + m.asarray(a >= b)) / 2


@primitive(
    lambda g, y, a, b: g * share(value(a), value(b), g.dtype),
    lambda g, y, a, b: g * share(value(b), value(a), g.dtype),
    sample=distinct((2, 3), (3,)),
)
def maximum(a, b):
    """y = max(a, b)    da = g where a > b      db = g where b > a      (half each at a tie)"""
    return xp(a if is_array(a) else b).maximum(a, b)


@primitive(
    lambda g, y, a, b: g * share(value(b), value(a), g.dtype),
    lambda g, y, a, b: g * share(value(a), value(b), g.dtype),
    sample=distinct((2, 3), (3,)),
)
def minimum(a, b):
    """y = min(a, b)    da = g where a < b      db = g where b < a      (half each at a tie)"""
    return xp(a if is_array(a) else b).minimum(a, b)


@primitive(
    None,
    lambda g, y, c, a, b: where(c, g, 0.0),
    lambda g, y, c, a, b: where(c, 0.0, g),
    sample=lambda rng: ((rng.random((2, 3)) < 0.5, *normal((2, 3), (3,))(rng)[0]), {}),
)
def where(condition, a, b):
    """y = a where the condition holds, else b       da = g where it holds, else 0; db the rest

    The branch that was not taken is sent a plain 0, not 0 · g, which would be NaN for an infinite
    g. What that branch makes of it is its own affair: ``where(x > 0, log(x), 0)`` still has the
    gradient 0 / 0 at x = 0. A harmless number helps, put there beforehand: ``log(where(x > 0, x,
    1))``.
    """
    return xp(condition).where(condition, a, b)


@primitive(
    lambda g, y, x, mask, value: where(mask, 0.0, g),
    None,
    sample=lambda rng: ((rng.standard_normal((2, 3)), rng.random((2, 3)) < 0.5), {"value": 7.0}),
)
def masked_fill(x, mask, *, value):
    """y = value where the mask is True, else x      dx = 0 where it is True, else g"""
    return xp(x).where(mask, x.dtype.type(value), x)


# ------------------------------------------------------------------ the same numbers, moved about


@primitive(lambda g, y, x, shape: g.reshape(x.shape), sample=normal((2, 3), shape=(3, 2)))
def reshape(x, *, shape):
    """The same values in another shape; -1 stands for whatever is left.    dx = g, shaped back"""
    return x.reshape(shape)


@primitive(
    lambda g, y, x, axes: transpose(g, axes=None if axes is None else _inverse(axes)),
    sample=normal((2, 3, 4), axes=(2, 0, 1)),
)
def transpose(x, *, axes=None):
    """Axes in another order (reversed by default).     dx = g, in the order of before"""
    return x.transpose(axes)


def _inverse(axes: Sequence[int]) -> tuple[int, ...]:
    axes = [a % len(axes) for a in axes]
    return tuple(axes.index(k) for k in range(len(axes)))


@primitive(
    lambda g, y, x, axis1, axis2: g.swapaxes(axis1, axis2),
    sample=normal((2, 3, 4), axis1=0, axis2=-1),
)
def swapaxes(x, *, axis1, axis2):
    """Two axes exchanged.      dx = g with the same two exchanged"""
    return x.swapaxes(axis1, axis2)


@primitive(lambda g, y, x, axis: g.reshape(x.shape), sample=normal((2, 3), axis=1))
def expand_dims(x, *, axis):
    """A new axis of length 1 (or several, given a tuple).      dx = g without it"""
    return xp(x).expand_dims(x, axis)


@primitive(lambda g, y, x, axis: g.reshape(x.shape), sample=normal((2, 1, 3), axis=1))
def squeeze(x, *, axis=None):
    """Axes of length 1 removed: all of them, or the one(s) named.      dx = g with them"""
    return x.squeeze(axis)


@primitive(lambda g, y, x, shape: sum_to(g, shape=x.shape), sample=normal((3, 1), shape=(2, 3, 4)))
def broadcast_to(x, *, shape):
    """Copies along new axes and along axes of length 1.        dx = sum of g over the copies"""
    return xp(x).broadcast_to(x, shape)


@primitive(
    lambda g, y, x, shape: broadcast_to(g, shape=x.shape), sample=normal((2, 3, 4), shape=(3, 1))
)
def sum_to(x, *, shape):
    """Sum x down to ``shape``: what undoes a broadcast.        dx = g, broadcast"""
    lead = x.ndim - len(shape)
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 != x.shape[i + lead]))
    return (x.sum(axis=axes, keepdims=True) if axes else x).reshape(shape)


@primitive(
    lambda g, y, x, dtype: g.astype(x.dtype), sample=normal((2, 3), dtype=np.float64), casts=True
)
def astype(x, *, dtype):
    """The same values in another dtype.        dx = g in the dtype of x"""
    return x.astype(number_dtype(dtype))


@primitive(
    lambda g, y, x, device: to(g, device=device_of(value(x))), sample=normal((2, 3), device="cpu")
)
def to(x, *, device):
    """The same values on another device: the only op that crosses.      dx = g, sent back"""
    return to_device(x, check_device(device))


def concatenate_dx(k, g, y, *xs, axis):
    shapes = [x.shape for x in _arrays(map(value, xs))]
    sizes = [math.prod(shape) if axis is None else shape[axis] for shape in shapes]
    start = builtins.sum(sizes[:k])
    stretch = slice(start, start + sizes[k])
    if axis is None:
        return g[stretch].reshape(shapes[k])
    return g[(slice(None),) * (axis % y.ndim) + (stretch,)]


def _slice(k: int, y: Any, axis: int) -> tuple:
    return (*[slice(None)] * (axis % y.ndim), k)


def _arrays(xs: Iterable) -> list:
    return [x if is_array(x) else np.asarray(x) for x in xs]


@primitive_of_many(
    concatenate_dx,
    sample=normal((2, 3), (2, 1), axis=1),
)
def concatenate(*xs, axis=0):
    """Arrays one after another along an axis that exists.      dx_k = the k-th stretch of g

    ``axis=None`` joins them as flat rows of numbers.
    """
    return xp(xs[0]).concatenate(_arrays(xs), axis)


@primitive_of_many(
    lambda k, g, y, *xs, axis: g[_slice(k, y, axis)],
    sample=normal((2, 3), (2, 3), axis=1),
)
def stack(*xs, axis=0):
    """Arrays of one shape side by side along a new axis.       dx_k = the k-th slice of g"""
    return xp(xs[0]).stack(_arrays(xs), axis)


@primitive(lambda g, y, x, key: scatter(g, key=key, shape=x.shape), sample=normal((3, 2), key=1))
def getitem(x, *, key):
    """y = x[key], with any index NumPy knows.      dx = zeros, with g added at the key

    An element that the key names twice gets both gradients.
    """
    return x[key]


@primitive(lambda g, y, x, key, shape: g[key], sample=normal((2,), key=1, shape=(3, 2)))
def scatter(x, *, key, shape):
    """Zeros of ``shape``, with x added at the key, twice where it names a place twice.

    dx = g[key]
    """
    m = xp(x)
    y = m.zeros(shape, x.dtype)
    if is_basic(key):
        y[key] = x
    else:
        m.add.at(y, key, x)
    return y


def is_basic(key: Any) -> bool:
    """Whether an index is made of integers, slices, ... and None: then no place comes twice."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(
        p is None or p is Ellipsis or isinstance(p, slice) or type(p) in (int, np.int64)
        for p in parts
    )


def index(x: Any, key: Any) -> Any:
    """``x[key]`` for a Tensor: lists and Tensors inside the key become arrays beside x's."""

    def plain(k: Any) -> Any:
        if isinstance(k, Tensor | list):
            k = value(k) if isinstance(k, Tensor) else np.asarray(k)
            if k.size == 0 and k.dtype.kind == "f":  # x[[]]
                k = k.astype(np.intp)
        return place_like(k, value(x)) if isinstance(k, np.ndarray) else k

    return getitem(x, key=tuple(map(plain, key)) if isinstance(key, tuple) else plain(key))


# ------------------------------------------------------------------------------- reductions


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


@primitive(lambda g, y, x, axis, keepdims: spread(g, x, axis), sample=normal((2, 3), axis=1))
def sum(x, *, axis=None, keepdims=False):
    """y = Σ x          dx = g, copied to every element"""
    return x.sum(axis=axis, keepdims=keepdims)


@primitive(
    lambda g, y, x, axis, keepdims: spread(g / count_of(x, axis), x, axis),
    sample=normal((2, 3), axis=1),
)
def mean(x, *, axis=None, keepdims=False):
    """y = Σ x / n      dx = g / n, copied to every element"""
    return x.mean(axis=axis, keepdims=keepdims)


def extremum_dx(g, y, x, axis, keepdims):
    shape = kept(x, axis)
    best = value(x) == value(y).reshape(shape)
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


# ----------------------------------------------------------------------------- matrix product


def mT(x):
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


def _as_matrices(g, a, b):
    """A product with a vector in it is a product of matrices with one row or one column."""
    if a.ndim == 1:
        a, g = a.reshape((1, -1)), expand_dims(g, axis=-1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        b, g = b.reshape((-1, 1)), expand_dims(g, axis=-1)
    return g, a, b


def matmul_da(g, y, a, b):
    g2, _, b2 = _as_matrices(g, a, b)
    return matmul(g2, mT(b2))  # a vector's extra axis of length 1 is summed away like a broadcast


def matmul_db(g, y, a, b):
    g2, a2, _ = _as_matrices(g, a, b)
    if b.ndim <= 2 < a2.ndim:  # one weight for a whole batch: one big product, not many and a sum
        rows = math.prod(a2.shape[:-1])
        a2, g2 = a2.reshape((rows, a2.shape[-1])), g2.reshape((rows, g2.shape[-1]))
    db = matmul(mT(a2), g2)
    return db.reshape(db.shape[:-1]) if b.ndim == 1 else db


@primitive(matmul_da, matmul_db, sample=normal((2, 3, 4), (4, 5)))
def matmul(a, b):
    """Matrix product over the last two axes; leading axes broadcast; a 1-d argument is a vector.

    y = a b        a: (..., n, k)    b: (..., k, m)    y: (..., n, m)
    da = g bᵀ      db = aᵀ g         (summed over the axes that were broadcast)
    """
    _check_product(a, b)
    if b.ndim == 2 < a.ndim and a.size:
        return (a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1])
    return a @ b


def _check_product(a, b) -> None:
    shapes = f"matmul: a {tuple(a.shape)} and b {tuple(b.shape)} do not fit"
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"{shapes}: a single number is multiplied with *, not @")
    k = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != k:
        which = "second-to-last" if b.ndim > 1 else "only axis"
        raise ValueError(f"{shapes}: a's last axis is {a.shape[-1]}, b's {which} is {k}")


# --------------------------------------------------------------- the vocabulary of the operators


def _compare(name: str) -> Any:
    def method(a: Tensor, b: Any) -> Array:
        return getattr(a.data, name)(value(b))

    method.__name__ = name
    return method


def attach(name: str, op: Any, reflected: bool = False) -> None:
    """Make ``op`` a method of Tensor; ``reflected`` for ``number - tensor`` and its like."""
    f = (lambda a, b: op(b, a)) if reflected else (lambda *args, **params: op(*args, **params))
    f.__name__, f.__qualname__, f.__doc__ = name, f"Tensor.{name}", op.__doc__
    setattr(Tensor, name, f)


for _name, _op in {"add": add, "sub": sub, "mul": mul, "truediv": div, "pow": pow,
                   "matmul": matmul}.items():  # fmt: skip
    attach(f"__{_name}__", _op)
    attach(f"__r{_name}__", _op, reflected=True)
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    setattr(Tensor, _name, _compare(_name))
attach("__neg__", neg)
attach("__abs__", abs)
attach("__getitem__", index)
for _op in (exp, log, sqrt, abs, tanh, sigmoid, relu, maximum, minimum, masked_fill, sum, mean, max,
            min, matmul, swapaxes, expand_dims, squeeze, broadcast_to, astype, to):  # fmt: skip
    attach(_op.name, _op)


def _reshape(x: Tensor, *sizes: Any, shape: Any = None) -> Tensor:
    """``x.reshape(2, 3)``, ``x.reshape((2, 3))`` and ``x.reshape(shape=(2, 3))`` are the same."""
    if shape is None:
        shape = sizes[0] if len(sizes) == 1 else sizes
    return reshape(x, shape=shape)


def _transpose(x: Tensor, *order: Any, axes: Any = None) -> Tensor:
    """``x.transpose()`` reverses the axes, ``x.transpose(1, 0)`` orders them, as does a tuple."""
    if axes is None and order:
        axes = order[0] if len(order) == 1 and not isinstance(order[0], int) else order
    return transpose(x, axes=axes)


setattr(Tensor, "reshape", _reshape)  # noqa: B010 (a type checker has them from operators.py)
setattr(Tensor, "transpose", _transpose)  # noqa: B010
setattr(Tensor, "T", property(transpose))  # noqa: B010
setattr(Tensor, "mT", property(mT))  # noqa: B010
