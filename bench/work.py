"""The work that every contestant does: one training step of the text classifier.

embedding → dropout → LSTM → multi-head attention (8 heads; output, dropout, residual, layer norm)
→ mean over the tokens → dropout → linear; cross-entropy; Adam that moves every weight. All of it in
float32, dropout 0.1 everywhere, on batches of full length (no pads, which only we would skip).
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    vocabulary: int
    d_model: int
    batch: int
    tokens: int  # of each text

    def __str__(self) -> str:
        return f"{self.vocabulary:,}, {self.d_model}, {self.batch}, {self.tokens}"


SIZES = {
    "small": Size(5_000, 64, 32, 32),
    "middle": Size(10_000, 128, 32, 64),
    "large": Size(10_000, 256, 32, 128),
}
# a fine-tuning step of MiniLM-L6: 6 layers, 12 heads, a hidden layer of 1,536
ENCODER = Size(30_522, 384, 32, 32)
HEADS, CLASSES, DROPOUT, RATE = 8, 10, 0.1, 1e-3
STEPS = {"small": 60, "middle": 24, "large": 8, "encoder": 8}


def batches(size: Size, count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, targets) whose words are as unequally frequent as in a language (Zipf)."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, size.vocabulary)
    share /= share.sum()
    shape = size.batch, size.tokens
    return [
        (1 + rng.choice(size.vocabulary - 1, shape, p=share), rng.integers(0, CLASSES, size.batch))
        for _ in range(count)
    ]


def peak_mb() -> float:
    """The most memory that this process has had, with what its children do not share with it.

    (Linux gives KiB. A child of ours never gives memory back, so that it has the most at the end.)
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + sum(map(private_kb, multiprocessing.active_children()))) / 1024


def private_kb(child: multiprocessing.process.BaseProcess) -> int:
    lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


def measure(step: Callable[[np.ndarray, np.ndarray], float], name: str, fewer: int = 1) -> None:
    """Time ``step`` and print what came out as JSON, for side_by_side.py to read.

    A slow contestant takes one in ``fewer`` of the steps.
    """
    size, steps = ({"encoder": ENCODER} | SIZES)[name], max(5, STEPS[name] // fewer)
    rows = batches(size, 8)
    began = peak_mb()
    losses = [step(*rows[k % 8]) for k in range(max(3, steps // 6))]
    times = []
    for k in range(steps):
        start = time.perf_counter()
        losses.append(step(*rows[k % 8]))
        times.append(time.perf_counter() - start)
    if not np.isfinite(losses).all():
        raise SystemExit(f"a loss is not finite: {losses}")
    answer = {
        "ms": statistics.median(times) * 1e3,
        "peak_mb": peak_mb(),
        "before_mb": began,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    print(json.dumps(answer))
