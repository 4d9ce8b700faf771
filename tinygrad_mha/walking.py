"""What it costs to go through the numbers of arrays, in this order or in that.

The unit is the time in which a number is copied from and to where its neighbour was: a fifth of a
nanosecond. The figures were measured, and need not be exact: they are to tell ways apart of which
one takes twice as long as the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import takewhile

COPY_ROW, MULTIPLY_ROW = 40, 100  # to begin a new row of a copy, and of a product
SUM_ROW, SCALE_ROW = 50, 300  # of a sum of products, and of one row times a number added to another
APART, SUM_APART, MULTIPLY_APART = 2, 3, 10  # what one number more costs that follows no neighbour
LINE, WAY = 16, 512  # a cache line of numbers; from so many lines on, one does not find them again
LARGE, FAR = 3 * 2**18, 3  # more numbers leave the cache: apart, they cost so many times more
NEAR = 4096  # so few stay in the first cache, where nothing is far
LONG, JUMPS = 2048, 2  # rows shorter than this leave the processor no time to read ahead

Lengths = dict[str, int]  # of the axes of an operand, by label
Steps = dict[str, int]  # how far apart neighbours along each label are, in numbers


def count(sizes: dict[str, int], labels: Iterable[str]) -> int:
    return math.prod(sizes[l] for l in labels)


def left_of(term: str, length: Lengths, wanted: Iterable[str]) -> list[str]:
    """What is left of a term when its diagonals are taken, and its own labels summed."""
    return [l for l in dict.fromkeys(term) if l in wanted or length[l] == 1]


def steps_of(term: str, length: Lengths, left: Sequence[str]) -> Steps:
    """How far apart neighbours along each label are, in numbers. A diagonal is a view, and goes
    one further along all its axes at once; what is summed is a new array.

    >>> steps_of("aba", dict(a=3, b=4), ["a", "b"])
    {'a': 13, 'b': 3}
    >>> steps_of("abc", dict(a=3, b=4, c=5), ["a", "c"])  # b is summed
    {'a': 5, 'c': 1}
    """
    lie = term if set(term) == set(left) else left
    apart = {l: [count(length, lie[k + 1 :]) for k, m in enumerate(lie) if m == l] for l in left}
    return {l: sum(steps) for l, steps in apart.items()}


def apart(step: int, row: int, numbers: int, more: int) -> int:
    """What each number of a row costs more where they do not follow each other in memory."""
    if step <= 1:
        return 0
    if numbers < NEAR:
        return 1
    return more * (2 if step >= LINE and row >= WAY else 1)


# ----------------------------------------------------------------------------------- copies


def copying(
    term: str, length: Lengths, lead: list[str], rows: list[str], columns: list[str]
) -> float:
    """What it costs to make matrices of an operand; 0 where they are a view.

    >>> length = dict(a=2, b=3, c=4, d=5)
    >>> copying("abcd", length, ["a"], ["b"], ["c", "d"])  # the last two axes become one
    0.0
    >>> copying("abcd", length, ["a"], ["c", "d"], ["b"])  # the columns of that matrix
    0.0
    >>> copying("abcd", length, ["a"], ["c"], ["b", "d"])  # 120 numbers, in rows of 5
    1080.0
    """
    left = left_of(term, length, [*lead, *rows, *columns])
    axes = partial(_merged, length, steps_of(term, length, left))
    as_they_lie = [*map(axes, lead), axes(rows), axes(columns)]
    inner = {run[-1][1] for run in as_they_lie[-2:] if run}
    if all(len(run) <= 1 for run in as_they_lie) and (1 in inner or not inner):
        return 0.0
    row, step = (axes([*lead, *rows, *columns]) or [(1, 1)])[-1]
    numbers = count(length, left)
    return numbers * (1 + apart(step, row, numbers, APART) + COPY_ROW / max(row, 1))


def _merged(length: Lengths, steps: Steps, labels: Iterable[str]) -> list[tuple[int, int]]:
    """Length and step of the axes, where those that follow each other in memory are one."""
    runs: list[tuple[int, int]] = []
    for l in labels:
        n, step = length[l], steps[l]
        if runs and runs[-1][1] == n * step:
            runs[-1] = (runs[-1][0] * n, step)
        elif n != 1:
            runs.append((n, step))
    return runs


# ---------------------------------------------------------------------- one or two operands at once


def by_itself(labels: Sequence[str], sizes: dict[str, int], steps: Sequence[Steps]) -> list[str]:
    """In which order NumPy walks the axes if nobody says: this one, but an axis goes further in
    where every operand that has both takes shorter steps along it.
    """
    long = [{l: n for l, n in step.items() if sizes[l] != 1} for step in steps]
    walk: list[str] = []  # the innermost first
    for l in reversed(labels):
        to = len(walk)
        for k in reversed(range(len(walk))):
            shorter = [step[l] < step[walk[k]] for step in long if {l, walk[k]} <= step.keys()]
            if shorter and not all(shorter):
                break
            to = k if shorter else to
        walk.insert(to, l)
    return walk[::-1]


def rows_of(
    walk: Iterable[str], sizes: dict[str, int], steps: Sequence[Steps]
) -> tuple[int, list[int]]:
    """How long a row is, and the step of each operand in it: what lies at equal steps in all."""
    row, walk = 1, [l for l in walk if sizes[l] != 1]
    inner = [s.get(walk[-1], 0) if walk else 0 for s in steps]
    for l in reversed(walk):
        if any(s.get(l, 0) != row * step for s, step in zip(steps, inner, strict=True)):
            break
        row *= sizes[l]
    return row, inner


def multiplying(
    output: Sequence[str], sizes: dict[str, int], steps: Sequence[Steps], numbers: Sequence[int]
) -> tuple[float, str]:
    """What a product without a sum costs, and in which order its axes should be walked: NumPy's
    own, unless another takes much less time, such as that of the first operand with one of the
    axes last.
    """

    def cost(walk: list[str]) -> float:
        """For each number."""
        row, inner = rows_of(walk, sizes, steps)
        jumps = JUMPS if row < LONG else 0
        for step, n in zip(inner, numbers, strict=True):
            jumps += apart(step, row, n, MULTIPLY_APART * (FAR if n > LARGE else 1))
        return 3 + jumps + MULTIPLY_ROW / max(row, 1)

    as_first = sorted(output, key=lambda l: -steps[0].get(l, math.inf))
    others = [list(output), *(sorted(as_first, key=l.__eq__) for l in output)]
    best, own = min(others, key=cost), by_itself(output, sizes, steps)
    best = best if cost(best) < cost(own) / 1.5 else own
    return cost(best) * count(sizes, output), "".join(best)


def looping(
    output: Sequence[str],
    summed: Sequence[str],
    sizes: dict[str, int],
    steps: Sequence[Steps],
    numbers: Sequence[int],
) -> float:
    """What a product with a sum costs in NumPy's loops, one multiplication after the other."""
    walk = [l for l in by_itself([*output, *summed], sizes, steps) if sizes[l] != 1]
    if not walk:
        return 1.0
    # A row is summed to one number, or added to a row of the result.
    alike = takewhile(lambda l: (l in output) == (walk[-1] in output), reversed(walk))
    row, inner = rows_of([*alike][::-1], sizes, steps)
    each = 1 + sum(
        apart(step, row, n, SUM_APART * (FAR if n > LARGE else 1))
        for step, n in zip(inner, numbers, strict=True)
    )
    begin = SCALE_ROW if walk[-1] in output and 0 in inner else SUM_ROW
    return count(sizes, walk) * (each + begin / max(row, 1))
