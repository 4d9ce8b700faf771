"""Bound to a name: total = total + part adds nothing to the array that is returned."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def rnn_reference(x, u):
        states = [tg.tanh(x[0])]
        for t in range(1, len(x)):
            states.append(tg.tanh(x[t] + states[-1] @ u))
        return tg.stack(states)

    @tg.fused(reference=rnn_reference, registry=mine)
    def rnn(x, u):
        """h[t] = tanh(x[t] + h[t-1] u), from zeros: x (T, B, H), u (H, H)."""
        h = np.tanh(x)
        for t in range(1, len(x)):
            h[t] = np.tanh(x[t] + h[t - 1] @ u)

        def pullback(g):
            dx, du = np.zeros_like(x), np.zeros_like(u)
            dh = np.zeros_like(x[0])
            for t in reversed(range(len(x))):
                da = (g[t] + dh) * (1 - h[t] ** 2)
                before = h[t - 1] if t else np.zeros_like(h[0])
                for total, part in ((dx[t], da), (du, before.T @ da)):
                    total = total + part
                dh = da @ u.T
            return dx, du

        return h, pullback

    return rnn


def solution():
    mine = {}

    def rnn_reference(x, u):
        states = [tg.tanh(x[0])]
        for t in range(1, len(x)):
            states.append(tg.tanh(x[t] + states[-1] @ u))
        return tg.stack(states)

    @tg.fused(reference=rnn_reference, registry=mine)
    def rnn(x, u):
        """h[t] = tanh(x[t] + h[t-1] u), from zeros: x (T, B, H), u (H, H)."""
        h = np.tanh(x)
        for t in range(1, len(x)):
            h[t] = np.tanh(x[t] + h[t - 1] @ u)

        def pullback(g):
            dx, du = np.zeros_like(x), np.zeros_like(u)
            dh = np.zeros_like(x[0])
            for t in reversed(range(len(x))):
                da = (g[t] + dh) * (1 - h[t] ** 2)
                before = h[t - 1] if t else np.zeros_like(h[0])
                for total, part in ((dx[t], da), (du, before.T @ da)):
                    total += part
                dh = da @ u.T
            return dx, du

        return h, pullback

    return rnn


def draw(rng):
    steps, batch, width = (int(n) for n in rng.integers(1, 5, 3))
    return [rng.standard_normal((steps, batch, width)), rng.standard_normal((width, width))]


def judge(rnn, rng):
    x, u = draw(rng)
    h = [np.tanh(x[0])]
    for row in x[1:]:
        h.append(np.tanh(row + h[-1] @ u))
    same("rnn", rnn(x, u), np.stack(h), told=f"x {x.shape}, u {u.shape}")
    certify(rnn, [x, u], rng)


EXHIBIT = Exhibit(
    title="Zeros of the right shape",
    mechanism="a sum is bound to a name and never reaches the buffer",
    seen="thinc (its portable LSTM returned zeros, behind tests that looked at shapes)",
    story="""
        A backward pass through time was written for machines without the fast kernel. Its tests
        compare shapes, and pass. On such machines the recurrent layer never learned anything; what
        stood above it made up for some of it, so nobody noticed.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((3, 2, 2)), rng.standard_normal((2, 2))]),
    judge=judge,
    hints=(
        "Who writes into dx and du after they were made of zeros?",
        "total is a name in a loop. What does total = total + part do to the array that it named?",
        "It makes a new array and names that one. The buffer still holds zeros. The sum has to be "
        "written *into* the array.",
        "total += part (dx[t] is a view, so dx is written to). Or two plain lines without a loop.",
    ),
    why="""
        The mathematics was right:

            da = (g[t] + dh) (1 − h[t]²)        dx[t] = da
            du = Σₜ h[t−1]ᵀ da                  dh = da uᵀ

        In Python `a = a + b` rebinds a name, `a += b` on an array writes into it. A view such as
        dx[t] passes that on to the array behind it. Zeros are a gradient of the right shape, finite
        and small: only values show the difference.
        """,
)
