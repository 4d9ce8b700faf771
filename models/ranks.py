"""The processes that train together: who we are among them, and how small things are agreed on.

``mpiexec -n 4 tinygrad-mha train …`` starts the program four times, on one machine or on many. Each
process is a *rank* with a number, and MPI carries what they say to each other. Numbers travel as
arrays and everything else as JSON: nothing that arrives is ever run, so nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_mha.backend import to_host
from tinygrad_mha.tensor import value
from tinygrad_mha.threads import cores

from .errors import InputError

# what MPICH (and Intel's), Open MPI and Slurm tell a process: how many there are, and its number
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
NUMBERS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
MISSING = (
    "mpiexec has started {} processes, and they need mpi4py to find each other ({}): "
    "pip install 'tinygrad_mha[mpi]', and an MPI library, such as pip install mpich"
)


def told(names: Sequence[str], otherwise: int) -> int:
    """What the launcher has put into the environment."""
    given = [os.environ[name] for name in names if os.environ.get(name, "").isdecimal()]
    return int(given[0]) if given else otherwise


def launched() -> int:
    """How many processes ``mpiexec`` or ``srun`` has started; 1 if nobody has started us so."""
    return told(SIZES, 1) if any(name in os.environ for name in NUMBERS) else 1


class Ranks:
    """All processes of a run, seen from one of them.

    Alone, which is the default, everything is answered at once and MPI is not even imported.

    Attributes
    ----------
    rank, size : int
        Our number, and how many there are.
    local, neighbours : int
        The same among those on this machine.
    cores : int
        Those of the machine, shared out among its ranks.
    exchanged : int
        Bytes that we have handed to MPI for the others so far.
    busy : bool
        Whether a step has begun that is not done: then there is no leaving in peace.
    """

    def __init__(self, comm: Any = None) -> None:
        self.comm = comm
        self.rank, self.size, self.local, self.neighbours = 0, 1, 0, 1
        self.exchanged, self.busy = 0, False
        self.cores = cores()
        if comm is not None:
            self.rank, self.size = comm.Get_rank(), comm.Get_size()
            self.aside = comm.Dup()  # for wait(): it may meet nobody, and confuse nothing
            machine = comm.Split_type(_mpi().COMM_TYPE_SHARED)
            self.local, self.neighbours = machine.Get_rank(), machine.Get_size()
            self.cores = cores_of_each(machine)
            machine.Free()

    @property
    def first(self) -> bool:
        """Whether we are the rank that talks and writes."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Our rows of a batch: shares differ by one row at most, and may be empty.

        >>> Ranks().share(5)
        slice(0, 5, None)
        """
        ends = [-(-rows * k // self.size) for k in (self.rank, self.rank + 1)]
        return slice(*ends)

    def device(self, name: str) -> str:
        """One GPU for each rank of a machine, whatever number was asked for."""
        if self.size == 1 or name == "cpu":
            return name
        return f"cuda:{self.local}"

    # ---- small things; every rank has to call

    def gathered(self, words: Any) -> list[Any]:
        """What every rank has to say, by rank: numbers, texts, lists and dicts."""
        if self.size == 1:
            return [words]
        self.exchanged += len(json.dumps(words))
        return json_of_all(self.comm, words)

    def gathered_rows(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The arrays of rank 0, then those of rank 1, …; a rank may have none."""
        if self.size == 1:
            return list(parts)
        heads = self.gathered([[a.dtype.str, a.shape] for a in parts])
        whole = np.frombuffer(b"".join(a.tobytes() for a in parts), np.uint8)
        self.exchanged += whole.nbytes
        found = []
        for head, content in zip(heads, bytes_of_all(self.comm, whole), strict=True):
            start = 0
            for dtype, shape in head:
                a = np.ndarray(shape, dtype, content.data, start)
                found.append(a)
                start += a.nbytes
        return found

    def check_same(self, what: str, arrays: Iterable[Any]) -> None:
        """Every rank has the same ``arrays``, bit for bit; RuntimeError if not."""
        if self.size == 1:
            return
        found = hashlib.blake2b(digest_size=16)
        for a in arrays:
            found.update(np.ascontiguousarray(to_host(value(a))).data)
        digests = self.gathered(found.hexdigest())
        others = [str(k) for k, digest in enumerate(digests) if digest != digests[0]]
        if others:
            raise RuntimeError(
                f"{what} of rank {', '.join(others)} are not those of rank 0; give all ranks the "
                "same files and options, and processors of one kind"
            )

    def wait(self, seconds: float = float("inf")) -> bool:
        """Wait until all ranks are here, without keeping a core busy; False if they do not come."""
        if self.size == 1:
            return True
        here, began = self.aside.Ibarrier(), time.monotonic()
        while not here.Test():
            if time.monotonic() - began > seconds:
                return False
            time.sleep(0.01)
        return True


def bytes_of_all(comm: Any, mine: np.ndarray) -> list[np.ndarray]:
    """The bytes of every rank, by rank."""
    counts = np.zeros(comm.Get_size(), np.int64)
    comm.Allgather(np.array([len(mine)], np.int64), counts)
    ends = np.cumsum(counts)
    everything = np.empty(ends[-1], np.uint8)
    comm.Allgatherv(mine, [everything, counts, ends - counts, _mpi().BYTE])
    return np.split(everything, ends[:-1])


def json_of_all(comm: Any, words: Any) -> list[Any]:
    """What every rank has to say, by rank."""
    mine = np.frombuffer(json.dumps(words).encode(), np.uint8)
    return [json.loads(text.tobytes()) for text in bytes_of_all(comm, mine)]


def cores_of_each(machine: Any) -> int:
    """The cores of a machine for each of its ranks.

    A launcher may have bound each rank to some cores, or none to any: so all of them count.
    """
    mine = getattr(os, "sched_getaffinity", lambda _: range(cores()))(0)
    together = set().union(*json_of_all(machine, sorted(mine)))
    return max(1, len(together) // machine.Get_size())


def _mpi() -> Any:
    from mpi4py import MPI

    return MPI


_group: Ranks | None = None


def known() -> Ranks | None:
    """What :func:`group` has found, if it was asked."""
    return _group


def group() -> Ranks:
    """The ranks that this process was started with; a lone one if there are no others.

    Raises
    ------
    InputError
        If there are others, and no mpi4py to reach them.
    """
    global _group
    if _group is None:
        count = launched()
        if count == 1:
            return Ranks()
        try:
            comm = _mpi().COMM_WORLD
        except (ImportError, RuntimeError) as e:  # the second: there is no MPI library
            raise InputError(MISSING.format(count, str(e).splitlines()[0])) from None
        if comm.Get_size() != count:
            raise InputError(
                f"mpiexec has started {count} processes, but mpi4py sees {comm.Get_size()}: they "
                "belong to different MPI libraries; start it with the mpiexec of the one that "
                "mpi4py was made for"
            )
        _group = Ranks(comm)
    return _group
