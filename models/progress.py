"""Progress bars, as everything here wants them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def bar(items: Iterable[Any], **options: Any) -> Any:
    """tqdm's bar, which vanishes at its end; none where standard error is no terminal.

    tqdm starts a thread that watches its bars; a process that has threads cannot fork workers.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no such thread

    off = True if options.pop("disable", False) else None  # None: tqdm looks for a terminal
    return Bar(items, leave=False, disable=off, **options)
