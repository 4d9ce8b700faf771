"""Chapter 9: losses. How wrong are the predictions? One number, for training to make small.

All losses end alike: ``reduction="none"`` keeps one number for each prediction, ``"sum"`` adds them
up, and ``"mean"`` divides the sum by how many they are (0 if there are none).
"""

from __future__ import annotations

import numpy as np

from .backend import is_array, place_like, placed, xp
from .primitives import attach, softplus, times, where
from .reductions import sum
from .sampling import normal
from .softmax import log_softmax, log_softmax_reference
from .tensor import floating, fused, is_floating, value

# --------------------------------------------------------------------------------- the reduction


def share(reduction, count):
    """d result / d loss: what one loss weighs in the result, if the mean is over ``count``."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction {reduction!r} is none of 'mean', 'sum', 'none'")
    return 1 / count if reduction == "mean" else 1.0


def reduce(losses, reduction, count):
    """The losses as they are, their sum, or the sum over ``count``."""
    return losses if reduction == "none" else losses.sum() * share(reduction, count)


# ----------------------------------------------------------------------------- cross-entropy


def cross_entropy_reference(
    logits, targets, *, weight=None, label_smoothing=0.0, ignore_index=None, reduction="mean"
):
    """The definition: −Σ_c q_c log p_c, where q puts the weight where the target says."""
    rows, goal = _rows(value(logits), targets, ignore_index)
    q, total = _goal_distribution(rows, goal, weight, label_smoothing, ignore_index)
    log_p = log_softmax_reference(logits.reshape(rows.shape))
    losses = _surprise(q, log_p).reshape(logits.shape[:-1])
    return reduce(losses, reduction, total)


def _surprise(q, log_p):
    """−Σ_c q_c log p_c for each row; 0 · log 0 is 0, since nobody hoped for it."""
    return -sum(where(q == 0, 0.0, log_p) * q, axis=-1)


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
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing} is not between 0 and 1")
    rows, goal = _rows(logits, targets, ignore_index)
    q, total = _goal_distribution(rows, goal, weight, label_smoothing, ignore_index)
    part = share(reduction, total)
    log_p, _ = log_softmax.forward(rows)
    losses = -(xp(q).where(q == 0, q, log_p) * q).sum(axis=-1)

    def pullback(g):
        dx = xp(rows).exp(log_p)
        dx *= q.sum(axis=-1, keepdims=True)
        dx -= q
        dx *= (g * part).reshape(-1, 1)
        return dx.reshape(logits.shape), None

    return reduce(losses.reshape(logits.shape[:-1]), reduction, total), pullback


def _rows(logits, targets, ignore_index, name="logits"):
    """Logits as (N, C) and targets as (N,), checked on the host before they go to the device."""
    logits, targets = floating(logits), value(targets)
    targets = targets if is_array(targets) else np.asarray(targets)
    if not targets.size:  # an empty list has no dtype of its own
        targets = targets.astype(np.int64)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets are class numbers: an integer array, not {targets.dtype}")
    if not logits.ndim or targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"{name} {logits.shape} want targets {logits.shape[:-1]}, not {targets.shape}"
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
        [targets] = placed(logits, targets)
    return logits.reshape(targets.size, classes), targets.reshape(-1)


def _goal_distribution(rows, goal, weight, smoothing, ignore_index):
    """``q`` (N, C) of the docstring above, and the Σ w_t that ``"mean"`` divides by (1 for 0)."""
    m, (n, classes) = xp(rows), rows.shape
    counts = m.ones(n, rows.dtype) if ignore_index is None else (goal != ignore_index)
    w = _class_weights(weight, rows)
    one_hot = m.arange(classes) == goal[:, None]  # an ignored target may lie outside, and hits none
    w_t = (one_hot * w).sum(axis=-1)
    q = one_hot * w * (1 - smoothing)
    if smoothing:
        q = q + w * (smoothing / classes)
    if ignore_index is not None:
        q, w_t = q * counts[:, None], w_t * counts
    total = w_t.sum()
    return q.astype(rows.dtype, copy=False), total + (total == 0)


def _class_weights(weight, rows):
    """(C,), ones unless given."""
    classes = rows.shape[1]
    if weight is None:
        return xp(rows).ones(classes, rows.dtype)
    w = _beside(weight, rows)
    if w.shape != (classes,):
        raise ValueError(f"weight {w.shape} should hold one number for each of {classes} classes")
    return w


def _beside(weight, x):
    """A constant, given as an array, a Tensor, a list or a number: an array like x."""
    w = value(weight)
    w = w if is_array(w) else np.asarray(w)
    return (place_like(w, x) if xp(w) is np else w).astype(x.dtype, copy=False)


# ------------------------------------------------------------------ negative log-likelihood


def nll_loss_reference(log_probs, targets, *, weight=None, ignore_index=None, reduction="mean"):
    """The definition: −w_t log p_t, which is a cross-entropy whose logarithms are known."""
    rows, goal = _rows(value(log_probs), targets, ignore_index, "log_probs")
    q, total = _goal_distribution(rows, goal, weight, 0.0, ignore_index)
    losses = _surprise(q, log_probs.reshape(rows.shape)).reshape(log_probs.shape[:-1])
    return reduce(losses, reduction, total)


@fused(
    reference=nll_loss_reference,
    sample=lambda rng: ((rng.standard_normal((3, 4)), rng.integers(0, 4, 3)), {}),
)
def nll_loss(log_probs, targets, *, weight=None, ignore_index=None, reduction="mean"):
    """The negative log-likelihood of the targets: cross-entropy for who has the logarithms already.

    log_probs: (..., C)    targets: (...) integers in [0, C)    weight: (C,), one for each class

    loss = −w_t log p_t          (0 where the target is ``ignore_index``)
    dlog_probs_c = −g w_t where c = t, else 0

    One number a row is read, and one is written on the way back. ``reduction="mean"`` divides by
    Σ w_t over the rows that count. ``nll_loss(log_softmax(x), t)`` is ``cross_entropy(x, t)``.
    """
    rows, goal = _rows(log_probs, targets, ignore_index, "log_probs")
    m, w = xp(rows), _class_weights(weight, rows)
    counts = True if ignore_index is None else goal != ignore_index
    at = m.arange(goal.size), goal * counts  # what does not count reads class 0, for nothing
    w_t = w[at[1]] * counts
    total = w_t.sum()
    total = total + (total == 0)
    part = share(reduction, total)
    losses = -m.where(w_t == 0, w_t, rows[at]) * w_t

    def pullback(g):
        dx = m.zeros_like(rows)
        dx[at] = (g * part).reshape(-1) * -w_t  # one place a row, so none comes twice
        return dx.reshape(log_probs.shape), None

    return reduce(losses.reshape(log_probs.shape[:-1]), reduction, total), pullback


# ----------------------------------------------------------------------- yes or no, many times


def binary_cross_entropy_with_logits_reference(
    logits, targets, *, weight=None, pos_weight=None, reduction="mean"
):
    """The definition: what x costs if the truth is yes, and if it is no, as far as it is so."""
    x, t = _pair(logits, targets, "logits")
    w, p = _fitting(weight, x, "weight"), _fitting(pos_weight, x, "pos_weight")
    free = _free(value(x), value(t))
    if_yes, if_no = where(free, 0.0, softplus(-x)), where(free, 0.0, softplus(x))
    return reduce((t * if_yes * p + (1.0 - t) * if_no) * w, reduction, max(x.size, 1))


@fused(
    reference=binary_cross_entropy_with_logits_reference,
    sample=lambda rng: ((rng.standard_normal((3, 4)), rng.random((3, 4))), {"pos_weight": 2.0}),
)
def binary_cross_entropy_with_logits(
    logits, targets, *, weight=None, pos_weight=None, reduction="mean"
):
    """How surprised ``sigmoid(logits)`` is by the targets: each number answers a yes-no question.

    loss = w (−p t log σ(x) − (1 − t) log (1 − σ(x)))           for logits x and targets t
    dlogits = g w ((1 − t) σ(x) − p t σ(−x))                    (σ(x) − t for p = 1)
    dtargets = g w (log (1 − σ(x)) − p log σ(x))

    targets: numbers from 0 (no) to 1 (yes), of the shape of logits; both may want a gradient.
    weight (w) and pos_weight (p, for the yes) are constants that broadcast to that shape: 1 unless
    given. ``reduction="mean"`` divides by how many logits there are, whatever their weights.

    −log σ(x) is softplus(−x), and −log (1 − σ(x)) is softplus(x): there is no log that could meet
    a 0. A logit of ±inf that is right costs nothing, though the other answer would cost infinity.
    """
    x, t = _pair(logits, targets, "logits")
    w, p = _fitting(weight, x, "weight"), _fitting(pos_weight, x, "pos_weight")
    m, part = xp(x), share(reduction, max(x.size, 1))
    e = m.exp(-m.abs(x))
    small, zero = m.log1p(e), x.dtype.type(0)
    free = _free(x, t)
    if_yes = m.where(free, zero, m.maximum(-x, 0) + small)  # softplus(−x)
    if_no = m.where(free, zero, m.maximum(x, 0) + small)  # softplus(x)

    def dlogits(g):
        one = x.dtype.type(1)
        yes, no = m.where(x > 0, one, e), m.where(x > 0, e, one)  # σ(x), σ(−x), both · (1 + e)
        return times(g * part * w, ((1 - t) * yes - p * t * no) / (1 + e))  # t may be NaN at g = 0

    def pullback(g):
        return lambda: dlogits(g), lambda: times(g * part * w, p * if_yes - if_no)

    losses = (p * t * if_yes + (1 - t) * if_no) * w
    return reduce(losses, reduction, max(x.size, 1)), pullback


def _free(x, t):
    """Where an infinite logit is right: nobody has to pay for the other answer, and 0 · ∞ is 0."""
    m = xp(x)
    return m.isinf(x) & (t == (x > 0))


def _fitting(weight, x, name):
    """A constant that broadcasts to x."""
    if weight is None:
        return 1.0
    w = _beside(weight, value(x))
    sides = zip(w.shape[::-1], x.shape[::-1], strict=False)
    if w.ndim > x.ndim or any(n not in (1, side) for n, side in sides):
        raise ValueError(f"{name} {w.shape} does not broadcast to the logits {x.shape}")
    return w


# ------------------------------------------------------------------------------ square errors


def mse_loss_reference(predictions, targets, *, reduction="mean"):
    """The definition: the mean of the squared distances."""
    p, t = _pair(predictions, targets, "predictions")
    return reduce((p - t) * (p - t), reduction, max(p.size, 1))


@fused(reference=mse_loss_reference, sample=normal((3, 4), (3, 4)))
def mse_loss(predictions, targets, *, reduction="mean"):
    """The mean squared error.

    loss = (p − t)²         dpredictions = 2 g (p − t)          dtargets = −2 g (p − t)

    The two shapes have to be equal: (N, 1) beside (N,) would be broadcast to (N, N), which compares
    every prediction with every target, and still learns something: the mean of the targets.
    """
    p, t = _pair(predictions, targets, "predictions")
    count = max(p.size, 1)
    part, error = share(reduction, count), p - t

    def pullback(g):
        d = times(g * (2 * part), error)  # where g is 0, a target may be NaN
        return d, lambda: -d

    return reduce(error * error, reduction, count), pullback


def _pair(x, targets, name):
    """Predictions and targets, which have one shape, as floating-point numbers of one dtype."""
    if not is_floating(x):
        x = value(x)
        x = floating(x if is_array(x) else np.asarray(x))
    t = targets if is_floating(targets) else _beside(targets, value(x))
    if x.shape != t.shape:
        raise ValueError(
            f"{name} {x.shape} and targets {t.shape} should have one shape: nothing is broadcast "
            "here, since (N, 1) beside (N,) would silently compare all with all; reshape one"
        )
    return x, t


for _op in (cross_entropy, nll_loss, binary_cross_entropy_with_logits, mse_loss):
    attach(_op.name, _op)
