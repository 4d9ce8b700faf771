"""What the judges of the museum share: the certificate, comparisons, and a shape check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...gradcheck import GradientError, gradcheck
from ...tensor import Op, Tensor, fused, recording, value
from ...tensor import grad as gradients_of


class Failed(AssertionError):
    """A repair that is none; the message says why."""


def certify(
    fn: Callable, args: Sequence[Any], rng: np.random.Generator, order: int = 1, **params: Any
) -> None:
    """The project's own certificate of ``fn(*args, **params)``, or Failed with its words."""
    call = partial(fn, **params) if params else fn
    seed = int(rng.integers(1 << 31))
    try:
        gradcheck(call, list(args), order=order, seed=seed)
    except GradientError as e:
        # its guess at the cause is left out: to find the cause is the exercise
        extra = ("reproduce with", "likely cause")
        lines = [n for n in str(e).splitlines() if not n.strip().startswith(extra)]
        raise Failed("\n".join([*lines, f"  inputs: {described(call, args)}"])) from e


def same(
    what: str, got: Any, wanted: Any, rtol: float = 1e-9, atol: float = 1e-12, told: str = ""
) -> None:
    """Failed unless ``got`` has the shape and the values of ``wanted``; it names the worst index.

    Infinities equal themselves; NaN equals nothing.
    """
    got, wanted = array_of(what, got), np.asarray(wanted)
    tail = f"\n  {told}" if told else ""
    if got.shape != wanted.shape:
        raise Failed(f"{what}: the shape is {got.shape} and should be {wanted.shape}{tail}")
    if not got.size:
        return
    with np.errstate(invalid="ignore"):  # inf − inf
        error = np.abs(got - wanted) / (atol + rtol * np.abs(wanted))
    error = np.where(got == wanted, 0, np.where(np.isnan(error), np.inf, error))
    i = np.unravel_index(np.argmax(error), error.shape)
    if error[i] > 1:
        place = f" at index {tuple(map(int, i))}" if i else ""
        raise Failed(f"{what}{place}: {got[i]:.6g}, and should be {wanted[i]:.6g}{tail}")


def pulled(fn: Callable, args: Sequence[Any], g: Any, **params: Any) -> tuple[Any, list[Any]]:
    """The value of ``fn`` as an array, and the gradients of <g, fn> for the floating arguments."""
    tensors = [Tensor(a, requires_grad=True) if _floating(a) else a for a in args]
    y = fn(*tensors, **params)
    if not isinstance(y, Tensor):
        raise Failed(f"{name_of(fn)} should return a Tensor, not a {type(y).__name__}")
    xs = [x for x in tensors if isinstance(x, Tensor)]
    found = gradients_of(y, xs, g, allow_unused=True) if y.requires_grad else [None] * len(xs)
    zero = [np.zeros_like(x.data) if d is None else d.data for x, d in zip(xs, found, strict=True)]
    return y.data, zero


def array_of(what: str, x: Any) -> np.ndarray:
    """x as an array; Failed for None, which a function gives that forgot its return."""
    if x is None:
        raise Failed(f"{what} gives None: is a return missing?")
    return np.asarray(value(x))


def lifted(name: str, forward: Callable[[Any], Any], backward: Callable, reference: Callable) -> Op:
    """An op of one array x made of the learner's ``backward(x, y, g)``, for the certificate.

    Inside ``backward`` ops record, so that it may call a backward pass of its own.
    """

    def op(x):
        y = forward(x)
        return y, lambda g: (recording(True)(backward)(x, y, g),)

    def definition(x):
        return reference(x)

    op.__name__ = name
    return fused(reference=definition, registry={})(op)


def shapes(draw: Callable[[np.random.Generator], Sequence[Any]], **params: Any) -> Callable:
    """A shape check: the result and the gradients have shapes, and nothing else is looked at."""

    def looks_fine(fn: Callable, rng: np.random.Generator) -> str:
        args = draw(rng)
        tensors = [Tensor(a, requires_grad=True) if _floating(a) else a for a in args]
        ys = fn(*tensors, **params)
        ys = ys if isinstance(ys, tuple) else (ys,)
        xs = [x for x in tensors if isinstance(x, Tensor)]
        grads = gradients_of(ys[0], xs, rng.standard_normal(ys[0].shape), allow_unused=True)
        for x, d in zip(xs, grads, strict=True):
            assert d is None or d.shape == x.shape
            assert d is None or np.isfinite(d.data).all()
        result = ", ".join(str(y.shape) for y in ys)
        got = ", ".join(str(d.shape) for d in grads if d is not None)
        return (
            f"{name_of(fn)}({described(fn, args)})\ngives {result} and gradients {got}, all finite"
        )

    return looks_fine


def described(fn: Callable, args: Sequence[Any]) -> str:
    """``x (2, 3), ids (4,) int64``: the arguments as a failure names them."""
    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"argument {k}" for k in range(len(names), len(args))]
    return ", ".join(f"{n} {_told(a)}" for n, a in zip(names, args, strict=False))


def name_of(fn: Any) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__name__", type(fn).__name__)


def _told(a: Any) -> str:
    if not isinstance(a, np.ndarray):
        return repr(a) if isinstance(a, int | float | str) else type(a).__name__
    return f"{a.shape}" if a.dtype == np.float64 else f"{a.shape} {a.dtype}"


def _floating(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"
