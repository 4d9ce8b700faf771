"""erf and gelu beside math.erf and math.erfc, on dense grids and at every extreme."""

import importlib
import math

import numpy as np
import pytest
from words import leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor

GELU = importlib.import_module("tinygrad_mha.gelu")
inf, nan = np.inf, np.nan
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def grid(dtype, far=40.0):
    """Dense where the values change, with every scale down to the smallest number there is."""
    info = np.finfo(dtype)
    around = [v + np.linspace(-1e-3, 1e-3, 201) for v in (1, 4, 4 / math.sqrt(2))]
    ends = info.smallest_subnormal, info.tiny, info.eps
    x = np.concatenate(
        [
            np.linspace(0, 6, 20_001),
            np.linspace(0, far, 5_001),
            np.geomspace(1e-37, 1, 2001),
            ends,
            *around,
        ]
    )
    return np.concatenate([x, -x]).astype(dtype)


def exactly(f, x):
    """f of each number, in Python's floats: for a float32 x, without its rounding."""
    return np.array([f(v) for v in x.astype(float).tolist()])


def normal_below(x):
    """Φ(x), with all its digits where it is small too."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def gelu_tanh(x):
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + math.tanh(u))


# ------------------------------------------------------------------------------------ erf


@both
def test_erf_on_a_dense_grid(dtype):
    """Within a few units in the last place, relative: so also where x and erf x are tiny."""
    x = grid(dtype)
    y, want = tg.erf(x), exactly(math.erf, x)
    assert y.dtype == dtype
    assert np.abs(y - want).max() <= {np.float32: 1.5e-7, np.float64: 3e-16}[dtype]
    normal = np.abs(want) > np.finfo(dtype).tiny
    relative = np.abs(y - want)[normal] / np.abs(want)[normal]
    assert relative.max() <= 2 * np.finfo(dtype).eps
    assert (np.abs(y) <= 1).all()
    np.testing.assert_array_equal(tg.erf(-x), -y)


@both
def test_the_slope_of_erf(dtype):
    x = leaf(grid(dtype, 30), dtype)
    (dx,) = tg.grad(tg.erf(x).sum(), [x])
    want = exactly(lambda v: 2 / math.sqrt(math.pi) * math.exp(-(v**2)), x.data)
    assert dx.dtype == dtype
    assert np.abs(dx.data - want).max() <= 4 * np.finfo(dtype).eps


# ----------------------------------------------------------------------------------- gelu


@both
def test_gelu_on_a_dense_grid(dtype):
    """Relative to what it is, also far below 0, where 1 + erf would have no digit left."""
    x = leaf(grid(dtype), dtype)
    y = tg.gelu(x)
    assert y.dtype == dtype
    want = exactly(lambda v: v * normal_below(v), x.data)
    eps = np.finfo(dtype).eps
    # e^(−x²/2) makes x²/2 roundings of the one in x²: that is what is allowed for here
    allowed = np.abs(want) * eps * (4 + x.data.astype(float) ** 2) + np.finfo(dtype).tiny * 40
    assert (np.abs(y.data - want) <= allowed).all()
    # beyond 4, half a unit in the last place of a float32 is 2.4e-7, whatever computes it
    error = np.abs(y.data - want) / np.maximum(1, np.abs(want))
    assert error.max() <= {np.float32: 1.3e-7, np.float64: 3e-16}[dtype]
    near = np.abs(x.data) < 4
    assert np.abs(y.data - want)[near].max() <= {np.float32: 2e-7, np.float64: 5e-16}[dtype]

    (dx,) = tg.grad(y.sum(), [x])
    density = exactly(lambda v: math.exp(-(v**2) / 2) / math.sqrt(2 * math.pi), x.data)
    slope = exactly(normal_below, x.data) + x.data.astype(float) * density
    assert np.abs(dx.data - slope).max() <= 4 * eps


def test_gelu_far_below_zero():
    x = np.array([-5.0, -10.0, -20.0, -37.0])
    want = exactly(lambda v: v * normal_below(v), x)
    np.testing.assert_allclose(tg.gelu(x), want, rtol=1e-12)
    single = tg.gelu(x[:2].astype(np.float32))
    np.testing.assert_allclose(single, want[:2], rtol=1e-5)


@both
def test_the_other_gelu_on_a_dense_grid(dtype):
    x = leaf(grid(dtype), dtype)
    y = tg.gelu(x, approximate="tanh")
    assert y.dtype == dtype
    eps = np.finfo(dtype).eps
    assert np.abs(y.data - exactly(gelu_tanh, x.data)).max() <= eps * 40
    assert np.abs(y.data - tg.gelu(x).data).max() < 5e-4  # as its docstring says
    (dx,) = tg.grad(y.sum(), [x])
    (again,) = tg.grad(tg.gelu(x, approximate="tanh").sum(), [x], create_graph=True)
    np.testing.assert_allclose(dx.data, again.data, rtol=0, atol=40 * eps)


def test_gelu_by_hand():
    assert tg.gelu(np.zeros(1)).tolist() == [0]
    assert tg.gelu(1.0).dtype == np.float32
    np.testing.assert_allclose(tg.gelu(np.array([1.0, -1.0])), [0.8413447460685429, -0.158655254])
    np.testing.assert_allclose(tg.gelu(np.array([1.0]), "tanh"), [0.8411919906082768])
    with pytest.raises(ValueError, match="gelu: approximate 'erf' is none of 'none', 'tanh'"):
        tg.gelu(np.ones(2), approximate="erf")


# ------------------------------------------------------------------------------- extremes


@both
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_overflows(dtype, device, request):
    """Nor does anything underflow aloud: a tail too small to write down is 0 on purpose."""
    cupy = request.getfixturevalue("cupy") if device == "cuda" else None
    send = cupy.asarray if cupy else np.asarray
    info = np.finfo(dtype)
    large = [inf, float(info.max), float(info.max) / 2, 1e30, 1000.0, 41.0, 38.0, 14.2, 8.0]
    small = [float(info.tiny), float(info.smallest_subnormal), 0.0]
    x = np.array(large + small, dtype)
    x = np.concatenate([x, -x, [dtype(nan)]])
    ops = {
        "erf": (tg.erf, np.sign(x)),
        "none": (tg.gelu, np.maximum(x, 0)),
        "tanh": (lambda x: tg.gelu(x, approximate="tanh"), np.maximum(x, 0)),
    }
    # CuPy compiles with -ftz=true: in float32, what is below the normal numbers is 0 on a GPU
    lost = float(info.tiny) if cupy else 2 * float(info.smallest_subnormal)
    for name, (op, limit) in ops.items():
        a = Tensor(send(x), requires_grad=True)
        with np.errstate(all="raise"):
            y = op(a)
        (dx,) = tg.grad(y, [a], send(np.ones_like(x)))
        y, dx = y.numpy(), dx.numpy()
        assert np.isnan(y[-1])
        assert np.isnan(dx[-1])
        far = np.abs(x) > 7
        np.testing.assert_allclose(y[far], limit[far], atol=1e-10, rtol=1e-6)
        slope = limit * 0 if name == "erf" else (x > 0)
        np.testing.assert_allclose(dx[far], slope[far].astype(dtype), atol=1e-9)
        tiny = np.abs(x) < 1e-20
        np.testing.assert_allclose(y[tiny], x[tiny] * (1.128379167 if name == "erf" else 0.5),
                                   rtol=1e-6, atol=lost)  # fmt: skip


def test_the_second_derivative_survives_huge_numbers():
    x = leaf([1e200, -1e200, 30.0, 0.5])
    for op in (tg.erf, tg.gelu, lambda x: tg.gelu(x, approximate="tanh")):
        (dx,) = tg.grad(op(x).sum(), [x], create_graph=True)
        (ddx,) = tg.grad(dx.sum(), [x])
        np.testing.assert_allclose(ddx.data[:3], 0, atol=1e-100)
        assert ddx.data[3] != 0


# ------------------------------------------------------------------------------ its making


@both
def test_no_number_notices_the_blocks(dtype, monkeypatch):
    x = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(dtype).transpose(1, 0, 2) * 3
    for op in (tg.erf, tg.gelu, lambda x: tg.gelu(x, approximate="tanh")):
        whole = op(x)
        a = Tensor(x, requires_grad=True)
        (slope,) = tg.grad(op(a).sum(), [a])
        for block in (1, 4, 104, 105):
            monkeypatch.setattr(GELU, "BLOCK", block)
            np.testing.assert_array_equal(op(x), whole)
            (dx,) = tg.grad(op(a).sum(), [a])
            np.testing.assert_array_equal(dx.data, slope.data)
        monkeypatch.undo()


def test_whole_numbers_and_lists():
    for op in (tg.erf, tg.gelu):
        want = op(np.array([0.0, 1.0, 2.0], np.float32))
        np.testing.assert_allclose(op(np.array([0, 1, 2])), want)
        np.testing.assert_allclose(op([0, 1, 2]), want)
        assert op(np.zeros((0, 3))).shape == (0, 3)
        assert op(np.float16([1.0, -2.0])).dtype == np.float16


def test_float32_is_not_computed_through_float64(monkeypatch):
    """Every array on the way has the dtype of x: twice the width would be half the speed."""
    seen = set()
    horner = GELU.horner

    def spy(coefficients, x):
        y = horner(coefficients, x)
        seen.update((x.dtype, y.dtype))
        return y

    monkeypatch.setattr(GELU, "horner", spy)
    for op in (tg.erf, tg.gelu):
        op(np.ones(3, np.float32))
    assert seen == {np.dtype(np.float32)}


def test_the_coefficients_are_those_that_the_program_makes(monkeypatch):
    pytest.importorskip("mpmath")
    import erf_coefficients

    for fit, digits in ((GELU.SINGLE, 9), (GELU.DOUBLE, 17)):
        made = erf_coefficients.coefficients(fit)
        for have, want in zip((fit.tail, fit.near_zero), made, strict=True):
            assert [f"{c:.{digits}g}" for c in have] == [f"{c:.{digits}g}" for c in want]
