"""What a learner has tried and solved: one small file beside the learner's own."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FILE = ".tinygrad_mha_study.json"


def load(folder: Path) -> dict[str, Any]:
    """``{"attempts": {name: how many failed}, "solved": [name, …]}``; empty if it is unreadable."""
    try:
        state = json.loads((folder / FILE).read_text(encoding="utf-8"))
        attempts = {str(name): int(n) for name, n in state["attempts"].items()}
        solved = [str(name) for name in state["solved"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"attempts": {}, "solved": []}
    return {"attempts": attempts, "solved": solved}


def save(folder: Path, state: dict[str, Any]) -> bool:
    """Write the file in one step, all of it or nothing. False if the folder does not let us."""
    try:
        handle, name = tempfile.mkstemp(prefix=FILE, dir=folder)
    except OSError:
        return False
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
        os.replace(name, folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return False
    return True
