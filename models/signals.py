"""What a training does when it is told to stop: it finishes its step, saves, and says where."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

SIGNALS = [n for name in ("SIGINT", "SIGTERM", "SIGHUP") if (n := getattr(signal, name, None))]
IMPATIENT = 2.0  # seconds after which a second signal means: at once


class Stopped(KeyboardInterrupt):
    """The process was told to end; ``number`` is the signal's."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number, self.message = number, message


class Stops:
    """Who asked us to stop, while somebody looks now and then; nobody looks at first.

    Attributes
    ----------
    patient : bool
        Whether the work will look at ``asked`` soon. If not, a signal raises :class:`Stopped`.
    asked : int or None
        The signal that came.
    """

    def __init__(self) -> None:
        self.patient = False
        self.asked: int | None = None
        self.when = 0.0

    def __call__(self, number: int, frame: Any = None) -> None:
        """The signal handler. Keys may be pressed twice, and `timeout` signals twice, too."""
        if self.asked is None:
            self.asked, self.when = number, time.monotonic()
        elif time.monotonic() - self.when > IMPATIENT:
            self.patient = False
        if not self.patient:
            ignore()
            raise Stopped(self.asked)

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Inside, the work asks by itself."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False
            if self.asked is not None:  # nobody has looked since
                ignore()


class Agreed:
    """Among several processes: the signal that one was sent, ``asked`` in all at the same step."""

    def __init__(self, own: Stops) -> None:
        self.own = own
        self.asked: int | None = None

    def looked_at(self) -> AbstractContextManager[None]:
        """As for :class:`Stops`."""
        return self.own.looked_at()


@contextmanager
def heeded(stops: Stops) -> Iterator[None]:
    """Inside, signals go to ``stops``, but for those that the caller had us ignore (nohup)."""
    before = {}
    with contextlib.suppress(ValueError):  # handlers belong to the main thread
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stops)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and stops.asked is None:
            for number, handler in before.items():
                signal.signal(number, handler)


def ignore() -> None:
    """We are going: no need to ask again."""
    with contextlib.suppress(ValueError):
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
