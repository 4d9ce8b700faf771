"""Would the tests notice a broken kernel?

Each mutant is a kernel with one mistake: a barrier is missing, a stride is wrong, a term of a
gradient is dropped, a row too many is written. test_kernels.py has to fail on it. Needs what
test_kernels.py needs, and should run where threads have several orders (an emulator): on a GPU a
missing barrier may do no harm for years.

    python -m tests.cuda.mutate_kernels               all mutants, and how many survive
    python -m tests.cuda.mutate_kernels --sample 20   so many, from as many kernels as can be
    python -m tests.cuda.mutate_kernels --only adam   those of one kernel, or of one file
    python -m tests.cuda.mutate_kernels --list        only name them

Exit status 1: a mutant survives, does not compile or does not end, or its text is not there.
"""

import argparse
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernel_mutants import ASKED, BY_PLACE, MUTANTS, Mutant

from tinygrad_mha.kernels import launch

FOLDER = Path(launch.__file__).parent
TESTS = "tests/cuda/test_kernels.py"
PATIENCE = 900  # seconds for a mutant: far more than the tests of a kernel take


# ---------------------------------------------------------------------------------- planting


def sources() -> dict[str, str]:
    files = sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])
    return {f.name: f.read_text("utf-8") for f in files}


def kernels() -> dict[str, str]:
    """The file of each kernel."""
    return {
        name: file
        for file, text in sources().items()
        for name in re.findall(r'extern "C" __global__ void[^;{]*?\b(\w+)\((?=const|number)', text)
    }


def bounds(place: str, text: str) -> tuple[int, int]:
    """Where a kernel begins in the text of its file, and where the next one does."""
    if place.endswith((".cu", ".cuh")):
        return 0, len(text)
    starts = [m.start() for m in re.finditer('extern "C"', text)] + [len(text)]
    name = re.search(rf"\b{place}\((?:const |number)", text)
    assert name, f"there is no kernel {place}"
    k = max(k for k, start in enumerate(starts) if start < name.start())
    return starts[k], starts[k + 1]


def planted(mutant: Mutant, text: str) -> str:
    """The text with the mistake, which has to fit in exactly one place."""
    start, end = bounds(mutant.place, text)
    count = text[start:end].count(mutant.old)
    if count != 1:
        raise SystemExit(f"{mutant.place}: {mutant.what}: the text is there {count} times")
    return text[:start] + text[start:end].replace(mutant.old, mutant.new) + text[end:]


def file_of(mutant: Mutant) -> str:
    return kernels().get(mutant.place, mutant.place)


# ------------------------------------------------------------------------------------ trials


def stand_trial(mutant: Mutant) -> int:
    """In a process of its own: the tests, with a kernel that is wrong."""
    import pytest

    right, file = launch.source, file_of(mutant)
    launch.source = lambda f: planted(mutant, right(f)) if f == file else right(f)
    asked = next(k for start, k in ASKED.items() if mutant.place.startswith(start))
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:faker"]
    return int(pytest.main([*options, "-k", asked, TESTS]))


def run(*arguments: str) -> tuple[int | None, str]:
    """A process's status, or None if it takes too long, and what it prints."""
    environment = os.environ | {"TINYGRAD_MHA_REAL_CUPY": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # most of a short trial would be compiling
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def verdict(mutant: Mutant) -> tuple[str, str]:
    """What became of a mutant, and the test that noticed."""
    status, printed = run("-m", "tests.cuda.mutate_kernels", "--trial", str(MUTANTS.index(mutant)))
    by = re.findall(rf"^(?:FAILED|ERROR) {TESTS}::(\S+)", printed, re.MULTILINE)
    if "CompileException" in printed:
        return "BROKEN", "it does not compile"
    if status is None:
        return "BROKEN", f"nothing was heard for {PATIENCE} seconds"
    if status < 0:
        return "killed", "it crashes"
    if status == 1 and by:
        return "killed", by[0]
    return ("SURVIVED" if status == 0 else "BROKEN"), printed.strip().split("\n")[-1]


def in_turn(mutants: list[Mutant]) -> list[Mutant]:
    """The first of every kernel or file, then the second ones, …"""
    groups = itertools.groupby(mutants, key=lambda m: m.place)
    rows = itertools.zip_longest(*(list(group) for _, group in groups))
    return [m for row in rows for m in row if m]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.mutate_kernels")
    parser.add_argument("--sample", type=int, help="so many, from as many kernels as can be")
    parser.add_argument("--only", help="the mutants of one kernel or file")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial is not None:
        return stand_trial(MUTANTS[options.trial])
    for m in MUTANTS:
        planted(m, sources()[file_of(m)])
    if without := kernels().keys() - BY_PLACE.keys():
        raise SystemExit(f"no mutant of {', '.join(sorted(without))}")
    mutants = [m for m in MUTANTS if options.only in (None, m.place)]
    mutants = in_turn(mutants)[: options.sample]
    if options.list:
        print("\n".join(f"{m.place:15} {m.what}" for m in mutants))
        return 0
    if not importlib.util.find_spec("cupy"):
        raise SystemExit("there is no CuPy here")
    outcomes: Counter[str] = Counter()
    noticed = set()
    with ThreadPoolExecutor(options.workers) as pool:
        for m, (outcome, by) in zip(mutants, pool.map(verdict, mutants), strict=True):
            outcomes[outcome] += 1
            noticed.add(by)
            print(f"{outcome:8}  {m.place:15} {m.what:40} {by}", flush=True)
    return report(outcomes, [f"{TESTS}::{by}" for by in sorted(noticed) if by.startswith("test_")])


def report(outcomes: Counter[str], noticed: list[str]) -> int:
    """The end: the tests that failed must be those that pass when nothing is wrong."""
    status, printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *noticed)
    if status != 0:
        print(f"\n{printed}\nthese tests fail where nothing is wrong")
    print(f"\n{outcomes['killed']} killed, {outcomes['SURVIVED']} survived", end="")
    print(f", {outcomes['BROKEN']} broken" if outcomes["BROKEN"] else "")
    return 1 if status or outcomes["SURVIVED"] or outcomes["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
