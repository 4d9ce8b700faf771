"""Frozen statistics: the mean and the deviation depend on x too."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def standardise_reference(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        var = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / tg.sqrt(var + 1e-5)

    @tg.fused(reference=standardise_reference, registry=mine)
    def standardise(x):
        """Each row brought to mean 0 and variance 1: z = (x - mean) / s."""
        centred = x - x.mean(axis=-1, keepdims=True)
        s = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        z = centred / s

        def pullback(g):
            return (g / s,)

        return z, pullback

    return standardise


def solution():
    mine = {}

    def standardise_reference(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        var = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / tg.sqrt(var + 1e-5)

    @tg.fused(reference=standardise_reference, registry=mine)
    def standardise(x):
        """Each row brought to mean 0 and variance 1: z = (x - mean) / s."""
        centred = x - x.mean(axis=-1, keepdims=True)
        s = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        z = centred / s

        def pullback(g):
            along_z = (g * z).mean(axis=-1, keepdims=True)
            return ((g - g.mean(axis=-1, keepdims=True) - z * along_z) / s,)

        return z, pullback

    return standardise


def judge(standardise, rng):
    shape = (*(int(n) for n in rng.integers(1, 4, rng.integers(1, 3))), int(rng.integers(3, 7)))
    x = rng.standard_normal(shape) * rng.uniform(0.5, 3) + rng.uniform(-2, 2)
    centred = x - x.mean(axis=-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    same("standardise", standardise(x), wanted, told=f"x {x.shape}")
    certify(standardise, [x], rng)


EXHIBIT = Exhibit(
    title="Three ways, one taken",
    mechanism="statistics of x are treated as constants",
    seen="ladder#2 (abhiskk: the variance is detached), darknet#1634 and #1723 (a term is left "
    "out), deeplearning4j PR#8379",
    story="""
        z = (x − mean) / s, so dx = g / s: what could be simpler? The network trains, too, only
        worse than the one in the paper, and nobody can say why. It is tempting to turn the
        learning rate.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [rng.standard_normal((2, 4))]),
    judge=judge,
    hints=(
        "Move one x of a row a little. Which numbers of the row z change, and why?",
        "x reaches z in three ways: through itself, through the mean and through s. The reference "
        "above the op has all three in it.",
        "Through the mean: every z gets −1/(n s), so subtract mean(g). Through s: ∂s/∂xⱼ = zⱼ / n, "
        "and ∂zᵢ/∂s = −zᵢ / s.",
        "dx = (g − mean(g) − z · mean(g · z)) / s, with both means along the row.",
    ),
    why="""
        z does not change when a constant is added to a row, and hardly when the row is scaled. So
        the gradient has no part along (1, …, 1) and (but for ε) none along z:

            dx = (g − mean(g) − z · mean(g z)) / s

        takes just these two parts out of g. That is also a test: without ε, dx sums to 0 in every
        row, and so does dx · x. g / s does neither.
        """,
    withheld=("layer_norm", "add_layer_norm", "rms_norm"),
)
