"""Files, read with one clear line for whatever is wrong with them, and written whole."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError


class Kind(NamedTuple):
    """Of a folder: what it means if one of its files is missing, and what helps."""

    otherwise: str
    remedy: str


TRAINED = Kind("this is no complete model folder", "train again")
LARGEST_JSON = 1 << 27  # bytes: in memory, JSON may take twenty times as much
PRETRAINED = Kind("this is no folder of a pretrained model", "fetch it again")


def read_json(path: Path, kind: Kind) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_bytes(path, kind, LARGEST_JSON))
    except InputError:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise InputError(
            f"is not valid JSON; the file is damaged: {kind.remedy}", source=str(path)
        ) from None


def read_object(path: Path, kind: Kind) -> dict[str, Any]:
    """A JSON object."""
    data = read_json(path, kind)
    if not isinstance(data, dict):
        raise InputError(
            f"holds no JSON object; the file is damaged: {kind.remedy}", source=str(path)
        )
    return data


def read_bytes(path: Path, kind: Kind, most: float = float("inf")) -> bytes:
    """A regular file, whole, of at most so many bytes."""
    size = size_of(path, kind)
    try:
        if size > most:
            raise MemoryError
        return path.read_bytes()
    except OSError as e:
        raise unreadable_file(path, e, kind) from None
    except MemoryError:
        raise InputError(
            f"has {size:,} bytes, which is too much; {kind.otherwise}: {kind.remedy}",
            source=str(path),
        ) from None


def size_of(path: Path, kind: Kind) -> int:
    """The bytes of a regular file; InputError if it is none."""
    try:
        found = path.stat()
    except OSError as e:
        raise unreadable_file(path, e, kind) from None
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
        raise InputError(f"is no regular file; {kind.otherwise}: {kind.remedy}", source=str(path))
    return found.st_size


def unreadable_file(path: Path, e: OSError, kind: Kind) -> InputError:
    """What is said of a file that cannot be opened."""
    reason = "is missing"
    if not isinstance(e, FileNotFoundError):
        reason = f"cannot be read ({(e.strerror or str(e)).lower()})"
    return InputError(f"{reason}; {kind.otherwise}: {kind.remedy}", source=str(path))


def write_whole(content: bytes, path: Path) -> None:
    """A file, whole or not at all: made beside its place, then moved there."""
    target = Path(os.path.realpath(path))  # a link stays a link, to the new file
    write_parts([content], target, beside(target), path)


def write_parts(parts: Iterable[Any], target: Path, new: Path, shown: Path) -> None:
    """Bytes after bytes into ``new``, which then takes the place of ``target`` in one move.

    All is on the disk before the move, and the move before we return: a machine that loses its
    power keeps one or the other. An OSError names the file ``shown``.
    """
    try:
        with open(new, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
        sync_folder(target.parent)
    except OSError as e:  # it names the file beside, or none
        raise OSError(e.errno, e.strerror, str(shown)) from None
    finally:
        new.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system lets us ask for that."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def put_folder(new: Path, target: Path) -> None:
    """Have ``new`` take the place of the folder ``target``, whose content goes.

    Where the system can exchange two folders, there is no moment without one. Elsewhere it takes
    two moves, and if the second fails, the first is undone.
    """
    old = beside(target)
    try:
        if target.exists() and not exchanged(new, target):
            target.rename(old)
        if not target.exists():
            new.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
    sync_folder(target.parent)
    for gone in (old, new):
        shutil.rmtree(gone, ignore_errors=True)
    sweep(target.parent)


def exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one step, if the system can: whether it did."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <fcntl.h> and <stdio.h>
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


MARK = ".tinygrad_mha-"


def beside(target: Path) -> Path:
    """A new hidden name next to ``target``, on the same file system, that says whose it is."""
    return target.parent / f"{MARK}{machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def machine() -> str:
    """A short name of this machine: a process's number means nothing on another."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def sweep(folder: Path) -> None:
    """Remove what processes of this machine left in a folder when they were killed."""
    for left in folder.glob(f"{MARK}{machine()}-*"):
        number = left.name.removeprefix(f"{MARK}{machine()}-").split("-")[0]
        if number.isdecimal() and not runs(int(number)):
            shutil.rmtree(left, ignore_errors=True)
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def runs(number: int) -> bool:
    """Whether there is a process of this number."""
    if os.name != "posix":  # there, asking might end it
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
