"""How einsum computes: matrix products wherever the labels allow.

Two operands: a label is in both and in the output (batch), in both and summed (contracted), or in
one of them (left, right). That is a batch of matrix products,

    (batch, left, contracted) @ (batch, contracted, right) -> (batch, left, right)

and needs nothing but axes in another order. Of the ways to do it, the plan takes the one that costs
the least by the figures of walking.py. schedule.py brings more than two operands to this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array, xp
from .subscripts import Shape, parse, remembered, shape_of
from .summation import of_one
from .walking import copying, count, left_of, looping, multiplying, steps_of

# In the unit of walking.py, measured as well:
PRODUCT, OF_VECTORS = 0.25, 0.6  # a multiplication in BLAS
AS_IT_LIES = 4  # a multiplication of scattered numbers
ONE, ONE_OF_VECTORS, ONE_NUMBER = 300, 200, 50  # to begin one of many products
TURNED = 2  # BLAS reads the matrix on the right by rows: each number of one that lies by columns
NARROW = 16  # columns: for fewer, BLAS takes as long
AWRY = 500  # a result whose last axis is not the innermost: its reader has to jump, and so in vain
CALL = 1000  # what a call of np.einsum takes longer than one of np.matmul
SURE = 1.4  # so many times cheaper must loops seem: the cost of BLAS is known better than theirs


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
    way: str  # "multiply", "matmul", "as it lies" (a matmul of vectors left apart) or "loops"
    shape: Shape | None  # of the result, unless it has it already
    order: tuple[int, ...] | None  # of its axes after that
    cost: float
    loops: str = ""  # the subscripts for NumPy's own loops


def einsum_of_two(subscripts: str, a: Any, b: Any) -> Any:
    m = xp(a if is_array(a) else b)
    plan = plan_for_two(subscripts, (shape_of(a), shape_of(b)), m is np)
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
    x = x if alone is None else of_one(m, alone, x)
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
def plan_for_two(subscripts: str, shapes: tuple[Shape, Shape], loops: bool = True) -> Plan:
    """The cheapest way to contract two operands; without ``loops``, which a GPU has no use for,
    a product of matrices.
    """
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
    matrices = min((_matrices(labels, swap) for swap in (False, True)), key=lambda plan: plan.cost)
    by_loops = _loops(labels, a, b)
    return by_loops if loops and by_loops.cost < matrices.cost / SURE else matrices


def _multiply(labels: Sorted, a: list[str], b: list[str]) -> Plan:
    terms, lengths, output, sizes, *_ = labels
    # The one on the left decides in which order memory is walked: the larger.
    swap = count(sizes, b) > count(sizes, a)
    if swap:
        a, b, terms, lengths = b, a, terms[::-1], lengths[::-1]
    cost, walk = multiplying(output, sizes, *_memory(terms, lengths, (a, b)))
    one = _factor(terms[0], lengths[0], a, walk)
    other = _factor(terms[1], lengths[1], b, walk)
    as_they_lie = (
        walk == output and one.order is None and all(l in a or sizes[l] == 1 for l in output)
    )
    order = None if as_they_lie else tuple(walk.index(l) for l in output)
    return Plan(swap, one, other, "multiply", None, order, cost)


def _loops(labels: Sorted, a: list[str], b: list[str]) -> Plan:
    terms, lengths, output, sizes, _, contracted, *_ = labels
    kept = ["".join(left_of(*operand)) for operand in zip(terms, lengths, (a, b), strict=True)]
    one, other = (
        Side(None if k == term else f"{term}->{k}", None, None)
        for k, term in zip(kept, terms, strict=True)
    )
    cost = CALL + looping(output, contracted, sizes, *_memory(terms, lengths, (a, b)))
    return Plan(False, one, other, "loops", None, None, cost, f"{','.join(kept)}->{output}")


def _memory(terms: Any, lengths: Any, wanted: Any) -> tuple[list[dict[str, int]], list[int]]:
    """The steps of both operands along these labels, and how many numbers they have."""
    steps, numbers = [], []
    for term, length, labels in zip(terms, lengths, wanted, strict=True):
        left = left_of(term, length, labels)
        steps.append({l: n for l, n in steps_of(term, length, left).items() if l in labels})
        numbers.append(count(length, left))
    return steps, numbers


def _matrices(labels: Sorted, swap: bool) -> Plan:
    if swap:
        labels = labels.exchanged()
    terms, lengths, output, sizes, batch, contracted, left, right = labels
    # The batch and the contracted labels may come in any order that is the same for both operands:
    # that of an operand may spare it a copy, or a copy that jumps about in memory; the longest
    # last makes long rows.
    choices = [
        (
            _matrix(terms[0], lengths[0], lead, left, inner),
            _matrix(terms[1], lengths[1], lead, inner, right, TURNED),
            [*lead, *left, *right],
        )
        for lead in _orders(batch, *terms, output)
        for inner in (*_orders(contracted, *terms), sorted(contracted, key=sizes.__getitem__))
    ]
    (cost, one), (more, other), have = min(choices, key=lambda c: c[0][0] + c[1][0])
    way, cost = _way(labels, cost + more)
    if output[-1:] in left:  # what comes out does not lie as it is wanted
        cost += AWRY + 2 * count(sizes, output)
    return Plan(
        swap,
        one,
        other,
        way,
        None if len(left) == len(right) == 1 else tuple(sizes[l] for l in have),
        None if have == list(output) else tuple(have.index(l) for l in output),
        cost,
    )


def _way(labels: Sorted, copies: float) -> tuple[str, float]:
    """Whether scattered vectors are worth a copy, and what all of it costs."""
    sizes, many = labels.sizes, count(labels.sizes, labels.batch)
    rows, columns = count(sizes, labels.left), count(sizes, labels.right)
    inner = many * count(sizes, labels.contracted)
    every = inner * rows * columns
    if 1 not in (rows, columns):
        narrow = inner * rows + 2 * count(sizes, labels.output) if columns < NARROW else 0
        return "matmul", copies + narrow + ONE * many + PRODUCT * every
    packed = (
        copies + (ONE_NUMBER if rows == columns else ONE_OF_VECTORS) * many + OF_VECTORS * every
    )
    apart = ONE_NUMBER * many * rows * columns + AS_IT_LIES * every
    return ("as it lies", apart) if copies and apart < packed else ("matmul", packed)


def _orders(labels: list[str], *terms: str) -> Iterator[list[str]]:
    return (sorted(labels, key=term.index) for term in terms)


def _factor(term: str, length: dict[str, int], labels: list[str], output: str) -> Side:
    """For a product without a sum: the axes of the output, of length 1 where there is none."""
    labels = [l for l in output if l in labels]
    seen = output[output.index(labels[0]) :] if labels else ""  # those before, a broadcast adds
    return _side(term, length, labels, tuple(length[l] if l in labels else 1 for l in seen))


def _matrix(
    term: str,
    length: dict[str, int],
    lead: list[str],
    rows: list[str],
    columns: list[str],
    turning: float = 0,
) -> tuple[float, Side]:
    """Matrices with these rows and columns, one for each of ``lead``: what they cost, and how.
    ``turning`` is what each number costs more where they lie by columns.
    """
    outer, wanted = tuple(length[l] for l in lead), [*lead, *rows, *columns]
    n, m = count(length, rows), count(length, columns)
    turning *= 0 if 1 in (n, m) else count(length, wanted)
    upright = _side(term, length, wanted, (*outer, n, m))
    copy = copying(term, length, lead, rows, columns)
    if copy == 0:
        steps = steps_of(term, length, left_of(term, length, wanted))
        by_columns = min((steps[l] for l in columns if length[l] != 1), default=1) != 1
        return turning * by_columns, upright
    turned = _side(term, length, [*lead, *columns, *rows], (*outer, m, n))._replace(flip=True)
    turning += copying(term, length, lead, columns, rows)
    return (turning, turned) if turning < copy else (copy, upright)


def _side(term: str, length: dict[str, int], wanted: list[str], shape: Shape) -> Side:
    """The labels ``wanted``, in this order, and then this shape, without what has length 1."""
    left = left_of(term, length, wanted)
    order = [left.index(l) for l in left if l not in wanted] + [left.index(l) for l in wanted]
    ordered = tuple(length[left[axis]] for axis in order)
    return Side(
        None if left == list(term) else f"{term}->{''.join(left)}",
        None if order == sorted(order) else tuple(order),
        None if ordered == shape else shape,
    )
