"""A budget for what a training step keeps until its backward pass.

A forward pass keeps the arrays that the backward pass will want: about as many numbers as there are
in all layers together, for every token of the batch. Where that is too much, whole stretches of the
model are computed again on the way back (:func:`tinygrad_mha.checkpoint`): the same gradients to
the last bit, for up to a third more time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from tinygrad_mha import Tensor
from tinygrad_mha.anomaly import saved_arrays
from tinygrad_mha.tensor import history, value

from .errors import InputError

# What is computed again, in the order in which it is tried: first the score matrices, which grow
# with the square of the text's length and are computed again a few texts at a time.
LEVELS: tuple[tuple[str, ...], ...] = (
    (),
    ("scores",),
    ("scores", "attention"),
    ("scores", "attention", "rnn"),
)


def kept_bytes(loss: Tensor, besides: Iterable[Tensor] = ()) -> int:
    """The memory of all arrays that the graph behind ``loss`` keeps, but not of ``besides``."""
    known = {id(_memory(value(x))) for x in besides}
    total = 0
    for t in history([loss]):
        for _, a in saved_arrays(t.node, ()):
            memory = _memory(a)
            if id(memory) not in known:
                known.add(id(memory))
                total += memory.nbytes
    return total


def _memory(a: Any) -> Any:
    """The array that owns the memory of a view."""
    while getattr(a, "base", None) is not None and hasattr(a.base, "nbytes"):
        a = a.base
    return a


def fit(model: Any, loss_of: Callable[[], Tensor], budget: int) -> int:
    """Set ``model.recompute`` so that a step keeps at most ``budget`` bytes; returns how many.

    ``loss_of`` runs the model on its largest batch. What is computed again needs memory too, a
    stretch at a time, and counts.

    Raises
    ------
    InputError
        If nothing is small enough; ``model.recompute`` is as it was then.
    """
    before, seen = model.recompute, [0]
    for level in LEVELS:
        model.recompute = level
        seen.append(kept_bytes(loss_of(), model.parameters()))
        # of the stretches that are computed again, the largest is there as well while it lasts
        need = seen[-1] + max((a - b for a, b in pairwise(seen[2:])), default=0)
        if need <= budget:
            return need
    model.recompute = before
    raise InputError(
        f"a step keeps {need / 2**20:,.0f} MB at the least, more than --memory {budget >> 20}; "
        "choose a smaller --batch-size, --max-len or --d-model"
    )
