"""Gradients summed over all ranks, while the rest of the backward pass is still running.

The gradients of all parameters lie in one row of numbers, the last parameter first: the backward
pass comes to it first. The row is cut into buckets, whatever belongs to which parameter. As soon as
the gradients that reach into a bucket are final, its sum over the ranks is begun. The first bucket
is small, so that this is early, and each is twice as large as the one before it, up to a few
megabytes: then the latency of a sum no longer counts. (Li et al., PyTorch Distributed, §3.2.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_mha import Tensor
from tinygrad_mha.backend import xp

BYTES = 4 << 20  # of the largest buckets
DOUBLINGS = 4  # the first has a sixteenth of that
LINE = 16  # numbers: where a parameter begins, a cache line begins


class Buckets:
    """The sums of one step: ``begin()``, ``ready()`` for each parameter, ``finish()``.

    Attributes
    ----------
    early : int
        How many buckets of the last step were begun before the last gradient was final.
    """

    def __init__(self, parameters: Sequence[Tensor], wire: Any, size: int = BYTES) -> None:
        self.parameters, self.wire = list(parameters), wire
        m, dtype = xp(parameters[0].data), np.result_type(*(p.dtype for p in parameters))
        self.places: dict[int, slice] = {}
        end = 0
        for k in reversed(range(len(self.parameters))):
            self.places[k] = slice(end, end + self.parameters[k].size)
            end += -(-self.parameters[k].size // LINE) * LINE
        self.row = m.zeros(end, dtype)
        self.cuts = cut(end, max(LINE, size // dtype.itemsize))
        self.touched = {
            k: [b for b, c in enumerate(self.cuts) if c.start < place.stop and place.start < c.stop]
            for k, place in self.places.items()
        }
        self.early = 0
        self.begin()

    def begin(self) -> None:
        """A new step: no gradient is known."""
        self.missing = [0] * len(self.cuts)
        for buckets in self.touched.values():
            for b in buckets:
                self.missing[b] += 1
        self.left = len(self.parameters)
        self.started: list[Any] = []

    def ready(self, k: int, g: Any) -> None:
        """The gradient of parameter ``k`` is final; None stands for zeros.

        Buckets are begun in their order, which is the same on every rank, whatever the order in
        which they are filled.
        """
        self.row[self.places[k]] = 0 if g is None else g.reshape(-1)
        for b in self.touched[k]:
            self.missing[b] -= 1
        self.left -= 1
        while len(self.started) < len(self.cuts) and not self.missing[len(self.started)]:
            self.started.append(self.wire.start(self.row[self.cuts[len(self.started)]]))
        if self.left:
            self.early = len(self.started)
            self.wire.nudge(self.started)

    def finish(self, *more: Any) -> None:
        """Wait for the sums and leave them in ``.grad``; arrays in ``more`` become sums, too."""
        self.wire.finish([*self.started, *map(self.wire.start, more)])
        for k, p in enumerate(self.parameters):
            g = self.row[self.places[k]].reshape(p.shape)
            p.grad = Tensor(g.astype(p.dtype, copy=False))


def cut(end: int, most: int) -> list[slice]:
    """``end`` numbers in stretches that double up to ``most``.

    >>> [c.stop - c.start for c in cut(1000, 256)]
    [16, 32, 64, 128, 256, 256, 248]
    """
    cuts, start, size = [], 0, max(LINE, most >> DOUBLINGS)
    while start < end:
        cuts.append(slice(start, min(start + size, end)))
        start, size = start + size, min(2 * size, most)
    return cuts
