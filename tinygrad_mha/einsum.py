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

Loops are slow. summation.py (one operand), contraction.py (two) and schedule.py (more) find the
matrix products that hide in the labels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array
from .contraction import einsum_of_two
from .movement import astype, broadcast_to, scatter
from .sampling import normal
from .schedule import at_once, einsum_of_many, schedule
from .subscripts import Shape, parse, remembered, shape_of
from .summation import einsum_of_one
from .tensor import Op, Tensor, constant, is_floating

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


# -------------------------------------------------------------------------------------- the op


class Einsum(Op):
    """An op whose calls begin with the subscripts, and which takes its operands two at a time."""

    def __call__(self, *args: Any, **params: Any) -> Any:
        if args and isinstance(args[0], str) and not params:
            params, args = {"subscripts": args[0]}, args[1:]
        if len(args) > 1:
            self._bind(args, params)
            arrays = [a.data if isinstance(a, Tensor) else a for a in args]
            dtypes = [getattr(a, "dtype", None) for a in arrays]
            if dtypes.count(dtypes[0]) < len(dtypes):
                args = self._in_one_dtype(args)
        if len(args) > 2:
            return self._by_pairs(args, params)
        return super().__call__(*args, **params)

    def _in_one_dtype(self, args: tuple) -> tuple:
        """As they are multiplied in the end. In their own, bytes would overflow before they meet
        numbers of more digits, and two booleans be added to True.
        """
        weak = any(isinstance(a, Tensor) or (is_array(a) and is_floating(a)) for a in args)
        args = tuple(a if isinstance(a, Tensor) else constant(a, self, weak) for a in args)
        dtypes = {a.dtype for a in args if hasattr(a, "dtype")}
        if len(dtypes) < 2:
            return args
        wide = np.result_type(*({d for d in dtypes if d.kind in "fc"} or dtypes))
        return tuple(_cast(a, wide) if hasattr(a, "dtype") else a for a in args)

    def _bind(self, args: tuple, params: dict) -> tuple[tuple, dict]:
        if not (args and params.keys() == self.known and isinstance(params["subscripts"], str)):
            raise TypeError(
                "einsum: write the subscripts, then the arrays, and nothing else, as in "
                "einsum('ij,jk->ik', a, b)"
            )
        return args, params

    def _by_pairs(self, args: tuple, params: dict) -> Any:
        rest = list(args)
        subscripts, shapes = params["subscripts"], tuple(map(shape_of, rest))
        if at_once(subscripts, shapes) and all(hasattr(x, "shape") for x in rest):
            return super().__call__(*rest, **params)
        for i, j, step in schedule(subscripts, shapes):
            b, a = rest.pop(j), rest.pop(i)
            arrays = hasattr(a, "shape") or hasattr(b, "shape")
            rest.append(super().__call__(a, b, subscripts=step) if arrays else a * b)
        return rest[0]


def _cast(a: Any, dtype: Any) -> Any:
    if a.dtype == dtype:
        return a
    return astype(a, dtype=dtype) if isinstance(a, Tensor) else a.astype(dtype)


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
    if len(xs) == 2:
        return einsum_of_two(subscripts, *xs)
    return einsum_of_many(subscripts, *xs)
