"""What the heads do, and what holds overfitting down: the classifier with one thing changed.

    python bench/heads.py heads --picture bench/pictures/heads.svg            # 20 minutes
    python bench/heads.py regularisation --picture bench/pictures/regularisation.svg    # two hours

heads: 1 to 16 of them, each d_model / h wide, so that all have the same number of weights. How much
they differ is the mean over tokens of the Jensen-Shannon divergence of their attention, in bits: 0
if all heads look at the same tokens, log2 h if no two look at one. Source: Lin, Divergence Measures
Based on the Shannon Entropy, §IV.

regularisation: the default settings with one of them changed.

The mean of three splits (seeds), with the lowest and the highest. Needs matplotlib for pictures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from side_by_side import Ratio, table

from tinygrad_mha.models.datasets import BUILTIN, default_level
from tinygrad_mha.models.train import Settings, evaluate, split, train
from tinygrad_mha.models.trained import TrainedClassifier

HEADS = (1, 2, 4, 8, 16)
CHANGES: dict[str, list[dict[str, Any]]] = {
    "dropout": [{"dropout": p} for p in (0.0, 0.4)],
    "attention dropout": [{"attention_dropout": p} for p in (0.0, 0.4)],
    "word dropout": [{"word_dropout": p} for p in (0.0, 0.15, 0.3)],
    "label smoothing": [{"label_smoothing": p} for p in (0.05, 0.1)],
    "weight decay": [{"weight_decay": p} for p in (0.0, 0.05)],
}


def accuracy(name: str, seed: int, **changed: Any) -> tuple[float, TrainedClassifier, Any]:
    """On the held-out fifth."""
    parts = split(BUILTIN[name](), seed=seed)
    trained = train(parts, Settings.for_level(default_level(name), seed=seed, **changed))
    return evaluate(trained, parts.test)["accuracy"], trained, parts


def divergence(trained: TrainedClassifier, texts: Sequence[str]) -> float:
    """Of the heads' attention: the mean over tokens, in bits."""
    attend, kept = trained.model.multihead_attn, []
    plain = attend.forward

    def watched(x: Any, mask: Any = None) -> Any:
        y, weights = plain(x, mask=mask, need_weights=True)  # (B, h, T, T)
        kept.append(weights.numpy())
        return y

    attend.forward = watched  # type: ignore[method-assign]
    try:
        trained.logits(trained.encode(texts))
    finally:
        del attend.forward
    means = []
    for p in kept:
        each = entropy(p).mean(axis=1)  # (B, T)
        real = p.max(axis=(1, 2)) > 0  # (B, T): a pad attends, too, but nobody attends to it
        means.append((entropy(p.mean(axis=1)) - each)[real])
    return float(np.concatenate(means).mean())


def entropy(p: np.ndarray) -> np.ndarray:
    """Of the last axis, in bits."""
    return -(p * np.log2(np.maximum(p, 1e-30))).sum(axis=-1)


def spread(values: Sequence[float]) -> Ratio:
    return Ratio(statistics.mean(values), min(values), max(values))


def shown(r: Ratio) -> str:
    return f"{r.median:.4f} ({r.low:.4f} – {r.high:.4f})"


def heads(sets: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], dict]:
    rows, drawn = [], {name: [] for name in sets}
    for h in HEADS:
        cells = []
        for name in sets:
            said = [accuracy(name, seed, h=h) for seed in seeds]
            found = spread([a for a, _, _ in said])
            apart = [divergence(trained, parts.test.texts) for _, trained, parts in said]
            drawn[name].append(found)
            cells += [shown(found), f"{statistics.mean(apart):.2f} of {np.log2(h):.0f}"]
        rows.append([h, *cells])
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    columns = [c for name in sets for c in (f"`{name}`: accuracy", "heads differ by, bits")]
    print(table(["heads", *columns], rows))
    return [str(h) for h in HEADS], drawn


def regularisation(sets: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], dict]:
    changes = [("as it is", {}), *((k, c) for k, several in CHANGES.items() for c in several)]
    rows, places, drawn = [], [], {name: [] for name in sets}
    for what, changed in changes:
        place = " ".join([what, *map(str, changed.values())])
        cells = []
        for name in sets:
            level = Settings.for_level(default_level(name))
            if any(getattr(level, k) == v for k, v in changed.items()):
                found = drawn[name][0]  # that is what it is
            else:
                found = spread([accuracy(name, seed, **changed)[0] for seed in seeds])
            drawn[name].append(found)
            cells.append(shown(found))
        rows.append([place, *cells])
        places.append(place)
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(table(["", *(f"`{name}`" for name in sets)], rows))
    return places, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("heads", "regularisation"))
    parser.add_argument("--sets", nargs="+", choices=list(BUILTIN), default=list(BUILTIN))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", metavar="PATH", help="draw the accuracies as SVG")
    options = parser.parse_args()
    places, drawn = globals()[options.what](options.sets, options.seeds)
    if options.picture:
        from chart import accuracies

        accuracies(options.picture, places, drawn)


if __name__ == "__main__":
    main()
