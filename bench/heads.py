"""What the heads do, and what holds overfitting down: the classifier with one thing changed.

    python bench/heads.py heads --picture bench/pictures/heads.svg            # an hour
    python bench/heads.py regularisation --picture bench/pictures/regularisation.svg    # an hour

heads: 1 to 16 of them, each d_model / h wide, so that all have the same number of weights. How much
they differ is the mean over tokens of the Jensen-Shannon divergence of their attention, in bits: 0
if all heads look at the same tokens, log2 h if no two look at one. Source: Lin, Divergence Measures
Based on the Shannon Entropy, §IV.

regularisation: the default settings (dropout 0.2, also of attention weights; of tokens 0.15 for
characters and 0.3 for words; weight decay 0.2) with one of them changed;
each training on one core.

The mean of three splits (seeds), with the lowest and the highest. Needs matplotlib for pictures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from side_by_side import Ratio, table

from tinygrad_mha.models.datasets import BUILTIN, default_level
from tinygrad_mha.models.parallel import cores
from tinygrad_mha.models.train import Settings, evaluate, split, train
from tinygrad_mha.models.trained import TrainedClassifier

HEADS = (1, 2, 4, 8, 16)
CHANGES: dict[str, dict[str, Any]] = {
    "without dropout": {"dropout": 0.0, "attention_dropout": 0.0},
    "without attention dropout": {"attention_dropout": 0.0},
    "without word dropout": {"word_dropout": 0.0},
    "without weight decay": {"weight_decay": 0.0},
    "with label smoothing of 0.1": {"label_smoothing": 0.1},
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
    """As many trainings at once as there are cores, on one core each."""
    changes = {"as it is": {}, **CHANGES}
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        said = {
            (what, name): [pool.submit(only_accuracy, name, s, changed) for s in seeds]
            for what, changed in changes.items()
            for name in sets
        }
        rows, drawn = [], {name: [] for name in sets}
        for what in changes:
            for name in sets:
                drawn[name].append(spread([one.result() for one in said[what, name]]))
            rows.append([what, *(shown(drawn[name][-1]) for name in sets)])
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(table(["", *(f"`{name}`" for name in sets)], rows))
    return list(changes), drawn


def only_accuracy(name: str, seed: int, changed: dict[str, Any]) -> float:
    return accuracy(name, seed, workers=1, **changed)[0]


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
