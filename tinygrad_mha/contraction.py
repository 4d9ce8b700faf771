"""How einsum computes: matrix products wherever the labels allow.

Two operands: a label is in both and in the output (batch), in both and summed (contracted), or in
one of them (left, right). That is a batch of matrix products,

    (batch, left, contracted) @ (batch, contracted, right) -> (batch, left, right)

and needs nothing but axes in another order.

More than two: two at a time, in the order that ``schedule`` finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import combinations, takewhile
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array, xp
from .subscripts import Shape, parse, remembered, shape_of

START = 40  # numbers that are copied in the time that it takes to begin a new row of them
APART = 4  # as many in the time of one, where they are no neighbours
MULTIPLY_START, MULTIPLY_APART = 100, 10  # the same of a product, which reads two and writes one
LONG, JUMPS = 2048, 2  # and rows shorter than this leave the processor no time to read ahead
LARGE, FAR = 3 * 2**18, 3  # more numbers leave the cache: apart, they cost so many times more
FEW = 4096  # multiplications that take no longer than a second call
MOST = 63  # operands that NumPy's loops take
SMALL = 1024  # multiplications in a product of two matrices; in fewer, a copy costs more than BLAS
ABREAST = 32  # products that lie side by side; from here on, all of them at once is the fastest
NARROW = 64  # rows: from here on, NumPy's own loops are slow even there


def einsum_of_one(subscripts: str, x: Any) -> Any:
    """NumPy's loops read diagonals and transposed axes as views, and sum."""
    terms, output, _ = parse(subscripts, (shape_of(x),))
    return xp(x).einsum(f"{terms[0]}->{output}", x) if is_array(x) else x


# ------------------------------------------------------------------------------- two operands


class Side(NamedTuple):
    """How one of two operands becomes a matrix, or a batch of them. None: it is so already."""

    alone: str | None  # an einsum of this operand that comes first: its diagonals and sums
    order: tuple[int, ...] | None  # then the axes in this order
    shape: Shape | None  # and this shape
    flip: bool = False  # and the last two exchanged


class Plan(NamedTuple):
    """How two operands are contracted."""

    swap: bool  # the first operand stands on the right
    left: Side
    right: Side
    way: str  # "multiply", "matmul", "small" (a matmul of the matrices as they lie) or "loops"
    shape: Shape | None  # of the result, unless it has it already
    order: tuple[int, ...] | None  # of its axes after that
    loops: str = ""  # the subscripts for NumPy's own loops


def einsum_of_two(subscripts: str, a: Any, b: Any) -> Any:
    plan = plan_for_two(subscripts, (shape_of(a), shape_of(b)))
    m = xp(a if is_array(a) else b)
    left, right = (b, a) if plan.swap else (a, b)
    left, right = _prepared(m, left, plan.left), _prepared(m, right, plan.right)
    if plan.way == "multiply":
        return _product(m, left, right, plan.order)
    if plan.way == "loops":
        return m.einsum(plan.loops, left, right)
    if plan.way == "matmul":
        left, right = _packed(m, left, plan.left.flip), _packed(m, right, plan.right.flip)
    y = m.matmul(left, right)
    y = y if plan.shape is None else y.reshape(plan.shape)
    return y if plan.order is None else y.transpose(plan.order)


def _product(m: Any, left: Any, right: Any, order: tuple[int, ...] | None) -> Any:
    if order is None:
        return m.multiply(left, right)  # integers wrap around, also those that are scalars
    # NumPy would rather walk the axes in the order in which the operands have them. CuPy has no
    # such option, and no rows to begin: a thread takes one number.
    y = m.multiply(left, right, order="C") if m is np else m.multiply(left, right)
    return y.transpose(order)


def _prepared(m: Any, x: Any, side: Side) -> Any:
    alone, order, shape, flip = side
    x = x if alone is None else m.einsum(alone, x)
    x = x if order is None else x.transpose(order)
    x = x if shape is None else x.reshape(shape)
    return x.swapaxes(-1, -2) if flip else x


