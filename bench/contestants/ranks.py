"""A training step shared by ranks: ``mpiexec -n 2 python bench/contestants/ranks.py middle``."""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, HEADS, RATE, SIZES, STEPS, batches

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.models.data_parallel import workers_for
from tinygrad_mha.models.ranks import group
from tinygrad_mha.random import mask_stream


def main(name: str) -> None:
    size, ranks, steps = SIZES[name], group(), STEPS[name]
    tg.manual_seed(0)
    model = TextClassifier(size.vocabulary, size.d_model, CLASSES, h=HEADS, dropout=DROPOUT)
    parameters = model.parameters()
    adam = tg.optim.Adam(parameters, lr=RATE)
    rows = batches(size, 8)

    def loss_of(part, ids, targets, step):
        with mask_stream(0, step, part.start):
            logits = model(ids[part])
            loss = tg.cross_entropy(logits, targets[part], reduction="sum")
        loss = loss * (1 / len(ids))
        return loss, (loss.item(), 0)

    said = {"parameters": sum(p.size for p in parameters), "cores": ranks.cores}
    with workers_for(ranks, 1, (), parameters) as workers:

        def step(k):
            ids, targets = rows[k % 8]
            workers.gradients(loss_of, len(ids), ids, targets, k)
            adam.step(workers)

        for k in range(max(3, steps // 6)):
            step(k)
        watch = None
        if ranks.size > 1:
            watch = workers.buckets.wire = Watch(workers.buckets.wire, ranks)
        before, times = ranks.exchanged, []
        for k in range(steps):
            start = time.perf_counter()
            step(k)
            times.append(time.perf_counter() - start)
        said["ms"] = statistics.median(times) * 1e3
        if watch is not None:
            buckets, said["bytes"] = workers.buckets, (ranks.exchanged - before) / steps
            said |= {name: statistics.median(ms) for name, ms in watch.ms.items()}
            alone = [sums_alone(ranks, buckets, watch.wire) for _ in range(9)]
            said |= {"alone": statistics.median(alone) * 1e3, "early": buckets.early}
            said["buckets"] = [buckets.row[c].nbytes for c in buckets.cuts]
    if ranks.first:
        print(json.dumps(said))


class Watch:
    """A wire, and milliseconds of each step: from the first bucket to the end of the backward pass,
    then for slower ranks, then for the rest of the sums."""

    def __init__(self, wire, ranks):
        self.wire, self.ranks, self.first = wire, ranks, None
        self.nudge = wire.nudge
        self.ms = {"window": [], "slower": [], "sums": []}

    def start(self, a):
        self.first = self.first or time.perf_counter()
        return self.wire.start(a)

    def finish(self, started):
        at = [self.first, time.perf_counter()]
        self.ranks.comm.Barrier()
        at.append(time.perf_counter())
        self.wire.finish(started)
        at.append(time.perf_counter())
        self.first = None
        for name, (a, b) in zip(self.ms, pairwise(at), strict=True):
            self.ms[name].append((b - a) * 1e3)


def sums_alone(ranks, buckets, wire):
    """Seconds that the sums of a step take with nothing to hide behind."""
    ranks.comm.Barrier()
    start = time.perf_counter()
    wire.finish([wire.start(buckets.row[c]) for c in buckets.cuts])
    return time.perf_counter() - start


main(*sys.argv[1:])
