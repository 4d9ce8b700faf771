"""Chapter 19, the certificate: is this gradient right?

A derivative can be measured without any calculus: move the inputs a little along a random direction
and see how far the result moves. :func:`gradcheck` compares that with what the backward pass says,
and if the two differ, it looks for the element and for the likely reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array, place_like, to_host
from .tensor import Op, Tensor, backpropagate, recording, value, wanted

MANY = 2000  # a failing input with more elements than this is searched on a random sample of them


class GradientError(AssertionError):
    """A gradient is wrong; the message says which one, where, and what is probably the matter."""


@recording(True)  # also inside no_grad()
def gradcheck(
    fn: Callable,
    inputs: Sequence[Any],
    order: int = 1,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> bool:
    """Compare the gradients of ``fn`` with central differences in float64.

    Parameters
    ----------
    fn : callable
        Takes Tensors, gives a Tensor or a tuple of Tensors. An op, or any function made of ops.
    inputs : sequence, or a single array or Tensor
        What ``fn`` is called with. Float64 arrays and Tensors are checked; everything else (integer
        and boolean arrays, numbers, None) is passed on as it is.
    order : int
        1 checks the gradient, 2 the gradient of the gradient too, and so on.
    eps : float
        The size of the step. No input should be so close to a kink.
    rtol, atol : float
        How far the two derivatives may lie apart: ``rtol`` of the numeric one, plus ``atol``.
    seed : int
        Draws the cotangents (the incoming gradients) and the directions.

    Returns
    -------
    bool
        True; anything wrong is an exception.

    Raises
    ------
    GradientError
        If a gradient differs from the measured one, if the backward pass writes into an input or
        into the incoming gradient, if a second one gives other bits, or ``create_graph=True`` other
        numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad_mha as tg
    >>> gradcheck(tg.softmax, [np.array([[1.0, 2.0, 0.5]])], order=2)
    True

    A rule with a mistake in it, in a registry of its own:

    >>> @tg.primitive(lambda g, y, x: g * y, registry={})
    ... def square(x):
    ...     return x * x
    >>> gradcheck(square, [np.array([3.0, 1.0])])
    Traceback (most recent call last):
        ...
    tinygrad_mha.gradcheck.GradientError: square: wrong gradient for input 0 (x)
      at index (0,): backward says 1.13157, differences say 0.754381
      reproduce with gradcheck(square, inputs, order=1, seed=0)

    Notes
    -----
    The cotangents are random and never ones: the gradient of ``softmax(x).sum()`` is zero, and so
    a backward pass that returns zeros would pass. One random direction an input is enough to find
    *that* something is wrong; only then each element is moved alone to find *where*.
    """
    if order < 1:
        raise ValueError(f"gradcheck: order {order} is not 1, 2, ...")
    inputs = [inputs] if is_array(inputs) or isinstance(inputs, Tensor) else inputs
    args = [_private(k, a) for k, a in enumerate(inputs)]
    if not any(map(_checked, args)):
        raise TypeError(
            "gradcheck: there is nothing to check: no input is an array or Tensor of "
            "floating-point numbers (lists and numbers are passed on as they are)"
        )
    tolerance = _Tolerance(eps, rtol, atol)
    names, title = _names(fn, len(args)), _title(fn)
    ys, same = (_outputs(fn, _tracked(args)) for _ in range(2))
    if not ys:
        raise TypeError(
            f"gradcheck: there is nothing to check: {title} gives no floating-point result"
        )
    if title == "<lambda>" and ys[0].node is not None:
        title += f" that ends in {ys[0].node.op.name}"
    twice = [(to_host(y.data), to_host(z.data)) for y, z in zip(ys, same, strict=True)]
    if not all(np.array_equal(y, z, equal_nan=True) for y, z in twice):
        raise GradientError(
            f"{title}: called twice with the same inputs it gives different values; what it draws "
            "at random (dropout?) needs a seed"
        )
    options = {"order": order, "eps": eps, "rtol": rtol, "atol": atol, "seed": seed}
    usual = {"eps": 1e-6, "rtol": 1e-5, "atol": 1e-7}
    told = ", ".join(f"{name}={x}" for name, x in options.items() if usual.get(name) != x)
    again = f"reproduce with gradcheck({_title(fn)}, inputs, {told})"
    f, what = fn, "gradient"
    for level in range(order):
        rng = np.random.default_rng([seed, level])
        cotangents = _check(f, args, names, rng, tolerance, (title, what, again))
        # the next level checks the function (inputs, cotangents) -> gradients just as it checked fn
        f, what = partial(_pull, f, len(args)), f"gradient of the {what}"
        args = args + cotangents
        names = names + [f"cotangent of output {k}" for k in range(len(cotangents))]
    return True


class _Tolerance(NamedTuple):
    eps: float
    rtol: float
    atol: float

    def excess(self, a: Any, b: Any) -> Any:
        """How far a and b lie apart, in units of what is allowed: more than 1 is too much."""
        return np.abs(a - b) / (self.atol + self.rtol * np.abs(b))


def _private(k: int, a: Any) -> Any:
    """An argument that may be tracked here without any effect on the caller's Tensor."""
    a = value(a)
    if is_array(a) and a.dtype.kind == "f" and a.dtype != np.float64:
        raise TypeError(
            f"gradcheck: input {k} is {a.dtype}; differences need the digits of float64: "
            "convert it with .astype(np.float64)"
        )
    return a


