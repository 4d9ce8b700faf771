"""The clipped loss: the flat part of a clip sends no gradient, just where it is needed most."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, pulled, same, shapes


def broken():
    def cross_entropy(logits, targets):
        """The mean of -log softmax(logits)[target]: (n, c) and (n,)."""
        p = tg.softmax(logits)
        hit = p[np.arange(len(targets)), targets]
        return -tg.log(tg.clip(hit, 1e-15, 1.0)).mean()

    return cross_entropy


def solution():
    def cross_entropy(logits, targets):
        """The mean of -log softmax(logits)[target]: (n, c) and (n,)."""
        log_p = tg.log_softmax(logits)
        hit = log_p[np.arange(len(targets)), targets]
        return -hit.mean()

    return cross_entropy


def judge(cross_entropy, rng):
    n, classes = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    targets = rng.integers(0, classes, n)
    logits = rng.standard_normal((n, classes))
    certify(cross_entropy, [logits, targets], rng, order=2)
    far = rng.choice([rng.uniform(40, 300), 10 ** rng.uniform(3, 4)])
    wrong = (targets[0] + 1) % classes
    logits[0, wrong] += far
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    hits = np.eye(classes)[targets]
    told = (
        f"targets {targets.tolist()}; the logit of class {wrong} in row 0 is too large by {far:.4g}"
    )
    loss, (dlogits,) = pulled(cross_entropy, [logits, targets], 1.0)
    same("the gradient of logits", dlogits, (np.exp(log_p) - hits) / n, told=told)
    same("cross_entropy", loss, np.asarray(-(log_p * hits).sum() / n), told=told)


EXHIBIT = Exhibit(
    title="The hopeless pupil",
    mechanism="clipping: beyond the limit the loss is flat and sends no gradient",
    seen="DeZero (probabilities are cut off at 1e-15)",
    story="""
        The loss never becomes infinite: probabilities are cut off at 1e-15 before the logarithm.
        One example in a thousand is wrong with great certainty, and stays wrong, however long one
        trains. Its loss is 34.5, always. On ordinary logits, every gradient is right.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((3, 4)), np.array([0, 3, 1])]),
    judge=judge,
    hints=(
        "What is the slope of clip(p, 1e-15, 1) at p = 1e-20?",
        "The gradient of the loss in the logits is softmax − target, at most 1 in size. Why should "
        "anything have to be cut off?",
        "Without the clip, p underflows to 0 for a margin of 745, and log 0 is −inf. The logarithm "
        "and the exponential belong together: log softmax(x) = x − log Σ e^x.",
        "tg.log_softmax never leaves the logarithms. Pick the target's entry, and negate its mean.",
    ),
    why="""
        −log p_t = log Σⱼ e^(xⱼ) − x_t is nearly linear in the margin: for a hopeless example it is
        the margin itself, and the gradient is p − 1 = −1 at the target. Going through p loses
        that: p rounds to 0 or is clipped, and the slope of a constant is 0. The example with the
        largest error gets the smallest gradient.
        """,
    withheld=("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"),
    cases=10,
)
