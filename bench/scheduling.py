"""Does the backward pass slow down when many nodes wait at once?

    python bench/scheduling.py

One Tensor is used n times, and the n results are joined in three ways: one after another, in pairs,
and by a single op of n arguments. All n gradients are pending together. Work per node is counted
(calls of Python and C functions, their arguments, and comparisons by the sort); it should grow as
log n at most. The time per node is printed beside it.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import time
from collections.abc import Callable
from types import FrameType

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor, tensor


def chain(rows: list[Tensor]) -> Tensor:
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total


def tree(rows: list[Tensor]) -> Tensor:
    while len(rows) > 1:
        pairs = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)]
        rows = pairs + rows[len(rows) - len(rows) % 2 :]
    return rows[0]


def one_op(rows: list[Tensor]) -> Tensor:
    return tg.stack(rows).sum()


JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "one after another": chain,
    "in pairs": tree,
    "by one op": one_op,
}


def pending(n: int, join: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
    """A leaf, and the sum of n Tensors that were made from it."""
    x = Tensor(1.0, requires_grad=True, dtype=np.float64)
    return x, join([x * float(k) for k in range(n)])


class Counted(int):
    """The time of birth of a node, which counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: int) -> bool:
        Counted.comparisons += 1
        return int.__lt__(self, other)


def arguments(frame: FrameType) -> int:
    """How many arguments a function was called with: f(*xs) copies all of xs."""
    code, several = frame.f_code, frame.f_code.co_flags & inspect.CO_VARARGS
    named = code.co_argcount + code.co_kwonlyargcount
    return named + (len(frame.f_locals[code.co_varnames[named]]) if several else 0)


def work(n: int, join: Callable[[list[Tensor]], Tensor]) -> float:
    """Calls, arguments and comparisons of one backward pass, per pending node."""
    clock, calls = tensor.clock, 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1 + (arguments(frame) if event == "call" else 0)

    tensor.clock = map(Counted, itertools.count())  # type: ignore[assignment]
    Counted.comparisons = 0
    try:
        x, y = pending(n, join)
        sys.setprofile(count)
        y.backward()
    finally:
        sys.setprofile(None)
        tensor.clock = clock
    assert x.grad is not None
    assert x.grad.item() == n * (n - 1) / 2
    return (calls + Counted.comparisons) / n


def seconds(n: int, join: Callable[[list[Tensor]], Tensor]) -> float:
    _, y = pending(n, join)
    start = time.perf_counter()
    y.backward()
    return time.perf_counter() - start


def main() -> None:
    sizes = (1000, 10_000, 30_000)
    print(f"{'joined':20}{'n':>8}{'work/node':>12}{'µs/node':>10}")
    for name, join in JOINS.items():
        for n in sizes:
            best = min(seconds(n, join) for _ in range(3))
            print(f"{name:20}{n:8,}{work(n, join):12.1f}{best / n * 1e6:10.1f}")


if __name__ == "__main__":
    main()
