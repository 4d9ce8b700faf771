"""Freed memory stays with the process while it trains, and goes back to the system afterwards."""

import ctypes
import resource
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinygrad_mha import memory
from tinygrad_mha.models.parallel import Workers

needs_glibc = pytest.mark.skipif(memory._libc() is None, reason="the C library is not glibc")


def test_the_first_one_in_sets_it_and_the_last_one_out_resets_it(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, what, to):
            calls.append((what, to))

        def malloc_trim(self, pad):
            calls.append("trim")

    monkeypatch.setattr(memory, "_libc", Libc)
    with memory.kept():
        first = list(calls)
        with Workers(1), memory.kept():
            pass
        assert calls == first
    assert first == [(memory.TRIM_THRESHOLD, memory.NEVER), (memory.MMAP_THRESHOLD, memory.USUAL)]
    assert calls == [*first, (memory.TRIM_THRESHOLD, 2 * memory.USUAL), "trim"]


def test_an_error_inside_resets_it(monkeypatch):
    trimmed = []

    class Libc:
        mallopt = staticmethod(lambda what, to: None)
        malloc_trim = staticmethod(trimmed.append)

    monkeypatch.setattr(memory, "_libc", Libc)
    with pytest.raises(ZeroDivisionError), memory.kept():
        1 / 0  # noqa: B018
    assert trimmed == [0]


def test_elsewhere_it_does_nothing(monkeypatch):
    def no_such_library(name):
        raise OSError(name)

    memory._libc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", no_such_library)
    try:
        assert memory._libc() is None
        with memory.kept():
            pass
    finally:
        memory._libc.cache_clear()


@needs_glibc
def test_a_thread_that_allocates_the_same_again_asks_the_system_for_nothing():
    """Counted in a process of its own: pages that the system had to hand out."""

    script = """
        import resource
        from concurrent.futures import ThreadPoolExecutor
        from contextlib import nullcontext
        import numpy as np
        from tinygrad_mha.memory import kept

        def work(_):
            arrays = [np.ones(200_000) for _ in range(8)]  # 12.8 MB
            return sum(a[0] for a in arrays)

        for context in (nullcontext, kept):
            with context(), ThreadPoolExecutor(1) as pool:
                list(pool.map(work, range(3)))
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                list(pool.map(work, range(20)))
                print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    plain, kept = map(int, done.stdout.split())
    pages = 20 * 12_800_000 // resource.getpagesize()
    assert kept < pages / 20
    assert kept <= plain + 20  # with an older NumPy glibc needs no help: then both are a few pages


@needs_glibc
def test_two_trainings_at_once_do_not_disturb_each_other():
    def train(_):
        with Workers(2) as workers:
            return sum(workers.map(lambda k: float(np.full(10_000, k).sum()), [1, 2, 3]))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(train, range(12))) == {60_000.0}
    assert memory._users == 0
