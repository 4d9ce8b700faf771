"""Chapter 8: softmax and its logarithm.

Each op is a pair. The ``*_reference`` is the definition in primitives: read it first. The fused op
under it computes the same numbers with one recorded node and no more arrays than it needs.
"""

from __future__ import annotations

import numpy as np

from .backend import is_array, place_like, xp
from .primitives import attach, exp, log, where
from .reductions import sum
from .sampling import normal
from .tensor import floating, fused, value

# ----------------------------------------------------------------------------------- softmax


def shift_of(x, axis):
    """The maximum, as a constant: subtracting it changes no quotient and prevents overflow.

    A row of nothing but -inf has no finite maximum; 0 is as good there, and -inf - (-inf) is not.
    """
    if not x.size:
        return xp(x).zeros((), x.dtype)
    top = x.max(axis=axis, keepdims=True)
    return xp(x).where(top == -np.inf, x.dtype.type(0), top)


def softmax_reference(x, *, axis=-1):
    """The definition; a row of nothing but -inf has no exponential to share and stays 0."""
    e = exp(x - shift_of(value(x), axis))
    total = sum(e, axis=axis, keepdims=True)
    return e / where(value(total) == 0, 1.0, total)


def softmax_into(x, axis):
    """Overwrite array x, which the caller owns, with its softmax; returns x."""
    m = xp(x)
    x -= shift_of(x, axis)
    m.exp(x, out=x)
    total = x.sum(axis=axis, keepdims=True)
    total += total == 0
    x /= total
    return x


@fused(reference=softmax_reference, sample=normal((2, 5), axis=-1))
def softmax(x, *, axis=-1):
    """Exponentials that sum to one along ``axis`` (or several, given a tuple).

    y_i = e^(x_i) / Σ_j e^(x_j)        dx = y · (g − ⟨g, y⟩)

    Since ∂y_i/∂x_j = y_i (δ_ij − y_j), every input moves every output of its row; the sum over i
    leaves one inner product a row. A row of nothing but -inf gives zeros, and zero gradients.
    """
    y = softmax_into(floating(x) * 1, axis)

    def pullback(g):
        dx = g * y
        dx -= y * dx.sum(axis=axis, keepdims=True)
        return (dx,)

    return y, pullback


# ------------------------------------------------------------------------------- log-softmax


def log_softmax_reference(x, *, axis=-1):
    """The definition; never as log(softmax(x)), whose logarithm of 0 would be -inf too early."""
    shifted = x - shift_of(value(x), axis)
    total = sum(exp(shifted), axis=axis, keepdims=True)
    return shifted - log(where(value(total) == 0, 1.0, total))


@fused(reference=log_softmax_reference, sample=normal((2, 5), axis=-1))
def log_softmax(x, *, axis=-1):
    """The logarithm of softmax, without ever leaving the logarithms.

    y_i = x_i − log Σ_j e^(x_j)        dx = g − e^y · Σ g
    """
    m, x = xp(x), floating(x)
    y = x - shift_of(x, axis)
    total = m.exp(y).sum(axis=axis, keepdims=True)
    total += total == 0
    y -= m.log(total)

    def pullback(g):
        dx = m.exp(y)
        dx *= g.sum(axis=axis, keepdims=True)
        return (m.subtract(g, dx, out=dx),)

    return y, pullback


# ----------------------------------------------------------------------------- cross-entropy


def cross_entropy_reference(
    logits, targets, *, weight=None, label_smoothing=0.0, ignore_index=None, reduction="mean"
):
    """The definition: −Σ_c q_c log p_c, where q puts the weight where the target says."""
    rows, goal = _rows(value(logits), targets, ignore_index)
    q, total = _goal_distribution(rows, goal, weight, label_smoothing, ignore_index)
    log_p = log_softmax_reference(logits.reshape(rows.shape))
    losses = -sum(where(q == 0, 0.0, log_p) * q, axis=-1)  # 0 · log 0 is 0: nobody hoped for it
    if reduction == "none":
        return losses.reshape(logits.shape[:-1])
    return sum(losses) / total if reduction == "mean" else sum(losses)


def _loss_sample(rng):
    return (rng.standard_normal((3, 4)), rng.integers(0, 4, 3)), {"label_smoothing": 0.1}


