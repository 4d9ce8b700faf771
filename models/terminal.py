"""Texts that users wrote, on a terminal: they do no harm, and stand in columns."""

from __future__ import annotations

import unicodedata

from .errors import one_line
from .text import JOINERS


def shown(text: str) -> str:
    """A token or a label that can do no harm on a terminal or a page, and is seen.

    Examples
    --------
    >>> print(shown("word"), shown(" "), shown("\\u202e"), shown("\\x1b[1m"))
    word ␣ \\u202e \\x1b[1m
    """
    if text.isspace() and text.isprintable():
        return "␣" * len(text)
    if text and unicodedata.category(text[0])[0] == "M":  # a mark needs something to stand on
        text = "◌" + text
    inside = JOINERS if len(text) > 1 else ""
    return "".join(c if c in inside else one_line(c) for c in text)


def fitted(text: str, width: int, right: bool = False) -> str:
    """`text` in exactly so many columns of a terminal: cut, or filled with blanks; on the left if
    it should stand on the ``right``.

    Examples
    --------
    >>> fitted("東京タワー", 6) + "|", fitted("short", 6) + "|"
    ('東京… |', 'short |')
    """
    if columns(text) > width:
        while columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def columns(text: str) -> int:
    """How wide a terminal shows a text."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)
