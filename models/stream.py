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
from .prepared import Encoded, Found, Prepared, check_labels, check_vocabulary
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
    empty: int  # so many have nothing in their text


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
        self.hashes = array("Q")  # of the tokens of each of our rows
        self.rows = 0  # of all ranks

    def append(self, text: str) -> None:
        """One more row."""
        if self.ranks.size == 1 or owners(self.rows, self.ranks.size) == self.ranks.rank:
            number, tokens = self.number, tokenize(text, self.level)
            self.store.append([number[token] for token in tokens])
            self.hashes.append(hashed("\n".join(tokens)))
            if len(number) > MOST_TOKENS:
                self._forget()
        self.rows += 1

    def _forget(self) -> None:
        """Make room: a token that was seen once so far is taken for a new one if it comes again."""
        counts = self.counts(np.ones(len(self.store), bool))
        for token in [t for t, i in self.number.items() if counts[i] < 2]:
            del self.number[token]
        self.forgotten = True

    def taken_hashes(self) -> np.ndarray:
        """(N,) uint64, of the tokens of all rows of all ranks; they are not kept any longer."""
        parts = self.ranks.gathered_rows([np.frombuffer(self.hashes, np.uint64)])
        self.hashes = array("Q")
        if len(parts) == 1:
            return parts[0]
        owner = owners(np.arange(self.rows), len(parts))
        found = np.empty(self.rows, np.uint64)
        for k, part in enumerate(parts):
            found[owner == k] = part
        return found

    def counts(self, used: np.ndarray) -> np.ndarray:
        """How often each number occurs in the rows that are used."""
        counts = np.zeros(self.number.next, np.int64)
        for part, ids, row_of in self.store.pieces():
            chosen = ids[used[part][row_of]]
            numbers, found = np.unique(chosen, return_counts=True)
            counts[numbers] += found
        return counts


def hashed(text: str) -> int:
    """64 bits that tell one text from another."""
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def among(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of some numbers are among others: as np.isin, with a fourth of its memory.

    >>> among(np.array([3, 9, 1]), np.array([1, 2, 3]))
    array([ True, False,  True])
    """
    ordered = np.sort(others)
    place = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
    return ordered[place] == some


def prepare(
    source: str,
    settings: Settings,
    folder: Path,
    valid: str | None = None,
    columns: tuple[str, str] = ("text", "label"),
    bad: Bad = fatal,
    progress: bool = False,
    ranks: Ranks | None = None,
    bad_to_measure: Bad | None = None,
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
    bad_to_measure : function, optional
        What is done with a row of ``valid`` that is wrong; by default the same.

    Raises
    ------
    InputError
        If anything is wrong with the file: one line with its place and the remedy.
    """
    with TokenStore(folder) as store:
        tokens = Tokens(store, settings.level, ranks or Ranks())
        bads = bad, bad_to_measure or bad
        return of_tokens(tokens, source, settings, folder, valid, columns, bads, progress)


def of_tokens(
    tokens: Tokens,
    source: str,
    settings: Settings,
    folder: Path,
    valid: str | None,
    columns: tuple[str, str],
    bads: tuple[Bad, Bad],
    progress: bool,
) -> Prepared:
    """:func:`prepare`, with an empty store."""
    main = read(source, tokens, columns, bads[0], progress)
    shown = STDIN if source == "-" else source
    labels = LabelSet(main.names, shown)
    check_labels(labels, shown)
    measured = None
    if valid is not None:
        measured = read(valid, tokens, columns, bads[1], progress, known=labels)
    fit, stop, test, found = split(main, labels, measured, shown)
    found.measured = valid or ""
    seen = tokens.taken_hashes()
    if measured is None:
        tell_overlap(0, int(among(seen[test], seen[fit]).sum()), len(test), "", shown)
    else:
        both = among(measured.hashes, main.hashes)
        alike = among(seen[test], seen[: measured.first]) & ~both
        tell_overlap(int(both.sum()), int(alike.sum()), len(test), found.measured, shown)
    del seen

    used = np.zeros(tokens.rows, bool)
    used[fit] = True
    own = owners(np.arange(tokens.rows), tokens.ranks.size) == tokens.ranks.rank
    vocabulary, number = numbered(tokens, tokens.counts(used[own]), settings.min_count)
    check_vocabulary(vocabulary, settings.min_count, shown)
    stored = in_one_place(tokens, number, settings.max_len, folder)

    targets = np.concatenate([encoded(x, labels) for x in (main, measured) if x is not None])
    test_source = shown if valid is None else valid
    encoded_fit, encoded_stop, encoded_test = (
        Encoded(stored.of(part), targets[part], name)
        for part, name in ((fit, shown), (stop, shown), (test, test_source))
    )
    return Prepared(vocabulary, labels, encoded_fit, encoded_stop, encoded_test, found)


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
    first, empty = tokens.rows, 0
    for row in shown(rows(source, *columns, True, bad), source, progress):
        if known is not None:
            try:
                known.index(row.label)
            except InputError as error:
                bad(InputError(str(error), source=row.file, line=row.line))
                continue
        hashes.append(hashed(row.text))
        empty += not row.text.strip()
        labels.append(number[row.label])
        tokens.append(row.text)
    if not hashes:
        name = STDIN if source == "-" else source
        raise InputError(nothing_in(name, bad), source=name)
    taken = np.frombuffer(hashes, np.uint64), np.frombuffer(labels, np.int64)
    return Seen(*taken, list(number), first, empty)


def shown(found: Iterator[Row], source: str, progress: bool) -> Iterator[Row]:
    """The rows, with a bar if they take long."""
    if not progress:
        return found
    name = STDIN if source == "-" else one_line(source)
    return iter(bar(found, desc=f"reading {name}", unit=" rows", delay=5))


def split(
    main: Seen, labels: LabelSet, measured: Seen | None, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Found]:
    """The numbers of the rows that train, stop early, measure; and what there is to tell."""
    y = encoded(main, labels)
    # a row is a duplicate if both are equal: the label is mixed into the hash of the text
    pairs = main.hashes * np.uint64(0x9E3779B97F4A7C15) + y.astype(np.uint64)
    rows_left = np.sort(np.unique(pairs, return_index=True)[1])
    del pairs  # what comes next takes the most memory
    texts, y = by_appearance(main.hashes[rows_left]), y[rows_left]
    torn = int((np.bincount(texts) > 1).sum())
    found = Found(len(main.hashes) - len(rows_left), main.empty, torn)
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
    return rows_left[keep[fit]], rows_left[keep[stop]], test, found


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
