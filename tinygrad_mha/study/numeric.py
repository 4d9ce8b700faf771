"""Is the gradient of one recorded call right? Measured on the numbers it was called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import to_host
from ..tensor import REGISTRY, Op, is_floating, value
from .summary import short

STEPS = [10.0**-k for k in range(1, 13)]  # of the central differences, for who wants to see them
STEP = 1e-6  # the one that is judged by
FEW = 24  # an input of so many numbers is also measured one by one
CLOSE = 2e-3  # what was computed in float32 may be off by so much of the largest term


def as_float64(op: Op, arrays: Sequence[Any], params: dict) -> tuple[list[Any], Any]:
    """The arrays on the host in float64, and ``op`` as a function of such arrays."""
    host = [to_host(a) if hasattr(a, "shape") else a for a in map(value, arrays)]
    host = [a.astype(np.float64) if is_floating(a) else a for a in host]
    options = {k: to_host(value(p)) if hasattr(value(p), "shape") else p for k, p in params.items()}

    def f(xs: Sequence[Any]) -> tuple[Any, ...]:
        y = op.forward(*xs, **options)
        y = y[0] if op.reference is not None else y
        return y if type(y) is tuple else (y,)

    return host, f


def measure(
    op: Op,
    arrays: Sequence[Any],
    params: dict,
    g: Any,
    ds: Sequence[Any],
    wants: Sequence[bool],
    ladder: bool = True,
    seed: int = 0,
) -> list[dict[str, Any] | None]:
    """The gradient of each wanted input, along a random direction v, against central differences.

    Parameters
    ----------
    op, arrays, params
        The call ``op(*arrays, **params)``.
    g : array, or tuple of arrays and None
        The gradient of its output or outputs.
    ds, wants
        What came back for each input, and whether anybody wanted it.
    ladder : bool
        Measure with every step of STEPS, not with STEP alone; small inputs also one by one.

    Returns
    -------
    list
        For each input None, or a dict: ``analytic`` ⟨dx, v⟩, ``numeric``, ``error`` (relative to
        the largest term), ``fine``; ``finite``: whether it could be measured; ``steps``, ``errors``
        for each of STEPS; ``each``: the numeric gradient of each number.

    Examples
    --------
    >>> x, g = np.array([3.0, 1.0]), np.array([1.0, 2.0])
    >>> [told] = measure(REGISTRY["exp"], [x], {}, g, [g * np.exp(x)], [True])
    >>> told["fine"], told["error"] < 1e-8, told["each"]
    (True, True, [20.086, 5.4366])
    >>> [told] = measure(REGISTRY["exp"], [x], {}, g, [np.exp(x)], [True])
    >>> told["fine"]
    False
    """
    xs, f = as_float64(op, arrays, params)
    gs = [None if d is None else to_host(value(d)) for d in (g if isinstance(g, tuple) else (g,))]
    rng = np.random.default_rng(seed)
    told: list[dict[str, Any] | None] = []
    with np.errstate(all="ignore"):
        for k, d in enumerate(ds):
            if not wants[k] or d is None or not is_floating(xs[k]):
                told.append(None)
                continue
            x = xs[k]
            d = np.asarray(to_host(value(d)), np.float64)
            if d.shape != x.shape:  # the engine undoes broadcasting, not the op
                d = REGISTRY["sum_to"].forward(d, shape=x.shape)
            v = rng.standard_normal(x.shape)

            def slope(
                v: np.ndarray, step: float, k: int = k, x: np.ndarray = x
            ) -> tuple[float, float]:
                """⟨g, ∂f/∂x · v⟩, and the size of its largest term."""
                up, down = (f([*xs[:k], x + s * step * v, *xs[k + 1 :]]) for s in (1, -1))
                terms = [
                    np.asarray(c * (a - b) / (2 * step))
                    for c, a, b in zip(gs, up, down, strict=True)
                    if c is not None
                ]
                size = max((float(abs(t).max(initial=0)) for t in terms), default=0.0)
                return float(sum(t.sum() for t in terms)), size

            analytic = float((d * v).sum())
            numeric, size = slope(v, STEP)
            size = max(size, float(abs(d * v).max(initial=0)), abs(numeric), abs(analytic))
            size = size or 1.0
            error = abs(analytic - numeric) / size
            finite = bool(np.isfinite(error))
            one: dict[str, Any] = {
                "analytic": short(analytic),
                "numeric": short(numeric),
                "error": short(error),
                "fine": bool(error < CLOSE),
                "finite": finite,
            }
            if ladder and finite:
                found = [slope(v, step)[0] for step in STEPS]
                one["steps"] = [short(x) for x in found]
                one["errors"] = [short(abs(analytic - x) / size) for x in found]
                if x.size <= FEW:
                    unit = np.eye(x.size).reshape(x.size, *x.shape)
                    one["each"] = [short(slope(e, STEP)[0]) for e in unit]
            told.append(one)
    return told
