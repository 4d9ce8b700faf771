"""Worker processes that share the weights with their parent.

Threads of one process take turns in the interpreter, and NumPy's calls for a step of the LSTM are
so short that they mostly wait for it (bench/LOG.md). Processes have an interpreter each. A child is
a fork: it finds model and functions as they were then, in memory that stays shared until somebody
writes to it. The weights lie in memory that stays shared for good, so what the optimizer does is
seen by all; gradients come back the same way, and only the batch goes through a pipe.
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from tinygrad_mha import Tensor

LINE = 64  # bytes: where an array begins, a cache line begins


def possible() -> bool:
    """Whether this process may be forked: on Linux, while no other thread is at work.

    A fork copies one thread only. A lock that another one holds would stay locked for ever.
    """
    return sys.platform.startswith("linux") and threading.active_count() == 1


def shared_arrays(parameters: Sequence[Tensor]) -> list[np.ndarray]:
    """Arrays of the same shapes and dtypes, in memory that forks share for good; all zero."""
    starts, end = [], 0
    for p in parameters:
        starts.append(end)
        end += -(-p.data.nbytes // LINE) * LINE
    memory = mmap.mmap(-1, max(end, LINE))  # lives as long as an array refers to it
    return [
        np.ndarray(p.shape, p.dtype, memory, start)
        for p, start in zip(parameters, starts, strict=True)
    ]


class Child:
    """A process that answers calls of ``jobs``; ``gradients`` is where it leaves them."""

    def __init__(self, gradients: list[np.ndarray]) -> None:
        from multiprocessing import Pipe

        self.gradients = gradients
        self.ours, self.theirs = Pipe()
        self.process: Any = None

    def ask(self, *question: Any) -> None:
        with suppress(OSError):  # if it is gone, answer() will say so
            self.ours.send(question)

    def answer(self) -> Any:
        """What the job returned, or the exception that it raised."""
        try:
            return self.ours.recv()
        except (EOFError, OSError):
            self.process.join(1)
            code = self.process.exitcode
            how = f"killed by signal {-code}" if code and code < 0 else f"exit status {code}"
            return RuntimeError(
                f"a worker process ended ({how}); if memory ran out, take fewer workers or a "
                "smaller batch"
            )


class Processes:
    """``count`` children of this process. A context manager.

    Parameters
    ----------
    count : int
    jobs : sequence of functions
        What can be asked of a child: ``job(rows, *batch)``. Fixed, for they are inherited. So is
        everything that they refer to: what the parent changes later, but for the values of
        ``parameters``, no child gets to know.
    parameters : sequence of Tensors
        On entering their arrays move to shared memory, on leaving they move back.
    """

    def __init__(
        self, count: int, jobs: Sequence[Callable[..., Any]], parameters: Sequence[Tensor]
    ) -> None:
        self.count, self.jobs, self.parameters = count, list(jobs), list(parameters)
        self.children: list[Child] = []
        self.weights: list[np.ndarray] = []

    def __enter__(self) -> Processes:
        from multiprocessing import get_context

        self.weights = shared_arrays(self.parameters)
        self.share()
        self.children = [Child(shared_arrays(self.parameters)) for _ in range(self.count)]
        for child in self.children:
            # A daemon: should the parent end without leaving, it ends it.
            child.process = get_context("fork").Process(
                target=self._serve, args=(child,), daemon=True
            )
            child.process.start()
        for child in self.children:
            child.theirs.close()
        return self

    def __exit__(self, *exception: Any) -> None:
        for child in self.children:
            child.ours.close()  # for a child that waits this is the end
            if exception[0] is not None:
                child.process.terminate()
        for child in self.children:
            child.process.join()
        for p, weight in zip(self.parameters, self.weights, strict=True):
            p.data = (weight if p.data is weight else p.data).copy()
        self.children, self.weights = [], []

    def share(self) -> None:
        """Put the values of the parameters where the children look for them."""
        for p, weight in zip(self.parameters, self.weights, strict=True):
            if p.data is not weight:
                weight[...] = p.data
                p.data = weight

    def run(
        self,
        own: Callable[[Callable[..., Any], slice], Any],
        job: Callable[..., Any],
        gradients: bool,
        parts: Sequence[slice],
        batch: Sequence[Any],
    ) -> list[Any]:
        """The job for every part: ``own(job, part)`` here for the first, the others by children."""
        self.share()
        number = self.jobs.index(job)
        asked = self.children[: len(parts) - 1]
        for child, part in zip(asked, parts[1:], strict=True):
            child.ask(number, gradients, part, batch)
        try:
            said = [own(job, parts[0])]
        finally:  # whatever happened here, no answer must be left for the next question
            answers = [child.answer() for child in asked]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return said + answers

    def _serve(self, me: Child) -> None:
        """The life of a child: until the parent closes its end of the pipe."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to handle
        gc.freeze()  # what was inherited stays shared: the collector does not write to it
        for child in self.children:  # inherited; an end that is open here would never look closed
            child.ours.close()
            if child is not me:
                child.theirs.close()
        while True:
            try:
                number, gradients, part, batch = me.theirs.recv()
            except (EOFError, OSError):
                return
            try:
                answer = self._work(me, self.jobs[number], gradients, part, batch)
            except BaseException as e:
                answer = e
            _send(me.theirs, answer)

    def _work(self, me: Child, job: Any, gradients: bool, part: slice, batch: Any) -> Any:
        from .parallel import differentiate, quiet

        if not gradients:
            return quiet(job, part, *batch)
        found, said = differentiate(job, self.parameters, part, batch)
        for place, g in zip(me.gradients, found, strict=True):
            place[...] = g.data
        return said


def _send(pipe: Any, answer: Any) -> None:
    try:
        pipe.send(answer)
    except OSError:  # the parent has gone
        os._exit(1)
    except Exception as e:  # what cannot be pickled
        what = answer if isinstance(answer, BaseException) else e
        pipe.send(RuntimeError(f"{type(what).__name__} in a worker process: {what}"))
