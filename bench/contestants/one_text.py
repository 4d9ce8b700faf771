"""One text at a time, ``python bench/contestants/one_text.py ours`` (or sdpa, or softmax)."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, HEADS

VOCABULARY, D_MODEL, TOKENS, CALLS = 10_000, 128, 20, 400


def ours() -> Callable[[np.ndarray], int]:
    import tinygrad_mha as tg
    from tinygrad_mha.models import TextClassifier

    model = TextClassifier(VOCABULARY, D_MODEL, CLASSES, h=HEADS, dropout=DROPOUT).eval()

    def label(ids: np.ndarray) -> int:
        with tg.no_grad():
            return int(model(ids).numpy().argmax())

    return label


def theirs(how: str) -> Callable[[np.ndarray], int]:
    import torch
    from pytorch import Classifier

    torch.set_num_threads(1)
    model = Classifier(VOCABULARY, D_MODEL, how).eval()

    def label(ids: np.ndarray) -> int:
        with torch.inference_mode():
            return int(model(torch.from_numpy(ids)).argmax())

    return label


def main(who: str) -> None:
    label = ours() if who == "ours" else theirs(who)
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, VOCABULARY, (1, TOKENS)) for _ in range(CALLS)]
    for ids in texts[:50]:
        label(ids)
    times = []
    for ids in texts:
        start = time.perf_counter()
        label(ids)
        times.append(time.perf_counter() - start)
    print(json.dumps({"ms": statistics.median(times) * 1e3}))


main(*sys.argv[1:])
