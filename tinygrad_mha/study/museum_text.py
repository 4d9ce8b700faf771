"""Text for a terminal of 80 columns: wrapped, indented, with a little colour where there is one."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap

WIDTH = 78
STYLES = {"title": "1", "head": "36", "good": "32", "bad": "31", "faint": "2"}


def wrapped(text: str, indent: str = "  ") -> str:
    """Paragraphs, filled to the width. Lines that are indented in ``text`` stay as they are."""
    blocks = []
    for block in inspect.cleandoc(text).split("\n\n"):
        lines = block.splitlines()
        if all(line.startswith("  ") for line in lines):
            blocks.append(textwrap.indent("\n".join(lines), indent))
        else:
            # a formula may follow a line of text directly
            blocks.append(textwrap.fill(" ".join(block.split()), WIDTH, initial_indent=indent,
                                        subsequent_indent=indent, break_long_words=False,
                                        break_on_hyphens=False))  # fmt: skip
    return "\n\n".join(blocks)


def colourful() -> bool:
    """On a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(style: str, text: str) -> str:
    """``text`` in a style of the table above, line by line; as it is where there is no colour."""
    if not colourful():
        return text
    start = f"\033[{STYLES[style]}m"
    return "\n".join(f"{start}{line}\033[0m" if line else line for line in text.split("\n"))
