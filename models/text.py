"""Texts -> tokens -> ids -> padded batches.

The steps in the order in which training takes them: duplicates removed, a test part split off,
texts cut into tokens, tokens numbered by a vocabulary, and batches of rows of similar length.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .dataset import Dataset
from .errors import InputError, quoted

LEVELS = ("word", "char")

# --- cutting ---------------------------------------------------------------------------------

# Scripts that put no blanks between words, as ranges of a character class: a character is the
# best guess at a token. Korean is not among them, it has blanks.
NO_BLANKS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029"  # Han: radicals, iteration mark, zero, numerals
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Kana supplements, Han
)
JOINERS = "\u200c\u200d"  # zero-width: Persian and Indic words have them inside
# Nothing to see: other zero-width characters, directions, byte order mark.
INVISIBLE = "\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
# The typographic apostrophe is the typed one; the selectors of text or emoji style say nothing.
SAME_TOKEN = {ord("’"): "'", 0xFE0E: None, 0xFE0F: None}
LONGEST_RUN_OF_MARKS = 30  # as in Unicode's Stream-Safe Text Format


def tokenize(text: str, level: str) -> list[str]:
    """Cut a text into tokens.

    The text is normalised to NFC first, so that "é" is the same token whether it was typed as one
    character or as "e" and an accent. Lone surrogates become U+FFFD, as no file can hold them;
    of a run of more than 30 combining marks the rest is dropped.

    Parameters
    ----------
    text : str
    level : {"word", "char"}
        "char": the characters. "word": casefolded words with the apostrophes inside them (’
        becomes '); each punctuation mark, symbol or emoji is a token of its own; so is each
        character of a script without blanks between words (Han, Kana, Thai, Khmer…), with its
        combining marks. Blanks and invisible characters separate tokens and vanish.

    Returns
    -------
    list of str

    Examples
    --------
    >>> tokenize("Don't panic: 東京!", "word")
    ["don't", 'panic', ':', '東', '京', '!']
    >>> tokenize("Żak", "char")
    ['Ż', 'a', 'k']
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}; the levels are {', '.join(LEVELS)}")
    text = normalized(text)
    if level == "char":
        return list(text)
    text = text.translate(SAME_TOKEN).casefold()
    return token_pattern().findall(unicodedata.normalize("NFC", text))


def normalized(text: str) -> str:
    """`text` in NFC without lone surrogates."""
    if text.isascii():
        return text
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    # CPython puts marks in order by insertion sort: 80,000 marks on one letter take 5 seconds.
    text = long_run_pattern().sub(r"\1", text)
    return unicodedata.normalize("NFC", text)


@cache
def token_pattern() -> re.Pattern[str]:
    """One token of level "word": a word, or else one character with its marks.

    Within a word the next character alone decides how to go on, so the search takes linear time.
    """
    letter = rf"[^\W{NO_BLANKS}]"
    mark = f"[{combining_marks()}]"
    inside = f"[{combining_marks()}{JOINERS}]"
    word = f"{letter}+(?:{inside}+{letter}+)*{mark}*"
    return re.compile(rf"{word}(?:'{word})*|[^\s{INVISIBLE}]{mark}*")


@cache
def long_run_pattern() -> re.Pattern[str]:
    """A run of combining marks that is too long; group 1 is the part to keep."""
    marks = f"[{combining_marks()}]"
    return re.compile(f"({marks}{{{LONGEST_RUN_OF_MARKS}}}){marks}+")


@cache
def combining_marks() -> str:
    r"""All combining marks as ranges of a character class; `re`'s ``\w`` leaves them out.

    They are looked up once, when the first text needs them, and only in the planes that have any
    (0, 1 and 14): all of Unicode would take a tenth of a second.
    """
    planes = itertools.chain(range(0x20000), range(0xE0000, 0xE1000))
    marks = [i for i in planes if unicodedata.category(chr(i))[0] == "M"]
    starts = [i for i, before in zip(marks, [-2, *marks], strict=False) if i != before + 1]
    ends = [i for i, after in zip(marks, [*marks[1:], -2], strict=True) if i + 1 != after]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))


# --- numbering -------------------------------------------------------------------------------

PAD, UNKNOWN = 0, 1
SPECIALS = ["<pad>", "<unk>"]


