"""What a reader may do with a hostile file: give a result, or refuse it in one clear line."""

import contextlib
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tinygrad_mha.models.errors import InputError

SECONDS = 5.0  # for one input; most take a millisecond
MEGABYTES = 600  # more than the process has at the start: a seed needs less than one
LONGEST = 2000  # characters of a message: one line, but also one that can be read


class Failure(Exception):
    """The target did what it must not do."""


class Target(NamedTuple):
    """What is fuzzed, with good inputs to begin from."""

    name: str
    kind: str  # of input, which tells mutations.py what to break: json, safetensors, table, text …
    run: Callable[[bytes], object]
    seeds: list[bytes]
    refusals: tuple[type[Exception], ...] = (InputError,)


def judge(target: Target, data: bytes) -> str:
    """ "result" or "refusal"; a Failure tells what else has happened."""
    start = time.process_time()  # ours: the machine may be busy with others
    try:
        with warnings.catch_warnings(), alarm(4 * SECONDS):
            warnings.simplefilter("error")
            target.run(data)
            outcome = "result"
    except target.refusals as e:
        outcome = "refusal"
        if type(e) is InputError:
            unclear(str(e))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as e:  # a panic of a library in Rust is no Exception
        raise Failure(f"{type(e).__name__}: {e}") from e
    if (seconds := time.process_time() - start) > SECONDS:
        raise Failure(f"it took {seconds:.1f} s")
    return outcome


def unclear(message: str) -> None:
    """Refuse a refusal that nobody can read."""
    if not message.isprintable():
        raise Failure(f"the message is no printable line: {message!r}")
    if len(message) > LONGEST:
        raise Failure(f"the message has {len(message)} characters: {message[:200]!r}…")


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """A TimeoutError in whatever takes longer, as soon as it is Python again."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def limited(megabytes: int = MEGABYTES) -> Iterator[None]:
    """Inside, whoever asks for much more memory than there is in use gets a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
