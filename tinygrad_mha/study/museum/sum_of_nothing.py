"""The sum of nothing: -inf minus -inf, in a logarithm of a sum of exponentials."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, pulled, same, shapes


def broken():
    mine = {}

    def log_total_dx(g, y, x):
        return g[..., None] * tg.exp(x - y[..., None])

    @tg.primitive(log_total_dx, registry=mine)
    def log_total(x):
        """y = log sum e^x of each row, -inf if all of it is; then dx = 0."""
        top = x.max(axis=-1, keepdims=True)
        total = np.exp(x - top).sum(axis=-1)
        return np.log(total) + top[..., 0]

    return log_total


def solution():
    mine = {}

    def log_total_dx(g, y, x):
        shift = tg.where(y == -np.inf, 0.0, y)
        return g[..., None] * tg.exp(x - shift[..., None])

    @tg.primitive(log_total_dx, registry=mine)
    def log_total(x):
        """y = log sum e^x of each row, -inf if all of it is; then dx = 0."""
        top = x.max(axis=-1, keepdims=True)
        top = np.where(top == -np.inf, 0.0, top)
        total = np.exp(x - top).sum(axis=-1)
        return np.log(total) + top[..., 0]

    return log_total


def judge(log_total, rng):
    rows, n = int(rng.integers(2, 5)), int(rng.integers(1, 6))
    x = rng.standard_normal((rows, n)) * 2
    certify(log_total, [x], rng, order=2)
    x[rng.random(x.shape) < 0.3] = -np.inf
    x[rng.integers(rows)] = -np.inf
    x[rng.integers(rows)] += 10.0 ** rng.integers(0, 4)
    g = rng.uniform(0.5, 2, rows)
    y, (dx,) = pulled(log_total, [x], g)
    top = x.max(axis=-1, keepdims=True)
    e = np.exp(x - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    wanted = np.where(total > 0, np.log(np.where(total > 0, total, 1)) + top, -np.inf)[:, 0]
    told = f"x {x.round(2).tolist()}"
    same("log_total", y, wanted, told=told)
    same("the gradient of log_total", dx, g[:, None] * e / np.where(total > 0, total, 1), told=told)


EXHIBIT = Exhibit(
    title="The sum of nothing",
    mechanism="inf − inf: the shift against overflow is itself infinite",
    seen="pytorch#31829",
    story="""
        log Σ e^x, with the maximum taken out against overflow, as everybody does it. In a search
        over paths some states cannot be reached, and have the log-probability -inf. A state that
        can only be reached from those should have -inf too. It has NaN.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((2, 4))]),
    judge=judge,
    hints=(
        "What is the maximum of a row of nothing but -inf, and what is x - top there?",
        "The shift may be any number: log Σ e^(x − s) + s does not depend on s. Which one serves "
        "such a row?",
        "Take 0 where the maximum is -inf. Then the sum is 0 and its logarithm -inf, as it should "
        "be. Now look at the rule: it subtracts y.",
        "In the rule, tg.where(y == -np.inf, 0.0, y) is what to subtract: e^(-inf − 0) is 0.",
    ),
    why="""
        For every finite s, log Σ e^x = s + log Σ e^(x − s); s = max x keeps the exponents at or
        below 0. −inf is no finite s, and −inf − (−inf) is NaN.

        dx = g e^(x − y) = g softmax(x). Where y = −inf no x has any weight, and dx = 0 is the only
        answer that does not poison what lies behind. The same difference has to be guarded twice,
        once on each way.
        """,
    withheld=("logsumexp", "softmax", "log_softmax"),
)