class Vocabulary:
    """The known tokens, numbered from 2; 0 is padding and 1 any other token.

    The two specials have no entry in the look-up table, so a token "<pad>" of a user's text is a
    token like any other: unknown, or known by a number of its own.

    Parameters
    ----------
    tokens : sequence of str
        The tokens in the order of their numbers, without the specials.

    Attributes
    ----------
    tokens : list of str
        The token of each number, specials first.

    Examples
    --------
    >>> vocabulary = Vocabulary.build([["b", "a", "b"], ["c", "b", "a"]], min_count=2)
    >>> vocabulary.tokens
    ['<pad>', '<unk>', 'b', 'a']
    >>> vocabulary.encode(["a", "b", "c"])
    array([3, 2, 1], dtype=int32)
    """

    PAD = PAD
    UNKNOWN = UNKNOWN

    def __init__(self, tokens: Sequence[str]):
        self.tokens = [*SPECIALS, *tokens]
        self._number = {token: i for i, token in enumerate(tokens, start=len(SPECIALS))}
        if len(self._number) != len(tokens):
            raise ValueError("a vocabulary names every token once")

    @classmethod
    def build(
        cls,
        token_lists: Iterable[Sequence[str]],
        min_count: int = 1,
        max_size: int | None = None,
        weights: Iterable[float] | None = None,
    ) -> Vocabulary:
        """Number the tokens that occur at least `min_count` times, the most frequent first.

        Among equally frequent tokens the order is that of their characters. `max_size` limits
        the length of the vocabulary, specials included. With `weights`, one for each list, a token
        is as frequent as these make it: a list of weight 2 is in the order as if it came twice.
        """
        token_lists = list(token_lists)
        counts = Counter(token for tokens in token_lists for token in tokens)
        kept = [token for token, count in counts.items() if count >= min_count]
        order: dict[str, float] = {**counts}
        if weights is not None:
            order = dict.fromkeys(counts, 0.0)
            for tokens, weight in zip(token_lists, weights, strict=True):
                for token in tokens:
                    order[token] += weight
        kept.sort(key=lambda token: (-order[token], token))
        if max_size is not None:
            kept = kept[: max(0, max_size - len(SPECIALS))]
        return cls(kept)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Sequence[str], max_len: int | None = None) -> np.ndarray:
        """The numbers of (the first `max_len`) tokens, int32."""
        tokens = tokens[:max_len]
        ids = (self._number.get(token, UNKNOWN) for token in tokens)
        return np.fromiter(ids, dtype=np.int32, count=len(tokens))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes; fit for the json module."""
        return {"tokens": self.tokens}

    @classmethod
    def from_json(cls, data: Any, source: str = "vocab.json") -> Vocabulary:
        """The vocabulary that `to_json` described; an InputError naming `source` if none."""
        problem = vocabulary_problem(data)
        if problem:
            raise InputError(f"{problem}; the file is damaged: train again", source=source)
        return cls(data["tokens"][len(SPECIALS) :])


def vocabulary_problem(data: Any) -> str | None:
    """What is wrong with a vocabulary that was read from a file."""
    if not isinstance(data, dict) or not isinstance(data.get("tokens"), list):
        return 'no list "tokens"'
    tokens = data["tokens"]
    for i, token in enumerate(tokens):
        if not isinstance(token, str):
            return f"token {i} is {quoted(token)}, not a string"
    if tokens[: len(SPECIALS)] != SPECIALS:
        return f"the first tokens are not {' and '.join(SPECIALS)}"
    counts = Counter(tokens[len(SPECIALS) :])
    repeated = [token for token, count in counts.items() if count > 1]
    return f"the token {quoted(repeated[0])} occurs twice" if repeated else None


class LabelSet:
    """The classes, sorted by name and numbered from 0.

    Parameters
    ----------
    names : iterable of str
        At least two different names; repeated ones count once.
    source : str, optional
        The file to name if there are fewer.

    Examples
    --------
    >>> labels = LabelSet.from_labels(["good", "bad", "good"])
    >>> labels.names, labels.index("good")
    (['bad', 'good'], 1)
    """

    def __init__(self, names: Iterable[str], source: str | None = None):
        self.names = sorted(set(names))
        if len(self.names) < 2:
            only = f"only the label {quoted(self.names[0])}" if self.names else "no label"
            remedy = "a classifier needs two: add texts of another class"
            raise InputError(f"{only}; {remedy}", source=source)
        self._index = {name: i for i, name in enumerate(self.names)}

    @classmethod
    def from_labels(cls, labels: Iterable[str], source: str | None = None) -> LabelSet:
        """The set of the labels that occur."""
        return cls(labels, source)

    def __len__(self) -> int:
        return len(self.names)

    def index(self, label: str) -> int:
        """The number of a label; an InputError if it is not one of the set."""
        if label not in self._index:
            known = ", ".join(quoted(name) for name in self.names[:20])
            known += ", …" if len(self.names) > 20 else ""
            raise InputError(
                f"unknown label {quoted(label)}, the known ones are {known}; "
                "correct it, or train on data that has it"
            )
        return self._index[label]

    def encode(self, dataset: Dataset) -> np.ndarray:
        """The numbers of a data set's labels, int64; an unknown one is reported by its place."""
        targets = np.empty(len(dataset), dtype=np.int64)
        for i, label in enumerate(dataset.labels):
            try:
                targets[i] = self.index(label)
            except InputError as error:
                raise InputError(str(error), source=dataset.where(i)) from None
        return targets


