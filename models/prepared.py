"""What a training needs of its data: ids and targets of three parts, vocabulary and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .errors import InputError
from .text import SPECIALS, LabelSet, Vocabulary


@dataclass
class Encoded:
    """Rows as numbers.

    Attributes
    ----------
    ids : sequence of ndarray of int32
        The token ids of each row: a list, or rows of a store on disk.
    targets : ndarray of int64, (N,)
    source : str
        The file, folder or built-in name, as the user gave it.
    """

    ids: Sequence[np.ndarray]
    targets: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Found:
    """What was in the files beside the rows that are used: it is told, and changes nothing.

    Attributes
    ----------
    duplicates : int
        Rows that are left out, because text and label had both occurred before.
    empty : int
        Rows without anything in their text.
    torn : int
        Texts that occur with more than one label.
    measured : str
        The file that is measured on, if it is one of its own.
    """

    duplicates: int = 0
    empty: int = 0
    torn: int = 0
    measured: str = ""


@dataclass
class Prepared:
    """The rows that train, those that early stopping looks at, those that measure the result."""

    vocabulary: Vocabulary
    labels: LabelSet
    fit: Encoded
    stop: Encoded
    test: Encoded
    found: Found = field(default_factory=Found)


MOST_CLASSES = 2000  # the table of what was taken for what has the square of it


def check_vocabulary(vocabulary: Vocabulary, min_count: int, source: str) -> None:
    """Refuse one that knows nothing."""
    if len(vocabulary) == len(SPECIALS):
        raise InputError(
            f"no token occurs {min_count} times in the texts that train; "
            "give texts with words, or a smaller --min-count",
            source=source,
        )


def check_labels(labels: LabelSet, source: str) -> None:
    """Refuse more than are supported."""
    if len(labels) > MOST_CLASSES:
        raise InputError(
            f"{len(labels)} different labels, more than the {MOST_CLASSES} that are supported; "
            "see whether --label-column names the labels",
            source=source,
        )