def _packed(m: Any, x: Any, flip: bool) -> Any:
    """BLAS reads rows or columns that lie in one piece; older NumPy has slow loops for the rest."""
    if not (_apart(x, -1) and _apart(x, -2)):
        return x
    if flip:
        return m.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return m.ascontiguousarray(x)


def _apart(x: Any, axis: int) -> bool:
    """Whether neighbours along an axis are no neighbours in memory."""
    return x.strides[axis] != x.itemsize


# ---------------------------------------------------------------------------------- the plan


class Sorted(NamedTuple):
    """Two operands, left and right, and their labels."""

    terms: tuple[str, ...]
    lengths: list[dict[str, int]]  # of the axes of each
    output: str
    sizes: dict[str, int]
    batch: list[str]  # in both and in the output
    contracted: list[str]  # in both and summed
    left: list[str]  # in one of them
    right: list[str]

    def exchanged(self) -> Sorted:
        terms, lengths = self.terms[::-1], self.lengths[::-1]
        return self._replace(terms=terms, lengths=lengths, left=self.right, right=self.left)


@remembered
def plan_for_two(subscripts: str, shapes: tuple[Shape, Shape]) -> Plan:
    """Sort the labels of two operands into batch, left, right and contracted."""
    terms, output, sizes = parse(subscripts, shapes)
    lengths = [dict(zip(t, s, strict=True)) for t, s in zip(terms, shapes, strict=True)]
    # An axis of length 1 counts for nothing where the other operand has n.
    a, b = ([l for l, n in length.items() if n == sizes[l]] for length in lengths)
    # What only one of them has and the output lacks is summed before they meet.
    a, b = (
        [l for l in a if (l in b and sizes[l] != 1) or l in output],
        [l for l in b if (l in a and sizes[l] != 1) or l in output],
    )
    batch = [l for l in output if l in a and l in b]
    contracted = [l for l in a if l in b and l not in output]
    left, right = [l for l in a if l not in b], [l for l in b if l not in a]
    labels = Sorted(terms, lengths, output, sizes, batch, contracted, left, right)
    if not contracted:
        return _multiply(labels, a, b)
    return _many_at_once(labels, a, b) or _matrices(labels)


def _multiply(labels: Sorted, a: list[str], b: list[str]) -> Plan:
    terms, lengths, output, sizes, *_ = labels
    # The one on the left decides in which order memory is walked: the larger.
    swap = count(sizes, b) > count(sizes, a)
    if swap:
        a, b, terms, lengths = b, a, terms[::-1], lengths[::-1]
    walk = _walk(terms, lengths, a, b, output)
    one = _factor(terms[0], lengths[0], a, walk)
    other = _factor(terms[1], lengths[1], b, walk)
    as_they_lie = (
        walk == output and one.order is None and all(l in a or sizes[l] == 1 for l in output)
    )
    order = None if as_they_lie else tuple(walk.index(l) for l in output)
    return Plan(swap, one, other, "multiply", None, order)


def _many_at_once(labels: Sorted, a: list[str], b: list[str]) -> Plan | None:
    """Tiny matrices whose numbers lie side by side: all the first ones, then all the second ones.
    NumPy's loops do that, a row of them in the time of one product.
    """
    terms, lengths, output, sizes, _, contracted, left, right = labels
    each = count(sizes, [*left, *right])
    if each > 1 and each * count(sizes, contracted) > SMALL:
        return None
    kept = [_left(*operand) for operand in zip(terms, lengths, (a, b), strict=True)]
    rows = [[l for l in term if sizes[l] != 1][::-1] for term in kept]
    pairs = zip(*rows, strict=False)  # from the last axis on, until one has no more
    beside = takewhile(lambda pair: pair[0] == pair[1] and pair[0] in output, pairs)
    if count(sizes, (l for l, _ in beside)) < ABREAST:
        return None
    one, other = (
        Side(None if k == list(term) else f"{term}->{''.join(k)}", None, None)
        for k, term in zip(kept, terms, strict=True)
    )
    loops = f"{','.join(map(''.join, kept))}->{output}"
    return Plan(False, one, other, "loops", None, None, loops)


