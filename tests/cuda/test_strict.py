"""NumPy habits that break on a GPU, on the double and, where there is one, on CuPy itself.

Each case: a function of (xp, x) with x (4, 4) float32, and the exception expected from the double
and from CuPy (None: it works). Where they differ the double is stricter on purpose. What needs the
real CuPy (TINYGRAD_MHA_REAL_CUPY=1) is skipped without it.
"""

import importlib
import math
import operator

import numpy as np
import pytest
import strict_cupy
from conftest import real_cupy_wanted


def in_place_matmul(xp, x):
    y = z = xp.eye(4, dtype="f4")
    z @= x
    assert z is y


def numpy_scalar_from_sum(xp, x):
    assert isinstance(x.sum(), np.floating)


def errstate(xp, x):
    with xp.errstate(over="ignore"):
        return xp.exp(x)


def repeated_index(xp, x):
    g = xp.zeros((3, 4), "f4")
    g[xp.asarray([0, 0, 1])] += x[:3]


def assign_numpy(xp, x):
    x[0] = np.ones(4, "f4")


def softmax(xp, x):
    e = xp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SAME, NOT_EMULATED = object(), object()
CASES = [  # name, function, double, CuPy (SAME: as the double)
    ("softmax", softmax, None, SAME),
    ("numpy function", lambda xp, x: np.exp(x), TypeError, None),
    ("numpy operand", lambda xp, x: x * np.arange(4, dtype="f4"), TypeError, SAME),
    ("numpy.asarray", lambda xp, x: np.asarray(x), TypeError, SAME),
    ("numpy value assigned", assign_numpy, ValueError, SAME),
    ("list operand", lambda xp, x: xp.add([1.0, 2.0, 3.0, 4.0], x), TypeError, SAME),
    ("errstate", errstate, AttributeError, SAME),
    ("sum where=", lambda xp, x: xp.sum(x, axis=-1, where=x > 0), TypeError, SAME),
    ("ufunc where=", lambda xp, x: xp.divide(x, x, where=x != 0), TypeError, SAME),
    ("max initial=", lambda xp, x: xp.max(x, initial=0.0), TypeError, SAME),
    ("minimum.reduce", lambda xp, x: xp.minimum.reduce(x, axis=0), NotImplementedError, SAME),
    (
        "multiply.at",
        lambda xp, x: xp.multiply.at(xp.ones(4, "f4"), xp.asarray([0, 0]), 2.0),
        NotImplementedError,
        SAME,
    ),
    ("insert", lambda xp, x: xp.insert(x, 0, 1.0, axis=0), AttributeError, SAME),
    ("string array", lambda xp, x: xp.asarray(["a", "b"]), ValueError, SAME),
    ("repeated index", repeated_index, RuntimeError, None),
    ("index out of range", lambda xp, x: x[xp.asarray([0, 99])], None, SAME),
    ("index after ...", lambda xp, x: x[..., None, xp.asarray([0, -1]), 0], None, SAME),
    ("type of a sum", numpy_scalar_from_sum, AssertionError, SAME),
    ("hash of a sum", lambda xp, x: {x.sum(): 1}, TypeError, SAME),
    ("range(argmax)", lambda xp, x: range(xp.argmax(x)), TypeError, SAME),
    ("operator.index", lambda xp, x: operator.index(xp.argmax(x)), TypeError, SAME),
    ("in", lambda xp, x: 1.0 in x, TypeError, ValueError),
    ("@=", in_place_matmul, AssertionError, SAME),
    (
        "Generator.normal",
        lambda xp, x: xp.random.default_rng(0).normal(0, 1, (2, 2)),
        AttributeError,
        NOT_EMULATED,
    ),
    (
        "Generator.permutation",
        lambda xp, x: xp.random.default_rng(0).permutation(4),
        AttributeError,
        NOT_EMULATED,
    ),
]
SYNCS = [
    ("math.sqrt", lambda xp, x: math.sqrt(xp.abs(x).sum())),
    ("if", lambda xp, x: 0 if xp.isnan(x).any() else 1),
    ("format", lambda xp, x: f"{x.sum():.3f}"),
    ("float", lambda xp, x: float(x.sum())),
    ("mask read", lambda xp, x: x[x > 0]),
    ("mask write", lambda xp, x: x.__setitem__(x > 0, 0)),
    ("nonzero", lambda xp, x: xp.nonzero(x)),
]
X = np.linspace(-1, 1, 16, dtype="f4").reshape(4, 4)


def real_cupy():
    if not real_cupy_wanted():
        pytest.skip("the real CuPy was not asked for: TINYGRAD_MHA_REAL_CUPY=1")
    return importlib.import_module("cupy")


def outcome(f, xp):
    try:
        f(xp, xp.asarray(X))
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("name", "f", "expected", "_"), CASES, ids=[case[0] for case in CASES])
def test_double(name, f, expected, _):
    assert outcome(f, strict_cupy.cupy) is expected


@pytest.mark.parametrize(
    ("name", "f", "double", "expected"), CASES, ids=[case[0] for case in CASES]
)
def test_cupy_is_not_stricter(name, f, double, expected):
    if expected is NOT_EMULATED:
        pytest.skip("device code that is compiled into the wheel")
    assert outcome(f, real_cupy()) is (double if expected is SAME else expected)


@pytest.mark.parametrize(("name", "f"), SYNCS, ids=[case[0] for case in SYNCS])
def test_syncs(name, f):
    xp, x = strict_cupy.cupy, strict_cupy.cupy.asarray(X)
    with strict_cupy.forbid_sync(), pytest.raises(strict_cupy.SyncError):
        f(xp, x)


@pytest.mark.parametrize(("name", "f"), SYNCS, ids=[case[0] for case in SYNCS])
def test_cupy_syncs(name, f):
    xp = real_cupy()
    emu = pytest.importorskip("emu_counters", reason="nobody counts the copies here")
    x = xp.asarray(X)
    with emu.count() as c:
        f(xp, x)
    assert min(c.d2h, c.syncs) >= 1, str(c)


def test_results_are_numpy_results():
    xp, x = strict_cupy.cupy, strict_cupy.cupy.asarray(X)
    np.testing.assert_array_equal(softmax(xp, x).get(), softmax(np, X))
    np.testing.assert_array_equal((x @ x.T).get(), X @ X.T)
    out = xp.empty((4, 4), "f4")
    assert xp.matmul(x, x, out=out) is out


def test_traffic_is_counted():
    strict_cupy.reset_stats()
    x = strict_cupy.cupy.asarray(X)
    (x + 1).get()
    assert strict_cupy.stats == {"ops": 1, "h2d": 1, "d2h": 1, "sync": 1}
