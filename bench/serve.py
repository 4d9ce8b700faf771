"""A served model: eight threads predict for minutes, and no answer changes and nothing piles up.

    python bench/serve.py                             # ten minutes; needs scikit-learn
    python bench/serve.py --minutes 0.2 --threads 4

An estimator, and a small fine-tuned encoder, answer requests of one to a dozen texts, each thread
in an order of its own. The answers were computed before, in one thread. The first tenth of the time
is the warm-up. Exit status 1 if an answer changed by a single bit, or if anything grew afterwards.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from counts import HEAD, Counts, count, grown

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifierEstimator, TransformerEncoder
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.fine_tuned import FineTunedClassifier

COLOURS = ["red", "green", "blue", "warm", "cold"]
WORDS = [*COLOURS, "one", "two", "three", "over", "under", "left", "right"]
Predict = Callable[[Sequence[str]], np.ndarray]


class Pieces:
    """A tokenizer as small as the encoder: a number for each word, between two marks."""

    def encode(self, texts: Sequence[str], max_len: int) -> list[np.ndarray]:
        numbers = {word: k for k, word in enumerate(WORDS, start=3)}
        return [np.array([1, *map(numbers.get, t.split()), 2][:max_len], np.int32) for t in texts]


def texts(rng: np.random.Generator, many: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(many)]


def served() -> list[Predict]:
    """What answers: an estimator that has been fitted, an encoder that has a classifier on top."""
    rng = np.random.default_rng(0)
    X = texts(rng, 200)
    estimator = TextClassifierEstimator(d_model=32, h=4, epochs=2, workers=1, random_state=0)
    estimator.fit(X, [x.split()[0] in COLOURS for x in X])
    tg.manual_seed(0)
    encoder = TransformerEncoder(len(WORDS) + 3, d_model=32, h=4, num_layers=2)
    tuned: Any = EncoderClassifier(encoder, num_classes=3, dropout=0.5)
    tokenizer: Any = Pieces()
    classifier = FineTunedClassifier(tuned, tokenizer, list("abc"), {"max_len": 32})
    return [estimator.predict_proba, classifier.predict_proba]


class Server:
    """Threads that ask, and what they found."""

    def __init__(self, models: list[Predict], threads: int) -> None:
        rng = np.random.default_rng(1)
        requests = [texts(rng, n) for n in rng.integers(1, 13, 40)]
        self.cases = [(f, X, f(X)) for f in models for X in requests]
        self.answered, self.changed = [0] * threads, [0] * threads
        self.stop, self.errors = threading.Event(), []
        self.threads = [threading.Thread(target=self.ask, args=(k,)) for k in range(threads)]

    def ask(self, k: int) -> None:
        """One thread: request after request, in an order of its own."""
        try:
            rng = np.random.default_rng(k)
            while not self.stop.is_set():
                predict, X, want = self.cases[rng.integers(len(self.cases))]
                self.changed[k] += not np.array_equal(predict(X), want)
                self.answered[k] += 1
        except Exception as e:  # in a thread, nobody else would see it
            self.errors.append(e)
            self.stop.set()


def serve(minutes: float, threads: int) -> tuple[Server, Counts, Counts]:
    """Answer for so long; what there was after the warm-up, and at the end."""
    server = Server(served(), threads)
    for t in server.threads:
        t.start()
    try:
        server.stop.wait(6 * minutes)
        before = count()
        server.stop.wait(54 * minutes)
        after = count()
    finally:
        server.stop.set()
        for t in server.threads:
            t.join()
    return server, before, after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    began = time.perf_counter()
    server, before, after = serve(options.minutes, options.threads)
    print("| | " + " | ".join(HEAD) + " |\n" + "|---" * (len(HEAD) + 1) + "|")
    for name, counts in (("after the warm-up", before), ("at the end", after)):
        print(f"| {name} | " + " | ".join(counts.cells()) + " |")
    answered, changed = sum(server.answered), sum(server.changed)
    seconds = time.perf_counter() - began
    print(
        f"{answered:,} requests in {seconds:.0f} s by {options.threads} threads; {changed} changed"
    )
    # between two counts the threads are at work: some have a request's objects, some have none
    more = grown(before, after, Counts(8.0, 20_000, 5_000, 0, 2, 0))
    print("grew after the warm-up: " + (", ".join(more) or "nothing"))
    for e in server.errors:
        print(f"a thread stopped: {e!r}", file=sys.stderr)
    return bool(changed or more or server.errors)


if __name__ == "__main__":
    sys.exit(main())
