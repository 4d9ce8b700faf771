"""Contestants in turn, each in a process of its own, and the ratios between them.

The machines are shared, so that one absolute time says little. Every round runs each contestant
once, in an order that is reversed from round to round; a ratio is taken within a round, and what is
shown is the median of the rounds' ratios, with the lowest and the highest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Ratio(NamedTuple):
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} – {self.high:.2f})"


def spread(values: Sequence[float]) -> Ratio:
    """The median of the rounds, with the lowest and the highest."""
    return Ratio(statistics.median(values), min(values), max(values))


def finish(command: Sequence[str], threads: int | None = None, **given: Any) -> tuple[float, str]:
    """Run a command: its wall time in seconds, and what it printed."""
    environment = os.environ | given.pop("env", {})
    if threads is not None:
        environment |= dict.fromkeys(THREADS, str(threads))
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, **given
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return seconds, done.stdout


def contestant(name: str) -> list[str]:
    """The command that runs ``bench/contestants/…``."""
    return [sys.executable, str(HERE / "contestants" / name)]


def run(arguments: Sequence[str], threads: int | None = None) -> dict[str, Any]:
    """Run ``python bench/contestants/…`` and read the JSON object in its last line."""
    _, printed = finish([*contestant(arguments[0]), *arguments[1:]], threads)
    return json.loads(printed.splitlines()[-1])


def rounds(
    contestants: Mapping[str, Sequence[str]], count: int, threads: int | None = None
) -> list[dict[str, dict]]:
    """What each contestant said, in each round."""
    said = []
    for k in range(count):
        names = list(contestants)[:: -1 if k % 2 else 1]
        said.append({name: run(contestants[name], threads) for name in names})
    return said


def ratio(
    said: list[dict[str, dict]], over: Callable[[dict], float], under: Callable[[dict], float]
) -> Ratio:
    """``over(round) / under(round)`` of all rounds."""
    return spread([over(r) / under(r) for r in said])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
