"""The other denominator: a weighted mean divides by the weights, there and back."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def weighted_nll_reference(log_p, *, targets, weight):
        w = weight[targets]
        hit = log_p[np.arange(len(targets)), targets]
        return -(w * hit).sum() / w.sum()

    @tg.fused(reference=weighted_nll_reference, registry=mine)
    def weighted_nll(log_p, *, targets, weight):
        """The weighted mean of -log p[target]: (n, c), (n,) and (c,)."""
        rows, w = np.arange(len(targets)), weight[targets]
        y = -(w * log_p[rows, targets]).sum() / w.sum()

        def pullback(g):
            dlog_p = np.zeros_like(log_p)
            dlog_p[rows, targets] = -g * w / len(targets)
            return (dlog_p,)

        return y, pullback

    return weighted_nll


def solution():
    mine = {}

    def weighted_nll_reference(log_p, *, targets, weight):
        w = weight[targets]
        hit = log_p[np.arange(len(targets)), targets]
        return -(w * hit).sum() / w.sum()

    @tg.fused(reference=weighted_nll_reference, registry=mine)
    def weighted_nll(log_p, *, targets, weight):
        """The weighted mean of -log p[target]: (n, c), (n,) and (c,)."""
        rows, w = np.arange(len(targets)), weight[targets]
        y = -(w * log_p[rows, targets]).sum() / w.sum()

        def pullback(g):
            dlog_p = np.zeros_like(log_p)
            dlog_p[rows, targets] = -g * w / w.sum()
            return (dlog_p,)

        return y, pullback

    return weighted_nll


def judge(weighted_nll, rng):
    n, classes = int(rng.integers(1, 7)), int(rng.integers(2, 5))
    targets, weight = rng.integers(0, classes, n), rng.uniform(0.1, 3, classes)
    weight[targets[0]] += 3  # so that the weights do not happen to be 1 on average
    log_p = np.log(rng.dirichlet(np.ones(classes), n) + 1e-3)
    w = weight[targets]
    wanted = np.asarray(-(w * log_p[np.arange(n), targets]).sum() / w.sum())
    told = f"targets {targets.tolist()}, weight {weight.round(2).tolist()}"
    got = weighted_nll(log_p, targets=targets, weight=weight)
    same("weighted_nll", got, wanted, told=told)
    certify(weighted_nll, [log_p], rng, targets=targets, weight=weight)


EXHIBIT = Exhibit(
    title="The rare class that is too loud",
    mechanism="the backward pass divides by another number than the forward pass",
    seen="pytorch#25571, #40560 and #72047 (n or the sum of the weights? users expect either)",
    story="""
        Rare classes get larger weights in the loss, so that they count. The value of the loss is
        the one that PyTorch gives. But the learning rate that was fine without weights is ten times
        too large with them, and how much so depends on the batch.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(
        lambda rng: [np.log(rng.dirichlet(np.ones(3), 4))],
        targets=np.array([0, 2, 1, 1]),
        weight=np.array([1.0, 2.0, 0.5]),
    ),
    judge=judge,
    hints=(
        "What happens to the loss if all weights are doubled? And to its gradient?",
        "The loss stays what it was: numerator and denominator both double. So must the gradient. "
        "Which number does each of the two lines divide by?",
        "A weighted mean divides by the sum of its weights. So has the pullback to.",
        "-g * w / w.sum()",
    ),
    why="""
        y = −Σ wₖ log pₖ / Σ wₖ. The denominator does not depend on log p, so it stays in place in
        the derivative:

            ∂y/∂(log pₖ) = −wₖ / Σ w

        The sum of these is −1 for every choice of weights. Forward and backward pass are one
        formula, written down twice: whatever is changed in one has to be changed in the other.
        """,
    withheld=("nll_loss", "cross_entropy"),
)
