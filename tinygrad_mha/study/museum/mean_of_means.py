"""The mean of means: small batches of unequal sizes are given equal weights."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, lifted


def broken():
    def accumulate(loss_of, batches):
        """Add to .grad the gradient of the mean loss over all texts together.

        loss_of(batch) is the mean loss over the texts of one batch.
        """
        for batch in batches:
            loss = loss_of(batch) / len(batches)
            loss.backward()

    return accumulate


def solution():
    def accumulate(loss_of, batches):
        """Add to .grad the gradient of the mean loss over all texts together.

        loss_of(batch) is the mean loss over the texts of one batch.
        """
        total = sum(len(batch) for batch in batches)
        for batch in batches:
            loss = loss_of(batch) * (len(batch) / total)
            loss.backward()

    return accumulate


def judge(accumulate, rng):
    width = int(rng.integers(1, 5))
    sizes = rng.permutation([1, 2, *rng.integers(1, 7, rng.integers(0, 4))])
    batches = [rng.standard_normal((n, width)) for n in sizes]

    def mean_loss(texts, w):
        miss = tg.tanh(texts @ w) - 0.3
        return (miss * miss).mean()

    def backward(weights, y, g):
        w = tg.Tensor(weights * 1, requires_grad=True)
        accumulate(lambda batch: mean_loss(batch, w), list(batches))
        return g * (weights * 0 if w.grad is None else w.grad.numpy())

    def reference(weights):
        return mean_loss(np.concatenate(batches), weights)

    op = lifted("accumulate", lambda w: np.asarray(reference(w)), backward, reference)
    try:
        certify(op, [rng.standard_normal(width)], rng)
    except Failed as e:
        raise Failed(f"{e}, batches of {', '.join(map(str, sizes))} texts") from e.__cause__


def looks_fine(accumulate, rng):
    w = tg.Tensor(rng.standard_normal(3), requires_grad=True)
    batches = [rng.standard_normal((4, 3)), rng.standard_normal((4, 3))]
    accumulate(lambda batch: (batch @ w).mean(), batches)
    assert w.grad is not None
    assert w.grad.shape == w.shape
    assert np.isfinite(w.grad.numpy()).all()
    assert np.allclose(w.grad.numpy(), np.concatenate(batches).mean(axis=0))
    return (
        "accumulate(loss_of, two batches of 4 texts each), weights (3,)\n"
        "gives .grad (3,), and the numbers are right"
    )


EXHIBIT = Exhibit(
    title="The last batch is too loud",
    mechanism="a mean of means weights unequal batches equally",
    seen="transformers#24725 and PR#34191, torchtune PR#1875, mlx-lm PR#1413",
    story="""
        Memory is short, so a batch of 64 texts is cut into pieces, and the gradients of the pieces
        are added up before the step. That should be the same thing exactly. Loss curves with and
        without it differ, most where the texts are of very different lengths.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "Two pieces, of 1 and of 7 texts. How much does the one text count, and what should it?",
        "The mean of means is the mean of all only if the pieces are equally large.",
        "Give each piece the weight that it has in the whole: its texts divided by all texts.",
        "loss_of(batch) * (len(batch) / total), with total = sum(len(b) for b in batches)",
    ),
    why="""
        With mₖ = 1/nₖ Σ (losses of piece k) and N = Σ nₖ,

            mean of all = Σₖ (nₖ / N) mₖ

        and the gradient is linear, so it has the same weights. 1/K for each piece is right for
        nₖ = N/K only. The same holds for devices that share a batch, and for tokens: what is
        averaged must be counted over all pieces before the first of them is scaled.
        """,
)
