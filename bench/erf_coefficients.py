"""The numbers in tinygrad_mha/gelu.py: how they were made, and how good they are.

    python bench/erf_coefficients.py            # the coefficients, as gelu.py has them
    python bench/erf_coefficients.py --errors   # largest errors of erf and gelu, beside mpmath
    python bench/erf_coefficients.py --speed    # gelu in blocks, and with each pass over everything

Needs mpmath. A polynomial of degree n that agrees with a smooth function at the n + 1 Chebyshev
points of an interval is within a digit of the best one there is. Everything is computed with 50
digits and rounded once, at the end.
"""

import argparse
import sys
import time
from unittest import mock

import mpmath
import numpy as np
from mpmath import mpf

import tinygrad_mha as tg
from tinygrad_mha.gelu import DOUBLE, NEAR, SINGLE, TURN

mpmath.mp.dps = 50


def interpolate(f, low, high, degree):
    """Coefficients, constant first, of the polynomial that is f at the Chebyshev points."""
    n = degree + 1
    points = [mpmath.cos(mpmath.pi * (j + mpf(1) / 2) / n) for j in range(n)]
    points = [(low + high) / 2 + (high - low) / 2 * p for p in points]
    powers = mpmath.matrix([[p**k for k in range(n)] for p in points])
    return [float(c) for c in mpmath.lu_solve(powers, mpmath.matrix([f(p) for p in points]))]


def upper_tail(z):
    """Φ(−z), the chance that a normal number is larger than z."""
    return mpmath.erfc(z / mpmath.sqrt(2)) / 2


def tail_coefficients(far, degree):
    """P of gelu.py: Φ(−z) = e^(−z²/2) · t · P(t − 1), t = 2k / (k + z), for z from 0 to far."""

    def quotient(u):
        t = 1 + u
        z = 2 * TURN / t - TURN
        return upper_tail(z) * mpmath.exp(z * z / 2) / t

    return interpolate(quotient, 2 * TURN / (TURN + mpf(far)) - 1, mpf(1), degree)


def near_coefficients(degree):
    """Q of gelu.py: erf(x) = x · Q(x²) for |x| up to NEAR."""

    def quotient(w):
        return mpmath.erf(mpmath.sqrt(w)) / mpmath.sqrt(w)

    return interpolate(quotient, mpf(0), mpf(NEAR) ** 2, degree)


def coefficients(fit):
    """What a Fit of gelu.py should hold, given its range and its degrees."""
    return (
        tail_coefficients(fit.far, len(fit.tail) - 1),
        near_coefficients(len(fit.near_zero) - 1),
    )


def grid(far):
    """Points at all scales, on both sides of 0: where polynomials meet, and where tails end."""
    even, small = np.linspace(0, far, 3001), np.geomspace(1e-30, 1, 500)
    return np.concatenate([even, small, -even, -small])


def largest_errors(dtype, far):
    """(absolute, relative) of erf and of gelu over the grid, the latter where it is a number."""
    tiny = float(np.finfo(dtype).tiny)
    xs = grid(far).astype(dtype)
    exact = {
        "erf": (tg.erf(xs), mpmath.erf),
        "gelu": (tg.gelu(xs), lambda x: x * upper_tail(-x)),
    }
    for name, (ys, f) in exact.items():
        absolute = relative = mpf(0)
        for x, y in zip(xs, ys, strict=True):
            want = f(mpf(float(x)))
            error = abs(mpf(float(y)) - want)
            absolute = max(absolute, error)
            if abs(want) > tiny:
                relative = max(relative, error / abs(want))
        yield name, float(absolute), float(relative)


def fastest(f, tries=9):
    """Seconds of processor time, so that what else runs here counts less."""

    def once():
        start = time.thread_time()
        f()
        return time.thread_time() - start

    return min(once() for _ in range(tries))


def print_coefficients():
    for name, fit, digits in (("SINGLE", SINGLE, 9), ("DOUBLE", DOUBLE, 17)):
        for part, values in zip(("tail", "near_zero"), coefficients(fit), strict=True):
            print(f"{name}.{part}:", *(f"{v:.{digits}g}," for v in values), sep="\n    ")


def print_errors():
    for fit, dtype in ((SINGLE, np.float32), (DOUBLE, np.float64)):
        for reach in (6, fit.far):
            for name, absolute, relative in largest_errors(dtype, reach):
                print(
                    f"{np.dtype(dtype).name} {name:4} |x| <= {reach:2}: absolute {absolute:.1e}, "
                    f"relative {relative:.1e} = {relative / np.finfo(dtype).eps:.1f} eps"
                )


def print_speed(n=4_000_000):
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).standard_normal(n).astype(dtype)
        cut = fastest(lambda x=x: tg.gelu(x))
        with mock.patch.object(sys.modules["tinygrad_mha.gelu"], "BLOCK", n):
            whole = fastest(lambda x=x: tg.gelu(x))
        print(
            f"{np.dtype(dtype).name} gelu of {n:,} numbers: {cut / n * 1e9:.0f} ns each in blocks, "
            f"{whole / n * 1e9:.0f} ns at once"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--errors", action="store_true", help="measure the errors")
    parser.add_argument("--speed", action="store_true", help="measure the time")
    args = parser.parse_args()
    if args.errors:
        print_errors()
    if args.speed:
        print_speed()
    if not args.errors and not args.speed:
        print_coefficients()


if __name__ == "__main__":
    main()
