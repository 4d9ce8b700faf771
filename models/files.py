"""Files of a model folder, read with one clear line for whatever is wrong with them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from .errors import InputError


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """A JSON object. ``otherwise`` says what it means if the file is missing."""
    try:
        data = json.loads(read_bytes(path, otherwise))
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError("is not valid JSON; the file is damaged", source=str(path)) from None
    if not isinstance(data, dict):
        raise InputError("holds no JSON object; the file is damaged", source=str(path))
    return data


def read_bytes(path: Path, otherwise: str) -> bytes:
    """A regular file, whole."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise InputError(f"is no regular file; {otherwise}", source=str(path))
        return path.read_bytes()
    except OSError as e:
        raise unreadable_file(path, e, otherwise) from None


def unreadable_file(path: Path, e: OSError, otherwise: str) -> InputError:
    """What is said of a file that cannot be opened."""
    reason = "is missing"
    if not isinstance(e, FileNotFoundError):
        reason = f"cannot be read ({(e.strerror or str(e)).lower()})"
    return InputError(f"{reason}; {otherwise}", source=str(path))
