"""Chapter 7: erf, exactly, and the GELU that needs it.

NumPy has no erf. Both functions of this chapter come from one that is easier to compute, the upper
tail of the normal distribution: Φ(−z), the chance that a normal number is larger than z. For x ≥ 0

    erf(x) = 1 − 2 Φ(−√2 x)         Φ(x) = 1 − Φ(−x)

and for x < 0 a symmetry does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .backend import Array, is_array, xp
from .primitives import attach, clip, exp, tanh, times
from .sampling import normal
from .tensor import floating, fused, primitive

# ------------------------------------------------------------------ the tail of the normal curve
#
# From z = 0 to 38 the tail falls from 1/2 to 1e-316: no polynomial follows that. But the tail over
# e^(−z²/2) is tame (times √2π it is known as Mills' ratio): it falls from 1/2 about as 1/z does.
# With t = 2k / (k + z), which runs from 2 down to 0 as z grows, and k = 4,
#
#     Φ(−z) = e^(−z²/2) · t · P(t − 1)
#
# where P is nearly constant, and a short polynomial gives it to the last digit. Since the small
# factor is computed as a factor, all digits of a tiny tail are right, not only those after the
# decimal point. The idea is that of Shepherd, Laframboise, Chebyshev Approximation of
# (1 + 2x) exp(x²) erfc x in 0 ≤ x < ∞, 1981; the numbers are our own: bench/erf_coefficients.py
# makes them, and measures the errors.

TURN = 4  # k: the z at which t − 1 changes sign
NEAR = 1  # close to 0 the difference 1 − 2 Φ(−√2 x) would lose digits; up to here Q takes over


class Fit(NamedTuple):
    """Polynomials, constant term first, of the degree that a dtype has digits for."""

    far: int  # from here on the tail is 0 in this dtype
    tail: tuple[float, ...]  # P
    near_zero: tuple[float, ...]  # Q: erf(x) = x · Q(x²) for x up to NEAR


SINGLE = Fit(
    far=15,
    tail=(
        0.0944106423,
        0.0759870743,
        0.0483920854,
        0.0233154133,
        0.00755077319,
        0.000940675302,
        -0.000440121603,
        -0.000195860211,
        2.36245649e-05,
        1.56947982e-05,
    ),
    near_zero=(
        1.12837917,
        -0.376126267,
        0.112835947,
        -0.026854212,
        0.00518908742,
        -0.000801686429,
        7.87587506e-05,
    ),
)  # fmt: skip
DOUBLE = Fit(
    far=40,
    tail=(
        0.094410641301968939,
        0.075987080246486358,
        0.048392175092775561,
        0.023315232244973363,
        0.007549571861420825,
        0.00094252362034317647,
        -0.00043496154676167813,
        -0.00020385230015068618,
        1.6668044861196365e-05,
        2.8886811877531886e-05,
        -2.3854792398639111e-07,
        -4.3928278534704665e-06,
        8.9558670029296139e-08,
        7.3926915097113573e-07,
        -7.8421447343933802e-08,
        -1.2633241905809485e-07,
        3.3110467917088677e-08,
        1.7925994415397741e-08,
        -9.3797769227242449e-09,
        -9.1898737550178455e-10,
        1.4534932357444478e-09,
        -2.6716300016021011e-10,
    ),
    near_zero=(
        1.1283791670955126,
        -0.37612638903183748,
        0.11283791670954879,
        -0.026866170645076792,
        0.0052239776248180145,
        -0.000854832698083379,
        0.0001205533111164271,
        -1.4925595266831182e-05,
        1.6461000484121368e-06,
        -1.6350312701054695e-07,
        1.4659775274047436e-08,
        -1.1372848856791674e-09,
        5.9571761477489113e-11,
    ),
)  # fmt: skip


def fit_of(x: Array) -> Fit:
    return SINGLE if x.dtype.itemsize <= 4 else DOUBLE


def horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """c0 + c1 x + c2 x² + … = c0 + x (c1 + x (c2 + …)), from the inside out and in place."""
    y = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        y += c
        y *= x
    y += coefficients[0]
    return y


def upper_tail(z: Array) -> tuple[Array, Array]:
    """Φ(−z), and e^(−z²/2) for whoever needs that too. z: (n,), from 0 to at most 2 · far."""
    m, e = xp(z), z * z
    e *= -0.5
    m.exp(e, out=e)
    t = z + TURN
    m.divide(2 * TURN, t, out=t)
    p = horner(fit_of(z).tail, t - 1)
    p *= t
    p *= e
    return p, e


# ----------------------------------------------------------------------- many passes, one block
#
# A polynomial of degree 9 is 18 passes over an array, and if that is large each of them waits for
# the main memory. So it is cut into blocks, and all passes over one block find it in the cache:
# 1.6 to 2 times as fast (bench/erf_coefficients.py --speed). A GPU gets all of it at once.

BLOCK = 16384


def in_blocks(f: Callable, x: Array, results: int) -> list[Array]:
    """The results of f, which takes and gives flat arrays, in the shape of x."""
    flat = x.reshape(-1)
    n = BLOCK if xp(x) is np else flat.size
    with np.errstate(under="ignore"):  # the smallest tails are 0, as they should be
        if flat.size <= n:
            return [y.reshape(x.shape) for y in f(flat)]
        ys = [np.empty(flat.size, x.dtype) for _ in range(results)]
        for i in range(0, flat.size, n):
            for y, part in zip(ys, f(flat[i : i + n]), strict=True):
                y[i : i + n] = part
    return [y.reshape(x.shape) for y in ys]


# -------------------------------------------------------------------------------------- erf


def erf_dx(g, y, x):
    z = clip(x, -30.0, 30.0)  # beyond, the slope is 0 anyway and the square might overflow
    return times(g, exp(-z * z) * (2 / math.sqrt(math.pi)))


@primitive(erf_dx, sample=normal((2, 3)))
def erf(x):
    """y = 2/√π ∫₀ˣ e^(−t²) dt        dx = g · 2/√π · e^(−x²)

    The chance that a normal number of variance 1/2 lies between −x and x (negative for x < 0).
    """
    return in_blocks(_erf, as_floats(x), 1)[0]


def as_floats(x):
    return floating(x if is_array(x) else np.asarray(x))


def _erf(x: Array) -> tuple[Array]:
    m, fit = xp(x), fit_of(x)
    tail, _ = upper_tail(m.minimum(m.abs(x), fit.far) * math.sqrt(2))
    tail *= -2
    tail += 1
    y = m.copysign(tail, x)
    x0 = m.maximum(m.minimum(x, NEAR), -NEAR)
    return (m.where(m.abs(x) < NEAR, x0 * horner(fit.near_zero, x0 * x0), y),)


# ------------------------------------------------------------------------------------- GELU


def gelu_reference(x, *, approximate="none"):
    """The definition: x times the chance that a normal number is smaller than x."""
    if approximate == "none":
        z = clip(x, -40.0, 40.0)  # beyond, Φ is 0 or 1, and the slope of Φ times ∞ is not
        return x * (erf(z * math.sqrt(0.5)) * 0.5 + 0.5)
    z = clip(x, -10.0, 10.0)  # beyond, the tanh is ±1 and the cube might overflow
    return x * (tanh((z + z * z * z * CUBIC) * STEEP) * 0.5 + 0.5)


CUBIC, STEEP = 0.044715, math.sqrt(2 / math.pi)


@fused(reference=gelu_reference, sample=normal((2, 3)))
def gelu(x, *, approximate="none"):
    """The Gaussian error linear unit: a ReLU with a soft knee.

    y = x Φ(x)          dx = g (Φ(x) + x φ(x))

    Φ(x) = (1 + erf(x/√2)) / 2 is the chance that a normal number is smaller than x; its slope is
    the density φ(x) = e^(−x²/2) / √2π. Computed as max(x, 0) − z Φ(−z) with z = |x|, so that what
    is left far below 0 has its digits: gelu(−10) = −10 Φ(−10) = −7.6e-23, not 10 · (1 − 1) = 0.

    ``approximate="tanh"`` is a function close to it (within 5e-4), of models that were trained so:
        y = x h,  h = (1 + tanh u) / 2,  u = √(2/π) (x + 0.044715 x³)
        dx = g (h + 2 x h (1 − h) · √(2/π) (1 + 3 · 0.044715 x²))

    Only the slope, dy/dx, is kept for the way back. Source: Hendrycks, Gimpel, Gaussian Error
    Linear Units (GELUs), §2.
    """
    if approximate not in GELU:
        raise ValueError(f"approximate {approximate!r} is none of 'none', 'tanh'")
    y, slope = in_blocks(GELU[approximate], as_floats(x), 2)
    return y, lambda g: (times(g, slope),)


def _gelu(x: Array) -> tuple[Array, Array]:
    m = xp(x)
    z = m.minimum(m.abs(x), fit_of(x).far)  # beyond, Φ(−z) is 0, and ∞ · 0 is not
    tail, slope = upper_tail(z)
    slope *= z
    slope *= -1 / math.sqrt(2 * math.pi)
    slope += tail  # Φ(−z) − z φ(z), the slope at −z; at z it is what is missing to 1
    # where(x < 0, slope, 1 - slope), bit for bit, but where() takes as long as an exponential
    right = (x >= 0).astype(x.dtype)
    slope *= 1 - 2 * right
    slope += right
    tail *= z
    y = m.maximum(x, 0)
    y -= tail
    return y, slope


def _gelu_tanh(x: Array) -> tuple[Array, Array]:
    m = xp(x)
    low = m.maximum(x, -10)  # beyond, h is 0 or 1
    z = m.minimum(low, 10)
    square = z * z
    h = square * CUBIC
    h += 1
    h *= z
    h *= STEEP
    m.tanh(h, out=h)
    h += 1
    h *= 0.5
    slope = square
    slope *= 3 * CUBIC * STEEP
    slope += STEEP
    slope *= z
    slope *= 2
    slope *= h
    slope *= 1 - h
    slope += h
    low *= h
    return low, slope


GELU = {"none": _gelu, "tanh": _gelu_tanh}  # approximate -> x to y and the slope

attach("erf", erf)
attach("gelu", gelu)
