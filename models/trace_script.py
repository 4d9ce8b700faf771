"""Run somebody's script with the trace on, and write the page."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from tinygrad_mha import trace

from .errors import InputError, one_line


def run_traced(script: str, arguments: Sequence[str], out: str, step: int = 0) -> None:
    """Run a script as ``python script arguments`` would, then write the explorer to ``out``.

    Raises
    ------
    InputError
        If the script cannot be read or is no Python, if the page cannot be written there, or if
        nothing was recorded. What was recorded before the script failed is written all the same.
    """
    code = compiled(script)
    for option in {"--out", "--step"}.intersection(arguments):
        note = (
            f"{option} stands behind {script}, so it goes to the script, and is no option of trace"
        )
        print(one_line(note), file=sys.stderr)
    place = Path(out)
    if place.is_dir() or not place.parent.is_dir():
        raise InputError("is no place for a file; choose another with --out", source=out)
    with trace(step) as t:
        failure = run(code, script, arguments)
    if not t.recorder.calls:
        if failure is not None:
            raise InputError(one_line(failure), source=script)
        passes = len(t.recorder.passes)
        why = "it makes no Tensor that requires a gradient, so there is nothing to see"
        if step:
            many = "no backward pass" if not passes else f"only the steps 0 to {passes - 1}"
            why = f"it has {many}; give another --step"
        raise InputError(why, source=script)
    t.to_html(out, Path(script).name)
    print(t)
    print(f"the page is in {out}")
    if failure is not None:
        raise InputError(f"{one_line(failure)} (the page shows what came before)", source=script)


def compiled(script: str) -> CodeType:
    """The script as code; an InputError with the line if it is none."""
    try:
        source = Path(script).read_bytes()
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise InputError(f"{reason}; give a Python script", source=script) from None
    try:
        return compile(source, script, "exec")
    except (SyntaxError, ValueError) as e:
        line = getattr(e, "lineno", None)
        where = f"{script}, line {line}" if line else script
        raise InputError(f"no Python: {getattr(e, 'msg', e)}", source=where) from None


def run(code: CodeType, script: str, arguments: Sequence[str]) -> str | None:
    """Run it; what went wrong, or None. Its own output goes where it always does."""
    before = sys.argv, sys.path[:], sys.modules.get("__main__")
    main = type(sys)("__main__")
    main.__file__ = script
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)  # it is the user's own
    except SystemExit as e:
        return None if e.code in (None, 0) else f"it ended with status {e.code}"
    except Exception as e:
        frames = traceback.extract_tb(e.__traceback__)
        own = [f for f in frames if f.filename == script]
        line = f"line {own[-1].lineno}: " if own else ""
        return f"{line}{type(e).__name__}: {e}"
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
        restore: Any = before[2]
        if restore is not None:
            sys.modules["__main__"] = restore
    return None
