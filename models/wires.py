"""How the sum of an array over all ranks comes about: by MPI, or between GPUs by NCCL.

A wire has two methods. ``start(a)`` begins to replace ``a`` by its sum over the ranks and returns
what to wait for; every rank has to start the same arrays in the same order. ``finish(started)``
returns when the sums are there; on a GPU, when its later work will find them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mha import backend
from tinygrad_mha.backend import place_like, to_host, xp

from .ranks import Ranks


def wire_for(a: Any, ranks: Ranks) -> Any:
    """What suits arrays like ``a``."""
    if xp(a) is np:
        return ByMpi(ranks)
    nccl = backend.nccl(ranks.size, ranks.rank) if has_own_gpu(ranks) else None
    return Staged(ranks) if nccl is None else ByNccl(ranks, nccl, xp(a).cuda)


def has_own_gpu(ranks: Ranks) -> bool:
    """Whether every rank has a GPU for itself: NCCL refuses to meet itself on one."""
    return all(count >= n for count, n in ranks.gathered([backend.gpus(), ranks.neighbours]))


class ByMpi:
    """Arrays of the host, which MPI adds up where they are."""

    def __init__(self, ranks: Ranks) -> None:
        from mpi4py import MPI

        self.ranks, self.in_place, self.add = ranks, MPI.IN_PLACE, MPI.SUM

    def start(self, a: np.ndarray) -> Any:
        """MPI goes on with it while we compute, as far as the library can."""
        self.ranks.exchanged += a.nbytes
        return self.ranks.comm.Iallreduce(self.in_place, a, self.add)

    def nudge(self, started: list[Any]) -> None:
        """Most libraries go on only while somebody asks."""
        for request in started:
            request.Test()

    def finish(self, started: list[Any]) -> None:
        for request in started:
            request.Wait()


class Staged(ByMpi):
    """Arrays of a GPU, by way of the host."""

    def start(self, a: Any) -> Any:
        host = to_host(a)
        return super().start(host), host, a

    def nudge(self, started: list[Any]) -> None:
        super().nudge([request for request, _, _ in started])

    def finish(self, started: list[Any]) -> None:
        for request, host, a in started:
            request.Wait()
            a[...] = place_like(host, a)


class ByNccl:
    """Arrays of GPUs, one of which each rank has: they reach each other without the host.

    The sums have a stream of their own, so that they run beside the rest of the backward pass.
    """

    def __init__(self, ranks: Ranks, nccl: Any, cuda: Any) -> None:
        self.ranks, self.nccl, self.cuda = ranks, nccl, cuda
        self.stream = cuda.Stream(non_blocking=True)

    def start(self, a: Any) -> Any:
        """When what fills ``a`` is done."""
        self.ranks.exchanged += a.nbytes
        self.stream.wait_event(self.cuda.get_current_stream().record())
        self.nccl.all_reduce(a, a, "sum", self.stream)
        return a

    def nudge(self, started: list[Any]) -> None:
        """A GPU needs no reminder."""

    def finish(self, started: list[Any]) -> None:
        """The host does not wait; the GPU does, before its next work."""
        self.cuda.get_current_stream().wait_event(self.stream.record())
