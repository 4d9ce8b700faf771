"""Keep the memory that a training step frees for the next step.

A step allocates the same arrays as the step before. Left to itself, the C library (glibc, on Linux)
hands large blocks back to the system when they are freed and asks for them again a moment later,
and the system clears every page anew: up to a fifth of a step was spent on that. Inside
:func:`kept`, freed blocks stay with the process.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# <malloc.h>: how much free memory at the end of a heap is given back, and from which size on a
# block is mapped on its own. In between glibc adapts the two by itself, up to USUAL.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
NEVER = 1 << 30
USUAL = 32 << 20  # more than that glibc does not allow

_lock = threading.Lock()
_users = 0


@functools.cache
def _libc() -> Any:
    """The C library, if it is glibc, else None."""
    import ctypes  # here, because it is slow to import

    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except (OSError, TypeError):  # Windows has no such thing
        return None


@contextmanager
def kept() -> Iterator[None]:
    """Freed memory stays with the process; the last one out gives it back to the system."""
    global _users
    libc = _libc()
    if libc is None:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            libc.mallopt(TRIM_THRESHOLD, NEVER)
            libc.mallopt(MMAP_THRESHOLD, USUAL)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                libc.mallopt(TRIM_THRESHOLD, 2 * USUAL)
                libc.malloc_trim(0)
