"""What a whole picture of numbers says: gradients over the steps of an LSTM, attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..attention import attention_weights
from ..backend import to_host
from ..lstm import lstm
from ..tensor import Tensor, backpropagate, recording, setting, value
from .summary import heat, short

TEXTS, HEADS = 4, 16  # maps that are drawn of one call
STEPS = 300  # of an LSTM


def lstm_view(call: int, arrays: Sequence[Any], params: dict, g: Any) -> list[dict[str, Any]]:
    """How large the gradient of the hidden state is at each step, with three forget biases.

    ``from_loss`` takes the gradients that came to the outputs of this call. ``from_end`` begins
    with a random one at the last step alone: how much of it is left after so many steps, relative
    to where it began, is what vanishing and exploding mean. Source: Pascanu, Mikolov and Bengio, On
    the difficulty of training recurrent neural networks, §2.1; a forget bias of 1: Jozefowicz,
    Zaremba and Sutskever, An Empirical Exploration of Recurrent Network Architectures, §2.1.
    """
    xs: list[Any] = [None if a is None else np.asarray(to_host(a)) for a in arrays]
    x = xs[0]
    if x is None or not 1 < len(x) <= STEPS or not x.shape[1]:
        return []
    gs = g if isinstance(g, tuple) else (g,)
    dy = np.zeros((*x.shape[:2], xs[1].shape[1])) if gs[0] is None else to_host(value(gs[0]))
    n = xs[1].shape[1]
    own = [
        b[n : 2 * n].astype(np.float64).mean() for b in (xs[5], xs[6]) if b is not None
    ]  # of the forget gate
    curves = []
    for name, bias in (("as it is", None), ("forget bias 0", 0.0), ("forget bias 1", 1.0)):
        weights = list(xs[3:])
        if bias is not None:
            weights[2] = np.zeros(4 * n, x.dtype) if weights[2] is None else weights[2].copy()
            other = 0.0 if weights[3] is None else weights[3][n : 2 * n]
            weights[2][n : 2 * n] = bias - other
        from_loss, from_end = state_gradients(x, xs[1], xs[2], weights, params, dy)
        curves.append({"name": name, "from_loss": from_loss, "from_end": from_end})
    return [{"call": call, "steps": len(x), "bias": short(float(sum(own))), "curves": curves}]


def state_gradients(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, weights: list, params: dict, dy: np.ndarray
) -> tuple[list, list]:
    """The norm of ∂L/∂h_t at each step, in the order of time: for L's own gradient, and for one
    that begins at the last step, relative to that."""
    order = range(len(x))[:: -1 if params.get("reverse") else 1]
    lengths = params.get("lengths")
    lengths = np.full(x.shape[1], len(x)) if lengths is None else to_host(value(lengths))
    states: list[Tensor] = []
    with recording(True), setting("watcher", None):
        h_t, c_t = Tensor(h, requires_grad=True), Tensor(c)
        for t in order:  # the same op, a step at a time
            runs = (lengths > t).astype(np.int64)
            _, h_t, c_t = lstm(x[t : t + 1], h_t, c_t, *weights, lengths=runs)
            states.append(h_t)
        rng = np.random.default_rng(0)
        seed = rng.standard_normal(h.shape).astype(h.dtype)
        seed *= (lengths == lengths.max())[:, None]  # the others stand still at their end
        told = []
        for roots in (
            [
                (s, (dy[t] * (lengths > t)[:, None]).astype(h.dtype))
                for t, s in zip(order, states, strict=True)
            ],
            [(states[-1], seed)],
        ):
            found = backpropagate(roots, states, False)
            norms = [float(np.linalg.norm(found[s])) if s in found else 0.0 for s in states]
            told.append(norms)
    if params.get("reverse"):
        told = [norms[::-1] for norms in told]
    first = float(np.linalg.norm(seed)) or 1.0
    return [short(v) for v in told[0]], [short(v / first) for v in told[1]]


def attention_view(call: int, arrays: Sequence[Any], params: dict) -> list[dict[str, Any]]:
    """The weights of the first texts and heads, as heat maps."""
    q, k = (np.asarray(to_host(a)) for a in arrays[:2])
    mask = params.get("mask")
    mask = None if mask is None else to_host(mask)
    how = {name: params.get(name) for name in ("is_causal", "scale")}
    with recording(False), setting("watcher", None):
        p = np.asarray(value(attention_weights(q, k, mask=mask, **how)))
    if p.ndim < 2 or not p.size:
        return []
    p = p.reshape((-1, *p.shape[-3:])) if p.ndim > 2 else p[None, None]
    maps = [
        {"text": i, "head": j, "heat": heat(p[i, j], 48)}
        for i in range(min(len(p), TEXTS))
        for j in range(min(p.shape[1], HEADS))
    ]
    return [{"call": call, "shape": list(p.shape), "maps": maps}]