def _tracked(args: Sequence[Any]) -> list[Any]:
    return [Tensor(a, requires_grad=True) if _checked(a) else a for a in args]


def _checked(a: Any) -> bool:
    return is_array(a) and a.dtype.kind == "f"


def _outputs(fn: Callable, args: Sequence[Any]) -> list[Tensor]:
    """The floating-point results of fn, as a list."""
    ys = fn(*args)
    ys = list(ys) if isinstance(ys, list | tuple) else [ys]
    if not all(isinstance(y, Tensor) for y in ys):
        bad = next(y for y in ys if not isinstance(y, Tensor))
        raise TypeError(f"{_title(fn)} should return Tensors, not {type(bad).__name__}")
    return [y for y in ys if y.dtype.kind == "f"]


def _gradients(ys: list, vs: list, xs: list, create_graph: bool = False) -> list[Any]:
    """d(Σ <y, v>)/dx for each x: an array (or a Tensor), or None where no y depends on x."""
    roots = [(y, v) for y, v in zip(ys, vs, strict=True) if wanted(y)]
    targets = [x for x in xs if wanted(x)]
    found = backpropagate(roots, targets, create_graph)
    return [found.get(x) if wanted(x) else None for x in xs]


def _pull(fn: Callable, count: int, *args: Any) -> tuple[Tensor, ...]:
    """The gradient of fn as a function: (inputs, cotangents) -> one gradient for each input."""
    xs, vs = list(args[:count]), list(args[count:])
    ys = _outputs(fn, xs)
    ds = _gradients(ys, vs, xs, create_graph=True)
    ds = [d if d is None or isinstance(d, Tensor) else Tensor(d) for d in ds]
    return tuple(x * 0.0 if d is None else d for x, d in zip(xs, ds, strict=True) if wanted(x))


def _check(
    fn: Callable,
    args: list[Any],
    names: list[str],
    rng: np.random.Generator,
    tolerance: _Tolerance,
    words: tuple[str, str, str],
) -> list[Any]:
    """One level of the certificate. Gives the cotangents it drew."""
    title, what, again = words

    def fail(k: int | None, *lines: str) -> GradientError:
        whose = "" if k is None else f" for {names[k]}"
        return GradientError("\n  ".join([f"{title}: wrong {what}{whose}", *lines, again]))

    before: list[Any] = [to_host(a).copy() if _checked(a) else None for a in args]
    xs = _tracked(args)
    ys = _outputs(fn, xs)
    vs = [np.asarray(rng.standard_normal(y.shape)) for y in ys]
    sent = [place_like(v.copy(), y.data) for v, y in zip(vs, ys, strict=True)]
    try:
        ds = _gradients(ys, sent, xs)
        again_ds = _gradients(ys, sent, xs)
        traced = _gradients(ys, [Tensor(v) for v in sent], xs, create_graph=True)
    except (ValueError, TypeError, AttributeError) as e:
        raise fail(None, f"the backward pass stopped: {e}") from e

    for j, (v, s) in enumerate(zip(vs, sent, strict=True)):
        if not np.array_equal(v, to_host(s)):
            raise fail(None, f"the backward pass wrote into the incoming gradient of output {j}")
    for k in range(len(args)):
        if not _checked(args[k]):
            continue
        if not np.array_equal(before[k], to_host(args[k]), equal_nan=True):
            raise fail(k, "this input was overwritten: work on a copy (x * 1) instead")
        d, second, third = (_host(g[k], before[k]) for g in (ds, again_ds, traced))
        numeric = partial(_numeric, fn, args, vs, k, tolerance.eps)
        direction = np.asarray(rng.standard_normal(before[k].shape))
        if tolerance.excess((d * direction).sum(), numeric(direction)) <= 1:
            close = tolerance.excess(third, d) <= 1e-3
            if not np.array_equal(d, second):
                raise fail(k, "a second backward pass gives other bits: it changed what it saved")
            if not close.all():
                i = _worst(tolerance.excess(third, d))
                raise fail(
                    k,
                    f"at index {i}: {third[i]:.6g} with create_graph=True, {d[i]:.6g} without",
                    "likely cause: the fused op and its reference are not the same function",
                )
            continue
        raise fail(k, *_locate(d, before[k], numeric, ys, rng, tolerance))
    return [place_like(v, y.data) for v, y in zip(vs, ys, strict=True)]


