"""Does a long training stay as it began: in memory, in open files, in the time a step takes?

    python bench/soak.py                            # 200,000 steps: about three minutes
    python bench/soak.py --steps 2000 --picture soak.svg

A step is what a training step consists of, at the smallest size: texts of changing lengths through
a classifier with dropout, the loss, the way back, clipped gradients, AdamW, a schedule; every
hundredth step looks at other texts in evaluation mode. After every tenth of the run, everything
that could pile up is counted. A tenth of the run is the warm-up: counted, and not compared.

Exit status 1 if anything grew after the warm-up. Times are printed and never judged.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from counts import HEAD, Counts, count, grown

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.threads import one_blas_thread

WORDS, CLASSES, BATCH, LONGEST = 50, 3, 4, 9


class Tenth(NamedTuple):
    """A tenth of the run."""

    counts: Counts  # at its end
    ms: float  # the median step


def step_of(seed: int = 0) -> Callable[[int], float]:
    """``step(number) -> loss`` of a tiny classifier that is being trained."""
    tg.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = TextClassifier(WORDS, 8, CLASSES, h=2, dropout=0.1)
    parameters = model.parameters()
    optimizer = tg.optim.AdamW(parameters, lr=1e-3)
    schedule = tg.optim.WarmupCosine(optimizer, warmup=100, total=1_000_000)

    def texts() -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(1, LONGEST, BATCH)
        real = np.arange(lengths.max()) < lengths[:, None]
        return np.where(real, rng.integers(2, WORDS, real.shape), 0), lengths

    def step(number: int) -> float:
        ids, lengths = texts()
        loss = tg.cross_entropy(model(ids, lengths), ids[:, 0] % CLASSES)
        for p in parameters:
            p.grad = None
        loss.backward()
        tg.optim.clip_grad_norm(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if number % 100 == 0:
            model.eval()
            with tg.no_grad():
                model(*texts())
            model.train()
        return loss.item()

    return step


def soak(steps: int) -> Iterator[Tenth]:
    """Train for so many steps; what there is after each tenth of them."""
    step = step_of()
    with one_blas_thread():
        for k in range(10):
            times = np.empty(max(steps // 10, 1))
            for i in range(len(times)):
                began = time.perf_counter()
                loss = step(k * len(times) + i)
                times[i] = time.perf_counter() - began
            if not np.isfinite(loss):
                raise RuntimeError(f"the loss became {loss}")
            ms = 1e3 * statistics.median(times)
            del times
            yield Tenth(count(), ms)


def draw(path: str, tenths: list[Tenth], steps: int) -> None:
    """Memory and the median step over the run, as SVG."""
    from chart import COLOURS, GREY, pyplot, save

    figure, panels = pyplot().subplots(1, 2, figsize=(9, 2.6))
    ends = [steps * (k + 1) // 10 for k in range(10)]
    shown = {
        "memory of the process, MB": [t.counts.rss_mb for t in tenths],
        "median step, ms": [t.ms for t in tenths],
    }
    for axes, colour, (title, values) in zip(panels, COLOURS, shown.items(), strict=False):
        axes.plot(ends, values, "o-", color=colour)
        axes.set_ylim(0, 1.3 * max(values))
        axes.set_title(title)
        axes.tick_params(colors=GREY)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        axes.spines[:].set_visible(False)
    save(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--picture", metavar="PATH", help="draw memory and step time as SVG")
    options = parser.parse_args()
    print("| steps | " + " | ".join(HEAD) + " | median step, ms |")
    print("|---" * (len(HEAD) + 2) + "|")
    tenths = []
    for k, tenth in enumerate(soak(options.steps)):
        tenths.append(tenth)
        cells = [f"{options.steps * (k + 1) // 10:,}", *tenth.counts.cells(), f"{tenth.ms:.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"median step, last tenth / second: {tenths[-1].ms / tenths[1].ms:.3f}")
    if options.picture:
        draw(options.picture, tenths, options.steps)
    more = grown(tenths[0].counts, tenths[-1].counts)
    print("grew after the warm-up: " + (", ".join(more) or "nothing"))
    return bool(more)


if __name__ == "__main__":
    sys.exit(main())