# --- splitting -------------------------------------------------------------------------------


def remove_duplicates(dataset: Dataset) -> Dataset:
    """The data set without rows whose text and label both occurred before.

    Examples
    --------
    >>> data = Dataset(["hi", "hi", "hi"], ["a", "a", "b"], [1, 2, 3], "data.csv")
    >>> remove_duplicates(data).lines
    [1, 3]
    """
    # setdefault keeps the first row of each pair, and a dict keeps the order of insertion
    first: dict[tuple[str, str], int] = {}
    for i, pair in enumerate(zip(dataset.texts, dataset.labels, strict=True)):
        first.setdefault(pair, i)
    rows = list(first.values())
    return Dataset(
        texts=[dataset.texts[i] for i in rows],
        labels=[dataset.labels[i] for i in rows],
        lines=[dataset.lines[i] for i in rows],
        source=dataset.source,
        files=None if dataset.files is None else [dataset.files[i] for i in rows],
    )


def stratified_split(
    texts: Sequence[str], labels: Sequence[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold a fraction of every class out.

    Counted are distinct texts: rows with the same text stay on one side, and a text with several
    labels counts for its first one. A class of n texts gives round(fraction * n) of them, but at
    least one. Then every class that has no row left in the first part gets a text back: so do a
    class with a single text, and one whose texts all count for other classes.

    Parameters
    ----------
    texts, labels : sequence of str
    fraction : float
        Between 0 and 1, of the texts to hold out.
    seed : int
        The same texts, labels, fraction and seed give the same split.

    Returns
    -------
    keep, held_out : ndarray of int
        Row numbers, sorted.

    Examples
    --------
    >>> keep, held_out = stratified_split(list("abcdefgh"), list("xxxxyyyy"), 0.25, seed=0)
    >>> len(keep), [("xxxxyyyy")[i] for i in held_out]
    (6, ['x', 'y'])
    """
    names = {name: k for k, name in enumerate(sorted(set(labels)))}
    return split_numbers(numbered(texts), numbered(labels, names), fraction, seed)


def numbered(values: Sequence[str], known: dict[str, int] | None = None) -> np.ndarray:
    """A number for each value: in the order of first appearance, but for those that have one."""
    number = {} if known is None else known
    return np.fromiter((number.setdefault(v, len(number)) for v in values), np.int64, len(values))


def split_numbers(
    texts: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`stratified_split` of texts and labels that are numbered.

    Texts in the order of their first appearance, labels in the order of their names.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must be between 0 and 1")
    label_of_text = labels[first_rows(texts)]
    rng = np.random.default_rng(seed)
    drawn = np.zeros(len(label_of_text), dtype=bool)
    by_label = np.argsort(label_of_text, kind="stable")
    ends = np.cumsum(np.bincount(label_of_text))
    for candidates in np.split(by_label, ends):
        if len(candidates):
            candidates = rng.permutation(candidates)
            drawn[candidates[: max(1, int(fraction * len(candidates) + 0.5))]] = True
    # every class that would have no row left gets its first text back
    left = np.unique(labels[~drawn[texts]])
    classes, rows = np.unique(labels, return_index=True)
    drawn[texts[rows[~np.isin(classes, left)]]] = False
    held_out = drawn[texts]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def first_rows(numbers: np.ndarray) -> np.ndarray:
    """The first row of each number, for numbers in the order of their first appearance.

    >>> first_rows(np.array([0, 1, 0, 2, 1]))
    array([0, 1, 3])
    """
    before = np.maximum.accumulate(np.concatenate([[-1], numbers]))[:-1]
    return np.flatnonzero(numbers > before)


def most_texts(texts: Sequence[str], labels: Sequence[str]) -> int:
    """How many distinct texts the class with the most of them has, each counted for its first."""
    numbers = numbered(texts)
    return int(np.bincount(numbered(labels)[first_rows(numbers)]).max(initial=0))


# --- batching --------------------------------------------------------------------------------


def pad_batch(encoded: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Put rows of ids under each other, filled up with 0 to the longest (to 1 at least).

    Returns
    -------
    ids : ndarray of int32, (B, T)
    lengths : ndarray of int64, (B,)

    Examples
    --------
    >>> pad_batch([np.array([5, 6, 7]), np.array([8])])
    (array([[5, 6, 7],
           [8, 0, 0]], dtype=int32), array([3, 1]))
    """
    lengths = lengths_of(encoded)
    ids = np.full((len(encoded), max(1, lengths.max(initial=0))), PAD, dtype=np.int32)  # (B, T)
    if lengths.any():
        real = np.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        ids[real] = np.concatenate(encoded)
    return ids, lengths


def contents(encoded: Sequence[np.ndarray], many: int = 1 << 14) -> Iterator[np.ndarray]:
    """The ids of all rows, one row after the other, of many rows at a time."""
    for start in range(0, len(encoded), many):
        rows = range(start, min(start + many, len(encoded)))
        yield np.concatenate([np.zeros(0, np.int32), *(encoded[i] for i in rows)])


def lengths_of(encoded: Sequence[np.ndarray]) -> np.ndarray:
    known = getattr(encoded, "lengths", None)  # a store knows them without looking at the rows
    if known is not None:
        return known
    return np.array([len(row) for row in encoded], dtype=np.int64)


class Batch(NamedTuple):
    """Some rows, the longest first: an LSTM can drop finished rows from the end."""

    ids: np.ndarray  # (B, T) int32
    lengths: np.ndarray  # (B,)   int64
    targets: np.ndarray | None  # (B,)
    rows: np.ndarray  # (B,)   the rows' numbers in the data set


class BucketedBatches:
    """Batches of rows of similar length, so that little is spent on padding.

    Sorting all rows by length would give every epoch the same batches. So the rows are shuffled,
    cut into chunks of 50 batches, and sorted within a chunk only; then the batches are shuffled.

    Parameters
    ----------
    encoded : sequence of ndarray
        The ids of each row.
    targets : ndarray or None
        One target a row.
    batch_size : int
    seed : int, optional
        Epoch k is a function of (seed, k). Without a seed one is drawn.
    shuffle : bool
        False for evaluation: all rows by length, the longest first. `rows` of a batch says where
        its results belong.

    Examples
    --------
    >>> encoded = [np.array([2]), np.array([3, 4, 5]), np.array([6, 7])]
    >>> batches = BucketedBatches(encoded, np.array([0, 1, 0]), batch_size=2, shuffle=False)
    >>> for ids, lengths, targets, rows in batches.epoch(0):
    ...     print(ids.tolist(), lengths, targets, rows)
    [[3, 4, 5], [6, 7, 0]] [3 2] [1 0] [1 2]
    [[2]] [1] [0] [0]
    """

    BATCHES_PER_CHUNK = 50

    def __init__(
        self,
        encoded: Sequence[np.ndarray],
        targets: np.ndarray | None,
        batch_size: int,
        seed: int | None = None,
        shuffle: bool = True,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if targets is not None and len(targets) != len(encoded):
            raise ValueError(f"{len(encoded)} rows but {len(targets)} targets")
        self.encoded = encoded
        self.targets = None if targets is None else np.asarray(targets)
        self.batch_size = batch_size
        # one number for the object's life: an epoch asked for twice is the same epoch
        self.seed = int(np.random.default_rng().integers(2**63)) if seed is None else seed
        self.shuffle = shuffle
        self.lengths = lengths_of(encoded)

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-len(self.encoded) // self.batch_size)

    def epoch(self, k: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `k` from number `start` on; every row is in one of them."""
        batches = self._shuffled(k) if self.shuffle else self._cut(self._longest_first())
        for rows in batches[start:]:
            ids, lengths = pad_batch([self.encoded[i] for i in rows])
            targets = None if self.targets is None else self.targets[rows]
            yield Batch(ids, lengths, targets, rows)

    def _shuffled(self, k: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, k])
        rows = rng.permutation(len(self.encoded))
        size = self.BATCHES_PER_CHUNK * self.batch_size
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = [batch for chunk in chunks for batch in self._cut(self._longest_first(chunk))]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _longest_first(self, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(len(self.encoded)) if rows is None else rows
        return rows[np.argsort(-self.lengths[rows], kind="stable")]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        starts = range(0, len(rows), self.batch_size)
        return [rows[start : start + self.batch_size] for start in starts]
