"""Chapter 21: forget what a stretch of the computation saved, and compute it again on the way back.

A recorded stretch of a model keeps every array that its backward pass will want. Recomputed, it
keeps its inputs alone; the price is a second forward pass. Source: Chen et al., Training Deep Nets
with Sublinear Memory Cost, §3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .random import masks, replay
from .tensor import (
    REGISTRY,
    Node,
    Op,
    Tensor,
    _wrap,
    backpropagate,
    clock,
    history,
    modes,
    recording,
    value,
    wanted,
)


def checkpoint(fn: Callable, *inputs: Any) -> Any:
    """``fn(*inputs)``, whose insides are computed again during the backward pass.

    Parameters
    ----------
    fn : function of the inputs
        Returns a Tensor or a tuple of Tensors. Called a second time it has to do the same; dropout
        does, with the same masks. Tensors that it closes over, such as the weights of a module, get
        their gradients too.
    *inputs : Tensor or anything else

    Returns
    -------
    What ``fn`` returns; values and gradients are the same to the last bit.

    Raises
    ------
    TypeError
        If ``fn`` returns anything but Tensors.

    Examples
    --------
    >>> import tinygrad_mha as tg
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> y = checkpoint(lambda x: tg.tanh(x) * tg.exp(x), x)  # keeps x, and neither tanh nor exp
    >>> y.sum().backward()
    >>> x.grad.numpy().round(3)
    array([3.212, 7.645], dtype=float32)
    """
    if not modes.recording:
        return fn(*inputs)
    state, since = masks(), next(clock)
    aliases = [_leaf(x) for x in inputs]
    y = fn(*aliases)
    outputs = _checked(y)
    roots = [t for t in outputs if wanted(t)]
    inside = {id(x) for x in aliases}
    # What fn closes over is older than the call, and was reached by its graph all the same.
    reached = dict.fromkeys(
        x for t in history(roots, after=since) for x in t.node.inputs if wanted(x)
    )
    outside = [x for x in [*reached, *roots] if _older(x, since) and id(x) not in inside]
    outside = list(dict.fromkeys(outside))
    if not (any(map(wanted, inputs)) or outside):
        return y
    given = (*inputs, *outside)
    node = Node(
        recomputed,
        given,
        [value(x) for x in given],
        {"fn": fn, "state": state, "count": len(inputs)},
        None,
        len(outputs) if isinstance(y, tuple) else 0,
    )
    if modes.watcher is not None:
        modes.watcher.forgets(inputs, outputs)
        modes.watcher.called(recomputed, given, node.params, [t.data for t in outputs], node)
    results = tuple(_wrap(t.data, node if wanted(t) else None, k) for k, t in enumerate(outputs))
    return results if isinstance(y, tuple) else results[0]


def _leaf(x: Any) -> Any:
    """The values of a Tensor, at the beginning of a graph of their own."""
    if not isinstance(x, Tensor):
        return x
    leaf = x.detach()
    leaf.tracked = x.tracked
    return leaf


def _older(x: Tensor, since: int) -> bool:
    return x.node is None or x.node.born < since


def _checked(y: Any) -> Sequence[Tensor]:
    outputs = y if isinstance(y, tuple) else (y,)
    for t in outputs:
        if not isinstance(t, Tensor):
            raise TypeError(
                f"checkpoint: fn returned a {type(t).__name__}, and should return a Tensor or a "
                "tuple of Tensors"
            )
    return outputs


class Recomputed(Op):
    """The op of a checkpoint's node: there is no formula, ``fn`` is differentiated where it is."""

    def pull(
        self, node: Node, y: Tensor, g: Any, wants: list[bool], create_graph: bool
    ) -> Sequence:
        if create_graph:
            self._check_data(node)
        fn, state, count = (node.params[name] for name in ("fn", "state", "count"))
        given, outside = node.inputs[:count], node.inputs[count:]
        since = next(clock)
        with recording(True), replay(state):
            if create_graph:  # one alias an argument: the same Tensor may be given twice
                alias = REGISTRY["identity"]
                xs = [alias(x) if w else x for x, w in zip(given, wants[:count], strict=True)]
                since = next(clock)
            else:
                xs = [_leaf_of(x, a) for x, a in zip(given, node.arrays[:count], strict=True)]
            outputs = _checked(fn(*xs))
        targets = [*xs, *outside]
        gs = g if node.outputs else (g,)
        roots = [(t, d) for t, d in zip(outputs, gs, strict=True) if d is not None and wanted(t)]
        some = [x for x, w in zip(targets, wants, strict=True) if w]
        found = backpropagate(roots, some, create_graph, since=since)
        return [found.get(x) if w else None for x, w in zip(targets, wants, strict=True)]


def _leaf_of(x: Any, then: Any) -> Any:
    """As ``_leaf``, with the values of the forward pass."""
    if not isinstance(x, Tensor):
        return x
    leaf = _wrap(then)
    leaf.tracked = x.tracked
    return leaf


def _unused(*xs: Any, fn: Any, state: Any, count: int) -> Any:
    raise NotImplementedError("checkpoint() makes the node itself")


_unused.__name__ = "checkpoint"
recomputed = Recomputed(_unused, rules=_unused, registry={})
