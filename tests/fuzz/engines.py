"""How inputs are chosen: by the built-in mutator, or by atheris, which sees what they reach."""

import mmap
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .mutations import LARGEST, mutated
from .verdict import SECONDS, Failure, Target, judge, limited

POOL = 300  # inputs that are broken further: what a reader has accepted
ABOVE = Path(__file__).parents[__package__.count(".") + 1]  # from where the package has its name
ROOM = LARGEST + 64
HEAD = struct.Struct("<QQQ")  # inputs tried, results, bytes of the latest input


class Report(NamedTuple):
    """What came of one target."""

    name: str
    inputs: int
    results: int
    refusals: int
    seconds: float
    failure: str = ""  # what happened
    data: bytes = b""  # with which input
    features: int = 0  # counted by atheris

    def line(self) -> str:
        parts = [
            f"{self.name:32}{self.inputs:9,} inputs",
            f"{self.results:9,} results",
            f"{self.refusals:9,} refusals",
            f"{bool(self.failure):2} failures",
            f"{self.seconds:7.1f} s",
        ]
        return "".join(parts) + (f"{self.features:8,} features" if self.features else "")


def inputs_of(target: Target, rng: random.Random) -> Iterator[bytes]:
    """The seeds, then mutations without end; ``send`` tells whether one was accepted."""
    for seed in target.seeds:  # noqa: UP028 (a list cannot be sent to)
        yield seed
    pool = [*target.seeds]
    while True:
        # mostly a seed: what is broken twice seldom gets past the first check
        base = rng.choice(target.seeds if rng.random() < 0.6 else pool)
        data = mutated(base, target.kind, rng, target.seeds)
        if (yield data) == "result" and rng.random() < 0.1:
            pool.append(data)
            if len(pool) > POOL:
                del pool[rng.randrange(len(target.seeds), POOL)]


def tried(target: Target, count: int, seed: int, notes: "Notes | None" = None) -> Report:
    """So many inputs in this process, until one fails."""
    start = time.perf_counter()
    counts = {"result": 0, "refusal": 0}
    stream, outcome = inputs_of(target, random.Random(f"{seed} {target.name}")), None
    with limited():
        for k in range(count):
            data = stream.send(outcome)
            if notes is not None:
                notes.write(k + 1, counts["result"], data)
            try:
                outcome = judge(target, data)
            except Failure as e:
                seconds = time.perf_counter() - start
                return Report(target.name, k + 1, *counts.values(), seconds, str(e), data)
            counts[outcome] += 1
    return Report(target.name, count, *counts.values(), time.perf_counter() - start)


class Notes:
    """The latest input and what was counted, in a file that outlives the process that wrote it."""

    def __init__(self, path: str) -> None:
        with open(path, "a+b") as file:
            file.truncate(HEAD.size + ROOM)
            self.pages = mmap.mmap(file.fileno(), HEAD.size + ROOM)

    def write(self, inputs: int, results: int, data: bytes) -> None:
        data = data[:ROOM]
        self.pages[: HEAD.size] = HEAD.pack(inputs, results, len(data))
        self.pages[HEAD.size : HEAD.size + len(data)] = data

    def read(self) -> tuple[int, int, bytes]:
        inputs, results, size = HEAD.unpack(self.pages[: HEAD.size])
        return inputs, results, self.pages[HEAD.size : HEAD.size + size]


# ------------------------------------------------------------------------------ in a child process


def in_a_child(engine: str, name: str, count: int, seed: int) -> Report:
    """A target in a process of its own: one that hangs for ever, or dies, is a failure too."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Notes(f"{folder}/notes")
        command = [
            sys.executable,
            "-m",
            f"{__package__}.{engine}",
            name,
            str(count),
            str(seed),
            folder,
        ]
        start = time.perf_counter()
        with open(f"{folder}/err", "wb") as err:
            quiet = {**os.environ, "RUST_BACKTRACE": "0"}
            child = subprocess.Popen(command, stdout=err, stderr=err, env=quiet, cwd=ABOVE)
            try:
                how = watched(child, notes)
            finally:
                child.kill()  # also if we are ended ourselves
                child.wait()
        inputs, results, data = notes.read()
        seconds = time.perf_counter() - start
        told = Path(f"{folder}/err").read_text(errors="replace")
        if how == "0":
            features = max(map(int, re.findall(r" ft: (\d+)", told)), default=0)
            return Report(name, inputs, results, inputs - results, seconds, "", b"", features)
        problem = f"exit status {how}: {told[-2000:]}"
        return Report(name, inputs, results, max(0, inputs - 1 - results), seconds, problem, data)


def watched(child: subprocess.Popen, notes: Notes) -> str:
    """How it ended: "0", or why not. It is ended if it stays at one input for too long."""
    latest, since = 0, time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        inputs, *_ = notes.read()
        if inputs != latest:
            latest, since = inputs, time.monotonic()
        if time.monotonic() - since > 60 + 4 * SECONDS:
            child.kill()
            child.wait()
            return "none, it hangs"
    return str(child.returncode)
