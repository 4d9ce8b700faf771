"""Files, read with one clear line for whatever is wrong with them, and written whole."""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError


class Kind(NamedTuple):
    """Of a folder: what it means if one of its files is missing, and what helps."""

    otherwise: str
    remedy: str


TRAINED = Kind("this is no complete model folder", "train again")
PRETRAINED = Kind("this is no folder of a pretrained model", "fetch it again")


def read_json(path: Path, kind: Kind) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_bytes(path, kind))
    except InputError:
        raise
    except (ValueError, RecursionError):
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


def read_bytes(path: Path, kind: Kind) -> bytes:
    """A regular file, whole."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise InputError(
                f"is no regular file; {kind.otherwise}: {kind.remedy}", source=str(path)
            )
        return path.read_bytes()
    except OSError as e:
        raise unreadable_file(path, e, kind) from None


def unreadable_file(path: Path, e: OSError, kind: Kind) -> InputError:
    """What is said of a file that cannot be opened."""
    reason = "is missing"
    if not isinstance(e, FileNotFoundError):
        reason = f"cannot be read ({(e.strerror or str(e)).lower()})"
    return InputError(f"{reason}; {kind.otherwise}: {kind.remedy}", source=str(path))


def write_whole(content: bytes, path: Path) -> None:
    """A file, whole or not at all: made beside its place, then moved there."""
    target = Path(os.path.realpath(path))  # a link stays a link, to the new file
    new = beside(target)
    try:
        new.write_bytes(content)
        new.replace(target)
    except OSError as e:  # it names the file beside
        raise OSError(e.errno, e.strerror, str(path)) from None
    finally:
        new.unlink(missing_ok=True)


def beside(target: Path) -> Path:
    """A new hidden name next to ``target``, on the same file system."""
    return target.parent / f".tinygrad_mha-{secrets.token_hex(6)}"
