"""A shared sum: the first gradient that arrives is added to in place, and it has other owners."""

import numpy as np

from .exhibit import Exhibit
from .judging import Failed, certify, lifted, same


def broken():
    def total(parts):
        """The sum of the gradients that a node got; None if there are none."""
        result = None
        for d in parts:
            if result is None:
                result = d
            else:
                result += d
        return result

    return total


def solution():
    def total(parts):
        """The sum of the gradients that a node got; None if there are none."""
        result, owned = None, False
        for d in parts:
            if result is None:
                result = d
            elif owned:
                result += d
            else:
                result, owned = result + d, True
        return result

    return total


def judge(total, rng):
    shape = tuple(int(n) for n in rng.integers(1, 4, rng.integers(1, 3)))
    for twice in (False, True):
        parts = [rng.standard_normal(shape) for _ in range(int(rng.integers(2, 5)))]
        if twice:  # y = x + x hands out one array twice
            parts[-1] = parts[0]
        before = [d.copy() for d in parts]
        same("total", total(list(parts)), sum(before), told=f"{len(parts)} gradients {shape}")
        for k, (d, old) in enumerate(zip(parts, before, strict=True)):
            if not np.array_equal(d, old):
                raise Failed(
                    f"total: gradient {k} of {len(parts)} was changed; it may be another node's too"
                )
    if total([]) is not None:
        raise Failed("total([]) should be None")
    same("total of one gradient", total([parts[1]]), before[1])

    def backward(ab, y, g):
        """(a + b) + a b: the rule of + hands the same array to a and to b."""
        a, b = ab
        shared = g * 1.0
        da, db = total([shared, g * b]), total([shared, g * a])
        return np.stack([da, db])

    def value(ab):
        return ab[0] + ab[1] + ab[0] * ab[1]

    certify(lifted("a + b + a b", value, backward, value), [rng.standard_normal((2, 3))], rng)


def looks_fine(total, rng):
    d = total([rng.standard_normal((2, 3)) for _ in range(3)])
    assert d.shape == (2, 3)
    assert np.isfinite(d).all()
    return "total(three gradients (2, 3)) gives (2, 3), and the sum is right"


EXHIBIT = Exhibit(
    title="One array, two owners",
    mechanism="aliasing: a sum is made in place in an array that belongs to others",
    seen="ml-by-hand, oneflow PR#9497, mxnet#17989",
    story="""
        To save memory, gradients are added in place. The sum is right each time. But a weight that
        is used in two places changes the gradient of its neighbour, and which neighbour depends on
        the order of the graph.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "y = a + b: what does the rule of + return for a, and what for b? How many arrays is that?",
        "`result = d` makes no copy. Whose array does the next += write into?",
        "The first sum has to be a new array. After that it is yours, and += does no harm.",
        "result = result + d always works; or remember whether `result` was allocated here.",
    ),
    why="""
        da = g and db = g for y = a + b, and copies would be a waste: handing g on is right as long
        as nobody writes into it. So an engine may only add in place to an array that it has
        allocated itself: the first sum makes one, and later ones may reuse it.

        Reshapes and broadcasts hand out views, which are the same trap with another shape.
        """,
)
