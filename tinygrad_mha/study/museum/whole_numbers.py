"""Whole numbers: a buffer made like an integer mask cuts its fractions off."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def mean_of_real_reference(x, real):
        total = (x * real[..., None]).sum(axis=1)
        return total / real.sum(axis=1)[:, None]

    @tg.fused(reference=mean_of_real_reference, registry=mine)
    def mean_of_real(x, real):
        """The mean over the real tokens: x (B, T, d), real (B, T) of 0 or 1."""
        count = real.sum(axis=1)  # (B,)
        y = (x * real[..., None]).sum(axis=1) / count[:, None]

        def pullback(g):
            share = np.zeros_like(real)  # (B, T)
            for k, n in enumerate(count):
                share[k, real[k] == 1] = 1 / n
            return g[:, None] * share[..., None], None

        return y, pullback

    return mean_of_real


def solution():
    mine = {}

    def mean_of_real_reference(x, real):
        total = (x * real[..., None]).sum(axis=1)
        return total / real.sum(axis=1)[:, None]

    @tg.fused(reference=mean_of_real_reference, registry=mine)
    def mean_of_real(x, real):
        """The mean over the real tokens: x (B, T, d), real (B, T) of 0 or 1."""
        count = real.sum(axis=1)  # (B,)
        y = (x * real[..., None]).sum(axis=1) / count[:, None]

        def pullback(g):
            share = real / count[:, None]  # (B, T)
            return g[:, None] * share[..., None], None

        return y, pullback

    return mean_of_real


def draw(rng):
    batch, steps, width = (int(n) for n in rng.integers(2, 5, 3))
    real = rng.integers(0, 2, (batch, steps))
    real[:, 0] = 1
    real[0, 1] = 1  # a text of at least two tokens
    real = rng.permuted(real, axis=1).astype(rng.choice(["int64", "int32"]))
    return rng.standard_normal((batch, steps, width)), real


def judge(mean_of_real, rng):
    x, real = draw(rng)
    wanted = np.stack([t[r == 1].mean(axis=0) for t, r in zip(x, real, strict=True)])
    same("mean_of_real", mean_of_real(x, real), wanted, told=f"x {x.shape}, real {real.tolist()}")
    certify(mean_of_real, [x, real], rng)


EXHIBIT = Exhibit(
    title="The texts of one word learn",
    mechanism="a buffer of integers cuts the fractions of a gradient off",
    seen="DeZero (integer gradients), NeuralForge, tinygrad#9723",
    story="""
        Bag of words: a text is the mean of its tokens. Texts of one word are learned, all others
        send back nothing at all. Not a small gradient: 0.0 exactly, of the right shape and dtype.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(draw),
    judge=judge,
    hints=(
        "What is `share` for a text of two tokens? Print it.",
        "np.zeros_like(real) has the shape of real. What else does it have of real?",
        "real holds integers, so share does, and 1/2 written into an integer array is 0.",
        "np.zeros_like(real, dtype=g.dtype), or no buffer at all: real / count[:, None].",
    ),
    why="""
        y = Σₜ rₜ xₜ / n with n = Σₜ rₜ, so dxₜ = g rₜ / n: a fraction, whatever the dtype of r.
        NumPy truncates without a word when a float is assigned into an array of integers (an
        in-place += of a float array would have complained).

        A gradient has the dtype of the array it belongs to, or of g. What came by the
        way, such as ids, masks and counts, has no say.
        """,
)
