"""Attention over long sequences beside PyTorch's: time and memory of forward and backward.

    python bench/long_sequences.py                 # T = 8,192: plain, causal, with dropout
    python bench/long_sequences.py --curve         # T = 1,024 … 32,768, and the chart of it

B = 1, 8 heads of width 64, float32, two threads. PyTorch runs scaled_dot_product_attention, which
on the CPU is a kernel in C++ in the manner of FlashAttention; it has none for dropout, and writes
the whole score matrices out instead ("math" in the last column). Memory is the peak above the
inputs and the outputs. A ratio above 1 means that we are faster, or take less memory. The ratio in
brackets is that of the processor's time, which says more where others compute on the same cores.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from side_by_side import Ratio, ratio, rounds, run, table

SCRIPT = "attention.py"
KINDS = ("plain", "causal", "dropout")
PICTURE = Path(__file__).parent / "pictures" / "long_sequences.svg"
LENGTHS = [1024 << k for k in range(6)]


def compare(length: int, kind: str, count: int, threads: int) -> list[object]:
    """A row of the table: both, their ratios, and how PyTorch did it."""
    contestants = {who: [SCRIPT, who, str(length), kind, str(threads)] for who in ("ours", "torch")}
    said = rounds(contestants, count, threads)

    def shown(who: str, what: str, digits: int) -> str:
        return f"{statistics.median(r[who][what] for r in said):.{digits}f}"

    def of(what: str) -> Ratio:
        return ratio(said, lambda r: r["torch"][what], lambda r: r["ours"][what])

    numbers = (shown("ours", "s", 2), shown("torch", "s", 2), f"{of('s')} [{of('cpu_s')}]")
    memory = (shown("ours", "mb", 0), shown("torch", "mb", 0), of("mb"))
    return [f"{length:,}, {kind}", *numbers, *memory, said[0]["torch"]["way"]]


def curve(lengths: list[int], last_of_torch: int, threads: int) -> dict[str, list[dict]]:
    """What both said at each length; PyTorch up to a length of its own."""
    said: dict[str, list[dict]] = {"ours": [], "torch": []}
    for n in lengths:
        for who, points in said.items():
            if who == "ours" or n <= last_of_torch:
                points.append({"T": n} | run([SCRIPT, who, str(n), "plain", str(threads)], threads))
                print(f"{who} at T = {n:,}: {points[-1]['s']:.2f} s, {points[-1]['mb']:.0f} MB")
    return said


def draw(said: dict[str, list[dict]], path: Path) -> None:
    """Time and memory over T, both axes logarithmic: a straight line is a power of T."""
    import matplotlib

    matplotlib.use("svg")
    # the same picture for the same numbers, so that a commit shows what changed
    matplotlib.rcParams |= {"svg.hashsalt": "bench", "font.size": 10}
    from matplotlib import pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    names = {"ours": "tinygrad_mha", "torch": "PyTorch (SDPA)"}
    for axes, what, title in zip(both, ("s", "mb"), ("seconds", "MB"), strict=True):
        for who, points in said.items():
            at = [p["T"] for p in points]
            axes.plot(at, [max(p[what], 1e-3) for p in points], "o-", label=names[who])
        ours = said["ours"]
        at = [p["T"] for p in ours]
        if what == "mb":
            dense = [8 * t * t * 4 / 2**20 for t in at]
            axes.plot(at, dense, ":", color="grey", label="the scores alone, if written out")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=10)
        axes.set_xticks(at, [f"{t:,}" for t in at])
        axes.set_title(f"{title}, forward + backward")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--torch-until", type=int, default=LENGTHS[-1], metavar="T")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    if options.curve:
        draw(curve(options.lengths, options.torch_until, options.threads), options.picture)
        return
    rows = [compare(options.length, k, options.rounds, options.threads) for k in options.kinds]
    head = ["T", "ours, s", "torch, s", "torch / ours", "ours, MB", "torch, MB", "torch / ours"]
    print(table([*head, "torch's way"], rows))


if __name__ == "__main__":
    main()
