"""Several threads at work on one mini-batch, in one of two ways.

*Shards.* NumPy lets go of the interpreter inside its loops and matrix products, so two threads that
each work on half of a batch keep two cores busy. The BLAS library must then stay on one thread, or
four would fight for the two cores.

*One for all.* Whoever lets go of the interpreter has to wait to get it back, some ten microseconds
if another thread has it. Where a step of the LSTM has no more work than that, the threads mostly
wait for each other. Then one thread computes the whole batch, and BLAS uses all of them for its
matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_mha import Tensor, grad, memory
from tinygrad_mha.tensor import inherit
from tinygrad_mha.threads import blas_threads, cores, one_blas_thread

__all__ = ["Workers", "cores", "one_blas_thread", "shards", "shards_for"]

# numbers in the state of an LSTM, for one shard; measured on two cores (bench/LOG.md)
ENOUGH_FOR_A_SHARD = 2048


def shards(rows: int, workers: int) -> list[slice]:
    """``rows`` cut into at most ``workers`` stretches whose sizes differ by one at most.

    >>> shards(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    workers = max(1, min(workers, rows))
    ends = [-(-rows * k // workers) for k in range(workers + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def shards_for(rows: int, width: int, workers: int) -> int:
    """Into how many shards to cut a batch of ``rows`` texts, for LSTM states of ``width``.

    >>> shards_for(32, 256, 2), shards_for(32, 64, 2)
    (2, 1)
    """
    return workers if rows * width >= ENOUGH_FOR_A_SHARD * workers else 1


class Workers:
    """Threads that compute the gradients of one batch together. A context manager.

    Parameters
    ----------
    count : int
        Threads.
    shards : int, optional
        Into how many parts a batch is cut: ``count`` (as many as there are threads) or 1. The sum
        over shards is taken in their order, so that no bit depends on which thread was faster.
    """

    def __init__(self, count: int, shards: int | None = None) -> None:
        self.count = count
        self.shards = count if shards is None else shards
        self._pool: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Workers:
        self._stack.enter_context(memory.kept())
        if self.shards == 1:
            self._stack.enter_context(blas_threads(self.count))
        else:
            self._stack.enter_context(one_blas_thread())
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.count))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``[f(item) for item in items]``, side by side."""
        if self._pool is None or len(items) == 1:
            return [f(item) for item in items]
        return list(self._pool.map(inherit(f), items))

    def cut(self, rows: int) -> list[slice]:
        """``rows`` cut into shards."""
        return shards(rows, self.shards)

    def gradients(
        self,
        loss_of: Callable[[slice], tuple[Tensor, Any]],
        parameters: Sequence[Tensor],
        rows: int,
    ) -> list[Any]:
        """Leave the gradients of Σ loss_of(shard) in ``.grad``; return what else the shards said.

        ``loss_of(rows)`` gives ``(loss, anything)`` for a stretch of rows of the batch.
        """

        def one(part: slice) -> tuple[list[Tensor], Any]:
            # A run that blows up is noticed by its loss, not by warnings of each operation. NumPy
            # keeps this setting by thread.
            with np.errstate(over="ignore", invalid="ignore"):
                loss, said = loss_of(part)
                return grad(loss, parameters), said

        results = self.map(one, self.cut(rows))
        sums = results[0][0]
        for p, total in zip(parameters, sums, strict=True):
            p.grad = total

        def add(k: int) -> None:
            """Each thread adds up a stretch of every gradient, shard after shard."""
            for place, total in enumerate(sums):
                part = _stretch(total.data, k, self.count)
                for more, _ in results[1:]:
                    part += _stretch(more[place].data, k, self.count)

        if len(results) > 1:  # grad() gave us this memory, so we may add to it
            self.map(add, range(self.count))
        return [said for _, said in results]


def _stretch(a: Any, k: int, count: int) -> Any:
    """The k-th of ``count`` stretches of rows, as a view; a number is all in the first."""
    if not a.ndim:
        return a if k == 0 else a.reshape(1)[:0]
    return a[len(a) * k // count : len(a) * (k + 1) // count]
