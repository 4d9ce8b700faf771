"""A mini-batch cut into shards, one thread each.

NumPy lets go of the interpreter inside its loops and matrix products, so two threads that each
work on half of a batch keep two cores busy. The BLAS library must then stay on one thread, or four
would fight for the two cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_mha import Tensor, grad
from tinygrad_mha.tensor import inherit

_lock = threading.Lock()
_users = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread, for the whole process: the first in sets it, the last out resets it."""
    global _users, _limit
    from threadpoolctl import threadpool_limits

    with _lock:
        _users += 1
        if _users == 1:
            _limit = threadpool_limits(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limit.restore_original_limits()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards(rows: int, workers: int) -> list[slice]:
    """``rows`` cut into at most ``workers`` stretches whose sizes differ by one at most.

    >>> shards(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    workers = max(1, min(workers, rows))
    ends = [-(-rows * k // workers) for k in range(workers + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


class Workers:
    """Threads that compute the gradients of one batch together.

    The sum over shards is always taken in the order of the shards, so the result does not depend
    on which thread was faster. Use it as a context manager.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._limit: Any = None

    def __enter__(self) -> Workers:
        self._limit = one_blas_thread()
        self._limit.__enter__()
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._limit.__exit__(*exception)

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``[f(item) for item in items]``, side by side."""
        if self._pool is None or len(items) == 1:
            return [f(item) for item in items]
        return list(self._pool.map(inherit(f), items))

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

        results = self.map(one, shards(rows, self.count))
        for k, p in enumerate(parameters):
            total = results[0][0][k]
            for more, _ in results[1:]:
                total.data += more[k].data  # grad() gave us this memory, so we may add to it
            p.grad = total
        return [said for _, said in results]