def _matrices(labels: Sorted) -> Plan:
    # The last axis of the output on the right: then the product lies in memory as it is wanted.
    swap = labels.output[-1:] in labels.left
    if swap:
        labels = labels.exchanged()
    terms, lengths, output, sizes, batch, contracted, left, right = labels
    # The batch and the contracted labels may come in any order that is the same for both operands:
    # that of an operand may spare it a copy, or a copy that jumps about in memory.
    choices = [
        (
            _matrix(terms[0], lengths[0], lead, left, inner),
            _matrix(terms[1], lengths[1], lead, inner, right),
            [*lead, *left, *right],
        )
        for lead in _orders(batch, *terms, output)
        for inner in _orders(contracted, *terms)
    ]
    (_, one), (_, other), have = min(choices, key=lambda c: c[0][0] + c[1][0])
    rows = count(sizes, left)
    small = batch and (
        rows * count(sizes, right) == 1  # to copy a row takes as long as to multiply it
        or (rows < NARROW and rows * count(sizes, [*contracted, *right]) <= SMALL)
    )
    return Plan(
        swap,
        one,
        other,
        "small" if small else "matmul",
        None if len(left) == len(right) == 1 else tuple(sizes[l] for l in have),
        None if have == list(output) else tuple(have.index(l) for l in output),
    )


def count(sizes: dict[str, int], labels: Iterable[str]) -> int:
    return math.prod(sizes[l] for l in labels)


def _orders(labels: list[str], *terms: str) -> Iterator[list[str]]:
    return (sorted(labels, key=term.index) for term in terms)


def _walk(
    terms: tuple[str, ...], lengths: list[dict[str, int]], a: list[str], b: list[str], output: str
) -> str:
    """In which order a product without a sum walks its axes: NumPy's own, unless another takes much
    less time, such as that of the larger operand ``a`` with one of the axes last.
    """
    sizes = {l: max(length.get(l, 1) for length in lengths) for l in output}
    steps = []  # of each label in each operand
    apart = []  # what a number there costs more if it is no neighbour of the one before
    for term, length, labels in zip(terms, lengths, (a, b), strict=True):
        left = _left(term, length, labels)
        steps.append({l: n for l, n in _steps(term, length, left).items() if l in labels})
        apart.append(MULTIPLY_APART * (FAR if count(length, left) > LARGE else 1))

    def cost(walk: list[str]) -> float:
        """For each number. A row is what lies at equal steps in both operands."""
        row, walk = 1, [l for l in walk if sizes[l] != 1]
        step = [s.get(walk[-1], 0) if walk else 0 for s in steps]
        for l in reversed(walk):
            if any(s.get(l, 0) != row * inner for s, inner in zip(steps, step, strict=True)):
                break
            row *= sizes[l]
        jumps = sum(more for more, inner in zip(apart, step, strict=True) if inner > 1)
        jumps += JUMPS if row < LONG else 0
        return 3 + jumps + MULTIPLY_START / max(row, 1)

    as_a = [l for l in output if l not in a] + a
    others = [list(output), *(sorted(as_a, key=l.__eq__) for l in output)]
    best, by_itself = min(others, key=cost), _by_itself(output, sizes, steps)
    return "".join(best if cost(best) < cost(by_itself) / 1.5 else by_itself)


def _by_itself(output: str, sizes: dict[str, int], steps: list[dict[str, int]]) -> list[str]:
    """In which order NumPy walks the axes if nobody says: that of the output, but an axis goes
    further in where every operand that has both takes shorter steps along it.
    """
    long = [{l: n for l, n in step.items() if sizes[l] != 1} for step in steps]
    walk: list[str] = []  # the innermost first
    for l in reversed(output):
        to = len(walk)
        for k in reversed(range(len(walk))):
            shorter = [step[l] < step[walk[k]] for step in long if {l, walk[k]} <= step.keys()]
            if shorter and not all(shorter):
                break
            to = k if shorter else to
        walk.insert(to, l)
    return walk[::-1]


