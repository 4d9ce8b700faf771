"""The notation of einsum: what the letters say about these arrays."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from string import ascii_letters
from typing import Any, NamedTuple

Shape = tuple[int, ...]
remembered = lru_cache(maxsize=1024)  # whatever follows from the subscripts and the shapes alone


def shape_of(x: Any) -> Shape:
    return getattr(x, "shape", ())  # a Python number has none


class Parsed(NamedTuple):
    """What the subscripts say about these shapes: one letter for every axis, no ellipsis."""

    terms: tuple[str, ...]  # the labels of each operand
    output: str
    sizes: dict[str, int]  # label -> length; 1 only if it is 1 in every operand


@remembered
def parse(subscripts: str, shapes: tuple[Shape, ...]) -> Parsed:
    """Read the notation, and check it against the shapes.

    >>> parse("...ij, jk", ((8, 2, 3), (3, 4)))
    Parsed(terms=('Zij', 'jk'), output='Zik', sizes={'Z': 8, 'i': 2, 'j': 3, 'k': 4})
    """
    text = "".join(subscripts.split())
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    try:
        _check_letters([*terms, output])
        _check_axes(terms, shapes)
        # '...' becomes letters that are not in use, lined up from the right as in a broadcast
        unnamed = [len(s) - len(_named(t)) for t, s in zip(terms, shapes, strict=True)]
        hidden = _unused(text, max(unnamed))
        full = tuple(
            t.replace("...", hidden[len(hidden) - n :]) for t, n in zip(terms, unnamed, strict=True)
        )
        sizes = _sizes(full, shapes, hidden)
        if arrow:
            _check_output(output, left, hidden)
            output = output.replace("...", hidden)
        else:  # NumPy's rule: the axes without a name, then what occurs once, in order
            output = hidden + "".join(c for c in sorted(_named(left)) if left.count(c) == 1)
    except ValueError as e:
        what = ", ".join(map(str, shapes))
        raise ValueError(f"einsum: {subscripts!r} on {what}: {e}") from None
    return Parsed(full, output, sizes)


def _named(part: str) -> str:
    return part.replace("...", "").replace(",", "")


def _unused(text: str, count: int) -> str:
    free = [c for c in reversed(ascii_letters) if c not in text]
    if count > len(free):
        raise ValueError(f"{count} axes behind '...' are too many: {len(free)} letters are free")
    return "".join(free[:count])


def _check_letters(parts: list[str]) -> None:
    for part in parts:
        for c in part.replace("...", "", 1):
            if c == ".":
                raise ValueError(f"{part!r}: an ellipsis is three dots, and at most one a term")
            if c not in ascii_letters:
                raise ValueError(
                    f"{c!r} in {part!r} is no label: write letters, '...', a comma between "
                    "operands, and at most one '->'"
                )


def _check_axes(terms: list[str], shapes: tuple[Shape, ...]) -> None:
    if len(terms) != len(shapes):
        raise ValueError(
            f"terms for {len(terms)} operand(s), but {len(shapes)} given: write a term for each, "
            "with commas between"
        )
    for k, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        named = len(_named(term))
        if named > len(shape) or (named < len(shape) and "." not in term):
            remedy = "name every axis" + (", or add '...' for the rest" if "." not in term else "")
            raise ValueError(
                f"operand {k} has {len(shape)} axes, {shape}, but {term!r} names {named}: {remedy}"
            )


def _check_output(output: str, inputs: str, hidden: str) -> None:
    for label in _named(output):
        if output.count(label) > 1:
            raise ValueError(
                f"label {label} is twice in the output {output!r}: to fill a diagonal, multiply "
                "by an identity matrix"
            )
        if label not in inputs:
            raise ValueError(
                f"output label {label} is in no operand: to add an axis, use expand_dims or "
                "broadcast_to"
            )
    if hidden and "." not in output:
        raise ValueError(
            f"the output {output!r} leaves out '...', which stands for {len(hidden)} of the axes: "
            "write it there too, or name the axes that should be summed"
        )


def _sizes(terms: Iterable[str], shapes: tuple[Shape, ...], hidden: str) -> dict[str, int]:
    """The length of each label. As in a broadcast, an operand may have 1 where others have n."""
    sizes: dict[str, int] = {}
    found: dict[str, int] = {}  # in which operand
    for k, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        for label, n in zip(term, shape, strict=True):
            name = f"label {label}"
            if label in hidden:
                name = f"axis {hidden.index(label) - len(hidden)} of '...'"
            if n != shape[term.index(label)]:
                raise ValueError(
                    f"{name} is {shape[term.index(label)]} and {n} in operand {k}: only axes of "
                    "one size have a diagonal"
                )
            if n != sizes.setdefault(label, n) and 1 not in (n, sizes[label]):
                raise ValueError(
                    f"{name} is {sizes[label]} in operand {found[label]} and {n} in operand {k}: "
                    "the sizes of one label should be equal, or 1; other axes need other labels"
                )
            if n != 1 or label not in found:
                sizes[label], found[label] = n, k
    return sizes
