"""What an op costs when its array is tiny: forward and backward of a chain, op by op.

    python bench/tiny_ops.py            # pip install torch autograd mygrad; about a minute

y ← y · w + b, 500 times, then the gradients of w and b: a product and a sum a link, so a thousand
ops, whose time is all bookkeeping. Arrays of four float32 and scalars; one thread. The time is that
of both passes, divided by a thousand. A ratio above 1 means that we are faster.
"""

from __future__ import annotations

import argparse
import math
import statistics

from side_by_side import ratio, rounds, table

CONTESTANTS = {"ours": "ours", "torch": "pytorch", "autograd": "autograd", "MyGrad": "mygrad"}
SHAPES = {"(4,)": "4", "()": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--picture", metavar="PATH", help="draw the ratios as SVG")
    options = parser.parse_args()
    others = [name for name in CONTESTANTS if name != "ours"]
    rows, drawn = [], {f"{name} / ours": [] for name in others}
    for shape, length in SHAPES.items():
        chosen = {name: ["chain.py", who, length] for name, who in CONTESTANTS.items()}
        said = rounds(chosen, options.rounds, threads=1)
        check(said[0])
        times = [f"{statistics.median(r[name]['us'] for r in said):.2f}" for name in chosen]
        for name in others:
            slower = ratio(said, lambda r, n=name: r[n]["us"], lambda r: r["ours"]["us"])
            drawn[f"{name} / ours"].append(slower)
        rows.append([shape, *times, *(d[-1] for d in drawn.values())])
    print(table(["shape", *(f"{name}, µs an op" for name in CONTESTANTS), *drawn], rows))
    if options.picture:
        from chart import bars

        bars(options.picture, "A tiny op, forward and backward: time ÷ ours", list(SHAPES), drawn)


def check(said: dict[str, dict]) -> None:
    """All found the same gradients, or they did not do the same."""
    for name, answer in said.items():
        for a, b in zip(answer["slope"], said["ours"]["slope"], strict=True):
            if not math.isclose(a, b, rel_tol=1e-3):
                raise SystemExit(f"{name} found the gradient {a}, we {b}")
        if answer["dtypes"]:
            print(f"{name} has gradients of {', '.join(answer['dtypes'])}\n")


if __name__ == "__main__":
    main()
