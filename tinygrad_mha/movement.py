"""Chapter 3: the same numbers, moved about. No arithmetic, so every rule only moves g back."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from .backend import check_device, device_of, is_array, place_like, to_device, xp
from .primitives import attach
from .sampling import normal
from .tensor import Tensor, fused, number_dtype, primitive, primitive_of_many, value

# ------------------------------------------------------------------------------ another shape


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


# ------------------------------------------------------------------- turned, repeated, framed


@primitive(lambda g, y, x, axis: flip(g, axis=axis), sample=normal((2, 3), axis=1))
def flip(x, *, axis=None):
    """Back to front along all axes, or the one(s) named.       dx = g, flipped"""
    return xp(x).flip(x, axis)


def tile_dx(g, y, x, reps):
    # (2·a, 3·b) is (2, a, 3, b): the copies lie along axes of their own, and are summed away
    reps, shape = _equally_long(reps, x.shape)
    g = g.reshape(tuple(chain.from_iterable(zip(reps, shape, strict=True))))
    return sum_to(g, shape=tuple(chain.from_iterable((1, n) for n in shape))).reshape(x.shape)


def _equally_long(reps: Any, shape: tuple) -> tuple[tuple, tuple]:
    reps = tuple(reps) if np.ndim(reps) else (reps,)
    n = builtins.max(len(reps), len(shape))
    return (1,) * (n - len(reps)) + reps, (1,) * (n - len(shape)) + shape


@primitive(tile_dx, sample=normal((2, 3), reps=(2, 2)))
def tile(x, *, reps):
    """Copies side by side, ``reps`` along each axis.           dx = sum of g over the copies"""
    return xp(x).tile(x, reps)


def pad_dx(g, y, x, widths, constant_values):
    return g[tuple(slice(w, w + n) for (w, _), n in zip(_widths(x, widths), x.shape, strict=True))]


def _widths(x, widths) -> list[tuple[int, int]]:
    """(before, after) for each axis, from what np.pad takes: n, (before, after), or one a axis."""
    try:
        pairs = np.broadcast_to(np.asarray(widths), (x.ndim, 2))
    except ValueError:
        raise ValueError(
            f"widths {widths} should be n, (before, after) or a pair for each of {x.ndim} axes"
        ) from None
    return [(operator.index(a), operator.index(b)) for a, b in pairs]


@primitive(pad_dx, sample=normal((2, 3), widths=((0, 1), (2, 0)), constant_values=7.0))
def pad(x, *, widths, constant_values=0):
    """A frame of constants around x.       dx = g without the frame

    widths: n for n on every side, (before, after) for every axis, or one such pair an axis
    """
    pairs = _widths(x, widths)
    if any(w < 0 for pair in pairs for w in pair):
        raise ValueError(f"widths {widths} should not be negative: to cut, index")
    y = xp(x).full([a + n + b for (a, b), n in zip(pairs, x.shape, strict=True)],
                   constant_values, x.dtype)  # fmt: skip
    y[tuple(slice(a, a + n) for (a, _), n in zip(pairs, x.shape, strict=True))] = x
    return y


@primitive(lambda g, y, x, k: tril(g, k=k), sample=normal((3, 4), k=1))
def tril(x, *, k=0):
    """The lower triangle of the last two axes, up to the k-th diagonal; 0 above.  dx = tril g"""
    return _triangle(x, k, xp(x).tril)


@primitive(lambda g, y, x, k: triu(g, k=k), sample=normal((3, 4), k=1))
def triu(x, *, k=0):
    """The upper triangle of the last two axes, from the k-th diagonal; 0 below.   dx = triu g"""
    return _triangle(x, k, xp(x).triu)


def _triangle(x, k, part):
    if x.ndim < 2:
        raise ValueError(f"x {x.shape} has no rows and columns")
    return part(x, k)


# ----------------------------------------------------------------------- another kind of number


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


def concatenate_dx(g, y, *xs, axis):
    shapes = [x.shape for x in _arrays(map(value, xs))]
    ends = list(accumulate(math.prod(s) if axis is None else s[axis] for s in shapes))
    before = (slice(None),) * (0 if axis is None else axis % y.ndim)
    pieces = [g[before + (slice(a, b),)] for a, b in pairwise([0, *ends])]
    return [d.reshape(s) for d, s in zip(pieces, shapes, strict=True)] if axis is None else pieces


def stack_dx(g, y, *xs, axis):
    before = (slice(None),) * (axis % y.ndim)
    return [g[before + (k,)] for k in range(len(xs))]


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


@primitive_of_many(stack_dx, sample=normal((2, 3), (2, 3), axis=1))
def stack(*xs, axis=0):
    """Arrays of one shape side by side along a new axis.       dx_k = the k-th slice of g"""
    return xp(xs[0]).stack(_arrays(xs), axis)


# ------------------------------------------------------------------------------- cut to pieces


def split_reference(x, *, indices_or_sections, axis=0):
    """The definition: slices, one after another."""
    return tuple(getitem(x, key=key) for key in _stretches(x, indices_or_sections, axis))


@fused(reference=split_reference, sample=normal((2, 5), indices_or_sections=[1, 4], axis=1))
def split(x, *, indices_or_sections, axis=0):
    """A tuple of pieces along an axis: so many equal ones, or cut at these places.

    y_k = the k-th stretch of x         dx = zeros, with g_k added at the k-th stretch

    >>> import numpy as np
    >>> [piece.tolist() for piece in split(np.arange(5.0), [1, 4])]
    [[0.0], [1.0, 2.0, 3.0], [4.0]]
    """
    stretches = _stretches(x, indices_or_sections, axis)

    def pullback(gs):
        dx = xp(x).zeros(x.shape, x.dtype)
        for g, key in zip(gs, stretches, strict=True):
            if g is not None:
                dx[key] += g  # added: [3, 1] are cuts too, and x[1:] then has some of x[:3] in it
        return (dx,)

    return tuple(x[key] for key in stretches), pullback


def _stretches(x, indices_or_sections, axis) -> list[tuple]:
    """The index of each piece."""
    n, cuts = x.shape[_axis(x, axis)], value(indices_or_sections)
    if np.ndim(cuts) == 0:
        count = operator.index(cuts)
        if count < 1 or n % count:
            raise ValueError(f"an axis of {n} is not cut into {count} equal pieces")
        cuts = range(n // count, n, n // count) if n else [0] * (count - 1)
    ends = [0, *(operator.index(c) for c in cuts), n]
    before = (slice(None),) * _axis(x, axis)
    return [(*before, slice(a, b)) for a, b in pairwise(ends)]


def _axis(x, axis) -> int:
    """One axis, counted from the front."""
    if not -x.ndim <= axis < x.ndim:
        raise IndexError(f"axis {axis} is out of bounds for an array of {x.ndim} axes")
    return axis % x.ndim


# ------------------------------------------------------------------------------- looked up


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


def take_key(x, indices, axis) -> Any:
    """``take(x, indices, axis)`` is ``x[take_key(x, indices, axis)]``."""
    return (*(slice(None),) * _axis(x, axis), _indices(indices, value(x)))


def _indices(indices, x):
    """Integers beside x; what is on the host is checked there, since a GPU would not complain."""
    indices = value(indices)
    indices = indices if is_array(indices) else np.asarray(indices)
    if not indices.size:  # an empty list has no dtype of its own
        indices = indices.astype(np.int64)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices are places: an integer array, not {indices.dtype}")
    return place_like(indices, x) if xp(indices) is np else indices


def _inside(indices, n, axis):
    """An IndexError if one of the indices on the host names no place among n."""
    indices = value(indices)
    if xp(indices) is np and np.size(indices):
        low, high = np.min(indices), np.max(indices)
        if low < -n or high >= n:
            bad = low if low < -n else high
            raise IndexError(f"index {bad} is out of bounds for axis {axis} with size {n}")


def take_dx(g, y, x, indices, axis):
    if axis is None:
        return scatter(g, key=_indices(indices, value(g)), shape=(x.size,)).reshape(x.shape)
    return scatter(g, key=take_key(x, indices, axis), shape=x.shape)


@primitive(
    take_dx,
    None,
    sample=lambda rng: ((rng.standard_normal((3, 4)), np.array([[0, 2], [2, 1]])), {"axis": 1}),
)
def take(x, indices, *, axis=None):
    """y = x[…, indices, …] along an axis, or of x as one row.   dx = zeros, g added at the indices

    An element that is taken twice gets both gradients.
    """
    flat = x.reshape(-1) if axis is None else x
    _inside(indices, flat.shape[_axis(flat, axis or 0)], axis or 0)
    return flat[take_key(flat, indices, axis or 0)]


def along_key(x, indices, axis) -> tuple:
    """``take_along_axis(x, indices, axis)`` is ``x[along_key(x, indices, axis)]``."""
    m, indices, axis = xp(value(x)), _indices(indices, value(x)), _axis(x, axis)
    if indices.ndim != x.ndim:
        raise ValueError(f"indices {indices.shape} should have as many axes as x {x.shape}")

    def along(k: int) -> Any:  # 0, 1, 2, … along axis k
        return m.arange(x.shape[k]).reshape([-1 if j == k else 1 for j in range(x.ndim)])

    return tuple(indices if k == axis else along(k) for k in range(x.ndim))


def take_along_axis_dx(g, y, x, indices, axis):
    if axis is None:
        return take_dx(g, y, x, indices, None)
    return scatter(g, key=along_key(x, indices, axis), shape=x.shape)


@primitive(
    take_along_axis_dx,
    None,
    sample=lambda rng: ((rng.standard_normal((3, 4)), rng.integers(0, 4, (3, 2))), {"axis": 1}),
)
def take_along_axis(x, indices, *, axis=-1):
    """y[i, j] = x[i, indices[i, j]] for axis 1 of two; and so for the others.

    dx = zeros, with g added where it was taken. ``axis=None`` reads x as one row. What argsort and
    argmax (with keepdims) find, this op brings.
    """
    flat, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    _inside(indices, flat.shape[_axis(flat, axis)], axis)
    return flat[along_key(flat, indices, axis)]


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


# ---------------------------------------------------------------------------- as methods of Tensor

attach("__getitem__", index)
for _op in (swapaxes, expand_dims, squeeze, broadcast_to, flip, tile, pad, tril, triu, split, take,
            take_along_axis, astype, to):  # fmt: skip
    attach(_op.name, _op)


def mT(x):
    """The last two axes exchanged."""
    return x.swapaxes(-1, -2)


def _reshape(x: Tensor, *sizes: Any, shape: Any = None) -> Tensor:
    """``x.reshape(2, 3)``, ``x.reshape((2, 3))`` and ``x.reshape(shape=(2, 3))`` are the same."""
    if shape is None:
        shape = sizes[0] if len(sizes) == 1 else sizes
    return reshape(x, shape=shape)


def _transpose(x: Tensor, *order: Any, axes: Any = None) -> Tensor:
    """``x.transpose()`` reverses the axes, ``x.transpose(1, 0)`` orders them, as does a tuple."""
    if axes is None and order:
        axes = order[0] if len(order) == 1 and np.ndim(order[0]) else order
    return transpose(x, axes=axes)


setattr(Tensor, "reshape", _reshape)  # noqa: B010 (a type checker has them from operators.py)
setattr(Tensor, "transpose", _transpose)  # noqa: B010
setattr(Tensor, "T", property(transpose))  # noqa: B010
setattr(Tensor, "mT", property(mT))  # noqa: B010
