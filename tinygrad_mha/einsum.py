"""Chapter 6: einsum, every sum of products in one notation.

Name the axes of each array, and then those of the result: ``"ij,jk->ik"`` is the matrix product.
Every label that the result leaves out is summed over, so the notation *is* its definition:

    y[i, k] = Σ_j a[i, j] b[j, k]

>>> import numpy as np
>>> a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
>>> y = np.zeros((2, 4))
>>> for i, j, k in np.ndindex(2, 3, 4):  # one loop for each label
...     y[i, k] += a[i, j] * b[j, k]
>>> bool((einsum("ij,jk->ik", a, b) == y).all())
True

Loops are slow. The second half of this page finds the matrix product that hides in the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import combinations
from string import ascii_letters
from typing import Any, NamedTuple

from .backend import is_array, xp
from .movement import broadcast_to, scatter
from .sampling import normal
from .tensor import Op, Tensor, constant, is_floating

Shape = tuple[int, ...]
remembered = lru_cache(maxsize=1024)  # whatever follows from the subscripts and the shapes alone


# ------------------------------------------------------------------------------ the notation


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


# ------------------------------------------------------------------------------- the gradient


class Back(NamedTuple):
    """How the gradient of an operand is computed."""

    subscripts: str  # of g and the other operands
    lined_up: Shape  # its shape, with axes of length 1 for the labels it does not have
    copied: Shape  # the same, after the copies along these
    diagonals: tuple[tuple, Shape, Shape, tuple] | None  # see onto_diagonals


@remembered
def way_back(k: int, subscripts: str, shapes: tuple[Shape, ...]) -> Back:
    """Exchange the labels of operand k with those of the output."""
    terms, output, sizes = parse(subscripts, shapes)
    term, length = terms[k], dict(zip(terms[k], shapes[k], strict=True))
    others, other_shapes = terms[:k] + terms[k + 1 :], shapes[:k] + shapes[k + 1 :]
    labels = "".join(dict.fromkeys(term))  # each once
    # A label that nobody else has was only summed: nothing to compute, copies will do. One that
    # was broadcast (1 here, n elsewhere) is summed away at once.
    known = "".join(l for l in labels if l in output + "".join(others) and length[l] == sizes[l])
    back = f"{','.join((output, *others))}->{known}"
    got = parse(back, (tuple(sizes[l] for l in output), *other_shapes)).sizes
    return Back(
        back,
        tuple(got[l] if l in known else 1 for l in labels),
        tuple(length[l] for l in labels),
        _diagonals(term, labels, length) if len(labels) < len(term) else None,
    )


def _diagonals(term: str, labels: str, length: dict[str, int]) -> tuple[tuple, Shape, Shape, tuple]:
    counts = [(length[l], term.count(l)) for l in labels]
    # the diagonal of an (n, n) array, read as one row, is every (n + 1)-th number; of an (n, n, n)
    # array every (n² + n + 1)-th
    key = tuple(slice(None, None, sum(n**p for p in range(c))) for n, c in counts)
    rows = tuple(n**c for n, c in counts)
    apart = tuple(n for n, c in counts for _ in range(c))
    grouped = sorted(range(len(term)), key=lambda axis: labels.index(term[axis]))
    return key, rows, apart, tuple(grouped.index(axis) for axis in range(len(term)))


def onto_diagonals(d: Any, key: tuple, rows: Shape, apart: Shape, order: tuple) -> Any:
    """Zeros, with d where all axes of one label have the same index."""
    return scatter(d, key=key, shape=rows).reshape(apart).transpose(order)


def einsum_dx(g, y, *xs, subscripts):
    return [partial(operand_dx, k, g, xs, subscripts) for k in range(len(xs))]


def operand_dx(k, g, xs, subscripts):
    back = way_back(k, subscripts, tuple(map(shape_of, xs)))
    d = einsum(back.subscripts, g, *xs[:k], *xs[k + 1 :])
    if d.shape != back.copied:
        d = broadcast_to(d.reshape(back.lined_up), shape=back.copied)
    return d if back.diagonals is None else onto_diagonals(d, *back.diagonals)


def shape_of(x: Any) -> Shape:
    return getattr(x, "shape", ())  # a Python number has none


# -------------------------------------------------------------------------------------- the op


class Einsum(Op):
    """An op whose calls begin with the subscripts, and which takes its operands two at a time."""

    def __call__(self, *args: Any, **params: Any) -> Any:
        if args and isinstance(args[0], str) and not params:
            params, args = {"subscripts": args[0]}, args[1:]
        if len(args) > 2:
            return self._by_pairs(*self._bind(args, params))
        return super().__call__(*args, **params)

    def _bind(self, args: tuple, params: dict) -> tuple[tuple, dict]:
        if not (args and params.keys() == self.known and isinstance(params["subscripts"], str)):
            raise TypeError(
                "einsum: write the subscripts, then the arrays, and nothing else, as in "
                "einsum('ij,jk->ik', a, b)"
            )
        return args, params

    def _by_pairs(self, args: tuple, params: dict) -> Any:
        # lists and NumPy scalars become what they are beside all the others, not beside one
        weak = any(isinstance(a, Tensor) or (is_array(a) and is_floating(a)) for a in args)
        rest = [a if isinstance(a, Tensor) else constant(a, self, weak) for a in args]
        for i, j, step in schedule(params["subscripts"], tuple(map(shape_of, rest))):
            b, a = rest.pop(j), rest.pop(i)
            arrays = hasattr(a, "shape") or hasattr(b, "shape")
            rest.append(self(step, a, b) if arrays else a * b)
        return rest[0]


@partial(Einsum, rules=einsum_dx, sample=normal((2, 3), (3, 4), subscripts="ij,jk->ik"))
def einsum(*xs, subscripts):
    """Sums of products: ``einsum("ij,jk->ik", a, b)`` is the matrix product.

    y = Σ x_1 x_2 …             over every label that is not in the output
    dx_k = Σ g x_1 x_2 …        without x_k; over every label that is not among those of x_k

    So the gradient of an operand is an einsum too, with its own labels and those of the output
    exchanged: where y is "ij,jk->ik" of a and b, da is "ik,jk->ij" of g and b, and db is
    "ik,ij->jk" of g and a. For each element of x_k is a factor of some terms of y, and its
    gradient is the sum of what it is multiplied with there, each times its g. Two cases are left:

    - a label that only x_k has was summed, and all along it the gradient is the same: copies;
    - a label twice in x_k read a diagonal, and the gradient goes back there: zeros elsewhere.

    Parameters
    ----------
    subscripts : str
        A term for each operand, with a letter for each axis (capitals are other letters, spaces
        nothing), then "->" and the labels of the output. Without the arrow: the labels that occur
        once, in alphabetical order. "..." stands for axes without names, which broadcast.
    *operands : arrays or Tensors
        Where others have n, the size of a label may be 1.

    Returns
    -------
    array or Tensor; it may be a view of an operand

    Raises
    ------
    ValueError
        The subscripts cannot be read, or do not fit the shapes.

    Examples
    --------
    >>> a = Tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> einsum("ii", a), einsum("ij->j", a), einsum("ij,ij->i", a, a)
    (Tensor(5.), Tensor([4., 6.]), Tensor([ 5., 25.]))
    """
    if len(xs) == 1:
        return einsum_of_one(subscripts, *xs)
    return einsum_of_two(subscripts, *xs)


# ------------------------------------------------------------------------------ the fast way
#
# One operand: NumPy's loops read diagonals and transposed axes as views, and sum.
#
# Two operands: a label is in both and in the output (batch), in both and summed (contracted), or in
# one of them (left, right). That is a batch of matrix products,
#
#     (batch, left, contracted) @ (batch, contracted, right) -> (batch, left, right)
#
# and needs nothing but axes in another order.
#
# More: two at a time. Each step is a recorded call of its own, so that the way back, like the way
# forward, uses the products in between again.


def einsum_of_one(subscripts, x):
    terms, output, _ = parse(subscripts, (shape_of(x),))
    return xp(x).einsum(f"{terms[0]}->{output}", x) if is_array(x) else x


class Side(NamedTuple):
    """How one of two operands becomes a matrix, or a batch of them. None: it is so already."""

    alone: str | None  # an einsum of this operand that comes first: its diagonals and sums
    order: tuple[int, ...] | None  # then the axes in this order
    shape: Shape | None  # and this shape


class Plan(NamedTuple):
    """How two operands are contracted."""

    swap: bool  # the first operand stands on the right
    left: Side
    right: Side
    way: str  # "multiply", "matmul" or "loops"
    loops: str | None  # the subscripts for NumPy's own loops, where they may be the fastest
    shape: Shape | None  # of the result, unless it has it already
    order: tuple[int, ...] | None  # of its axes after that


def einsum_of_two(subscripts, a, b):
    plan = plan_for_two(subscripts, (shape_of(a), shape_of(b)))
    m = xp(a if is_array(a) else b)
    left, right = (b, a) if plan.swap else (a, b)
    left, right = _prepared(m, left, plan.left), _prepared(m, right, plan.right)
    if plan.way == "multiply":
        return m.multiply(left, right)  # integers wrap around, also those that are scalars
    if plan.way == "loops" or (plan.loops and _apart(left, -1) and _apart(right, -2)):
        return m.einsum(plan.loops, *((left, right) if plan.way == "loops" else (a, b)))
    y = m.matmul(_packed(m, left), _packed(m, right))
    y = y if plan.shape is None else y.reshape(plan.shape)
    return y if plan.order is None else y.transpose(plan.order)


def _packed(m, x):
    """BLAS reads rows or columns that lie in one piece; older NumPy has slow loops for the rest."""
    return m.ascontiguousarray(x) if _apart(x, -1) and _apart(x, -2) else x


def _apart(x, axis) -> bool:
    """Whether neighbours along an axis are no neighbours in memory."""
    return x.strides[axis] != x.itemsize


def _prepared(m, x, side):
    alone, order, shape = side
    x = x if alone is None else m.einsum(alone, x)
    x = x if order is None else x.transpose(order)
    return x if shape is None else x.reshape(shape)


AS_IT_IS = Side(None, None, None)
LONG = 128  # numbers in a row; in a shorter one, starting BLAS takes longer than the row itself


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
    contracted = [l for l in max(a, b, key=partial(_count, sizes)) if l not in output]
    left, right = [l for l in a if l not in b], [l for l in b if l not in a]

    if not contracted:
        one = _factor(terms[0], lengths[0], a, output)
        other = _factor(terms[1], lengths[1], b, output)
        return Plan(False, one, other, "multiply", None, None, None)
    loops = None
    if batch and not left and not right:  # many products of a row and a column
        kept = [
            "".join(l for l in dict.fromkeys(t) if l in x or n[l] == 1)
            for t, n, x in zip(terms, lengths, (a, b), strict=True)
        ]
        loops = f"{','.join(kept)}->{output}"
        if _count(sizes, contracted) < LONG or kept != list(terms):
            one, other = (
                Side(None if k == t else f"{t}->{k}", None, None)
                for k, t in zip(kept, terms, strict=True)
            )
            return Plan(False, one, other, "loops", loops, None, None)

    # The last axis of the output on the right: then the product lies in memory as it is wanted.
    swap = output[-1:] in left
    if swap:
        left, right, terms, lengths = right, left, terms[::-1], lengths[::-1]
    lead = tuple(sizes[l] for l in batch)
    n, k, m = (_count(sizes, labels) for labels in (left, contracted, right))
    have = [*batch, *left, *right]
    return Plan(
        swap,
        _side(terms[0], lengths[0], [*batch, *left, *contracted], (*lead, n, k)),
        _side(terms[1], lengths[1], [*batch, *contracted, *right], (*lead, k, m)),
        "matmul",
        loops,
        None if len(left) == len(right) == 1 else tuple(sizes[l] for l in have),
        None if have == list(output) else tuple(have.index(l) for l in output),
    )


def _count(sizes: dict[str, int], labels: Iterable[str]) -> int:
    return math.prod(sizes[l] for l in labels)


def _factor(term: str, length: dict[str, int], labels: list[str], output: str) -> Side:
    """For a product without a sum: the axes of the output, of length 1 where there is none."""
    labels = [l for l in output if l in labels]
    seen = output[output.index(labels[0]) :] if labels else ""  # those before, a broadcast adds
    return _side(term, length, labels, tuple(length[l] if l in labels else 1 for l in seen))


def _side(term: str, length: dict[str, int], wanted: list[str], shape: Shape) -> Side:
    """The labels ``wanted``, in this order, and then this shape, without what has length 1."""
    left = [l for l in dict.fromkeys(term) if l in wanted or length[l] == 1]
    order = [left.index(l) for l in left if l not in wanted] + [left.index(l) for l in wanted]
    ordered = tuple(length[left[axis]] for axis in order)
    return Side(
        None if left == list(term) else f"{term}->{''.join(left)}",
        None if order == sorted(order) else tuple(order),
        None if ordered == shape else shape,
    )


@remembered
def schedule(subscripts: str, shapes: tuple[Shape, ...]) -> list[tuple[int, int, str]]:
    """Which two operands meet, and how, until one is left; their product joins the end of the row.

    Greedy: first the pair whose product takes the least room beyond that of the two (which it sets
    free); among equals, the one with the fewest multiplications.

    >>> schedule("ij,jk,k->i", ((100, 100), (100, 100), (100,)))  # no product of two matrices
    [(1, 2, 'jk,k->j'), (0, 1, 'ij,j->i')]
    """
    parsed = parse(subscripts, shapes)
    terms, count = list(parsed.terms), partial(_count, parsed.sizes)
    steps = []
    while len(terms) > 1:
        options = []
        for i, j in combinations(range(len(terms)), 2):
            a, b, both = terms[i], terms[j], dict.fromkeys(terms[i] + terms[j])
            later = parsed.output + "".join(t for k, t in enumerate(terms) if k not in (i, j))
            kept = "".join(l for l in both if l in later)
            options.append((count(kept) - count(a) - count(b), count(both), i, j, kept))
        *_, i, j, kept = min(options)
        if len(terms) == 2:
            kept = parsed.output
        steps.append((i, j, f"{terms[i]},{terms[j]}->{kept}"))
        terms = [*(t for k, t in enumerate(terms) if k not in (i, j)), kept]
    return steps
