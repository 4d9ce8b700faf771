"""Inputs that nobody means to give, and that are given all the same."""

import threading

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.optim import SGD, Adam, clip_grad_norm
from tinygrad_mha.tensor import modes

INTEGERS = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
SMOOTH = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "silu",
    "softplus",
]
SMOOTH += ["erf", "gelu", "softmax", "log_softmax", "logsumexp", "mean", "std", "var"]


def grads(f, xs, g, create_graph):
    y = f(*xs)
    return [d.numpy() for d in tg.grad(y, xs, g, create_graph=create_graph)]


# ----------------------------------------------------------------------------------- integers


@pytest.mark.parametrize("dtype", [*INTEGERS, np.uint64])
@pytest.mark.parametrize("name", SMOOTH)
def test_functions_of_integers(name, dtype):
    """A byte is no number in half precision, and minus a number without a sign is none at all."""
    x, op = np.array([1, 0, 5, 20]).astype(dtype), getattr(tg, name)
    with np.errstate(divide="ignore"):
        y, want = op(Tensor(x)), op(x.astype(np.float64))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), want, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [*INTEGERS, np.uint64])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("wrap", [Tensor, np.asarray])
def test_the_power_of_an_integer_exponent(dtype, create_graph, wrap):
    x, g = Tensor([3.0, 200.0, 0.0], requires_grad=True), np.array([0.5, -2.0, 3.0], np.float32)
    b = np.array([2, 0, 1]).astype(dtype)
    [d] = grads(lambda x: x ** wrap(b), [x], g, create_graph)
    bs = b.astype(np.float64)
    np.testing.assert_allclose(d, g * bs * np.array([3.0, 200.0, 1.0]) ** (bs - 1), rtol=1e-6)


# ------------------------------------------------------------------- no axes, no steps, no end


@pytest.mark.parametrize(("op", "y", "slope"), [
    (tg.softmax, 1.0, 0.0), (tg.log_softmax, 0.0, 0.0), (tg.logsumexp, 2.5, 1.0),
])  # fmt: skip
@pytest.mark.parametrize("axis", [-1, None])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_row_of_one_number_without_an_axis(op, y, slope, axis, create_graph):
    x = Tensor(2.5, requires_grad=True)
    assert float(op(x, axis=axis)) == y
    [d] = grads(lambda x: op(x, axis=axis), [x], np.float32(0.7), create_graph)
    assert d.shape == ()
    assert d == pytest.approx(0.7 * slope)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_slope_of_gelu_at_infinity(approximate):
    x = Tensor(np.array([np.inf, -np.inf, 50.0, -50.0]), requires_grad=True)
    g = np.array([1.5, 2.5, 3.5, 4.5])
    for create_graph in (False, True):
        with np.errstate(invalid="ignore"):  # -∞ times the chance 0, in the definition
            [d] = grads(lambda x: tg.gelu(x, approximate=approximate), [x], g, create_graph)
        np.testing.assert_array_equal(d, [1.5, 0, 3.5, 0])


