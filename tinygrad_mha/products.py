"""Chapter 5: products of matrices and vectors."""

from __future__ import annotations

import math

from .movement import expand_dims, mT
from .primitives import attach, attach_operator
from .sampling import normal
from .tensor import misfit, primitive


def _as_matrices(g, a, b):
    """A product with a vector in it is a product of matrices with one row or one column."""
    if a.ndim == 1:
        a, g = a.reshape((1, -1)), expand_dims(g, axis=-1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        b, g = b.reshape((-1, 1)), expand_dims(g, axis=-1)
    return g, a, b


def matmul_da(g, y, a, b):
    g2, _, b2 = _as_matrices(g, a, b)
    return matmul(g2, mT(b2))  # a vector's extra axis of length 1 is summed away like a broadcast


def matmul_db(g, y, a, b):
    g2, a2, _ = _as_matrices(g, a, b)
    if b.ndim <= 2 < a2.ndim:  # one weight for a whole batch: one big product, not many and a sum
        rows = math.prod(a2.shape[:-1])
        a2, g2 = a2.reshape((rows, a2.shape[-1])), g2.reshape((rows, g2.shape[-1]))
    db = matmul(mT(a2), g2)
    return db.reshape(db.shape[:-1]) if b.ndim == 1 else db


@primitive(matmul_da, matmul_db, sample=normal((2, 3, 4), (4, 5)))
def matmul(a, b):
    """Matrix product over the last two axes; leading axes broadcast; a 1-d argument is a vector.

    y = a b        a: (..., n, k)    b: (..., k, m)    y: (..., n, m)
    da = g bᵀ      db = aᵀ g         (summed over the axes that were broadcast)
    """
    _check_product(a, b)
    if b.ndim == 2 < a.ndim and a.size:
        return (a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1])
    return a @ b


def _check_product(a, b) -> None:
    if not (getattr(a, "ndim", 0) and getattr(b, "ndim", 0)):
        sides = " and ".join(str(getattr(x, "shape", x)) for x in (a, b))
        raise ValueError(f"matmul: {sides} do not fit: a single number is multiplied with *, not @")
    shapes = f"matmul: a {tuple(a.shape)} and b {tuple(b.shape)} do not fit"
    k = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != k:
        which = "second-to-last" if b.ndim > 1 else "only axis"
        raise ValueError(f"{shapes}: a's last axis is {a.shape[-1]}, b's {which} is {k}")
    lead = {"a": a.shape[:-2], "b": b.shape[:-2]}
    if lead["a"] != lead["b"] and (problem := misfit(lead)):
        raise ValueError(f"{shapes}: of what comes before the matrices, {problem}")


# ------------------------------------------------------------------------------ outer product


@primitive(
    lambda g, y, a, b: matmul(g, b.reshape((-1,))).reshape(a.shape),
    lambda g, y, a, b: matmul(a.reshape((-1,)), g).reshape(b.shape),
    sample=normal((3,), (2,)),
)
def outer(a, b):
    """y_ij = a_i b_j, of two vectors (anything else is read as one row)

    da_i = Σ_j g_ij b_j         db_j = Σ_i g_ij a_i
    """
    return a.reshape(-1, 1) * b.reshape(1, -1)


attach_operator("matmul", matmul)
attach("matmul", matmul)
attach("outer", outer)
