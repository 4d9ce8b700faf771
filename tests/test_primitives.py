"""The ops of chapters 2 to 5 beside NumPy's functions; and what their docstrings promise at kinks
and ties, in branches that nobody took, at extremes, and when something is wrong.

Their gradients on ordinary numbers are the certificate's business: test_ops.py.
"""

import math

import numpy as np
import pytest
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st
from words import close, grads, leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor

inf, nan = np.inf, np.nan


# ------------------------------------------------------------------------------------- values


def numpy_clip(x, low, high):
    """np.clip, which older versions do not let do without limits."""
    y = x if low is None else np.maximum(x, low)
    return y if high is None else np.minimum(y, high)


def elementwise(f):
    return lambda x, **params: np.reshape([f(float(v), **params) for v in x.flat], x.shape)


def python_gelu(x, approximate):
    if approximate == "none":
        return x * math.erfc(-x / math.sqrt(2)) / 2
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


NUMPY = {
    "sin": np.sin,
    "cos": np.cos,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "erf": elementwise(math.erf),
    "gelu": elementwise(python_gelu),
    "clip": numpy_clip,
    "flip": np.flip,
    "tile": np.tile,
    "pad": lambda x, widths, constant_values: np.pad(x, widths, constant_values=constant_values),
    "tril": np.tril,
    "triu": np.triu,
    "split": np.split,
    "take": np.take,
    "take_along_axis": np.take_along_axis,
    "var": lambda x, correction, **params: np.var(x, ddof=correction, **params),
    "std": lambda x, correction, **params: np.std(x, ddof=correction, **params),
    "prod": np.prod,
    "cumsum": np.cumsum,
    "outer": np.outer,
    "logsumexp": lambda x, **params: np.log(np.exp(x).sum(**params)),
}


@pytest.mark.parametrize("name", NUMPY)
@given(data=st.data())
def test_values_are_those_of_numpy(name, data):
    args, params = data.draw(CASES[name])
    got, want = tg.REGISTRY[name](*args, **params), NUMPY[name](*args, **params)
    if name != "split":
        got, want = [got], [want]
    assert len(got) == len(want)
    for y, z in zip(got, want, strict=True):
        assert y.shape == np.shape(z)
        assert y.dtype == np.float64
        close(y, z)


