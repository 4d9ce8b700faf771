"""Outside the root: an epsilon that saves the value, and not the slope."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, certify, pulled, same, shapes


def broken():
    mine = {}

    def deviation_dx(g, y, x):
        root = y - 1e-5
        centred = x - x.mean(axis=-1, keepdims=True)
        return g * centred / (x.shape[-1] * root)

    @tg.primitive(deviation_dx, registry=mine)
    def deviation(x):
        """The standard deviation of a row, with 1e-5 added to its variance."""
        return np.sqrt(x.var(axis=-1, keepdims=True)) + 1e-5

    return deviation


def solution():
    mine = {}

    def deviation_dx(g, y, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return g * centred / (x.shape[-1] * y)

    @tg.primitive(deviation_dx, registry=mine)
    def deviation(x):
        """The standard deviation of a row, with 1e-5 added to its variance."""
        return np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)

    return deviation


def judge(deviation, rng):
    rows, n = int(rng.integers(2, 5)), int(rng.integers(2, 7))
    x = rng.standard_normal((rows, n))
    x[rng.integers(rows)] = rng.integers(-3, 4)  # one row is constant
    g = rng.uniform(0.5, 2, (rows, 1))
    y, (dx,) = pulled(deviation, [x], g)
    centred = x - x.mean(axis=-1, keepdims=True)
    wanted = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    told = f"x {x.shape}, with a row of equal numbers"
    if not np.isfinite(dx).all():
        i = tuple(int(k) for k in np.argwhere(~np.isfinite(dx))[0])
        raise Failed(f"deviation: the gradient at index {i} is {dx[i]}, x {x[i[0]].tolist()}")
    same("deviation", y, wanted, told=told)
    same("the gradient of deviation", dx, g * centred / (n * wanted), told=told)
    certify(deviation, [rng.standard_normal((rows, n))], rng, order=2)


EXHIBIT = Exhibit(
    title="The guard who stands outside",
    mechanism="epsilon is added after the root, whose slope at 0 stays infinite",
    seen="Flux PR#2421 (epsilon outside the root), NeuralForge (no epsilon)",
    story="""
        Rows are divided by their standard deviation, and a small number keeps anybody from dividing
        by 0. The forward pass of a constant row, such as one of pads, is fine: the values are
        finite. The gradient is NaN.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((3, 4))]),
    judge=judge,
    hints=(
        "The slope of √v is 1 / (2√v). What is it at v = 0, and does adding a constant to √v "
        "change it?",
        "The docstring says what the 1e-5 is added to. Compare the code.",
        "√(v + ε) has the slope 1 / (2√(v + ε)), which is finite at v = 0.",
        "np.sqrt(var + 1e-5); then y itself is the root that the rule divides by.",
    ),
    why="""
        With y = √(v + ε), v = 1/n Σ (x − mean x)², the chain rule gives

            dx = g (x − mean x) / (n y)

        and y ≥ √ε. For a constant row both x − mean x and the gradient are 0. With ε outside, y − ε
        is the root of the variance itself, and 0 / 0 is NaN.
        """,
    withheld=("std", "layer_norm", "rms_norm"),
)
