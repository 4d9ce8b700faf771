"""Ones: a gradient check that asks for the gradient of a sum."""

import numpy as np

from .exhibit import Exhibit
from .judging import Failed


def broken():
    def is_right(f, pullback, x, rng):
        """Whether pullback(g) is the gradient of sum(g * f(x)), for all g.

        f is smooth, x and f(x) are float64 arrays; rng is there if you need it.
        """
        g = np.ones_like(f(x))
        measured = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-6
            moved = f(x + step) - f(x - step)
            measured[i] = (g * moved).sum() / 2e-6
        return np.allclose(pullback(g), measured, rtol=1e-4, atol=1e-6)

    return is_right


def solution():
    def is_right(f, pullback, x, rng):
        """Whether pullback(g) is the gradient of sum(g * f(x)), for all g.

        f is smooth, x and f(x) are float64 arrays; rng is there if you need it.
        """
        g = rng.standard_normal(f(x).shape)
        measured = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-6
            moved = f(x + step) - f(x - step)
            measured[i] = (g * moved).sum() / 2e-6
        return np.allclose(pullback(g), measured, rtol=1e-4, atol=1e-6)

    return is_right


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def standardised(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-3)


def suspects(x, rng):
    """(what it is, whether it is right, f, pullback): some of each kind."""
    y = softmax(x)
    order = np.roll(np.arange(x.shape[-1]), int(rng.integers(1, x.shape[-1])))
    back = np.argsort(order)
    a = rng.standard_normal((x.shape[-1], 3))
    shuffled_rows = a.sum(axis=1, keepdims=True) * np.ones((1, 3)) / 3

    def softmax_dx(g):
        return y * (g - (g * y).sum(axis=-1, keepdims=True))

    return [
        ("x²", True, lambda x: x * x, lambda g: g * 2 * x),
        ("x², with the gradient g x", False, lambda x: x * x, lambda g: g * x),
        ("softmax", True, softmax, softmax_dx),
        ("softmax, with a gradient of zeros", False, softmax, lambda g: 0 * g),
        ("softmax, with the gradient y (g − mean g)", False, softmax,
         lambda g: y * (g - g.mean(axis=-1, keepdims=True))),
        ("standardised rows, with zeros", False, standardised, lambda g: 0 * g),
        ("a roll", True, lambda x: x[..., order], lambda g: g[..., back]),
        ("a roll, with g in the wrong order", False, lambda x: x[..., order], lambda g: g),
        ("x A", True, lambda x: x @ a, lambda g: g @ a.T),
        ("x A, with the wrong matrix", False, lambda x: x @ a, lambda g: g @ shuffled_rows.T),
        ("tanh", True, np.tanh, lambda g: g * (1 - np.tanh(x) ** 2)),
    ]  # fmt: skip


def judge(is_right, rng):
    x = rng.standard_normal((int(rng.integers(1, 4)), int(rng.integers(2, 6))))
    found = suspects(x, rng)
    for k in rng.permutation(len(found)):
        what, right, f, pullback = found[k]
        before = x.copy()
        answer = is_right(f, pullback, x, np.random.default_rng(rng.integers(1 << 31)))
        if not np.array_equal(x, before):
            raise Failed("is_right wrote into x")
        if bool(answer) != right:
            verb = "rejects" if right else "accepts"
            raise Failed(f"is_right {verb} {what}, x {x.shape}")


def looks_fine(is_right, rng):
    x = rng.standard_normal((2, 3))
    assert is_right(np.tanh, lambda g: g * (1 - np.tanh(x) ** 2), x, rng)
    assert not is_right(np.tanh, lambda g: g, x, rng)
    return "is_right accepts tanh with its gradient\nand rejects tanh with the gradient g"


EXHIBIT = Exhibit(
    title="The check that checks too little",
    mechanism="a gradient check with an incoming gradient of ones",
    seen="DeZero (its check lets a softmax pass whose backward returns zeros)",
    story="""
        Here nothing is wrong with a gradient: the bug is in the check. It finds wrong factors and
        wrong signs, and it has a blind spot as wide as a barn door: a softmax whose backward pass
        returns zeros is declared right. Repair the check.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "With g = 1 everywhere, which function of x is being checked?",
        "It is sum(f(x)). For a softmax, what is that sum, and what is its gradient?",
        "A sum is blind to everything that only moves numbers between places. A g with different "
        "weights sees it.",
        "g = rng.standard_normal(f(x).shape)",
    ),
    why="""
        Ones check Jᵀ 1, a single combination of the rows of J. Σ softmax = 1 is constant, so
        Jᵀ 1 = 0, and zeros pass. A permutation is caught as little.

        A wrong pullback B ≠ Jᵀ agrees with Jᵀ on the g with (B − Jᵀ) g = 0: a subspace, which a
        random g lies in with probability 0.
        """,
)
