"""What a second worker gains: a training step with one and with two, ours and PyTorch's.

    python bench/workers.py               # needs torch; about five minutes

Same model and sizes as training_step.py. Each column is the time of a step with one worker (for
PyTorch: one thread) divided by that with two, in the same round. 2.00 would be perfect.
"""

from __future__ import annotations

import argparse

from side_by_side import run, spread, table
from work import SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    counts = 1, options.workers
    rows = []
    for size in options.sizes:
        gains: dict[str, list[float]] = {"ours": [], "torch": []}
        for k in range(options.rounds):
            for name, file, how in (("ours", "ours.py", []), ("torch", "pytorch.py", ["softmax"])):
                ms = {n: run([file, size, "train", str(n), *how], n)["ms"] for n in turn(counts, k)}
                gains[name].append(ms[1] / ms[options.workers])
        rows.append([SIZES[size], *map(spread, gains.values())])
    print(table(["V, d, batch, T", *(f"{name}, 1 ÷ {counts[1]}" for name in gains)], rows))


def turn(counts: tuple[int, int], k: int) -> tuple[int, ...]:
    """The order of the k-th round: reversed from round to round."""
    return counts[:: -1 if k % 2 else 1]


if __name__ == "__main__":
    main()
