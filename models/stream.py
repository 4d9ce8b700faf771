"""A file that is larger than memory, prepared for training: the text passes by once.

While the rows pass, each token gets a provisional number, in the order of first appearance, and the
numbers go to a store on disk. What stays in memory is a hash of each text, its label, and its place
in the store. Then duplicates, the split, and the counts of the tokens that train are computed from
these, and the provisional numbers are replaced by those of the vocabulary. The result is that of
:mod:`text`, to the last bit: which rows train, the vocabulary, the ids.

Several ranks share the work: each sees all rows, but cuts only its own into tokens, and writes them
to a file that all of them look into.
"""

from __future__ import annotations

import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, one_line
from .files import beside
from .prepared import Encoded, Prepared, check_labels, check_vocabulary
from .progress import bar
from .ranks import Ranks
from .readers import STDIN, Bad, Row, fatal, nothing_in, rows
from .settings import Settings
from .text import LabelSet, Vocabulary, first_rows, split_numbers, tokenize
from .token_store import Rows, Together, TokenStore, mapped
from .train import tell_overlap, too_few

STRETCH = 256  # rows that one rank cuts into tokens before the next has its turn
MOST_TOKENS = 1 << 21  # different ones in memory; above, those seen only once are forgotten


@dataclass
class Seen:
    """What is kept of the rows of one file."""

    hashes: np.ndarray  # (N,) uint64, of the texts
    labels: np.ndarray  # (N,) int64, in the order of first appearance
    names: list[str]  # of the labels
    first: int  # the number of the first row in the store


class Numbers(dict):
    """A number for each key that was ever looked up, in the order of first appearance.

    >>> numbers = Numbers()
    >>> [numbers[key] for key in "abcab"]
    [0, 1, 2, 0, 1]
    """

    next = 0

    def __missing__(self, key: str) -> int:
        self[key] = number = self.next
        self.next += 1
        return number


class Tokens:
    """Provisional numbers of tokens, and a store with the rows of this rank."""

    def __init__(self, store: TokenStore, level: str, ranks: Ranks) -> None:
        self.store, self.level, self.ranks = store, level, ranks
        self.number, self.forgotten = Numbers(), False
        self.rows = 0  # of all ranks

    def append(self, text: str) -> None:
        """One more row."""
        if self.ranks.size == 1 or owners(self.rows, self.ranks.size) == self.ranks.rank:
            number = self.number
            self.store.append([number[token] for token in tokenize(text, self.level)])
            if len(number) > MOST_TOKENS:
                self._forget()
        self.rows += 1

    def _forget(self) -> None:
        """Make room: a token that was seen once so far is taken for a new one if it comes again."""
        counts = self.counts(np.ones(len(self.store), bool))
        for token in [t for t, i in self.number.items() if counts[i] < 2]:
            del self.number[token]
        self.forgotten = True

    def counts(self, used: np.ndarray) -> np.ndarray:
        """How often each number occurs in the rows that are used."""
        counts = np.zeros(self.number.next, np.int64)
        for part, ids, row_of in self.store.pieces():
            chosen = ids[used[part][row_of]]
            numbers, found = np.unique(chosen, return_counts=True)
            counts[numbers] += found
        return counts


def prepare(
    source: str,
    settings: Settings,
    folder: Path,
    valid: str | None = None,
    columns: tuple[str, str] = ("text", "label"),
    bad: Bad = fatal,
    progress: bool = False,
    ranks: Ranks | None = None,
) -> Prepared:
    """Read ``source``, split it as :func:`tinygrad_mha.models.train.split` does, encode it.

    Parameters
    ----------
    source, valid : str
        Files, or "-" for standard input. Without ``valid`` a fifth of the rows is held out.
    settings : Settings
        Its level, min_count and max_len are used.
    folder : path
        On the disk that shall hold the store of tokens, about 4 bytes a token.
    columns : pair of str
        Of the text and of the label.
    bad : function
        What is done with a row that is wrong, see :mod:`readers`.
    progress : bool
        Show how many rows were read, if that takes long.
    ranks : Ranks, optional
        Who shares the work. Each of them has to call this, for a ``folder`` that all see.

    Raises
    ------
    InputError
        If anything is wrong with the file: one line with its place and the remedy.
    """
    with TokenStore(folder) as store:
        tokens = Tokens(store, settings.level, ranks or Ranks())
        return of_tokens(tokens, source, settings, folder, valid, columns, bad, progress)


def of_tokens(
    tokens: Tokens,
    source: str,
    settings: Settings,
    folder: Path,
    valid: str | None,
    columns: tuple[str, str],
    bad: Bad,
    progress: bool,
) -> Prepared:
    """:func:`prepare`, with an empty store."""
    how = columns, bad, progress
    main = read(source, tokens, *how)
    shown = STDIN if source == "-" else source
    labels = LabelSet(main.names, shown)
    check_labels(labels, shown)
    measured = None
    if valid is not None:
        measured = read(valid, tokens, *how, known=labels)
        both = int(np.isin(measured.hashes, main.hashes).sum())
        tell_overlap(both, len(measured.hashes), valid, shown)
    fit, stop, test = split(main, labels, measured, shown)

    used = np.zeros(tokens.rows, bool)
    used[fit] = True
    own = owners(np.arange(tokens.rows), tokens.ranks.size) == tokens.ranks.rank
    vocabulary, number = numbered(tokens, tokens.counts(used[own]), settings.min_count)
    check_vocabulary(vocabulary, settings.min_count, shown)
    stored = in_one_place(tokens, number, settings.max_len, folder)

    targets = np.concatenate([encoded(x, labels) for x in (main, measured) if x is not None])
    test_source = shown if valid is None else valid
    parts = [
        Encoded(stored.of(part), targets[part], name)
        for part, name in ((fit, shown), (stop, shown), (test, test_source))
    ]
    return Prepared(vocabulary, labels, *parts)


