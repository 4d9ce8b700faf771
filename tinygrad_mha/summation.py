"""How einsum treats one operand: diagonals are views, and what is left out is summed.

NumPy's loops do both, but begin anew for each row, and rows are often short. BLAS is quicker there:
axes that lie side by side in memory are summed by a product with ones,

    (1, n) @ (outer, n, inner) -> (outer, 1, inner)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array, xp
from .subscripts import Shape, parse, remembered, shape_of
from .walking import Lengths, count, looping, steps_of

# In the unit of walking.py:
PRODUCT = 0.7  # of a number with 1, and its sum
ONE = 200  # to begin one of many products
CALL = 8000  # a call of np.einsum, or of np.matmul with the ones to be made
SURE = 2  # so many times cheaper must BLAS seem
BY_BLAS = "fd"  # float32 and float64


class Summation(NamedTuple):
    """How the labels that are left out are summed."""

    cost: float
    products: tuple[Shape, ...]  # first these: the shapes (outer, n, inner), the n is summed
    rest: str  # the labels that remain: the others are summed by NumPy's loops
    shape: Shape


def einsum_of_one(subscripts: str, x: Any) -> Any:
    terms, output, _ = parse(subscripts, (shape_of(x),))
    return of_one(xp(x), f"{terms[0]}->{output}", x) if is_array(x) else x


def of_one(m: Any, subscripts: str, x: Any) -> Any:
    """On a GPU by one call: a thread sums what belongs to one number, and has no rows to begin."""
    if m is np and x.dtype.char in BY_BLAS and x.flags.c_contiguous:
        _, products, rest, shape = plan_for_one(subscripts, x.shape)
        for outer, n, inner in products:
            ones = np.ones(n, x.dtype)
            x = x.reshape(outer, n) @ ones if inner == 1 else ones @ x.reshape(outer, n, inner)
        if products:
            x, subscripts = x.reshape(shape), f"{rest}->{subscripts.partition('->')[2]}"
    return m.einsum(subscripts, x)


@remembered
def plan_for_one(subscripts: str, shape: Shape) -> Summation:
    (term,), output, _ = parse(subscripts, (shape,))
    return summing(term, dict(zip(term, shape, strict=True)), output)


def summing(term: str, length: Lengths, left: Sequence[str]) -> Summation:
    """The cheapest way to sum what is not ``left``.

    >>> length = dict(a=200, b=30, c=30, d=3)
    >>> summing("abcd", length, "bd").products  # a, and then c
    ((1, 200, 2700), (30, 30, 3))
    >>> summing("aacd", length, "d").products  # a diagonal is for NumPy's loops
    ()
    """
    have, shape = list(dict.fromkeys(term)), tuple(length[l] for l in term)
    own = [l for l in have if l not in left]
    if not own:
        return Summation(0, (), term, shape)
    walk = looping([*left], own, length, [steps_of(term, length, have)], [count(length, have)])
    best = Summation((CALL + walk) / SURE, (), term, shape)
    runs = [list(run) for alone, run in groupby(term, own.__contains__) if alone]
    for run in runs if have == list(term) else []:
        before, _, after = term.partition("".join(run))
        outer, n, inner = (count(length, labels) for labels in (before, run, after))
        later = summing(before + after, length, left)
        cost = CALL + PRODUCT * outer * n * inner + ONE * (1 if inner == 1 else outer)
        products = ((outer, n, inner), *later.products)
        best = min(best, later._replace(cost=cost + later.cost, products=products))
    return best if best.products else best._replace(cost=SURE * best.cost)
