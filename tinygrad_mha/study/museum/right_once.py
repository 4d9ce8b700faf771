"""Right once: a gradient inside a loss is taken for a constant."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, pulled, same


def broken():
    def penalised(f, x):
        """sum f(x) + the sum of squares of its slopes in x, a Tensor."""
        y = f(x).sum()
        [slopes] = tg.grad(y, [x])
        return y + (slopes * slopes).sum()

    return penalised


def solution():
    def penalised(f, x):
        """sum f(x) + the sum of squares of its slopes in x, a Tensor."""
        y = f(x).sum()
        [slopes] = tg.grad(y, [x], create_graph=True)
        return y + (slopes * slopes).sum()

    return penalised


def judge(penalised, rng):
    n, width = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    x, w = rng.standard_normal((n, width)), rng.standard_normal(width)

    def loss(x, w):
        return penalised(lambda x: tg.tanh(x @ w), x)

    y, _ = pulled(loss, [x, w], 1.0)
    t = np.tanh(x @ w)
    slopes = (1 - t**2)[:, None] * w
    same(
        "penalised",
        y,
        np.asarray(t.sum() + (slopes**2).sum()),
        told=f"f(x) = tanh(x w), x {x.shape}",
    )
    certify(loss, [x, w], rng)


def looks_fine(penalised, rng):
    x, w = (tg.Tensor(rng.standard_normal(s), requires_grad=True) for s in ((3, 2), (2,)))
    loss = penalised(lambda x: tg.tanh(x @ w), x)
    dx, dw = tg.grad(loss, [x, w])
    assert loss.shape == ()
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert np.isfinite(dw.numpy()).all()
    return (
        "penalised(f, x (3, 2)), f(x) = tanh(x w), w (2,)\n"
        "gives () and gradients (3, 2), (2,), all finite"
    )


EXHIBIT = Exhibit(
    title="The penalty that does not hurt",
    mechanism="right once: a gradient is used as a constant, not as a function",
    seen="mlpack#2891 and #3063, AiDotNet#1844 (gradient penalties without a gradient)",
    story="""
        A model is to be smooth, so the squares of its slopes are added to the loss. The penalty is
        computed, printed and plotted, and it is right. It has no effect whatever.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "How does the loss depend on the weights inside f? There are two ways.",
        "slopes depends on the weights too. Does the Tensor `slopes` know it? Look at its "
        "requires_grad.",
        "A gradient can only be differentiated if the backward pass that made it was recorded. "
        "Which argument of tg.grad does that?",
        "tg.grad(y, [x], create_graph=True)",
    ),
    why="""
        L = Σ f + Σ (∂f/∂x)², so

            dL/dw = ∂(Σ f)/∂w + 2 Σ (∂f/∂x) · ∂²f/∂x∂w

        Without create_graph the slopes are numbers that came from nowhere, and the second term is
        missing. A gradient is a function of the same inputs as the value; whether it is treated as
        one is up to whoever computes it.
        """,
    cases=10,
)