def read(
    source: str,
    tokens: Tokens,
    columns: tuple[str, str],
    bad: Bad,
    progress: bool,
    known: LabelSet | None = None,
) -> Seen:
    """All rows of a file into the store; a label that is not ``known`` is wrong."""
    hashes, labels, number = array("Q"), array("q"), Numbers()
    first = tokens.rows
    for row in shown(rows(source, *columns, True, bad), source, progress):
        if known is not None:
            try:
                known.index(row.label)
            except InputError as error:
                bad(InputError(str(error), source=row.file, line=row.line))
                continue
        data = row.text.encode("utf-8", "surrogatepass")
        hashes.append(int.from_bytes(blake2b(data, digest_size=8).digest(), "little"))
        labels.append(number[row.label])
        tokens.append(row.text)
    if not hashes:
        name = STDIN if source == "-" else source
        raise InputError(nothing_in(name), source=name)
    taken = np.frombuffer(hashes, np.uint64), np.frombuffer(labels, np.int64)
    return Seen(*taken, list(number), first)


def shown(found: Iterator[Row], source: str, progress: bool) -> Iterator[Row]:
    """The rows, with a bar if they take long."""
    if not progress:
        return found
    name = STDIN if source == "-" else one_line(source)
    return iter(bar(found, desc=f"reading {name}", unit=" rows", delay=5))


def split(
    main: Seen, labels: LabelSet, measured: Seen | None, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The numbers of the rows that train, stop early, measure."""
    y = encoded(main, labels)
    # a row is a duplicate if both are equal: the label is mixed into the hash of the text
    pairs = main.hashes * np.uint64(0x9E3779B97F4A7C15) + y.astype(np.uint64)
    rows_left = np.sort(np.unique(pairs, return_index=True)[1])
    texts, y = by_appearance(main.hashes[rows_left]), y[rows_left]
    keep = np.arange(len(rows_left))
    if measured is None:
        keep, out = split_numbers(texts, y, 0.2, 0)
        test = rows_left[out]
    else:
        test = np.arange(len(measured.hashes)) + measured.first
    kept = by_appearance(texts[keep])
    fit, stop = split_numbers(kept, y[keep], 0.1, 0)
    if not len(stop) or not len(test):
        most = int(np.bincount(y[first_rows(texts)]).max())
        raise too_few(most, 3 if measured is None else 2, source)
    return rows_left[keep[fit]], rows_left[keep[stop]], test


def by_appearance(values: np.ndarray) -> np.ndarray:
    """Numbers for values, in the order of first appearance.

    >>> by_appearance(np.array([70, 50, 70, 60]))
    array([0, 1, 0, 2])
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def encoded(seen: Seen, labels: LabelSet) -> np.ndarray:
    """The labels of all rows as the numbers that the model has for them."""
    return np.array([labels.index(name) for name in seen.names], np.int64)[seen.labels]


def owners(rows: Any, size: int) -> Any:
    """Which of ``size`` ranks cuts a row into tokens: stretches of rows, in turn."""
    return rows // STRETCH % size


def numbered(tokens: Tokens, counts: np.ndarray, min_count: int) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of the tokens that are frequent enough, and what each number becomes."""
    total = {token: int(counts[i]) for token, i in tokens.number.items() if counts[i]}
    if tokens.ranks.size > 1:
        total = sum(map(Counter, tokens.ranks.gathered(total)), Counter())
    kept = sorted((t for t in total if total[t] >= min_count), key=lambda t: (-total[t], t))
    vocabulary = Vocabulary(kept)
    known = {token: i for i, token in enumerate(kept, len(vocabulary) - len(kept))}
    number = np.full(tokens.number.next, Vocabulary.UNKNOWN, np.int64)
    for token, i in tokens.number.items():
        number[i] = known.get(token, Vocabulary.UNKNOWN)
    if tokens.forgotten:
        told = f"more than {MOST_TOKENS:,} different tokens; rare ones may be counted too low"
        print(f"{told}; --min-count 2 or more is wise", file=sys.stderr)
    return vocabulary, number


def in_one_place(tokens: Tokens, number: np.ndarray, most: int, folder: Path) -> Rows | Together:
    """The rows of all ranks, with the numbers of the vocabulary."""
    ranks, store = tokens.ranks, tokens.store
    if ranks.size == 1:
        with tempfile.TemporaryFile(dir=folder) as file:
            return store.renumbered(number, most, file)
    mine = beside(folder / "tokens")
    try:
        with open(mine, "w+b") as file:
            lengths = store.renumbered(number, most, file).lengths
        found = []
        # all have written when all have answered
        paths = ranks.gathered(str(mine))
        for path, counts in zip(paths, ranks.gathered_rows([lengths]), strict=True):
            with open(path, "rb") as file:
                found.append(mapped(file, counts))
        ranks.wait()  # all have opened it: the name may go
    finally:
        mine.unlink(missing_ok=True)
    owner = owners(np.arange(tokens.rows), ranks.size)
    place = np.zeros(tokens.rows, np.int64)
    for k in range(ranks.size):
        place[owner == k] = np.arange(int((owner == k).sum()))
    return Together(found, owner, place)
