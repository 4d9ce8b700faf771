"""The large mean: E[x²] − E[x]² is the difference of two large numbers."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, same, shapes


def broken():
    mine = {}

    def variance_dx(g, y, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return g[..., None] * 2 * centred / x.shape[-1]

    @tg.primitive(variance_dx, registry=mine)
    def variance(x):
        """y = the mean square of x - mean(x), for each row of x (..., n)."""
        return (x * x).mean(axis=-1) - x.mean(axis=-1) ** 2

    return variance


def solution():
    mine = {}

    def variance_dx(g, y, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return g[..., None] * 2 * centred / x.shape[-1]

    @tg.primitive(variance_dx, registry=mine)
    def variance(x):
        """y = the mean square of x - mean(x), for each row of x (..., n)."""
        centred = x - x.mean(axis=-1, keepdims=True)
        return (centred * centred).mean(axis=-1)

    return variance


def judge(variance, rng):
    rows, n = int(rng.integers(2, 6)), int(rng.integers(3, 9))
    x = rng.standard_normal((rows, n))
    same("variance", variance(x), x.var(axis=-1), told=f"x {x.shape}, numbers around 0")
    certify(variance, [x], rng, order=2)
    spread = rng.uniform(1, 3) * np.linspace(-1, 1, n) + rng.uniform(-0.1, 0.1, (rows, n))
    for dtype, mean in ((np.float32, rng.uniform(3e4, 6e4)), (np.float64, rng.uniform(1e8, 1e9))):
        x = (mean + spread).astype(dtype)
        y = np.asarray(variance(x))
        told = f"x {x.shape} {x.dtype}, numbers around {mean:.3g}"
        if (y < 0).any():
            raise Failed(f"variance: {y.min():.6g} is negative\n  {told}")
        exact = (x - dtype(mean)).astype(np.float64)  # nothing is lost: the numbers are close
        same("variance", y, exact.var(axis=-1), rtol=0.02, told=told)


EXHIBIT = Exhibit(
    title="The variance of minus 128",
    mechanism="cancellation: E[x²] − E[x]² is a small difference of large numbers",
    seen="onnxruntime#28463, tt-metal#45968, mlx#2238",
    story="""
        In float32, four numbers around 40,000 have the variance −128. The right one is 1.25. The
        gradient check, in float64 and with numbers around 0, sees nothing: the formula is the one
        in the textbook, and it takes one pass instead of two.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((2, 4))]),
    judge=judge,
    hints=(
        "How large is x² for x = 40,000, and how far apart are neighbouring float32 numbers there?",
        "1.6e9 is only known to about ±64 in float32. A variance of 1 is far below that.",
        "A wider dtype, or cutting off at 0, moves the problem. Subtract first, while the numbers "
        "are small, and square afterwards.",
        "centred = x - x.mean(axis=-1, keepdims=True), then the mean of its squares.",
    ),
    why="""
        E[x²] − E[x]² = E[(x − E[x])²] holds for real numbers. In floating point each side is
        rounded relative to what it computes *on the way*: x² ~ μ² carries an error of about
        6e-8 μ² in float32, which swamps a variance σ² as soon as μ/σ > 4000. The difference x − μ
        of close numbers is exact, and squares of small numbers have small errors.
        """,
    withheld=("var", "std", "layer_norm"),
)