def _host(d: Any, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if d is None else np.asarray(to_host(value(d)))


def _numeric(
    fn: Callable, args: list, vs: list, k: int, eps: float, d: np.ndarray, side: int = 0
) -> float:
    """d<v, fn>/d(input k) along ``d``: central, or one-sided if ``side`` is 1 or -1."""

    def moved(s: float) -> list[np.ndarray]:
        x = place_like(np.asarray(to_host(args[k]) + s * d), args[k])
        xs = _tracked([x if j == k else a for j, a in enumerate(args)])
        return [to_host(y.data) for y in _outputs(fn, xs)]

    ahead, behind = (1, -1) if side == 0 else (side, 0)
    pairs = zip(vs, moved(ahead * eps), moved(behind * eps), strict=True)
    # subtract before summing: the sum of two large numbers would lose the digits of the difference
    return float(sum((v * (p - q)).sum() for v, p, q in pairs)) / ((ahead - behind) * eps)


def _locate(
    d: np.ndarray,
    x: np.ndarray,
    numeric: Callable,
    ys: list,
    rng: np.random.Generator,
    tolerance: _Tolerance,
) -> Iterator[str]:
    """Move one element after another; say where the gradient is worst and what that looks like."""
    places = np.arange(x.size) if x.size <= MANY else np.sort(rng.choice(x.size, MANY, False))
    measured = np.full(x.shape, np.nan)
    for place in places:
        measured.flat[place] = numeric(_one(x.shape, place))
    excess = np.where(np.isnan(measured), 0, tolerance.excess(d, measured))
    excess = np.where(np.isfinite(d), excess, np.inf)
    i = _worst(excess)
    yield f"at index {i}: backward says {d[i]:.6g}, differences say {measured[i]:.6g}"
    if excess[i] <= 1 and not np.isnan(measured[i]):
        yield "each element alone agrees, all together they do not: a kink may lie between"
        return
    right, left = (numeric(_one(x.shape, np.ravel_multi_index(i, x.shape)), s) for s in (1, -1))
    kink = abs(right - left) > 1e-3 * (abs(right) + abs(left)) + tolerance.atol
    cause = _cause(d, measured, x.shape, [y.shape for y in ys], kink)
    if cause:
        yield f"likely cause: {cause}"


def _one(shape: tuple[int, ...], place: Any) -> np.ndarray:
    one = np.zeros(shape)
    one.flat[place] = 1
    return one


def _worst(excess: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))


def _cause(d: np.ndarray, n: np.ndarray, shape: tuple, outputs: list, kink: bool) -> str:
    """What a wrong gradient ``d`` beside the measured ``n`` usually means."""
    if not np.isfinite(d).all():
        return "backward computes inf or nan, such as 0/0 or inf - inf"
    if np.isnan(n).all():
        return "the function itself is nan or infinite close to this point"
    if kink:
        return "a kink: differences to the left and to the right disagree; choose other inputs"
    if not d.any():
        return "no gradient arrives: the rule gives zeros, or .data or .detach() cut it off"
    big = (np.abs(n) > 1e-3 * np.nanmax(np.abs(n))) & ~np.isnan(n)
    ratios = d[big] / n[big]
    if big.any() and np.ptp(ratios) < 1e-3 * np.abs(ratios).max():
        r = float(ratios.mean())
        if np.isclose(r, 2, rtol=1e-3):
            return "a factor of 2: counted twice, as when two gradients are one and the same array"
        if np.isclose(r, 0.5, rtol=1e-3):
            return "a factor of 1/2: one of two contributions is lost, as with = instead of +="
        if np.isclose(r, -1, rtol=1e-3):
            return "the sign"
        return f"a constant factor: backward is {r:.6g} times too large"
    if any(y != shape and _broadcasts(shape, y) for y in outputs):
        return "the input was broadcast: its gradient is a *sum* over the axes it was copied along"
    return ""


def _broadcasts(small: tuple, large: tuple) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False


def _title(fn: Callable) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return fn.name if isinstance(fn, Op) else getattr(fn, "__name__", type(fn).__name__)


def _names(fn: Callable, count: int) -> list[str]:
    """``input 0 (x)``: the number, and the name if the signature tells it."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    told = [f" ({name})" for name in plain] + [""] * count
    return [f"input {k}{told[k]}" for k in range(count)]
