"""The big number: -1e9 is no infinity."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, pulled, same, shapes


def broken():
    def attention_weights(scores, allowed):
        """Softmax of a row over its allowed places; zeros if there is none."""
        scores = tg.where(allowed, scores, -1e9)
        top = scores.numpy().max(axis=-1, keepdims=True)
        e = tg.exp(scores - top)
        return e / e.sum(axis=-1, keepdims=True)

    return attention_weights


def solution():
    def attention_weights(scores, allowed):
        """Softmax of a row over its allowed places; zeros if there is none."""
        scores = tg.where(allowed, scores, -np.inf)
        top = scores.numpy().max(axis=-1, keepdims=True)
        top = np.where(top == -np.inf, 0.0, top)
        e = tg.exp(scores - top)
        total = e.sum(axis=-1, keepdims=True)
        return e / tg.where(total.numpy() == 0, 1.0, total)

    return attention_weights


def judge(attention_weights, rng):
    rows, keys = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    scores, allowed = rng.standard_normal((rows, keys)), rng.random((rows, keys)) < 0.6
    allowed[0] = False
    allowed[1, 0], allowed[1, 1:] = True, False
    order = rng.permutation(rows)
    allowed = allowed[order]
    g = rng.standard_normal((rows, keys))
    told = f"scores {scores.shape}, allowed {allowed.astype(int).tolist()}"
    y, (dscores,) = pulled(attention_weights, [scores, allowed], g)
    wanted = softmax_where(scores, allowed)
    same("attention_weights", y, wanted, told=told)
    wanted_d = wanted * (g - (g * wanted).sum(axis=-1, keepdims=True))
    same("the gradient of scores", dscores, wanted_d, told=told)
    certify(attention_weights, [scores, allowed], rng, order=2)
    low = np.round(scores * 4) - 2.0 ** rng.integers(31, 40)  # a score may be below -1e9
    y, _ = pulled(attention_weights, [low, allowed], g)
    same("attention_weights", y, softmax_where(low, allowed), told="scores far below -1e9")


def softmax_where(scores, allowed):
    masked = np.where(allowed, scores, -np.inf)
    top = masked.max(axis=-1, keepdims=True)
    e = np.exp(masked - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


EXHIBIT = Exhibit(
    title="The empty row that looks everywhere",
    mechanism="a large finite number stands for infinity in a mask",
    seen="ml-by-hand (-1e9); pytorch#41508 and #196170 (the row of -inf)",
    story="""
        Attention must not look at pads, so their scores are set to -1e9. In a batch with an empty
        text, a row has nothing it may look at. It should give zeros; it gives the mean of the
        pads. The obvious repair makes it NaN instead, which reaches every weight.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(
        lambda rng: [rng.standard_normal((2, 3)), np.array([[1, 1, 0], [1, 0, 0]], bool)]
    ),
    judge=judge,
    hints=(
        "In a row where every score is -1e9, what is left after the largest score is subtracted?",
        "-1e9 is large only beside small scores. Which number is smaller than every score?",
        "With -inf, an empty row computes -inf - (-inf), which is NaN, and then 0 / 0. Both need "
        "a guard.",
        """
        Where the largest score of a row is -inf, subtract 0 instead. Where the sum of the
        exponentials is 0, divide by 1 instead.
        """,
    ),
    why="""
        Softmax does not see a constant added to a row, so a row of nothing but -1e9 is a row of
        nothing but 0: uniform weights. -inf is the one number whose exponential is exactly 0
        whatever is subtracted from it, except itself.

        With e = 0 for a whole row, y = 0/1 = 0, and dx = y (g − Σ g y) = 0: nothing is looked at
        and nothing is sent back.
        """,
    withheld=(
        "softmax",
        "log_softmax",
        "logsumexp",
        "scaled_dot_product_attention",
    ),
    cases=10,
)
