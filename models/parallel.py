"""Several workers on one mini-batch: each computes the gradients of its *shard*, some of the rows.

The workers are processes where that is possible (see processes.py), else threads: NumPy lets go of
the interpreter inside its loops and matrix products, so two threads that each work on half of a
batch keep two cores busy if the batch is large. Either way the BLAS library must stay on one
thread, or four would fight for two cores; and either way the result is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_mha import Tensor, grad, memory
from tinygrad_mha.tensor import inherit, modes
from tinygrad_mha.threads import cores, one_blas_thread

from . import processes

__all__ = ["Workers", "cores", "one_blas_thread", "shards", "shards_for"]

Job = Callable[..., Any]  # job(rows, *batch), for a stretch of rows of the batch

# numbers in the state of an LSTM that make a shard worth its overhead (bench/LOG.md)
ENOUGH_FOR_A_SHARD = 1024


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

    >>> shards_for(32, 64, 2), shards_for(32, 64, 64), shards_for(4, 16, 2)
    (2, 2, 1)
    """
    return max(1, min(workers, rows * width // ENOUGH_FOR_A_SHARD))


class Workers:
    """Processes or threads that compute the gradients of one batch together. A context manager.

    Parameters
    ----------
    count : int
        How many cores to use.
    jobs : sequence of functions, optional
        What processes will be asked to do, by :meth:`gradients` and :meth:`run`, where processes
        are possible; everything else is done by threads. A process inherits the functions with
        all that they refer to, as it is on entering.
    parameters : sequence of Tensors, optional
        What gradients are taken for. Of all that the jobs refer to, only their values may change
        later on.
    shards : int, optional
        Into how many parts a batch is cut: by default ``count``. The sum over shards is taken in
        their order, so that no bit depends on which one was ready first.
    """

    def __init__(
        self,
        count: int,
        jobs: Sequence[Job] = (),
        parameters: Sequence[Tensor] = (),
        *,
        shards: int | None = None,
    ) -> None:
        self.count, self.jobs, self.parameters = count, list(jobs), list(parameters)
        self.shards = count if shards is None else shards
        self.processes: processes.Processes | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Workers:
        with ExitStack() as stack:
            stack.enter_context(memory.kept())
            stack.enter_context(one_blas_thread())
            on_host = all(isinstance(p.data, np.ndarray) for p in self.parameters)
            if self.shards > 1 and self.jobs and on_host and processes.possible():
                with suppress(OSError):  # the system has no room for more processes
                    self.processes = stack.enter_context(
                        processes.Processes(self.shards - 1, self.jobs, self.parameters)
                    )
            if self.count > 1:  # it starts its threads when they are needed, so after the fork
                self._pool = stack.enter_context(ThreadPoolExecutor(self.count))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)
        self.processes = self._pool = None

    def map(self, f: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``[f(item) for item in items]``, side by side in threads."""
        if self._pool is None or len(items) == 1:
            return [f(item) for item in items]
        return list(self._pool.map(inherit(f), items))

    def cut(self, rows: int) -> list[slice]:
        """``rows`` cut into shards."""
        return shards(rows, self.shards)

    def run(self, job: Job, rows: int, *batch: Any) -> list[Any]:
        """``job(part, *batch)`` for each shard of ``rows`` rows."""
        parts = self.cut(rows)
        if family := self._processes_for(job, parts):
            return family.run(lambda f, part: quiet(f, part, *batch), job, False, parts, batch)
        return self.map(lambda part: quiet(job, part, *batch), parts)

    def gradients(self, loss_of: Job, rows: int, *batch: Any) -> list[Any]:
        """Leave the gradients of Σ loss_of(shard) in ``.grad``; return what else the shards said.

        ``loss_of(part, *batch)`` gives ``(loss, anything)`` for a stretch of rows of the batch.
        """
        parts = self.cut(rows)
        for p in self.parameters:
            p.grad = None  # its memory is of use meanwhile

        def own(loss_of: Job, part: slice) -> tuple[list[Tensor], Any]:
            return differentiate(loss_of, self.parameters, part, batch)

        if family := self._processes_for(loss_of, parts):
            (first, said), *others = family.run(own, loss_of, True, parts, batch)
            found = [first, *(child.gradients for child in family.children)]
            said = [said, *others]
        else:
            results = self.map(lambda part: own(loss_of, part), parts)
            found = [list(gradients) for gradients, _ in results]
            said = [words for _, words in results]
        self._add_up(found[: len(parts)])
        return said

    def _processes_for(self, job: Job, parts: list[slice]) -> processes.Processes | None:
        """Who computes the shards, if not threads: those see what detect_anomaly looks for."""
        watched = modes.watcher is not None
        return None if watched or len(parts) < 2 or job not in self.jobs else self.processes

    def _add_up(self, found: list[list[Any]]) -> None:
        """Σ over shards, in their order, in ``.grad``; grad() gave us the memory of the first."""
        for p, total in zip(self.parameters, found[0], strict=True):
            p.grad = total

        def add(k: int) -> None:
            """Each thread adds up a stretch of every gradient, shard after shard."""
            for total, *others in zip(*found, strict=True):
                part = _stretch(total.data, k, self.count)
                for more in others:
                    more = more.data if isinstance(more, Tensor) else more
                    part += _stretch(more, k, self.count)

        if len(found) > 1:
            self.map(add, range(self.count))


def quiet(job: Job, part: slice, *batch: Any) -> Any:
    """Call it. A run that blows up is noticed by its loss, not by warnings of each operation.

    NumPy keeps this setting by thread.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return job(part, *batch)


def differentiate(
    loss_of: Job,
    parameters: Sequence[Tensor],
    part: slice,
    batch: Sequence[Any],
    ready: Callable[[int, Any], None] | None = None,
) -> tuple[list[Tensor], Any]:
    """The gradients of one shard, and what else it said; ``ready`` as for :func:`grad`."""
    with np.errstate(over="ignore", invalid="ignore"):
        loss, said = loss_of(part, *batch)
        return grad(loss, parameters, retain_graph=False, ready=ready), said


def _stretch(a: Any, k: int, count: int) -> Any:
    """The k-th of ``count`` stretches of rows, as a view; a number is all in the first."""
    if not a.ndim:
        return a if k == 0 else a.reshape(1)[:0]
    return a[len(a) * k // count : len(a) * (k + 1) // count]