@fused(reference=cross_entropy_reference, sample=_loss_sample)
def cross_entropy(
    logits, targets, *, weight=None, label_smoothing=0.0, ignore_index=None, reduction="mean"
):
    """How surprised ``softmax(logits)`` is by the targets, in nats.

    logits: (..., C)    targets: (...) integers in [0, C)    weight: (C,), one for each class

    Smoothing by ε moves that share of each target evenly to all classes, so that a row's goal is
        q_c = (1 − ε) w_t [c = t] + (ε / C) w_c        (0 where the target is ``ignore_index``)
    loss = −Σ_c q_c log p_c,   p = softmax(logits)
    dlogits_c = g (p_c Σ_k q_k − q_c)

    since −q_c log p_c has the derivative q_c (p_k − δ_ck). For plain targets that is the famous
    p − y. ``reduction``: ``"none"`` keeps a loss for each row, ``"sum"`` adds them up, and
    ``"mean"`` divides the sum by Σ w_t over the rows that count (0 if none does).

    Source: Goodfellow, Bengio, Courville, Deep Learning, §6.2.2.3; smoothing: Szegedy et al.,
    Rethinking the Inception Architecture, §7.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction {reduction!r} is none of 'mean', 'sum', 'none'")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not between 0 and 1")
    rows, goal = _rows(logits, targets, ignore_index)
    q, total = _goal_distribution(rows, goal, weight, label_smoothing, ignore_index)
    log_p, _ = log_softmax.forward(rows)
    losses = -(xp(q).where(q == 0, q, log_p) * q).sum(axis=-1)
    scale = 1 / total if reduction == "mean" else None
    if reduction == "none":
        y = losses.reshape(logits.shape[:-1])
    else:
        y = losses.sum() if scale is None else losses.sum() * scale

    def pullback(g):
        dx = xp(rows).exp(log_p)
        dx *= q.sum(axis=-1, keepdims=True)
        dx -= q
        dx *= g.reshape(-1, 1) if scale is None else g * scale
        return dx.reshape(logits.shape), None

    return y, pullback


def _rows(logits, targets, ignore_index):
    """Logits as (N, C) and targets as (N,), checked on the host before they go to the device."""
    logits, targets = floating(logits), value(targets)
    targets = targets if is_array(targets) else np.asarray(targets)
    if not targets.size:  # an empty list has no dtype of its own
        targets = targets.astype(np.int64)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets are class numbers: an integer array, not {targets.dtype}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"logits {logits.shape} want targets {logits.shape[:-1]}, not {targets.shape}"
        )
    classes = logits.shape[-1]
    if xp(targets) is np:  # what is on the GPU already was checked on its way there
        bad = (targets < 0) | (targets >= classes)
        if ignore_index is not None:
            bad &= targets != ignore_index
        if bad.any():
            where_ = np.argwhere(bad)[0].tolist()
            raise ValueError(
                f"target {targets[bad][0]} at {where_} is no class number: there are {classes} "
                "classes, from 0 on (ignore_index=… leaves a value out)"
            )
        targets = place_like(targets, logits)
    return logits.reshape(-1, classes), targets.reshape(-1)


def _goal_distribution(rows, goal, weight, smoothing, ignore_index):
    """``q`` (N, C) of the docstring above, and the Σ w_t that ``"mean"`` divides by (1 for 0)."""
    m, (n, classes) = xp(rows), rows.shape
    counts = m.ones(n, rows.dtype) if ignore_index is None else (goal != ignore_index)
    w = m.ones(classes, rows.dtype) if weight is None else value(weight)
    w = place_like(w if is_array(w) else np.asarray(w), rows).astype(rows.dtype, copy=False)
    if w.shape != (classes,):
        raise ValueError(f"weight {w.shape} should hold one number for each of {classes} classes")
    one_hot = m.arange(classes) == goal[:, None]  # an ignored target may lie outside, and hits none
    w_t = (one_hot * w).sum(axis=-1)
    q = one_hot * w * (1 - smoothing)
    if smoothing:
        q = q + w * (smoothing / classes)
    if ignore_index is not None:
        q, w_t = q * counts[:, None], w_t * counts
    total = w_t.sum()
    return q.astype(rows.dtype, copy=False), total + (total == 0)


attach("softmax", softmax)
attach("log_softmax", log_softmax)