def test_the_standard_deviation_of_equal_numbers_is_flat_in_every_order():
    x = Tensor(np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]]), requires_grad=True)
    weights = np.random.default_rng(0).standard_normal((2, 3))
    [d] = tg.grad(x.std(axis=1), [x], np.array([0.5, 2.0]), create_graph=True)
    assert (d.numpy()[0] == 0).all()
    [dd] = tg.grad((d * weights).sum(), [x])
    assert (dd.numpy()[0] == 0).all()
    alone = Tensor(x.data[1], requires_grad=True)
    [d] = tg.grad(alone.std(), [alone], np.float64(2.0), create_graph=True)
    [want] = tg.grad((d * weights[1]).sum(), [alone])
    np.testing.assert_allclose(dd.numpy()[1], want.numpy(), rtol=1e-12)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_weights_of_an_lstm_that_takes_no_step(create_graph):
    rng = np.random.default_rng(0)
    shapes = (0, 2, 4), (2, 2), (2, 2), (8, 4), (8, 2), (8,), (8,)
    xs = [Tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
    g = rng.standard_normal((2, 2))
    found = grads(lambda *xs: tg.lstm(*xs)[1], xs, g, create_graph)
    np.testing.assert_array_equal(found[1], g)  # h is what it was
    for k, d in enumerate(found):
        assert d.shape == shapes[k]
        assert k == 1 or (d == 0).all()


# --------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("long", [3, 600])
def test_a_mask_is_as_large_as_the_scores(long):
    """Not as the values, whose leading axes the scores do not have."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, long, 4))
    v, mask = rng.standard_normal((2, long, 2)), rng.random((long, long)) < 0.8
    q, k, v = (Tensor(x, requires_grad=True) for x in (q, k, v))
    with pytest.raises(ValueError, match="does not broadcast to the scores"):
        tg.scaled_dot_product_attention(q, k, v, mask=np.stack([mask, mask]))
    f = lambda *xs: tg.scaled_dot_product_attention(*xs, mask=mask)
    g = rng.standard_normal(f(q, k, v).shape)
    if long == 3:
        for a, b in zip(grads(f, [q, k, v], g, False), grads(f, [q, k, v], g, True), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------ other kinds of arrays


def test_a_matrix_is_an_array_and_a_mask_is_refused():
    with pytest.warns(PendingDeprecationWarning):
        m = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    x = Tensor(m, requires_grad=True)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.asarray(m))
    with pytest.raises(TypeError, match=r"no masked elements: fill them, as with \.filled\(0\)"):
        Tensor(np.ma.masked_array([1.0, 2.0], [0, 1]))


# -------------------------------------------------------------------------------------- modes


def test_one_object_that_switches_recording_off_in_two_threads():
    off, entered, left = tg.no_grad(), threading.Event(), threading.Event()
    seen = []

    def other():
        with tg.no_grad(), off:
            entered.set()
            assert left.wait(10)
            seen.append(modes.recording)
        seen.append(modes.recording)

    thread = threading.Thread(target=other)
    with off:
        thread.start()
        assert entered.wait(10)
    assert modes.recording
    left.set()
    thread.join()
    assert seen == [False, True]


def test_a_decorator_without_brackets():
    with pytest.raises(TypeError, match=r"as a decorator, write @no_grad\(\)"):
        tg.no_grad(lambda x: x)

    @tg.no_grad()
    def f(depth):
        assert not modes.recording
        return f(depth - 1) if depth else Tensor(1.0, requires_grad=True) * 2.0

    assert not f(3).requires_grad
    assert modes.recording


# ---------------------------------------------------------------------- debug runs, recomputed


def test_what_a_checkpoint_relies_on_is_read_only():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with tg.detect_anomaly():
        y = tg.checkpoint(lambda x: x * x, x).sum()
        with pytest.raises(ValueError, match="read-only"):
            x.data[0] = 100.0
        y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])
    x.data[0] = 3.0


def test_a_write_through_another_view_of_what_a_checkpoint_relies_on():
    whole = np.array([1.0, 2.0, 3.0])
    x = Tensor(whole[:2], requires_grad=True)
    with tg.detect_anomaly():
        y = tg.checkpoint(lambda x: x * x, x).sum()
        whole[0] = 100.0
        with pytest.raises(tg.AnomalyError, match=r"checkpoint: .* was overwritten"):
            y.backward()


def test_the_call_inside_a_checkpoint_that_gave_the_first_nan():
    x = Tensor([-1.0, 2.0], requires_grad=True)
    with tg.detect_anomaly(), np.errstate(invalid="ignore"):
        with pytest.raises(tg.AnomalyError, match=r"log gave NaN at index .0,.") as caught:
            tg.checkpoint(lambda x: tg.log(x) * 2.0, x)
        assert "test_corners.py" in str(caught.value)
        lost = Tensor([np.nan, 1.0], requires_grad=True)  # what comes with the data is told later
        y = tg.checkpoint(lambda x: x * 2.0, lost).sum()
        with pytest.raises(tg.AnomalyError, match="NaN"):
            y.backward()


# --------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize("strict", [False, True])
def test_gradients_whose_squares_are_too_large(strict):
    ps = [Tensor(np.zeros(2, np.float32), requires_grad=True) for _ in range(2)]
    ps[0].grad, ps[1].grad = (Tensor(np.array(g, np.float32)) for g in ([3e25, 0], [0, -4e25]))
    with np.errstate(over="ignore"):
        norm = clip_grad_norm(ps, 2.0, error_if_nonfinite=strict)
    assert norm == pytest.approx(5e25)
    assert norm.dtype == np.float32
    np.testing.assert_allclose(ps[0].grad.numpy(), [1.2, 0], rtol=1e-6)
    np.testing.assert_allclose(ps[1].grad.numpy(), [0, -1.6], rtol=1e-6)


def test_a_gradient_that_is_really_infinite():
    p = Tensor([1.0], requires_grad=True)
    p.grad = Tensor([np.inf])
    with pytest.raises(ValueError, match="the norm of the gradients is inf"):
        clip_grad_norm([p], 1.0, error_if_nonfinite=True)


def test_parameters_that_join_later():
    a, b = (Tensor([x], requires_grad=True) for x in (1.0, 2.0))
    optimizer = Adam([a], lr=0.5)
    optimizer.add_param_group({"params": [b], "lr": 0.25})
    alone = [Tensor([x], requires_grad=True) for x in (1.0, 2.0)]
    apart = [Adam([alone[0]], lr=0.5), Adam([alone[1]], lr=0.25)]
    for _ in range(3):
        for ps, optimizers in (([a, b], [optimizer]), (alone, apart)):
            (ps[0] * ps[1]).sum().backward()
            for o in optimizers:
                o.step()
                o.zero_grad()
    assert (a.numpy(), b.numpy()) == (alone[0].numpy(), alone[1].numpy())
    other = Adam([{"params": [a]}, {"params": [b], "lr": 0.25}], lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="listed twice"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(ValueError, match="unknown setting"):
        optimizer.add_param_group({"params": [Tensor([1.0], requires_grad=True)], "beta": 1})
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups[0]["params"].append(c := Tensor([1.0], requires_grad=True))
    c.grad = Tensor([1.0])
    with pytest.raises(ValueError, match=r"is unknown: new ones are for add_param_group\(\)"):
        optimizer.step()


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.99, 0.999), None, (0.9, 1.0)])
def test_betas(betas):
    with pytest.raises(ValueError, match="betas should be two numbers in"):
        Adam([Tensor([1.0], requires_grad=True)], betas=betas)


def test_a_gradient_that_is_an_array():
    p = Tensor([1.0], requires_grad=True)
    p.grad = np.ones(1, np.float32)
    with pytest.raises(TypeError, match="is a ndarray, and should be a Tensor"):
        SGD([p], lr=0.1).step()
    with pytest.raises(TypeError, match="is a ndarray, and should be a Tensor"):
        clip_grad_norm([p], 1.0)
    with pytest.raises(ValueError, match="max_norm should be a number from 0 on, not None"):
        clip_grad_norm([p], None)


# ------------------------------------------------------------------------------------ modules


def test_a_part_of_a_sequence():
    net = nn.Sequential(nn.Linear(3, 4), tg.relu, nn.Linear(4, 2))
    part = net[1:]
    assert (len(part), part[1]) == (2, net[2])
    x = Tensor(np.random.default_rng(0).standard_normal((5, 3)))
    np.testing.assert_array_equal(part(net[:1](x)).numpy(), net(x).numpy())


def test_the_shape_of_a_row_as_a_list():
    assert nn.LayerNorm([3, 4]).weight.shape == (3, 4)
    with pytest.raises(ValueError, match="positive integer"):
        nn.LayerNorm([3, 0])


def test_an_axis_that_numpy_counted():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.transpose(np.int64(0)) * np.array([3.0, 4.0], np.float32)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3, 4])
