"""The trial of a learner's file, in a process of its own that may be stopped.

``python -m tinygrad_mha.study.trial NAME FILE SEED LIMIT`` loads the file, judges what it defines,
and writes one JSON object to standard output. What the file itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from ..tensor import REGISTRY, Op
from .learner_file import Refused, load, place, their_frame, told, where
from .museum import exhibit
from .museum.exhibit import Exhibit
from .museum.judging import Failed

# ---------------------------------------------------------------------------------- judging


@contextmanager
def withheld(names: Sequence[str]) -> Iterator[None]:
    """Inside, the package's ops of these names refuse to work: they would do the exercise."""

    def refusal(op: Op) -> Callable:
        def refuse(*args: Any, **params: Any) -> Any:
            raise Refused(
                f"tg.{op.name} of the package does the work here: repair the code in the file "
                "instead of calling it"
            )

        return refuse

    ops = [REGISTRY[name] for name in names]
    before = [(op.forward, op.without_way_back) for op in ops]
    try:
        for op in ops:
            op.forward, op.without_way_back = refusal(op), None
        yield
    finally:
        for op, (forward, quick) in zip(ops, before, strict=True):
            op.forward, op.without_way_back = forward, quick


def judge(exhibit: Exhibit, thing: Any, seed: int, cases: int | None = None) -> None:
    """Try ``thing`` on as many new cases as the exhibit asks for; the first failure is raised."""
    with withheld(exhibit.withheld), np.errstate(all="ignore"):
        for case in range(exhibit.cases if cases is None else cases):
            exhibit.judge(thing, np.random.default_rng([seed, case]))


# ------------------------------------------------------------------------------- the process


def verdict(name: str, path: str, seed: int) -> dict[str, Any]:
    """``{"verdict": "passed" | "failed" | "refused", "reason": …}``."""
    case = exhibit(name)
    try:
        thing = load(path, case)
    except Refused as e:
        return {"verdict": "refused", "reason": str(e)}
    try:
        judge(case, thing, seed)
    except Failed as e:
        reason = str(e)
        if e.__cause__ is not None and (found := their_frame(e.__cause__, path)):
            reason += f"\n  in {place(path, *found)}"
        return {"verdict": "failed", "reason": reason}
    except Refused as e:
        return {"verdict": "refused", "reason": f"{where(e, path)}: {e}"}
    except SystemExit as e:
        return {"verdict": "refused", "reason": f"{where(e, path)}: sys.exit() ends the check"}
    except BaseException as e:  # whatever it is, it is not ours to die of
        return {"verdict": "failed", "reason": told(e, path)}
    return {"verdict": "passed", "reason": ""}


def watch(limit: float, path: str, finish: Callable[[dict], None]) -> None:
    """After ``limit`` seconds, say which line of the file the main thread is at, and end all."""
    main = threading.main_thread().ident

    def bark() -> None:
        frame: FrameType | None = sys._current_frames().get(main)  # type: ignore[arg-type]
        at = path
        while frame is not None:
            if frame.f_code.co_filename == path:
                at = place(path, frame.f_lineno, frame.f_code.co_name)
                break
            frame = frame.f_back
        finish({"verdict": "failed", "reason": f"{at}: still running after {limit:g} s"})
        os._exit(0)

    timer = threading.Timer(limit, bark)
    timer.daemon = True
    timer.start()


def main() -> None:
    """Answer on standard output, and let nothing else write there."""
    name, path, seed, limit = sys.argv[1:]
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the file prints, at whatever level, is not the answer

    first = threading.Lock()

    def finish(result: dict[str, Any]) -> None:
        if first.acquire(blocking=False):  # of the trial and the watch on it
            answer.write(json.dumps(result))
            answer.flush()

    watch(float(limit), path, finish)
    finish(verdict(name, path, int(seed)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing that the file has started keeps the process alive


if __name__ == "__main__":
    main()