def _factor(term: str, length: dict[str, int], labels: list[str], output: str) -> Side:
    """For a product without a sum: the axes of the output, of length 1 where there is none."""
    labels = [l for l in output if l in labels]
    seen = output[output.index(labels[0]) :] if labels else ""  # those before, a broadcast adds
    return _side(term, length, labels, tuple(length[l] if l in labels else 1 for l in seen))


def _matrix(
    term: str, length: dict[str, int], lead: list[str], rows: list[str], columns: list[str]
) -> tuple[float, Side]:
    """Matrices with these rows and columns, one for each of ``lead``: what they cost, and how."""
    outer = tuple(length[l] for l in lead)
    n, m = count(length, rows), count(length, columns)
    upright = _side(term, length, [*lead, *rows, *columns], (*outer, n, m))
    turned = _side(term, length, [*lead, *columns, *rows], (*outer, m, n))._replace(flip=True)
    return min(
        (_copying(term, length, lead, rows, columns), upright),
        (_copying(term, length, lead, columns, rows), turned),
        key=lambda choice: choice[0],
    )


def _side(term: str, length: dict[str, int], wanted: list[str], shape: Shape) -> Side:
    """The labels ``wanted``, in this order, and then this shape, without what has length 1."""
    left = _left(term, length, wanted)
    order = [left.index(l) for l in left if l not in wanted] + [left.index(l) for l in wanted]
    ordered = tuple(length[left[axis]] for axis in order)
    return Side(
        None if left == list(term) else f"{term}->{''.join(left)}",
        None if order == sorted(order) else tuple(order),
        None if ordered == shape else shape,
    )


def _left(term: str, length: dict[str, int], wanted: list[str]) -> list[str]:
    """What is left of a term when its diagonals are taken, and its own labels summed."""
    return [l for l in dict.fromkeys(term) if l in wanted or length[l] == 1]


def _steps(term: str, length: dict[str, int], left: list[str]) -> dict[str, int]:
    """How far apart neighbours along each label are, in numbers. A diagonal is a view, and goes
    one further along all its axes at once; what is summed is a new array.

    >>> _steps("aba", dict(a=3, b=4), ["a", "b"])
    {'a': 13, 'b': 3}
    >>> _steps("abc", dict(a=3, b=4, c=5), ["a", "c"])  # b is summed
    {'a': 5, 'c': 1}
    """
    lie = term if set(term) == set(left) else left
    apart = {l: [count(length, lie[k + 1 :]) for k, m in enumerate(lie) if m == l] for l in left}
    return {l: sum(steps) for l, steps in apart.items()}


def _copying(
    term: str, length: dict[str, int], lead: list[str], rows: list[str], columns: list[str]
) -> float:
    """What a copy costs, in numbers copied; 0 where these matrices are a view.

    >>> length = dict(a=2, b=3, c=4, d=5)
    >>> _copying("abcd", length, ["a"], ["b"], ["c", "d"])  # the last two axes become one
    0.0
    >>> _copying("abcd", length, ["a"], ["c", "d"], ["b"])  # the columns of that matrix
    0.0
    >>> _copying("abcd", length, ["a"], ["c"], ["b", "d"])  # 120 numbers, in rows of 5
    1080.0
    """
    left = _left(term, length, [*lead, *rows, *columns])
    steps = _steps(term, length, left)
    axes = partial(_merged, length, steps)
    as_they_lie = [*map(axes, lead), axes(rows), axes(columns)]
    inner = {run[-1][1] for run in as_they_lie[-2:] if run}
    if all(len(run) <= 1 for run in as_they_lie) and (1 in inner or not inner):
        return 0.0
    row, step = (axes([*lead, *rows, *columns]) or [(1, 1)])[-1]
    return count(length, left) * ((1 if step == 1 else APART) + START / max(row, 1))


