"""How einsum takes more than two operands: two at a time, until one is left."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any, NamedTuple

from .backend import xp
from .contraction import plan_for_two
from .subscripts import Shape, parse, remembered, shape_of
from .walking import count

FEW = 4096  # multiplications that take no longer than a second call
MOST = 63  # operands that NumPy's loops take


@remembered
def schedule(subscripts: str, shapes: tuple[Shape, ...]) -> list[tuple[int, int, str]]:
    """Which two operands meet, and how, until one is left; their product joins the end of the row.

    Greedy: first the pair whose product takes the least room beyond that of the two (which it sets
    free); among equals, the one with the fewest multiplications. Two without a common label, whose
    product is larger than both, meet last of all.

    >>> schedule("ij,jk,k->i", ((100, 100), (100, 100), (100,)))  # no product of two matrices
    [(1, 2, 'jk,k->j'), (0, 1, 'ij,j->i')]
    """
    parsed = parse(subscripts, shapes)
    rest = [[Lying(*operand)] for operand in zip(parsed.terms, shapes, strict=True)]
    steps: list[tuple[int, int, str]] = []
    while len(rest) > 1:
        options = []
        for i, j in combinations(range(len(rest)), 2):
            # Each label once, although twice in a term: of a diagonal no more is read.
            first, second = (dict(zip(*rest[k][0][:2], strict=True)) for k in (i, j))
            both = first | {l: max(n, first.get(l, 1)) for l, n in second.items()}
            later = parsed.output + "".join(
                t[0].term for k, t in enumerate(rest) if k not in (i, j)
            )
            kept = "".join(l for l in both if l in later)
            room = count(both, kept) - count(first, first) - count(second, second)
            outer = room > 0 and first.keys().isdisjoint(second)
            options.append((outer, room, count(both, both), i, j, kept))
        *_, i, j, kept = min(options)
        b, a = rest.pop(j), rest.pop(i)
        ways = [
            _ways(one, other, kept if rest else parsed.output, not rest)
            for one, other in product(a, b)
        ]
        one, other, products = min(ways, key=lambda way: min(p.cost for p in way[2]))
        for made in (one, other):  # now it is known in which order they had best lie
            if made.subscripts:
                steps[made.step] = (*steps[made.step][:2], made.subscripts)
        steps.append((i, j, products[0].subscripts))
        rest.append([p._replace(step=len(steps) - 1) for p in products])
    return steps


class Lying(NamedTuple):
    """An operand, or a product in one of the orders in which it may lie in memory."""

    term: str
    shape: Shape
    cost: float = 0.0  # of all that led to it
    subscripts: str = ""  # what makes it
    step: int = -1  # where that stands in the schedule


def _ways(a: Lying, b: Lying, output: str, last: bool) -> tuple[Lying, Lying, list[Lying]]:
    """What may become of two operands: it lies as the one does or as the other, or with its longest
    axis innermost. Which is the best will be seen when it meets the next.
    """
    shapes = a.shape, b.shape
    steps = [f"{a.term},{b.term}->{output}"]
    if not last:
        sizes = parse(steps[0], shapes).sizes
        orders = [sorted(output, key=key) for key in (a.term.find, b.term.find, sizes.__getitem__)]
        steps = [_as_it_comes(f"{a.term},{b.term}->{''.join(o)}", shapes) for o in orders]
    found = []
    for step in dict.fromkeys(steps):
        _, term, sizes = parse(step, shapes)
        cost = a.cost + b.cost + plan_for_two(step, shapes).cost
        found.append(Lying(term, tuple(sizes[l] for l in term), cost, step))
    return a, b, found


def _as_it_comes(subscripts: str, shapes: tuple[Shape, ...]) -> str:
    """The same product, with the labels of the output in the order in which they lie in memory."""
    terms, output, _ = parse(subscripts, shapes)
    plan = plan_for_two(subscripts, shapes)
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
