"""What piles up in a process that leaks: counted, for soak.py and serve.py.

The memory of a process is what the system says, and wobbles by what the C library keeps. Objects
and the interpreter's blocks are exact: a leak of one small array a step cannot hide in them.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAD = ["memory, MB", "blocks", "objects", "files", "threads", "children"]


class Counts(NamedTuple):
    """What a process holds at one moment. What the system does not tell is 0."""

    rss_mb: float  # its memory
    blocks: int  # that the interpreter has allocated: an object (an array, say) takes one or more
    objects: int  # that the garbage collector knows
    files: int  # open
    threads: int
    children: int  # processes

    def cells(self) -> Iterator[str]:
        """As a table shows them."""
        yield f"{self.rss_mb:.1f}"
        yield f"{self.blocks:,}"
        yield f"{self.objects:,}"
        yield from map(str, self[3:])


def count() -> Counts:
    """What there is now, after whatever can be collected has been."""
    gc.collect()
    blocks = sys.getallocatedblocks()  # before the next line makes a list of everything
    return Counts(rss_mb(), blocks, len(gc.get_objects()), files(), threads(), children())


def rss_mb() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # this is Linux's way to tell
        return 0.0


def files() -> int:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one is that of the list itself
    except OSError:
        return 0


def threads() -> int:
    """Those of Python, and any that a library started and forgot."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def children() -> int:
    try:
        text = [p.read_text() for p in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return 0
    return len(" ".join(text).split())


# How much more is no leak. Of the exact counts: a few objects that the interpreter itself makes at
# some time or other. Of the memory: what the C library keeps or gives back as it sees fit.
SLACK = Counts(rss_mb=8.0, blocks=1000, objects=50, files=0, threads=0, children=0)


def grown(before: Counts, after: Counts, slack: Counts = SLACK) -> list[str]:
    """What is more than it was, in words; nothing if all is well.

    >>> grown(SLACK, SLACK)
    []
    >>> grown(SLACK, SLACK._replace(files=3))
    ['files: 0 -> 3']
    """
    rows = zip(Counts._fields, before, after, slack, strict=True)
    return [f"{name}: {a:g} -> {b:g}" for name, a, b, more in rows if b - a > more]
