"""A training step shared by 1, 2 and 4 ranks, and what 64 on a network would make of it.

    python bench/scaling.py               # needs mpi4py and mpiexec; about two minutes

The model and the sizes are those of training_step.py. Measured: one batch of 32 texts, of which
every rank takes its share; all ranks are on this machine, so more of them than it has cores gain
nothing. When its backward pass is over, a rank waits for slower ranks, and then for the rest of the
sums; "hidden" is what this rest lacks to the same sums alone. Estimated: 32 texts for each rank,
each on a core of its own, joined by a network.

The estimate, for N ranks:

    ring(N, bytes) = 2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * latency
    step(N) = step(1) + the rings of the buckets that are full only when the backward pass is over
                      + the rings of those that are full earlier, less the time that is left then

where step(1) is the fastest step of one rank that was measured (others may be using the machine),
and the time that is left, for 32 texts, is measured from the first bucket's beginning. The last
gradients are those of the embedding, which is most of the model: they are never hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from side_by_side import contestant, finish, spread, table
from work import SIZES

NETWORKS = {"1 Gbit/s": (1e9, 50e-6), "10 Gbit/s": (10e9, 30e-6), "100 Gbit/s": (100e9, 5e-6)}


def job(count: int, size: str) -> dict:
    """What rank 0 of ``count`` says of its steps."""
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mpiexec = shutil.which("mpiexec", path=beside)
    if mpiexec is None:
        raise SystemExit("no mpiexec; pip install mpich")
    _, printed = finish([mpiexec, "-n", str(count), *contestant("ranks.py"), size], 1)
    return json.loads(printed.splitlines()[-1])


def ring(ranks: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds that a ring needs to add up ``size`` bytes of every rank, for all of them."""
    return 2 * (ranks - 1) * (size * 8 / ranks / bandwidth + latency)


def exposed(ranks: int, said: dict, window: float, network: tuple[float, float]) -> float:
    """Seconds of the sums that the backward pass does not hide."""
    each = [ring(ranks, size, *network) for size in said["buckets"]]
    early, late = sum(each[: said["early"]]), sum(each[said["early"] :])
    return max(0.0, early - window) + late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["middle", "large"], choices=list(SIZES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if 1 not in options.ranks or len(options.ranks) < 2:
        parser.error("--ranks should be 1 and more, as 1 2 4: all is compared with one")
    measured, estimated = [], []
    for name in options.sizes:
        size, found = SIZES[name], {n: [] for n in options.ranks}
        for k in range(options.rounds):
            for n in options.ranks[:: -1 if k % 2 else 1]:
                found[n].append(job(n, name))
        for n in options.ranks:
            gains = [a["ms"] / b["ms"] for a, b in zip(found[1], found[n], strict=True)]
            middle = sorted(found[n], key=lambda said: said["ms"])[options.rounds // 2]
            measured.append([size, n, *figures(middle, size), spread(gains)])
        many = min(n for n in options.ranks if n > 1)
        alone, shared = found[1], found[many]
        step = min(said["ms"] for said in alone) / 1e3
        window = many * min(said["window"] for said in shared) / 1e3  # for 32 texts a rank
        for network, speed in NETWORKS.items():
            row = []
            for n in (2, 8, 64):
                seconds = step + exposed(n, shared[0], window, speed)
                row.append(f"{step / seconds:.0%} ({n * step / seconds:.1f})")
            estimated.append([size, f"{network}, {speed[1] * 1e6:.0f} µs", *row])
    title = "V, d, batch, T"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"Measured, all ranks on one machine with {cores} cores:\n")
    heads = ["ms a step", "tokens/s", "MB a step", "begun early", "sums alone, ms", "rest, ms"]
    heads.append("hidden")
    print(table([title, "ranks", *heads, "speed ÷ one rank's"], measured))
    print("\nEstimated, 32 texts for each rank: efficiency (times one rank's throughput)\n")
    print(table([title, "network, latency", *(f"{n} ranks" for n in (2, 8, 64))], estimated))


def figures(said: dict, size) -> list[str]:
    """What one job measured, for the table."""
    speed = [f"{said['ms']:.1f}", f"{size.batch * size.tokens / said['ms'] * 1e3:,.0f}"]
    if "bytes" not in said:
        return [*speed, "0", *[""] * 4]
    hidden = max(0.0, 1 - said["sums"] / said["alone"])
    sums = [f"{said['alone']:.1f}", f"{said['sums']:.1f}", f"{hidden:.0%}"]
    early = f"{said['early']} of {len(said['buckets'])}"
    return [*speed, f"{said['bytes'] / 1e6:.2f}", early, *sums]


if __name__ == "__main__":
    main()