def _merged(
    length: dict[str, int], steps: dict[str, int], labels: Iterable[str]
) -> list[tuple[int, int]]:
    """Length and step of the axes, where those that follow each other in memory are one."""
    runs: list[tuple[int, int]] = []
    for l in labels:
        n, step = length[l], steps[l]
        if runs and runs[-1][1] == n * step:
            runs[-1] = (runs[-1][0] * n, step)
        elif n != 1:
            runs.append((n, step))
    return runs


# ------------------------------------------------------------------------- more than two operands


@remembered
def schedule(subscripts: str, shapes: tuple[Shape, ...]) -> list[tuple[int, int, str]]:
    """Which two operands meet, and how, until one is left; their product joins the end of the row.

    Greedy: first the pair whose product takes the least room beyond that of the two (which it sets
    free); among equals, the one with the fewest multiplications.
    >>> schedule("ij,jk,k->i", ((100, 100), (100, 100), (100,)))  # no product of two matrices
    [(1, 2, 'jk,k->j'), (0, 1, 'ij,j->i')]
    """
    parsed = parse(subscripts, shapes)
    rest = list(zip(parsed.terms, shapes, strict=True))
    steps = []
    while len(rest) > 1:
        options = []
        for i, j in combinations(range(len(rest)), 2):
            # Each label once, although twice in a term: of a diagonal no more is read.
            one, other = (dict(zip(*rest[k], strict=True)) for k in (i, j))
            both = one | {l: max(n, one.get(l, 1)) for l, n in other.items()}
            later = parsed.output + "".join(t for k, (t, _) in enumerate(rest) if k not in (i, j))
            kept = "".join(l for l in both if l in later)
            room = count(both, kept) - count(one, one) - count(other, other)
            options.append((room, count(both, both), i, j, kept))
        *_, i, j, kept = min(options)
        (b, b_shape), (a, a_shape) = rest.pop(j), rest.pop(i)
        step = f"{a},{b}->{kept if rest else parsed.output}"
        if rest:
            step = _as_it_comes(step, (a_shape, b_shape))
        _, product, sizes = parse(step, (a_shape, b_shape))
        steps.append((i, j, step))
        rest.append((product, tuple(sizes[l] for l in product)))
    return steps


def _as_it_comes(subscripts: str, shapes: tuple[Shape, Shape]) -> str:
    """The same product, with the labels of the output in the order in which they lie in memory."""
    terms, output, _ = parse(subscripts, shapes)
    plan = plan_for_two(subscripts, shapes)
    if plan.way == "multiply":  # as the larger one lies, unless it is walked in another order
        output = "".join(sorted(output, key=terms[plan.swap].find))
        plan = plan_for_two(f"{','.join(terms)}->{output}", shapes)
    if plan.order is not None:
        have = dict(zip(plan.order, output, strict=True))
        output = "".join(have[axis] for axis in range(len(output)))
    return f"{','.join(terms)}->{output}"


@remembered
def at_once(subscripts: str, shapes: tuple[Shape, ...]) -> bool:
    """Where nothing is summed, and two at a time would not save many multiplications."""
    terms, output, sizes = parse(subscripts, shapes)
    if set(output) != set(sizes) or len(terms) > MOST:
        return False
    every = count(sizes, sizes) * (len(terms) - 1)
    return every < FEW or every < 1.5 * sum(
        count(sizes, set(step) & set(sizes)) for *_, step in schedule(subscripts, shapes)
    )


def einsum_of_many(subscripts: str, *xs: Any) -> Any:
    """NumPy's loops over all of them: see ``at_once``."""
    terms, output, _ = parse(subscripts, tuple(map(shape_of, xs)))
    return xp(xs[0]).einsum(f"{','.join(terms)}->{output}", *xs)
