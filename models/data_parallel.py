"""One batch for all ranks: each computes the gradients of its rows, and all get the sum.

Every rank walks through the same batches, which are a function of the seed, and takes its share of
the rows of each. The masks of dropout depend on the number of a row in the whole batch, and so does
nothing else, so that the sum is that of one process to rounding. From the same sum every rank makes
the same step: the weights of all ranks stay equal bit by bit, and are never sent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mha.backend import xp

from .buckets import Buckets
from .parallel import Job, Workers, differentiate, shards
from .ranks import Ranks
from .signals import Agreed
from .wires import wire_for

CHECK_EVERY = 500  # steps: so often the ranks make sure that their weights are equal


class RankWorkers(Workers):
    """The workers of one rank, which do its share; what they answer is for the whole batch.

    Parameters
    ----------
    ranks : Ranks
    *arguments, **options
        As for :class:`Workers`. What a job of :meth:`gradients` says beside its loss is a tuple of
        two numbers, which are added up.
    stops : Stops or Agreed, optional
        Whose signal is made known to all.
    """

    def __init__(self, ranks: Ranks, *arguments: Any, stops: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ranks, self.stops, self.steps = ranks, stops, 0
        self.buckets: Buckets | None = None

    def __enter__(self) -> RankWorkers:
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if exception[0] is None and self.parameters:
            self.ranks.check_same("the weights", self.parameters)

    def cut(self, rows: int) -> list[slice]:
        """Our share, cut into shards; nothing, if there are more ranks than rows."""
        own = self.ranks.share(rows)
        count = own.stop - own.start
        parts = shards(count, self.shards) if count else []
        return [slice(own.start + part.start, own.start + part.stop) for part in parts]

    def run(self, job: Job, rows: int, *batch: Any) -> list[Any]:
        """The arrays of all shards of all ranks."""
        return self.ranks.gathered_rows(super().run(job, rows, *batch))

    def gradients(self, loss_of: Job, rows: int, *batch: Any) -> list[Any]:
        """Leave the sum over all ranks in ``.grad``; what all shards said, added up."""
        if self.buckets is None:
            wire = wire_for(self.parameters[0].data, self.ranks)
            self.buckets = Buckets(self.parameters, wire)
        if self.steps % CHECK_EVERY == 0:
            self.ranks.check_same("the weights", self.parameters)
        self.steps += 1
        self.ranks.busy = True
        asked = self._ask()
        buckets, parts = self.buckets, self.cut(rows)
        buckets.begin()
        for p in self.parameters:
            p.grad = None
        said = []
        if len(parts) == 1:  # the sums begin while the backward pass goes on
            said = [differentiate(loss_of, self.parameters, parts[0], batch, buckets.ready)[1]]
        else:
            if parts:
                said = super().gradients(loss_of, rows, *batch)
            for k in reversed(range(len(self.parameters))):
                g = self.parameters[k].grad
                buckets.ready(k, None if g is None else g.data)
        total = self._added_up(said)
        buckets.finish(total)
        self._heed(asked)
        self.ranks.busy = False
        on_host = isinstance(total, np.ndarray)
        return [(float(total[0]), int(total[1])) if on_host else (total[0], total[1])]

    def _added_up(self, said: list[tuple[Any, Any]]) -> Any:
        """Σ over our shards."""
        total = xp(self.parameters[0].data).zeros(2, np.float64)
        for numbers in said:
            for k, number in enumerate(numbers):
                total[k] += number
        return total

    # ---- signals: who was sent one says so with the step

    def _ask(self) -> tuple[Any, np.ndarray]:
        own = getattr(self.stops, "own", None)
        number = np.array([0 if own is None else own.asked or 0], np.int64)
        from mpi4py import MPI

        return self.ranks.comm.Iallreduce(MPI.IN_PLACE, number, MPI.MAX), number

    def _heed(self, asked: tuple[Any, np.ndarray]) -> None:
        request, number = asked
        request.Wait()
        if number[0] and isinstance(self.stops, Agreed):
            self.stops.asked = int(number[0])


def workers_for(ranks: Ranks, *arguments: Any, stops: Any = None, **options: Any) -> Workers:
    """Workers of a lone process, or of one among several."""
    if ranks.size == 1:
        return Workers(*arguments, **options)
    return RankWorkers(ranks, *arguments, stops=stops, **options)
