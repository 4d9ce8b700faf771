"""Worker processes that share the weights with their parent.

Threads of one process take turns in the interpreter, and NumPy's calls for a step of the LSTM are
so short that they mostly wait for it (bench/LOG.md). Processes have an interpreter each. A child is
a fork: it finds model and functions as they were then, in memory that stays shared until somebody
writes to it. The weights lie in memory that stays shared for good, so what the optimizer does is
seen by all; gradients come back the same way, and only the batch goes through a pipe.
"""

from __future__ import annotations

import copy
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
from tinygrad_mha.tensor import modes, recording

from .signals import ignore

LINE = 64  # bytes: where an array begins, a cache line begins
PATIENCE = 5  # seconds that a child has to end by itself


def possible() -> bool:
    """Whether this process may be forked: on Linux, while no other thread is at work.

    A fork copies one thread only. A lock that another one holds would stay locked for ever. (And
    a daemon of multiprocessing, such as a worker of somebody's pool, may have no children.)
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return False
    from multiprocessing import current_process

    return not current_process().daemon


def shared_arrays(likes: Sequence[Any]) -> list[np.ndarray]:
    """Arrays of the same shapes and dtypes, in memory that forks share for good; all zero."""
    starts, end = [], 0
    for like in likes:
        starts.append(end)
        end += -(-like.size * like.dtype.itemsize // LINE) * LINE
    memory = mmap.mmap(-1, max(end, LINE))  # lives as long as an array refers to it
    return [
        np.ndarray(like.shape, like.dtype, memory, start)
        for like, start in zip(likes, starts, strict=True)
    ]


class Processes:
    """``count`` children of this process. A context manager.

    Parameters
    ----------
    count : int
    jobs : sequence of functions
        What can be asked of a child: ``job(rows, *batch)``. Fixed, for they are inherited. So is
        everything that they refer to: what the parent changes later, but for the values of
        ``parameters``, no child gets to know. (So it is told the place in the sequence of dropout
        masks by the job itself, with ``mask_stream``.)
    parameters : sequence of Tensors
        On entering their arrays move to shared memory, on leaving they move back.
    """

    def __init__(
        self, count: int, jobs: Sequence[Callable[..., Any]], parameters: Sequence[Tensor]
    ) -> None:
        self.count, self.jobs, self.parameters = count, list(jobs), list(parameters)
        self.children: list[Child] = []
        self.weights: list[np.ndarray] = []  # one for each parameter; tied ones have one together
        self.owner = os.getpid()

    def __enter__(self) -> Processes:
        try:
            first = {id(p.data): p for p in reversed(self.parameters)}
            places = dict(zip(first, shared_arrays(list(first.values())), strict=True))
            self.weights = [places[id(p.data)] for p in self.parameters]
            del first
            self.share()
            for _ in range(self.count):
                self.children.append(Child(shared_arrays(self.parameters)))
            for child in self.children:
                child.start(self)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        if os.getpid() == self.owner:  # and not in a process that was forked meanwhile
            for child in self.children:
                child.stop(at_once=exception[0] is not None)
        private = {id(weight): weight.copy() for weight in self.weights}
        for p, weight in zip(self.parameters, self.weights, strict=True):
            if p.data is weight:
                p.data = private[id(weight)]
        self.children, self.weights = [], []

    def share(self) -> None:
        """Put the values of the parameters where the children look for them."""
        for p, weight in zip(self.parameters, self.weights, strict=True):
            if p.data is not weight:
                if p.data.shape != weight.shape or p.data.dtype != weight.dtype:
                    raise ValueError(
                        f"a parameter of {weight.shape} {weight.dtype} was replaced by one of "
                        f"{p.data.shape} {p.data.dtype} while workers share it"
                    )
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
        asked = self.children[: len(parts) - 1]
        for child, part in zip(asked, parts[1:], strict=True):
            child.ask(self.jobs.index(job), gradients, modes.recording, part, batch)
        said = [own(job, parts[0])]
        answers = [child.answer() for child in asked]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return said + answers


class Child:
    """A process that answers questions; ``gradients`` is where it leaves them."""

    def __init__(self, gradients: list[np.ndarray]) -> None:
        from multiprocessing import Pipe

        self.gradients = gradients
        self.ours, self.theirs = Pipe()
        self.process: Any = None
        self.asked = self.answered = 0  # questions and answers so far

    def start(self, family: Processes) -> None:
        from multiprocessing import get_context

        # A daemon: should the parent end without leaving, it ends it.
        process = get_context("fork").Process(target=self._serve, args=(family,), daemon=True)
        process.start()
        self.process = process
        self.theirs.close()

    def stop(self, at_once: bool) -> None:
        """Let it end, and see that it does."""
        with suppress(OSError):
            self.ours.send(None)
        self.ours.close()
        self.theirs.close()
        if self.process is not None:
            if not at_once:
                self.process.join(PATIENCE)
            if self.process.is_alive():
                self.process.kill()
            self.process.join()

    def ask(self, *question: Any) -> None:
        self.asked += 1
        with suppress(OSError):  # if it is gone, answer() will say so
            self.ours.send((self.asked, question))

    def answer(self) -> Any:
        """What the job returned, or the exception that it raised.

        Questions are numbered: an interrupt may have left the answer to an earlier one in the pipe.
        """
        while self.answered < self.asked:
            try:
                self.answered, answer = self.ours.recv()
            except (EOFError, OSError):
                return RuntimeError(
                    f"a worker process ended ({self._end()}); if memory ran out, take fewer "
                    "workers or a smaller batch"
                )
            except Exception as e:  # it came, but cannot be read
                self.answered += 1
                answer = RuntimeError(f"the answer of a worker process cannot be read: {e}")
        return answer

    def _end(self) -> str:
        self.process.join(1)
        code = self.process.exitcode
        return f"killed by signal {-code}" if code and code < 0 else f"exit status {code}"

    # ---- what runs in the child

    def _serve(self, family: Processes) -> None:
        """Answer until the parent says that it is over, or closes its end of the pipe."""
        ignore()  # Ctrl-C is for the parent to handle, and so is the end of a group of processes
        end_with_parent(family.owner)
        gc.freeze()  # what was inherited stays shared: the collector does not write to it
        for child in family.children:  # an end that is open here would never look closed
            child.ours.close()
            if child is not self:
                child.theirs.close()
        with suppress(EOFError, OSError):
            while (message := self.theirs.recv()) is not None:
                number, question = message
                try:
                    answer = self._work(family, *question)
                except BaseException as e:
                    answer = readable(e)
                try:
                    self.theirs.send((number, answer))
                except OSError:
                    raise
                except Exception as e:  # there is no sending that
                    self.theirs.send((number, in_words(answer, e)))

    def _work(
        self, family: Processes, job: int, gradients: bool, records: bool, part: slice, batch: Any
    ) -> Any:
        from .parallel import differentiate, quiet

        with recording(records):
            if not gradients:
                return quiet(family.jobs[job], part, *batch)
            found, said = differentiate(family.jobs[job], family.parameters, part, batch)
        for place, g in zip(self.gradients, found, strict=True):
            place[...] = g.data
        return said


def end_with_parent(parent: int) -> None:
    """Have the system end this process with its parent, however that ends."""
    import ctypes

    death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def readable(error: BaseException) -> BaseException:
    """The error itself, if it can be made again from its arguments, as its reader will have to."""
    try:
        copy.copy(error)
        return error
    except Exception:
        return in_words(error, error)


def in_words(answer: Any, problem: BaseException) -> RuntimeError:
    what = answer if isinstance(answer, BaseException) else problem
    return RuntimeError(f"{type(what).__name__} in a worker process: {what}")