def test_both_names_of_an_op_are_one():
    """x.op(…) is tg.op(x, …); what chapter 2 to 5 hold are methods too."""
    x = leaf([[0.5, 0.25], [2.0, 3.0]])
    for name, args in {
        "sin": (), "cos": (), "expm1": (), "log1p": (), "silu": (), "softplus": (), "erf": (),
        "gelu": ("tanh",), "clip": (0.3, 2.5), "flip": (0,), "tile": (2,), "pad": (1, 7.0),
        "tril": (1,), "triu": (1,), "take": ([1, 1], 0), "take_along_axis": ([[0], [1]], 1),
        "var": (0, True, 1), "std": (0, False, 1), "prod": (1,), "cumsum": (-1,),
        "outer": ([1.0, 2.0],), "logsumexp": (0,), "rms_norm": (), "mse_loss": (np.zeros((2, 2)),),
        "nll_loss": ([0, 1],), "cross_entropy": ([0, 1],),
        "binary_cross_entropy_with_logits": (np.ones((2, 2)),),
    }.items():  # fmt: skip
        np.testing.assert_array_equal(
            getattr(x, name)(*args).data, tg.REGISTRY[name](x, *args).data
        )
    for a, b in zip(x.split([1], 1), tg.split(x, [1], 1), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


# ------------------------------------------------------------------ branches that nobody took
#
# where(safe, f(x), 0): f may be infinite or NaN where it is not safe, and so may its slope. There
# the gradient is 0, at order 1 and at order 2. For each: f, f′, f″, and numbers of both kinds.

HALF = np.array([0.5, 0.5, 0.5, 1.5])
DEAD = {
    "log": (lambda x: x.log(), lambda x: 1 / x, lambda x: -1 / x**2, [-1, 0, 0.5, 2]),
    "log1p": (lambda x: x.log1p(), lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2,
              [-1, -2, 0.5, 2]),
    "sqrt": (lambda x: x.sqrt(), lambda x: x**-0.5 / 2, lambda x: -(x**-1.5) / 4, [-1, 0, 0.5, 2]),
    "1/x": (lambda x: 1 / x, lambda x: -(x**-2), lambda x: 2 * x**-3, [0, 0, 0.5, 2]),
    "x log x": (lambda x: x * x.log(), lambda x: np.log(x) + 1, lambda x: 1 / x, [-1, 0, 0.5, 2]),
    "x**0.5": (lambda x: x**0.5, lambda x: x**-0.5 / 2, lambda x: -(x**-1.5) / 4, [-1, 0, 0.5, 2]),
    "x**1.5": (lambda x: x**1.5, lambda x: 1.5 * x**0.5, lambda x: 0.75 * x**-0.5, [-1, 0, 0.5, 2]),
    "x**-1": (lambda x: x**-1, lambda x: -(x**-2), lambda x: 2 * x**-3, [0, 0, 0.5, 2]),
    "x**-2.5": (lambda x: x**-2.5, lambda x: -2.5 * x**-3.5, lambda x: 8.75 * x**-4.5,
                [-1, 0, 0.5, 2]),
    "x**array": (lambda x: x ** (0 * x.detach() + 0.5), lambda x: x**-0.5 / 2,
                 lambda x: -(x**-1.5) / 4, [-1, 0, 0.5, 2]),
    "0**x": (lambda x: tg.pow(0.0, x), lambda x: 0 * x, lambda x: 0 * x, [-1, -0.5, 0.5, 2]),
    "(0x)**x": (lambda x: tg.pow(0 * x.detach(), x), lambda x: 0 * x, lambda x: 0 * x,
                [-1, -0.5, 0.5, 2]),
    "x**x": (lambda x: x**x, lambda x: x**x * (np.log(x) + 1),
             lambda x: x**x * (np.log(x) + 1) ** 2 + x ** (x - 1), [-0.5, -1.5, 0.5, 2]),
    "exp": (lambda x: x.exp(), np.exp, np.exp, [-inf, 1000, 0.5, 2]),
    "expm1": (lambda x: x.expm1(), np.exp, np.exp, [-inf, 1000, 0.5, 2]),
    "exp(exp)": (lambda x: x.exp().exp(), lambda x: np.exp(np.exp(x) + x),
                 lambda x: np.exp(np.exp(x) + x) * (np.exp(x) + 1), [50, 1000, 0.5, 1]),
    "clip(exp)": (lambda x: x.exp().clip(-9.0, 20.0), np.exp, np.exp, [50, 1000, 0.5, 2]),
    "softplus": (lambda x: x.softplus(), lambda x: 1 / (1 + np.exp(-x)),
                 lambda x: 1 / (2 + np.exp(x) + np.exp(-x)), [nan, inf, 0.5, -2]),
    "erf": (lambda x: x.erf(), lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)),
            lambda x: -4 / np.sqrt(np.pi) * x * np.exp(-(x**2)), [nan, inf, 0.5, -2]),
}  # fmt: skip


