"""What every reader gives and every split, tokeniser and trainer takes: texts with labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Dataset:
    """Texts with their labels, and where each of them came from.

    Attributes
    ----------
    texts, labels : list of str
        One entry a row. The label is "" where there is none.
    lines : list of int
        The line of the file on which the row starts, counted from 1; a running number where rows
        are no lines.
    source : str
        The file, folder or built-in name, as the user gave it.
    files : list of str, optional
        The file of each row, where every row is a file of its own.

    Examples
    --------
    >>> data = Dataset(["a fine day", "rain"], ["good", "bad"], [2, 3], "days.csv")
    >>> len(data), data.where(1)
    (2, 'days.csv, line 3')
    """

    texts: list[str]
    labels: list[str]
    lines: list[int]
    source: str
    files: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, i: int) -> str:
        """The place of row `i`, as messages name it."""
        if self.files is not None:
            return self.files[i]
        return f"{self.source}, line {self.lines[i]}"
