"""Token ids of more texts than memory holds: in a file without a name, seen through a map.

The file is gone when the process is, however that ends, for it never had a name. Reading a row
brings a page of it into memory; the system takes the page back when it needs the room.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

PIECE = 1 << 20  # ids that are in memory at a time


class Rows(Sequence):
    """Some rows of a store, as a sequence of arrays.

    Parameters
    ----------
    flat : ndarray of int32
        The ids of all rows, one row after the other.
    starts, lengths : ndarray of int64, (N,)
        Where each row begins, and how many ids it has.

    Examples
    --------
    >>> rows = Rows(np.arange(6, dtype=np.int32), np.array([4, 0]), np.array([2, 3]))
    >>> len(rows), rows[0], rows[1]
    (2, array([4, 5], dtype=int32), array([0, 1, 2], dtype=int32))
    """

    def __init__(self, flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self.flat, self.starts, self.lengths = flat, starts, lengths

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Rows(self.flat, self.starts[i], self.lengths[i])
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start = self.starts[i]
        return self.flat[start : start + self.lengths[i]]

    def of(self, rows: np.ndarray) -> Rows:
        """The rows of these numbers."""
        return Rows(self.flat, self.starts[rows], self.lengths[rows])


class Together(Sequence):
    """Rows of several stores as one sequence.

    Parameters
    ----------
    stores : list of Rows
    store, place : ndarray of int64, (N,)
        Of each row: which store has it, and as which of its rows.

    Examples
    --------
    >>> a = Rows(np.arange(3, dtype=np.int32), np.array([0, 2]), np.array([2, 1]))
    >>> b = Rows(np.array([7], np.int32), np.array([0]), np.array([1]))
    >>> [row.tolist() for row in Together([a, b], np.array([0, 1, 0]), np.array([1, 0, 0]))]
    [[2], [7], [0, 1]]
    """

    def __init__(self, stores: list[Rows], store: np.ndarray, place: np.ndarray) -> None:
        self.stores, self.store, self.place = stores, store, place
        self.lengths = np.zeros(len(store), np.int64)
        for k, rows in enumerate(stores):
            self.lengths[store == k] = rows.lengths[place[store == k]]

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Together(self.stores, self.store[i], self.place[i])
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.stores[self.store[i]][self.place[i]]

    def of(self, rows: np.ndarray) -> Together:
        """The rows of these numbers."""
        return Together(self.stores, self.store[rows], self.place[rows])


class TokenStore:
    """Rows of ids, written once, then read. A context manager, which forgets them at its end.

    Parameters
    ----------
    folder : path
        On the disk that shall hold the file.
    """

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.ends = array("q")
        self.size = 0
        self.waiting = array("i")

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()

    def append(self, ids: Sequence[int]) -> None:
        """One more row."""
        self.waiting.extend(ids)
        self.size += len(ids)
        self.ends.append(self.size)
        if len(self.waiting) >= PIECE:
            self._flush()

    def _flush(self) -> None:
        self.file.write(self.waiting)
        del self.waiting[:]

    def __len__(self) -> int:
        return len(self.ends)

    def lengths(self) -> np.ndarray:
        """How many ids each row has."""
        return np.diff(np.frombuffer(self.ends, np.int64), prepend=0)

    def pieces(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Stretches of rows in turn: which rows, their ids, and the row of each id, from 0."""
        self._flush()
        self.file.flush()
        lengths = self.lengths()
        ends = np.frombuffer(self.ends, np.int64)
        row = 0
        while row < len(ends):
            before = int(ends[row - 1]) if row else 0
            stop = max(row + 1, int(np.searchsorted(ends, before + PIECE, side="right")))
            count = int(ends[stop - 1]) - before
            self.file.seek(4 * before)
            ids = np.frombuffer(self.file.read(4 * count), np.int32)
            yield slice(row, stop), ids, np.repeat(np.arange(stop - row), lengths[row:stop])
            row = stop
        self.file.seek(0, os.SEEK_END)

    def renumbered(self, number: np.ndarray, most: int, file: IO[bytes]) -> Rows:
        """All rows in a new file, each id replaced by ``number[id]``, cut at ``most`` ids."""
        lengths = self.lengths()
        kept = np.minimum(lengths, most)
        for rows, ids, row_of in self.pieces():
            starts = np.cumsum(lengths[rows]) - lengths[rows]
            place = np.arange(len(ids)) - starts[row_of]  # of the id in its row
            file.write(number[ids[place < most]].astype(np.int32).data)
        file.flush()
        return mapped(file, kept)


def mapped(file: IO[bytes], lengths: np.ndarray) -> Rows:
    """A file of int32 as rows that are read when they are looked at, also if it is closed."""
    starts = np.cumsum(lengths) - lengths
    if not lengths.any():
        return Rows(np.zeros(0, np.int32), starts, lengths)
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(memory, "madvise"):  # batches are rows from everywhere: reading ahead is no help
        memory.madvise(mmap.MADV_RANDOM)
    return Rows(np.frombuffer(memory, np.int32), starts, lengths)
