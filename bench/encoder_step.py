"""A fine-tuning step of MiniLM-L6, all weights, beside transformers on PyTorch.

    pip install -e '.[reference]' && python bench/encoder_step.py       # four minutes
    python bench/encoder_step.py --what infer

Batch 32, 32 tokens, float32, dropout 0.1, AdamW that moves every weight, drawn at random (what they
are makes no difference to the time). PyTorch runs its scaled_dot_product_attention, and AdamW once
fused and once not. A ratio above 1 means that we are faster, or take less memory.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side import ratio, rounds, table
from work import ENCODER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=("train", "infer"), default="train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    given = [options.what, str(options.threads)]
    chosen = {
        "ours": ["encoder_ours.py", *given],
        "torch, fused AdamW": ["encoder_torch.py", *given, "fused"],
    }
    if options.what == "train":
        chosen["torch"] = ["encoder_torch.py", *given]
    said = rounds(chosen, options.rounds, options.threads)
    shown = []
    for name in chosen:
        figures = [f"{statistics.median(r[name][k] for r in said):,.0f}" for k in ("ms", "peak_mb")]
        shown.append([name, *figures])
    print(f"vocabulary, d, batch, tokens: {ENCODER}\n")
    print(table(["", "ms", "MB"], shown))

    def best(what: str) -> object:
        theirs = lambda r: min(f[what] for name, f in r.items() if name != "ours")
        return ratio(said, theirs, lambda r: r["ours"][what])

    print(f"\ntorch / ours: time {best('ms')}, memory {best('peak_mb')}")


if __name__ == "__main__":
    main()
