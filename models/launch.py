"""The command line when ``mpiexec`` has started it several times: rank 0 speaks and writes.

What happens to all ranks alike (a wrong option, a signal, a loss that is no number) ends as it does
in one process. What happens to some of them only would leave the others waiting for ever: whoever
it happens to says so, and ends them all.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import ranks as processes
from .checkpoint import Checkpoints, Every, Resumable, Saved
from .ranks import Ranks, launched, told
from .signals import Agreed, Stops

PATIENCE = 2.0  # seconds that the others have to fail as well


def launch(run: Callable[[Any], int], arguments: Any) -> int:
    """``run(arguments)``, alone or as one of several; the exit status."""
    if launched() == 1:
        return run(arguments)
    number, speech, status, bug = told(processes.NUMBERS, 0), sys.stderr, 1, ""
    said = io.StringIO()  # what the others have to say is what rank 0 says
    with contextlib.ExitStack() as stack:
        if number:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(said))
        try:
            status = run(arguments)
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 1
        except BaseException:  # it is ours to end the others
            import traceback

            bug = traceback.format_exc()
    if number or bug:
        lines = said.getvalue().strip().splitlines() or ["ended"]
        words = bug or lines[-1].removeprefix("tinygrad-mha: ")
        return end(status, f"tinygrad-mha: rank {number}: {words}", speech, always=bool(bug))
    return end(status, "", speech)


def end(status: int, words: str, speech: Any, always: bool = False) -> int:
    """Leave when all do; if some have failed and others have not, end them with ``words``."""
    group = processes.known()
    if group is None:  # no rank has come so far as to meet the others
        if always:
            print(words, file=speech, flush=True)
        return status
    if status == 0:
        group.wait()
        return 0
    alike = group.wait(PATIENCE)
    if always or not alike:
        print(words, end="\n" if words else "", file=speech, flush=True)
    if not alike or group.busy or always:
        group.comm.Abort(status)
    return status


def checkpoints_for(
    ranks: Ranks,
    folder: Path,
    how_often: Every,
    options: dict[str, Any],
    saved: Saved | None,
    stops: Stops,
    command: str,
) -> Checkpoints:
    """The checkpoints of a lone process, or of one among several."""
    if ranks.size == 1:
        return Checkpoints(folder, how_often, options, saved, stops, command)
    agreed: Any = Agreed(stops)
    command = f"mpiexec -n {ranks.size} {command}"
    kind = RankCheckpoints if ranks.first else NoCheckpoints
    return kind(folder, how_often, options, saved, agreed, command)


class RankCheckpoints(Checkpoints):
    """Those of rank 0, which says where the last one is while it can: mpiexec kills at once."""

    def write(self, run: Resumable) -> bool:
        """Write one and say how to go on from it."""
        written = super().write(run)
        if written and self.stops.asked is None:
            told = f"checkpoint after step {run.step}; to go on from it: {self.command}"
            print(told, file=sys.stderr, flush=True)
        return written


class NoCheckpoints(Checkpoints):
    """Those of the others: rank 0 writes for all."""

    def write(self, run: Resumable) -> bool:
        """Nothing to do."""
        return False
