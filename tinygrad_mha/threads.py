"""Two cores at work inside one op: who may use how many threads.

NumPy lets go of the interpreter inside its loops and matrix products, so threads that each work on
a part of an array keep several cores busy. The BLAS library must then stay on one thread, or four
would fight for two cores. How many threads BLAS has *now* is therefore also the answer to how many
an op may start: all cores in an ordinary program, one where a caller has already shared them out
(then BLAS is on one thread), and whatever the user asked for with OPENBLAS_NUM_THREADS.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_wishes: list[int] = []  # for how many BLAS threads, by those who are inside blas_threads() now
_outside: Any = None  # what to go back to when the last one has left


@functools.cache
def _blas() -> Any:
    """threadpoolctl's handle on the BLAS that NumPy has loaded; made once, it takes a while."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def _any_thread_may_set() -> Iterator[None]:
    """Inside, a limit that this thread sets holds, and afterwards one that another thread sets.

    threadpoolctl from 3.7 on lets only the thread that was first set limits of OpenBLAS, and says
    nothing when another one tries. Here the first in and the last out may be different threads.
    """

    def nobodys() -> None:
        for library in _blas().lib_controllers:
            if hasattr(library, "clear_controlling_thread"):
                library.clear_controlling_thread(force=True)

    nobodys()
    try:
        yield
    finally:
        nobodys()


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """BLAS on so many threads, for the whole process: the first in sets it, the last out resets it.

    While several are inside, the smallest wish counts.
    """
    global _outside
    with _lock, _any_thread_may_set():
        before = _blas().limit(limits=min([count, *_wishes]))
        _outside = _outside if _wishes else before
        _wishes.append(count)
    try:
        yield
    finally:
        with _lock, _any_thread_may_set():
            _wishes.remove(count)
            if _wishes:
                _blas().limit(limits=min(_wishes))
            else:
                _outside.restore_original_limits()


def one_blas_thread() -> Any:
    """BLAS on one thread: for those who start threads themselves."""
    return blas_threads(1)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_threads() -> int:
    """How many threads an op may start: those that BLAS would; 1 if they are shared out already."""
    threads = max((library["num_threads"] for library in _blas().info()), default=1)
    return min(threads, cores())


def side_by_side(f: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """``f(item)`` for every item, on all threads that are free, with BLAS on one thread.

    Each item is computed by one thread alone, so the results do not depend on how many there are.
    """
    items = list(items)
    threads = min(len(items), free_threads())
    with one_blas_thread():
        if threads < 2:
            for item in items:
                f(item)
            return
        from concurrent.futures import ThreadPoolExecutor  # with logging behind it: slow to import

        contexts = [contextvars.copy_context() for _ in items]  # np.errstate is in there
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda context, item: context.run(f, item), contexts, items))
