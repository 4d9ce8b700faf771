"""How long one text waits for its label, beside PyTorch.

    python bench/latency.py             # needs torch; about a minute

A batch of one text of 20 tokens, 10,000 words, d_model 128, evaluation mode without gradients, one
thread: from the ids to the number of the label. A process takes the median of 400 calls. PyTorch
runs in inference mode, once with its scaled_dot_product_attention and once with softmax written
out; each round counts the faster of the two. A ratio above 1 means that we are faster.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side import ratio, rounds, table

CONTESTANTS = {"ours": "ours", "torch": "sdpa", "torch, softmax": "softmax"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--picture", metavar="PATH", help="draw the ratio as SVG")
    options = parser.parse_args()
    chosen = {name: ["one_text.py", who] for name, who in CONTESTANTS.items()}
    said = rounds(chosen, options.rounds, threads=1)
    slower = ratio(
        said,
        lambda r: min(r["torch"]["ms"], r["torch, softmax"]["ms"]),
        lambda r: r["ours"]["ms"],
    )
    times = [f"{statistics.median(r[name]['ms'] for r in said):.3f}" for name in chosen]
    head = ["1 text of 20 tokens", *(f"{name}, ms" for name in chosen), "torch / ours"]
    print(table(head, [["ids to label", *times, slower]]))
    if options.picture:
        from chart import bars

        bars(options.picture, "One text: torch ÷ ours", ["20 tokens"], {"torch / ours": [slower]})


if __name__ == "__main__":
    main()
