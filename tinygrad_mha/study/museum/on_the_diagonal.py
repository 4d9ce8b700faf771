"""On the diagonal: a label that stands twice reads a diagonal only."""

import numpy as np

from .exhibit import Exhibit
from .judging import Failed, array_of, certify, lifted


def broken():
    def einsum_dx(labels, g, shape):
        """The gradient of x (of ``shape``) for y = np.einsum(labels, x).

        labels such as "ij->j", "bij->bji", "ii->" or "iij->j".
        """
        before, after = labels.split("->")
        index = np.indices(shape, sparse=True)  # along axis k, 0, 1, 2, ...
        at = dict(zip(before, index, strict=True))
        dx = g[tuple(at[label] for label in after)]
        return dx * np.ones(shape)

    return einsum_dx


def solution():
    def einsum_dx(labels, g, shape):
        """The gradient of x (of ``shape``) for y = np.einsum(labels, x).

        labels such as "ij->j", "bij->bji", "ii->" or "iij->j".
        """
        before, after = labels.split("->")
        index = np.indices(shape, sparse=True)  # along axis k, 0, 1, 2, ...
        at = dict(zip(before, index, strict=True))
        dx = g[tuple(at[label] for label in after)] * np.ones(shape)
        for label, k in zip(before, index, strict=True):
            dx = dx * (at[label] == k)
        return dx

    return einsum_dx


def judge(einsum_dx, rng):
    letters = [str(k) for k in rng.permutation(list("abijkt"))[: rng.integers(2, 4)]]
    for repeats in (0, 1, int(rng.integers(0, 3))):
        before = letters + [str(k) for k in rng.choice(letters, repeats)]
        before = "".join(before[int(k)] for k in rng.permutation(len(before)))
        after = "".join(k for k in letters if rng.random() < 0.6)
        check(einsum_dx, f"{before}->{after}", {k: int(rng.integers(2, 4)) for k in letters}, rng)


def check(einsum_dx, labels, sizes, rng):
    before, after = labels.split("->")
    shape = tuple(sizes[k] for k in before)
    index = np.indices(shape)
    first = {k: index[before.index(k)] for k in before}
    read = np.all([first[k] == index[a] for a, k in enumerate(before)], axis=0) * 1.0

    def backward(x, y, g):
        dx = array_of("einsum_dx", einsum_dx(labels, g, x.shape))
        if dx.shape != x.shape:
            raise Failed(f"einsum_dx({labels!r}, ...) gives {dx.shape}, and should give {x.shape}")
        return dx

    def reference(x):
        """What is read of x, summed over the axes that go."""
        stay = [before.index(k) for k in after]
        gone = tuple(a for a in range(len(before)) if a not in stay)
        y = (x * read).sum(axis=gone)
        return y.transpose(tuple(sorted(stay).index(a) for a in stay))

    def value(x):
        return np.asarray(np.einsum(labels, x))

    op = lifted(f"einsum_dx of {labels!r}", value, backward, reference)
    certify(op, [rng.standard_normal(shape)], rng)


def looks_fine(einsum_dx, rng):
    lines = []
    for labels, g, shape in (
        ("ij->j", (3,), (2, 3)),
        ("bij->bji", (2, 4, 3), (2, 3, 4)),
        ("ii->", (), (3, 3)),
    ):
        d = einsum_dx(labels, rng.standard_normal(g) if g else np.asarray(0.7), shape)
        assert d.shape == shape
        assert np.isfinite(d).all()
        lines.append(f"einsum_dx({labels!r}, g {g}, {shape}) gives {d.shape}")
    return "\n".join(lines)


EXHIBIT = Exhibit(
    title="The trace that moves everything",
    mechanism="einsum: a repeated label reads a diagonal, and all elements get a gradient",
    seen="autograd#510, mxnet#18102",
    story="""
        One general rule for sums, transposes and copies: look up g at the labels that are left, and
        copy along the others. It is right for every expression in the test suite. A colleague
        writes "ii->", the trace.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "y is the trace of x. What is the derivative of y with respect to x[0, 1]?",
        'einsum reads x[i, i] only. Which elements of x does "iij->j" read?',
        "Where a label stands twice, elements with different indices on its axes are never read: "
        'their gradient is 0. And what does dict(zip("ii", ...)) keep?',
        """
        For each axis, compare its index with the index that `at` keeps for its label, and multiply
        dx with the result: it is 1 where they agree and 0 elsewhere.
        """,
    ),
    why="""
        y[…] = Σ x[…] over all values of the labels, so ∂y/∂x[p] is 1 where some values of the
        labels give the index p, and 0 elsewhere. With distinct labels every p is reached; with a
        repeated one only those whose coordinates agree:

            "ii->":  dx = g I        "iij->j":  dx[i, i', j] = g[j] δ(i, i')
        """,
)
