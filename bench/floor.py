"""How much of a training step are its matrix products?

    python bench/floor.py            # about two minutes

The products alone, at the shapes that they have in the step, each thread on its half of the batch
(contestants/gemms.py), beside the whole step: a share of 1 would mean that nothing else takes time.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side import ratio, rounds, table
from work import SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        given = [size, "train", str(options.threads)]
        chosen = {"ours": ["ours.py", *given], "products": ["gemms.py", *given]}
        said = rounds(chosen, options.rounds, options.threads)
        times = [f"{statistics.median(r[n]['ms'] for r in said):.1f}" for n in chosen]
        share = ratio(said, lambda r: r["products"]["ms"], lambda r: r["ours"]["ms"])
        rows.append([SIZES[size], *times, share])
    print(table(["V, d, batch, T", "step, ms", "products, ms", "products / step"], rows))


if __name__ == "__main__":
    main()
