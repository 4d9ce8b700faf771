"""What a ``tokenizer.json`` may ask for: a file must neither hang the program nor fill the memory.

The library runs the steps that the file describes. A few dozen that double a text each make
terabytes of one word (in XML this is called a billion laughs), a regular expression can search for
hours, and a template without its tokens ends in a panic. Published tokenizers do none of this.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .errors import quoted

MOST_STEPS = 8  # of one type, but for those that make a text longer by a table of their own
MOST_OF = {"Precompiled": 1, "ByteLevel": 2}
MOST_GROWTH = 8  # of a text, by all replacements together
LONGEST_WORD = 1000  # characters: WordPiece takes the square of it; published models have 100
ONE_WAY = re.compile(r"[*+?{]")  # what a regular expression can try in several ways
BACK = re.compile(r"\\[0-9gk]")


def problem_of(file: Any) -> str | None:
    """What is wrong with the steps of a tokenizer's file, if anything is.

    >>> double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    >>> problem_of({"normalizer": double}) is None
    True
    >>> problem_of({"normalizer": {"type": "Sequence", "normalizers": [double] * 4}})
    'its replacements may make a text 16 times as long'
    """
    if not isinstance(file, dict):
        return "it is no JSON object"
    parts = [
        *dicts([file.get("normalizer"), file.get("pre_tokenizer"), file.get("post_processor")])
    ]
    counts = Counter(str(part.get("type")) for part in parts)
    counts.pop("None", None)  # parts of a step
    for kind, count in counts.items():
        if count > MOST_OF.get(kind, MOST_STEPS):
            return f"it has {count} steps of the type {quoted(kind)}"
    growth = 1.0
    for part in parts:
        pattern = part.get("Regex")
        if isinstance(pattern, str) and (len(ONE_WAY.findall(pattern)) > 1 or BACK.search(pattern)):
            return "it searches for a regular expression that may take for ever"
        growth *= growth_by(part)
        if part.get("type") == "TemplateProcessing" and (problem := template_problem(part)):
            return problem
    if growth > MOST_GROWTH:
        return f"its replacements may make a text {growth:.0f} times as long"
    model = file.get("model")
    longest = model.get("max_input_chars_per_word", 0) if isinstance(model, dict) else 0
    if isinstance(longest, int | float) and longest > LONGEST_WORD:
        return f"max_input_chars_per_word is more than {LONGEST_WORD}"
    return None


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """All the dicts inside a value; it does not recurse."""
    left = [value]
    while left:
        here = left.pop()
        if isinstance(here, dict):
            yield here
            left += here.values()
        elif isinstance(here, list):
            left += here


def growth_by(step: dict[str, Any]) -> float:
    """By how much one replacement makes a text longer, at most."""
    if step.get("type") != "Replace":
        return 1.0
    pattern, content = step.get("pattern"), step.get("content")
    old = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(content, str):
        return 1.0  # which the library will refuse
    if isinstance(old, str) and old:
        return max(1.0, len(content) / len(old))
    return 1.0 + len(content)  # it may match nothing, everywhere


def template_problem(step: dict[str, Any]) -> str | None:
    """A template has the text once, and describes every token that it puts beside it."""
    single, known = step.get("single"), step.get("special_tokens")
    if not isinstance(single, list) or not isinstance(known, dict):
        return None  # another way to write it
    pieces = [
        (kind, what) for piece in single if isinstance(piece, dict) for kind, what in piece.items()
    ]
    if sum(kind == "Sequence" for kind, _ in pieces) != 1:
        return "its template does not hold the text once"
    for kind, what in pieces:
        name = what.get("id") if isinstance(what, dict) else None
        if kind == "SpecialToken" and (not isinstance(name, str) or name not in known):
            return "its template has a token that it does not describe"
    return None