def where_safe(x, f, safe):
    with np.errstate(all="ignore"):  # log 0 is what nobody asked for, and only the forward says so
        return tg.where(safe, f(x), 0.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", DEAD)
def test_a_dead_branch_sends_nothing(name, device, request):
    """Not even a warning, which would be an error here."""
    cupy = request.getfixturevalue("cupy") if device == "cuda" else None
    send = cupy.asarray if cupy else np.asarray
    f, slope, curvature, numbers = DEAD[name]
    x = np.array(numbers, dtype=float)
    safe = np.array([False, False, True, True])
    g, v = np.array([0.3, -0.7, 1.1, 0.9]), np.array([1.0, 2.0, 3.0, 4.0])
    want = np.zeros((2, 4))
    want[:, 2:] = (slope(x[2:]) * g[2:], curvature(x[2:]) * g[2:] * v[2:])

    leaf = Tensor(send(x), requires_grad=True)
    y = where_safe(leaf, f, send(safe))
    (dx,) = tg.grad(y, [leaf], send(g))
    close(dx.numpy(), want[0])
    (dx,) = tg.grad(y, [leaf], send(g), create_graph=True)
    close(dx.numpy(), want[0])
    for again in (False, True):
        (ddx,) = tg.grad(dx, [leaf], send(v), create_graph=again)
        close(ddx.numpy(), want[1])


def test_a_dead_quotient_sends_nothing_to_either_side():
    a, b = leaf([0.0, 3.0, inf]), leaf([0.0, 2.0, inf])
    y = where_safe(a, lambda a: a / b, np.array([False, True, False]))
    for create_graph in (False, True):
        da, db = tg.grad(y.sum(), [a, b], create_graph=create_graph)
        assert da.numpy().tolist() == [0, 0.5, 0]
        assert db.numpy().tolist() == [0, -0.75, 0]


def test_a_live_infinity_is_not_hidden():
    """Only what nobody asked for is silent: log at 0 itself has an infinite slope."""
    for f in (lambda x: x.log(), lambda x: 1 / x, lambda x: x**-1):
        x = leaf([0.0])
        with np.errstate(all="ignore"):
            assert np.isinf(grads(f(x).sum(), x)[0]).all()


# --------------------------------------------------------------------------- kinks and ties


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_conventions_at_kinks(create_graph, device, request):
    """As the docstrings say; each line: f, x, the gradient."""
    cupy = request.getfixturevalue("cupy") if device == "cuda" else None
    send = cupy.asarray if cupy else np.asarray
    for f, x, want in (
        (lambda x: x.sqrt(), [0.0, 4.0], [0, 0.25]),
        (lambda x: x.abs(), [0.0, -4.0], [0, -1]),
        (lambda x: x.relu(), [0.0, 4.0], [0, 1]),
        (lambda x: (x * x).sum().sqrt(), [0.0, 0.0], [0, 0]),  # the norm at the origin
        (lambda x: (x * x).sum().sqrt(), [3.0, 4.0], [0.6, 0.8]),
        (lambda x: (x * x).sum() ** 0.5, [0.0, 0.0], [0, 0]),
        (lambda x: x.std(), [2.0, 2.0, 2.0], [0, 0, 0]),
        (lambda x: x.std(correction=1), [2.0, 2.0, 2.0], [0, 0, 0]),
        (lambda x: x.std(), [7.0], [0]),
        (lambda x: x**0, [0.0, -1.0], [0, 0]),
        (lambda x: x**1, [0.0, -1.0], [1, 1]),
        (lambda x: x**2, [0.0, -1.0], [0, -2]),
        (lambda x: x**0.5, [0.0, 4.0], [0, 0.25]),
        (lambda x: x**1.5, [0.0, 4.0], [0, 3]),
        (lambda x: x.clip(1, 3), [0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 1, 1, 0]),
        (lambda x: x.clip(low=1), [0.0, 1.0, 4.0], [0, 1, 1]),
        (lambda x: x.clip(high=1), [0.0, 1.0, 4.0], [1, 1, 0]),
        (lambda x: x.clip(1, 1), [0.0, 1.0, 4.0], [0, 1, 0]),
        (lambda x: x.clip(3, 1), [0.0, 2.0, 4.0], [0, 0, 0]),  # NumPy's answer is 1 everywhere
        (lambda x: x.prod(), [0.0, 2.0, 5.0], [10, 0, 0]),
        (lambda x: x.prod(), [0.0, 0.0, 5.0], [0, 0, 0]),
        (lambda x: x.softplus(), [0.0], [0.5]),
        (lambda x: x.silu(), [0.0], [0.5]),
        (lambda x: x.gelu(), [0.0], [0.5]),
        (lambda x: x.gelu("tanh"), [0.0], [0.5]),
    ):
        leaf = Tensor(send(np.array(x)), requires_grad=True)
        (dx,) = tg.grad(f(leaf).sum(), [leaf], create_graph=create_graph)
        close(dx.numpy(), want, atol=0)


def test_limits_that_want_a_gradient():
    """A limit gets the gradient where it is the result; at a tie x gets all of it."""
    x = leaf([0.0, 1.0, 2.0, 3.0, 4.0])
    low, high = leaf([1.0] * 5), leaf(3.0)
    y = tg.clip(x, low, high)
    assert y.numpy().tolist() == [1, 1, 2, 3, 3]
    g = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    for create_graph in (False, True):
        dx, dlow, dhigh = tg.grad(y, [x, low, high], g, create_graph=create_graph)
        assert dx.numpy().tolist() == [0, 2, 4, 8, 0]
        assert dlow.numpy().tolist() == [1, 0, 0, 0, 0]
        assert dhigh.numpy() == 16
    low, high = leaf(3.0), leaf(1.0)  # crossed: high has the last word
    y = tg.clip(x, low, high)
    assert y.numpy().tolist() == [1] * 5
    dx, dlow, dhigh = grads(y.sum(), x, low, high)
    assert (dx.tolist(), dlow, dhigh) == ([0] * 5, 0, 5)
    low, high = leaf(2.0), leaf(2.0)
    dx, dlow, dhigh = grads(tg.clip(x, low, high).sum(), x, low, high)
    assert (dx.tolist(), dlow, dhigh) == ([0, 0, 1, 0, 0], 2, 2)  # nobody twice


def test_clip_without_limits_and_of_what_is_no_number():
    x = leaf([1.0, nan])
    y = tg.clip(x)
    np.testing.assert_array_equal(y.data, x.data)
    y = tg.clip(x, 0, 3)
    np.testing.assert_array_equal(y.data, [1, nan])
    assert grads(y.sum(), x)[0].tolist() == [1, 0]
    y = tg.clip(2.0, leaf([1.0, 3.0]), 5.0)
    assert y.data.tolist() == [2, 3]


# -------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_could_overflow_does_not(dtype):
    x = leaf([-inf, -1e30, -1000, -50, 0, 50, 1000, 1e30, inf], dtype)
    y = x.softplus()
    close(y.data, np.maximum(x.data.astype(float), 0), atol=0.7)
    close(grads(y.sum(), x)[0], [0, 0, 0, 0, 0.5, 1, 1, 1, 1], atol=1e-7)
    x = leaf([-1e30, -1000, 0, 1000, 1e30], dtype)
    y = x.silu()
    close(y.data, np.maximum(x.data, 0), rtol=1e-7)
    close(grads(y.sum(), x)[0], [0, 0, 0.5, 1, 1], atol=1e-7)


def test_what_is_exact_for_tiny_numbers():
    x = leaf([1e-20, -1e-300, 0.0])
    for op in (tg.expm1, tg.log1p, tg.sin):
        np.testing.assert_array_equal(op(x).data, x.data)
        np.testing.assert_array_equal(grads(op(x).sum(), x)[0], [1, 1, 1])


@pytest.mark.parametrize("mean", [1e5, -4e4])
def test_var_and_std_of_numbers_with_a_large_mean(mean):
    """E[x²] − E[x]² has no digit left in float32 here, and may be negative."""
    row = np.array([0.0, 1.0, 2.0, 3.0])
    for op, want in ((tg.var, 1.25), (tg.std, np.sqrt(1.25))):
        x = leaf(mean + row, np.float32)
        y = op(x)
        assert y.dtype == np.float32
        assert y.item() == pytest.approx(want, rel=1e-6)
        close(grads(y, x)[0], grads(op(z := leaf(row)), z)[0], rtol=1e-5)


def test_var_of_too_few_numbers_is_no_number():
    """One number says nothing of the spread of its population; NumPy warns, and so do we."""
    for op in (tg.var, tg.std):
        x = leaf([3.0])
        with pytest.warns(RuntimeWarning, match="invalid value"):
            y = op(x, correction=1)
        assert np.isnan(y.data)
        assert np.isnan(grads(y, x)[0]).all()


def test_products_of_nothing():
    x = leaf(np.zeros((2, 0)))
    assert tg.prod(x).item() == 1
    assert tg.prod(x, axis=1).data.tolist() == [1, 1]
    assert tg.prod(x, axis=0).shape == (0,)
    assert grads(tg.prod(x), x)[0].shape == (2, 0)
    assert tg.cumsum(x).shape == (0,)
    assert tg.cumsum(x, axis=1).shape == (2, 0)


def test_prod_over_several_axes_by_hand():
    x = leaf(np.arange(1.0, 13).reshape(2, 3, 2))
    y = tg.prod(x, axis=(0, -1))
    assert y.data.tolist() == [1 * 2 * 7 * 8, 3 * 4 * 9 * 10, 5 * 6 * 11 * 12]
    close(grads(y.sum(), x)[0], y.data[:, None] / x.data)


# ------------------------------------------------------------------------------ moved about


def test_pieces_that_overlap_add_up():
    """Cut points need no order: [3, 1] gives x[:3], x[3:1], x[1:], and x[1:3] is in two pieces."""
    x = leaf(np.arange(5.0))
    pieces = tg.split(x, [3, 1])
    assert [p.data.tolist() for p in pieces] == [[0, 1, 2], [], [1, 2, 3, 4]]
    (dx,) = grads(pieces[0].sum() + 10.0 * pieces[2].sum(), x)
    assert dx.tolist() == [1, 11, 11, 10, 10]
    far = tg.split(x, (2, 9))
    assert [p.shape for p in far] == [(2,), (3,), (0,)]
    assert [p.shape for p in tg.split(x, [-1])] == [(4,), (1,)]
    assert [p.shape for p in tg.split(x, [])] == [(5,)]


def test_pieces_nobody_used():
    x = leaf(np.arange(6.0))
    a, _, c = tg.split(x, 3)
    assert grads(c.sum(), x)[0].tolist() == [0, 0, 0, 0, 1, 1]
    assert grads((a * c).sum(), x)[0].tolist() == [4, 5, 0, 0, 0, 1]


def test_cut_points_in_any_form():
    x = np.arange(6.0)
    want = [p.tolist() for p in np.split(x, [2, 4])]
    for cuts in ((2, 4), np.array([2, 4]), Tensor([2, 4]), range(2, 5, 2), 3, np.int64(3)):
        assert [p.tolist() for p in tg.split(x, cuts)] == want
    assert [p.shape for p in tg.split(np.zeros((0, 2)), 3)] == [(0, 2)] * 3


def test_widths_in_any_form():
    """Also those that a strategy of tuples does not draw."""
    x = np.arange(6.0).reshape(2, 3)
    for widths in (1, (1, 2), ((1, 2),), ((0, 1), (2, 0)), ((1,), (2,)), [[0, 1], [2, 0]],
                   np.array([[0, 1], [2, 0]]), np.int64(2), np.array([1, 2])):  # fmt: skip
        np.testing.assert_array_equal(
            tg.pad(x, widths, constant_values=5), np.pad(x, widths, constant_values=5)
        )
    assert tg.pad(np.float32([1]), 1, 0.5).dtype == np.float32
    assert tg.pad(np.array(3.0), 4).shape == ()


def test_copies_in_any_form():
    x = leaf(np.arange(6.0).reshape(2, 3))
    for reps in (2, (2,), (2, 1), [1, 2], (2, 1, 3), (1, 1, 1, 2), (), (0, 2), np.array([2, 2])):
        y = tg.tile(x, reps)
        np.testing.assert_array_equal(y.data, np.tile(x.data, reps))
        count = y.size // x.size
        np.testing.assert_array_equal(grads(y.sum(), x)[0], np.full((2, 3), count))


def test_triangles_hide_what_is_not_finite():
    """They choose, and do not multiply: 0 · nan would be nan."""
    x = leaf([[1.0, nan], [inf, 2.0]])
    assert tg.tril(tg.triu(x)).data.tolist() == [[1, 0], [0, 2]]
    (dx,) = grads(tg.triu(x), x, g=np.array([[1.0, 2.0], [nan, 4.0]]))
    assert dx.tolist() == [[1, 2], [0, 4]]


def test_what_is_taken_twice_gets_both_gradients():
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y = tg.take(x, [2, 0, 2, -1], axis=1)
    assert y.data.tolist() == [[3, 1, 3, 3], [6, 4, 6, 6]]
    assert grads(y.sum(), x)[0].tolist() == [[1, 0, 3], [1, 0, 3]]
    y = tg.take(x, [[0, 5], [5, -1]])
    assert y.data.tolist() == [[1, 6], [6, 6]]
    assert grads(y.sum(), x)[0].tolist() == [[1, 0, 0], [0, 0, 3]]
    y = tg.take_along_axis(x, np.array([[1, 1, 2]]), axis=1)  # one row of indices for both
    assert y.data.tolist() == [[2, 2, 3], [5, 5, 6]]
    assert grads(y.sum(), x)[0].tolist() == [[0, 2, 1], [0, 2, 1]]
    best = x.data.argmax(axis=1, keepdims=True)
    assert tg.take_along_axis(x, best).data.tolist() == [[3], [6]]  # the last axis, as in NumPy


def test_indices_in_any_form():
    x = leaf(np.arange(12.0).reshape(3, 4))
    for i in (2, -1, np.int64(2), np.array(2), Tensor(2)):
        y = tg.take(x, i, axis=0)
        assert y.data.tolist() == [8, 9, 10, 11]
        assert grads(y.sum(), x)[0].sum(axis=1).tolist() == [0, 0, 4]
    for i in ([1, 2], (1, 2), np.array([1, 2], np.uint8), Tensor([1, 2])):
        np.testing.assert_array_equal(tg.take(x, i, 1).data, x.data[:, 1:3])
    assert tg.take(x, []).shape == (0,)
    assert tg.take(np.zeros((0, 2)), [], axis=0).shape == (0, 2)


def test_indices_may_stay_on_the_host(cupy):
    """They are few. Also when the backward pass is recorded, where they stood beside a Tensor."""
    x = Tensor(cupy.asarray(np.arange(6.0).reshape(2, 3)), requires_grad=True)
    for y in (
        tg.take(x, [2, 0, 2], axis=1),
        tg.take(x, 1, axis=0),
        tg.take(x, [5, 5]),
        tg.take_along_axis(x, [[0], [2]], axis=1),
    ):
        plain, recorded = (tg.grad(y.sum(), [x], create_graph=c)[0] for c in (False, True))
        np.testing.assert_array_equal(plain.numpy(), recorded.numpy())
        assert plain.numpy().sum() == y.size


def test_running_sums_run_back():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = tg.cumsum(x)
    assert y.data.tolist() == [1, 3, 6, 10]
    assert grads(y, x, g=np.array([1.0, 10, 100, 1000]))[0].tolist() == [[1111, 1110], [1100, 1000]]
    assert tg.cumsum(x, axis=0).data.tolist() == [[1, 2], [4, 6]]
    assert tg.cumsum(leaf(3.0)).data.tolist() == [3]


def test_outer_of_what_is_no_vector():
    a, b = leaf([[1.0, 2.0]]), leaf(3.0)
    y = tg.outer(a, b)
    assert y.data.tolist() == [[3], [6]]
    da, db = grads(y.sum(), a, b)
    assert da.tolist() == [[3, 3]]
    assert db == 3


# ----------------------------------------------------------------------- what an error says


ERRORS = [
    (lambda x: tg.split(x, 2, 1), ValueError, "split: an axis of 3 is not cut into 2 equal pieces"),
    (lambda x: tg.split(x, 0), ValueError, "split: an axis of 2 is not cut into 0 equal pieces"),
    (lambda x: tg.split(x, 1, axis=2), IndexError, "split: axis 2 is out of bounds"),
    (lambda x: tg.split(x, [0.5]), TypeError, "split: "),
    (lambda x: tg.pad(x, -1), ValueError, "pad: widths -1 should not be negative: to cut, index"),
    (lambda x: tg.pad(x, ((1, 1),) * 3), ValueError, r"pad: widths .* a pair for each of 2 axes"),
    (lambda x: tg.pad(x, 0.5), TypeError, "pad: "),
    (lambda x: tg.tril(x[0]), ValueError, r"tril: x \(3,\) has no rows and columns"),
    (lambda x: tg.triu(x[0]), ValueError, r"triu: x \(3,\) has no rows and columns"),
    (lambda x: tg.take(x, [0, 3], axis=1), IndexError,
     "take: index 3 is out of bounds for axis 1 with size 3"),
    (lambda x: tg.take(x, -7), IndexError, "take: index -7 is out of bounds .* with size 6"),
    (lambda x: tg.take(x, [0.5]), TypeError, "take: indices are places: an integer array"),
    (lambda x: tg.take(x, [True]), TypeError, "take: indices are places.* not bool"),
    (lambda x: tg.take(x, 0, axis=2), IndexError, "take: axis 2 is out of bounds"),
    (lambda x: tg.take_along_axis(x, [0], axis=1), ValueError,
     r"take_along_axis: indices \(1,\) should have as many axes as x \(2, 3\)"),
    (lambda x: tg.take_along_axis(x, [[3]], axis=1), IndexError,
     "take_along_axis: index 3 is out of bounds for axis 1 with size 3"),
    (lambda x: tg.flip(x, 2), IndexError, "flip: axis 2 is out of bounds"),
    (lambda x: tg.cumsum(x, 2), IndexError, "cumsum: axis 2 is out of bounds"),
    (lambda x: tg.prod(x, 2), IndexError, "prod: axis 2 is out of bounds"),
    (lambda x: tg.var(x, 2), IndexError, "var: axis 2 is out of bounds"),
    (lambda x: tg.std(x, (0, 0)), ValueError, "std: duplicate value in 'axis'"),
    (lambda x: tg.clip(x, np.zeros(4)), ValueError, r"clip: .*x \(2, 3\) float64, low \(4,\)"),
    (lambda x: tg.tile(x), TypeError, "tile: missing argument reps"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "kind", "message"), ERRORS)
def test_errors_name_the_op_and_the_way_out(f, kind, message):
    x = leaf(np.ones((2, 3)))
    with pytest.raises(kind, match=message):
        f(x)
