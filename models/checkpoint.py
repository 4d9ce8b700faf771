"""Checkpoints: a training run on disk, so that it can go on whatever ended its process.

A checkpoint is one file in the folder where the model will be. Its arrays are the weights, the
best weights so far and what the optimizer keeps; everything else that the run depends on is JSON in
its header. A new one takes the place of the old one in one move, and the finished model takes the
place of the folder: at no moment is there half of anything. A run that goes on from a checkpoint
ends with the same weights, bit for bit, as one that nothing had ended.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.backend import to_host

from .errors import InputError, one_line, quoted
from .files import write_parts
from .signals import Stopped, Stops

FORMAT = "tinygrad_mha checkpoint"
VERSION = 1
NAME = "checkpoint.safetensors"
UNFINISHED = "checkpoint.partial"  # left there only by a process that was killed while writing
NAMES = (NAME, UNFINISHED)


class Every(NamedTuple):
    """How often: after so many steps, or so many seconds; 0 and 0 mean never."""

    steps: int = 0
    seconds: float = 0.0


USUAL = Every(seconds=600)
UNITS = {"s": 1, "m": 60, "h": 3600}


def every(text: str) -> Every:
    """``500`` steps, or ``30s``, ``10m``, ``2h``; ``0``: never.

    >>> every("500"), every("10m")
    (Every(steps=500, seconds=0.0), Every(steps=0, seconds=600.0))
    """
    if not (found := re.fullmatch(r"(\d{1,9})([smh]?)", text)):
        raise ValueError(f"{text!r} should be a number of steps, as 500, or a time, as 10m")
    number, unit = int(found[1]), found[2]
    return Every(seconds=float(number * UNITS[unit])) if unit else Every(steps=number)


class Resumable(Protocol):
    """What a training run has to offer."""

    step: int

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What it depends on: numbers and lists for JSON, and arrays by name."""
        ...

    def restore(self, words: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take that over; ValueError, KeyError or TypeError if it belongs to another run."""
        ...


@dataclass
class Saved:
    """A checkpoint that was read."""

    path: Path
    words: dict[str, Any]

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.path)
        except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as e:
            raise self.refuse(f"is damaged ({one_line(str(e))})") from None

    def refuse(self, problem: str, remedy: str = "") -> InputError:
        """What is said of a checkpoint that nobody can go on from; ``remedy``: what else helps."""
        return InputError(f"{problem}; {remedy}start again without --resume", source=str(self.path))


class Checkpoints:
    """Writes the checkpoints of a run, when they are due and when the run is told to stop.

    Parameters
    ----------
    folder : path
        Where the model will be.
    how_often : Every
    options : dict
        What the run was asked to do: kept as JSON, for whoever wants to go on.
    saved : Saved, optional
        The checkpoint to go on from.
    stops : Stops, optional
        Looked at after every step.
    command : str
        The command line that goes on, for messages.
    """

    def __init__(
        self,
        folder: Path,
        how_often: Every = USUAL,
        options: dict[str, Any] | None = None,
        saved: Saved | None = None,
        stops: Stops | None = None,
        command: str = "",
    ) -> None:
        self.folder, self.how_often, self.options = Path(folder), how_often, options or {}
        self.saved, self.command = saved, command or f"--resume {folder}"
        self.stops = Stops() if stops is None else stops
        self.data = ""  # the digest of what the run learns from
        self.written = time.monotonic()
        self.last: int | None = None  # the step of the last one on disk
        self.warned = False

    def begin(self, run: Resumable, data: str) -> None:
        """Take over the state of the checkpoint to go on from, if there is one."""
        self.data, self.written = data, time.monotonic()
        if self.saved is None:
            return
        if self.saved.words["data"] != data:
            raise self.saved.refuse(
                "the texts or labels are not those that this run began with", "bring them back, or "
            )
        if self.saved.words["numpy"] != np.__version__:
            told = f"NumPy is {np.__version__}, it was {quoted(self.saved.words['numpy'])}"
            print(f"{told}: the last bits may differ", file=sys.stderr)
        arrays = self.saved.arrays()
        try:
            run.restore(self.saved.words["run"], arrays)
        except (ValueError, KeyError, TypeError, ArithmeticError) as e:
            raise self.saved.refuse(
                f"belongs to another run, or is damaged ({one_line(str(e))})"
            ) from None
        self.last = run.step
        told = f"{one_line(str(self.saved.path))}: goes on after step {run.step}"
        print(told, file=sys.stderr, flush=True)

    def after_step(self, run: Resumable) -> None:
        """Write if it is time to; if somebody asked to stop, write and raise Stopped."""
        if self.stops.asked is not None:
            self.leave(run)
        steps, seconds = self.how_often
        due = bool(steps) and run.step % steps == 0
        if due or (seconds and time.monotonic() - self.written >= seconds):
            self.write(run)

    def leave(self, run: Resumable) -> None:
        """The run has been told to stop."""
        number = self.stops.asked
        assert number is not None
        message = "interrupted; no model was written"
        if any(self.how_often) and self.write(run):
            message = f"interrupted after step {run.step}; to go on: {self.command}"
        raise Stopped(number, message)

    def write(self, run: Resumable) -> bool:
        """Write a checkpoint; a full disk is told, once, and does not end the run."""
        words, arrays = run.state()
        head = {"version": VERSION, "numpy": np.__version__, "tinygrad_mha": tg.__version__}
        head |= {"options": self.options, "data": self.data, "run": words}
        target = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_parts(in_safetensors(head, arrays), target, self.folder / UNFINISHED, target)
        except OSError as e:
            if not self.warned:
                kept = "there is none yet" if self.last is None else f"that of step {self.last}"
                told = f"{target}: no checkpoint ({(e.strerror or str(e)).lower()}); the last one"
                print(f"{one_line(told)} is {kept}; the training goes on", file=sys.stderr)
            self.warned = True
            return False
        finally:
            self.written = time.monotonic()
        self.last, self.warned = run.step, False
        return True


def in_safetensors(head: dict[str, Any], arrays: dict[str, Any]) -> Iterator[Any]:
    """The bytes of a file in the format of safetensors, array after array: nothing is copied.

    (The library's own writer makes two copies of all arrays first.) The format: the length of the
    header in 8 bytes, the header in JSON, and the arrays, little-endian, without gaps.
    """
    kinds = {"f": "F", "i": "I", "u": "U", "b": "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "state": json.dumps(head)}}
    end = 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, a in ordered:
        kind = kinds[a.dtype.kind]
        begin, end = end, end + a.nbytes
        dtype = kind if kind == "BOOL" else f"{kind}{8 * a.dtype.itemsize}"
        header[name] = {"dtype": dtype, "shape": a.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for _, a in ordered:
        host = np.ascontiguousarray(to_host(a))
        yield host.astype(host.dtype.newbyteorder("<"), copy=False).data


def read(folder: Path) -> Saved | None:
    """The checkpoint in a folder, its header read and checked; None if there is none."""
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / NAME
    if not path.exists():
        return None
    saved = Saved(path, {})
    try:
        if not path.is_file():
            raise InputError("is no regular file", source=str(path))
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise saved.refuse("is no checkpoint of tinygrad_mha")
        saved.words = json.loads(metadata.get("state", ""))
    except (SafetensorError, OSError, ValueError, RecursionError) as e:
        if isinstance(e, InputError):
            raise
        raise saved.refuse(f"is damaged ({one_line(str(e))})") from None
    words = saved.words
    version = words.get("version") if isinstance(words, dict) else None
    if type(version) is not int or version != VERSION:
        raise InputError(
            f"a checkpoint of version {quoted(version)}, but this program reads version {VERSION}; "
            "go on with the version of tinygrad_mha that wrote it, or start again without --resume",
            source=str(path),
        )
    kinds = {"options": dict, "data": str, "numpy": str, "run": dict}
    if not all(isinstance(words.get(key), kind) for key, kind in kinds.items()):
        raise saved.refuse("is damaged (its header is not complete)")
    return saved


def digest(*parts: Iterable[str | np.ndarray]) -> str:
    """What tells one set of texts, ids or targets from another: a hash of all of them.

    A part is strings, or arrays of which only the bytes count, not where one ends.
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        for item in part:
            if isinstance(item, str):
                data = item.encode("utf-8", "surrogatepass")
                found.update(len(data).to_bytes(8, "little"))
                found.update(data)
            else:
                found.update(np.ascontiguousarray(item).data)
        found.update(b" end ")
    return found.hexdigest()
