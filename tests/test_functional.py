"""vjp, jvp, hvp and jacobian: beside differences, known matrices, each other, and PyTorch.

All in float64, and with random vectors: a vector of ones would hide what sums to zero.
"""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
from cases import CASES
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, Tensor, nn
from tinygrad_mha.backend import to_host
from tinygrad_mha.models import MultiHeadAttention
from tinygrad_mha.tensor import is_floating

rng = np.random.default_rng(0)
EPS = 1e-6


def close(a, b, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
    assert np.shape(a) == np.shape(b)


def normal(*shape):
    return rng.standard_normal(shape)


def many(x):
    return list(x) if isinstance(x, list | tuple) else [x]


def hosts(results):
    """Tensors, single or in a tuple, as a list of arrays; None stays None."""
    return [t if t is None else to_host(t.data) for t in many(results)]


def random_like(ts, seed=0):
    """A random array beside each floating array or Tensor, None beside the rest."""
    draw = np.random.default_rng(seed).standard_normal
    return [np.asarray(draw(t.shape)) if is_floating(t) else None for t in many(ts)]


def dot(vs, ts):
    return sum((v * t).sum() for v, t in zip(vs, ts, strict=True) if v is not None)


def like(vs, ts):
    """A list of vectors in the structure of ts."""
    return tuple(vs) if isinstance(ts, list | tuple) else vs[0]


# --------------------------------------------------------------------- functions to differentiate


def attend_twice(q, k, v):
    y = tg.scaled_dot_product_attention(q, k, v, is_causal=True)
    return tg.scaled_dot_product_attention(y, k, v, mask=np.array([[1, 0, 1]] * 3, bool))


def read(x, h, c, w_ih, w_hh, b):
    return tg.lstm(x, h, c, w_ih, w_hh, b, lengths=[3, 1], reverse=True)


def classify(ids, table, w, goal):
    y = tg.embedding(ids, table).mean(axis=1)
    return tg.cross_entropy(tg.layer_norm(y) @ w, goal, label_smoothing=0.1)


LSTM = [normal(*s) for s in ((3, 2, 2), (2, 2), (2, 2), (8, 2), (8, 2), (8,))]
IDS, GOAL = np.array([[1, 2, 2], [3, 0, 1]]), np.array([2, 0])
# name -> a function, and what it is called with: one array, or a list
FUNCTIONS = {
    "cubic": (lambda x: x * x * x, normal(2, 3)),
    "0-d": (lambda x: tg.exp(x) * x, np.array(0.3)),
    "several outputs": (lambda x: (x.sum(axis=0), x * x.T, x[0, 1]), normal(2, 2)),
    "broadcast": (lambda a, b, c: tg.tanh(a * b) / (c + 3.0), [normal(2, 3), normal(3), normal()]),
    "numbers between": (lambda a, n, b, no: a**n * b, [normal(3), 3, normal(3), None]),
    "softmax": (lambda x: tg.softmax(x, axis=0), normal(3, 2)),
    "log_softmax": (tg.log_softmax, normal(2, 3)),
    "layer_norm": (tg.layer_norm, [normal(2, 4), normal(4), normal(4)]),
    "cross_entropy": (lambda x: tg.cross_entropy(x, GOAL, weight=[1, 2, 3]), normal(2, 3)),
    "cross_entropy, rows": (partial(tg.cross_entropy, reduction="none"), [normal(2, 3), GOAL]),
    "dropout": (lambda x: tg.dropout(tg.exp(x), 0.4, seed=3), normal(4, 3)),
    "attention": (attend_twice, [normal(3, 2) for _ in range(3)]),
    "lstm": (read, LSTM),
    "classifier": (classify, [IDS, normal(4, 5), normal(5, 3), GOAL]),
}
SCALARS = {
    name: (lambda *xs, fn=fn: scalar(fn(*xs)), inputs) for name, (fn, inputs) in FUNCTIONS.items()
}
every = pytest.mark.parametrize("name", FUNCTIONS)


def scalar(ys):
    """One number made of all outputs, with curvature of its own."""
    return sum((y * v).sum() for y, v in zip(many(ys), random_like(ys, seed=9), strict=True)) ** 2.0


def moved(fn, inputs, ds, step):
    """fn(inputs + step · ds) as arrays."""
    pairs = zip(many(inputs), ds, strict=True)
    args = [x if d is None else np.asarray(x + step * d) for x, d in pairs]
    return hosts(fn(*(Tensor(a) if is_floating(a) else a for a in args)))


def difference(fn, inputs, ds, eps=EPS):
    """d fn(inputs + t · ds) / dt at t = 0, measured."""
    pairs = zip(moved(fn, inputs, ds, eps), moved(fn, inputs, ds, -eps), strict=True)
    return [(a - b) / (2 * eps) for a, b in pairs]


# ----------------------------------------------------------------------------- beside differences


@every
def test_jvp_is_the_difference(name):
    fn, inputs = FUNCTIONS[name]
    ds = random_like(inputs, seed=1)
    y, t = tg.jvp(fn, inputs, like(ds, inputs))
    for a, b in zip(hosts(y), moved(fn, inputs, ds, 0.0), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(hosts(t), difference(fn, inputs, ds), strict=True):
        close(a, b, 1e-7, 1e-8)


@every
def test_vjp_is_the_difference(name):
    """Along every input alone: a mistake in one is not made up for by another."""
    fn, inputs = FUNCTIONS[name]
    ys = moved(fn, inputs, [None] * len(many(inputs)), 0.0)
    vs = random_like(ys, seed=1)
    y, gradients = tg.vjp(fn, inputs, like(vs, fn(*map(wrapped, many(inputs)))))
    for a, b in zip(hosts(y), ys, strict=True):
        np.testing.assert_array_equal(a, b)
    ds, gradients = random_like(inputs, seed=2), hosts(gradients)
    for k, d in enumerate(ds):
        if d is None:
            assert gradients[k] is None
        else:
            one = [d if j == k else None for j in range(len(ds))]
            measured = dot(vs, difference(fn, inputs, one))
            close((gradients[k] * d).sum(), measured, 1e-7, 1e-8)
            assert gradients[k].shape == d.shape


def wrapped(a):
    return Tensor(a) if is_floating(a) else a


@every
def test_hvp_is_the_difference_of_gradients(name):
    fn, inputs = SCALARS[name]
    ds = random_like(inputs, seed=1)

    def gradient(*xs):
        return [g for g in many(tg.vjp(fn, list(xs))[1]) if g is not None]

    y, product = tg.hvp(fn, inputs, like(ds, inputs))
    assert y.shape == ()
    product = [p for p in hosts(product) if p is not None]
    for a, b in zip(product, difference(gradient, inputs, ds), strict=True):
        close(a, b, 1e-6, 1e-6)


@every
def test_the_rows_of_the_jacobian_are_vjps_and_its_columns_jvps(name):
    fn, inputs = FUNCTIONS[name]
    blocks = tg.jacobian(fn, inputs)
    ys = fn(*map(wrapped, many(inputs)))
    blocks = blocks if isinstance(ys, tuple) else [blocks]
    ds, vs = random_like(inputs, seed=3), random_like(ys, seed=4)
    gradients = hosts(tg.vjp(fn, inputs, like(vs, ys))[1])
    tangents = hosts(tg.jvp(fn, inputs, like(ds, inputs))[1])
    sums = [0.0 if d is None else np.zeros(d.shape) for d in ds]
    for row, y, v, tangent in zip(blocks, many(ys), vs, tangents, strict=True):
        total = np.zeros(y.shape)
        for k, (d, block) in enumerate(zip(ds, hosts(row), strict=True)):
            if d is None:
                assert block is None
                continue
            assert block.shape == y.shape + d.shape
            total += np.tensordot(block, d, d.ndim)
            sums[k] += np.tensordot(v, block, v.ndim)
        close(total, tangent)
    for s, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            close(s, gradient)


@pytest.mark.parametrize("name", ["cubic", "0-d", "softmax", "attention", "lstm", "broadcast"])
def test_the_jacobian_of_the_gradient_is_the_hessian_that_hvp_multiplies_with(name):
    fn, inputs = SCALARS[name]
    one = not isinstance(inputs, list)

    def gradient(*xs):
        return tg.vjp(fn, xs[0] if one else list(xs), create_graph=True)[1]

    ds = random_like(inputs, seed=5)
    blocks = tg.jacobian(gradient, inputs)
    rows = [hosts(row) for row in (blocks if not one else [blocks])]
    product = hosts(tg.hvp(fn, inputs, like(ds, inputs))[1])
    for j, (row, p) in enumerate(zip(rows, product, strict=True)):
        close(sum(np.tensordot(b, d, d.ndim) for b, d in zip(row, ds, strict=True)), p)
        for k, block in enumerate(row):  # symmetric: block (j, k) is block (k, j) transposed
            n = ds[j].size
            close(block.reshape(n, -1), rows[k][j].reshape(-1, n).T, atol=1e-10)


# ------------------------------------------------------------------------------------ known maps


def test_a_linear_map_is_its_own_derivative():
    a, x, d, v = normal(4, 3), normal(3), normal(3), normal(4)
    fn = lambda x: tg.matmul(a, x)
    close(tg.jacobian(fn, x).numpy(), a)
    close(tg.jvp(fn, x, d)[1].numpy(), a @ d)
    close(tg.vjp(fn, x, v)[1].numpy(), v @ a)
    close(tg.hvp(lambda x: fn(x).sum(), x, d)[1].numpy(), np.zeros(3))


def test_a_quadratic_form_has_a_constant_hessian():
    a, x, d = normal(3, 3), normal(3), normal(3)
    y, product = tg.hvp(lambda x: x @ a @ x, x, d)
    close(y.item(), x @ a @ x)
    close(product.numpy(), (a + a.T) @ d)


def test_mixed_second_derivatives_between_inputs():
    """f = aᵀ M b: H takes (da, db) to (M db, Mᵀ da)."""
    m, a, b, da, db = normal(2, 3), normal(2), normal(3), normal(2), normal(3)
    _, (ha, hb) = tg.hvp(lambda a, b: a @ m @ b, (a, b), (da, db))
    close(ha.numpy(), m @ db)
    close(hb.numpy(), m.T @ da)


# ------------------------------------------------------------------------ identities, on every op


def of_every_op(examples):
    """Turn check(fn, inputs) into a test of each op of the registry, on its certificate's cases."""

    def decorate(check):
        @pytest.mark.parametrize("name", sorted(CASES))
        def test(name):
            @settings(max_examples=max(2, settings().max_examples // examples))
            @given(CASES[name])
            def run(case):
                args, params = case
                assume(any(map(is_floating, args)))
                check(partial(REGISTRY[name], **params), list(args))

            run()

        test.__doc__ = check.__doc__
        return test

    return decorate


@of_every_op(examples=4)
def test_jvp_is_the_transpose_of_vjp(fn, inputs):
    """⟨v, J d⟩ = ⟨Jᵀ v, d⟩, and with create_graph the numbers are the same."""
    ys = fn(*map(wrapped, inputs))
    assume(any(map(is_floating, many(ys))))
    vs, ds = random_like(ys, seed=1), random_like(inputs, seed=2)
    _, tangents = tg.jvp(fn, inputs, ds)
    for create_graph in (False, True):
        _, gradients = tg.vjp(fn, inputs, like(vs, ys), create_graph)
        close(dot(vs, hosts(tangents)), dot(ds, hosts(gradients)), 1e-8, 1e-9)
    again = tg.jvp(fn, inputs, ds, create_graph=True)[1]
    for a, b in zip(hosts(tangents), hosts(again), strict=True):
        close(a, b, 1e-8, 1e-9)


@of_every_op(examples=8)
def test_hessians_are_symmetric(fn, inputs):
    """⟨u, H v⟩ = ⟨v, H u⟩"""
    ys = fn(*map(wrapped, inputs))
    assume(all(np.isfinite(y).all() for y in hosts(ys)) and all(map(is_floating, many(ys))))
    us, vs = random_like(inputs, seed=1), random_like(inputs, seed=2)

    def value(*xs):
        return scalar(fn(*xs))

    hu, hv = (hosts(tg.hvp(value, inputs, w)[1]) for w in (us, vs))
    close(dot(us, hv), dot(vs, hu), 1e-7, 1e-7)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 99))
def test_any_linear_map(n, m, seed):
    """Of any size, empty ones too."""
    draw = np.random.default_rng(seed).standard_normal
    a, x, d, v = draw((n, m)), draw(m), draw(m), draw(n)
    fn = lambda x: a @ x
    y, tangent = tg.jvp(fn, x, d)
    close(y.numpy(), a @ x)
    close(tangent.numpy(), a @ d)
    close(tg.vjp(fn, x, v)[1].numpy(), v @ a)
    close(tg.jacobian(fn, x).numpy(), a)
    close(tg.jacobian(fn, x, create_graph=True).numpy(), a)


# -------------------------------------------------------------------------------- higher orders


def small_lstm(t):
    """A number that depends on a number through five steps of an LSTM."""
    x, h, c, *w = (Tensor(a) + t * b for a, b in zip(LSTM, random_like(LSTM, seed=7), strict=True))
    y, h, c = tg.lstm(x, h, c, *w, lengths=[3, 2])
    return (y * y).sum() + (h * c).sum()


def small_attention(t):
    q, k, v = (Tensor(a) + t * (a + 0.5) for a in QKV)
    y = tg.scaled_dot_product_attention(q, k, v, mask=np.tri(3, dtype=bool))
    return (tg.layer_norm(y) * QKV[0]).sum()


def small_loss(t):
    return tg.cross_entropy(tg.softmax(QKV[0] * t, axis=0) * t, [0, 1, 1], label_smoothing=0.1)


QKV = [normal(3, 2) for _ in range(3)]
DEEP = {"lstm": small_lstm, "attention": small_attention, "cross_entropy": small_loss}


def derivatives(fn, t, order):
    """[f, f', f'', …] at t, each the gradient of the one before."""
    x = Tensor(np.array(t), requires_grad=True)
    ys = [fn(x)]
    for _ in range(order):
        ys += tg.grad(ys[-1], [x], create_graph=True)
    return [y.item() for y in ys]


@pytest.mark.parametrize("name", DEEP)
def test_orders_one_to_four(name):
    """Each derivative is measured on the one before it."""
    t, eps = 0.4, 1e-5
    at, right, left = (derivatives(DEEP[name], s, 4) for s in (t, t + eps, t - eps))
    for k in range(4):
        assert abs(at[k + 1]) > 1e-3  # else there is nothing to see
        close((right[k] - left[k]) / (2 * eps), at[k + 1], rtol=1e-6)


@pytest.mark.parametrize("name", DEEP)
def test_four_operators_in_one_another(name):
    """The fourth derivative as jvp of jvp of vjp of hvp: all of them are functions like others."""
    fn, one = DEEP[name], np.array(1.0)

    def second(t):
        return tg.hvp(fn, t, one, create_graph=True)[1]

    def third(t):
        return tg.vjp(second, t, create_graph=True)[1]

    y, fourth = tg.jvp(third, np.array(0.4), one)
    want = derivatives(fn, 0.4, 4)
    close([y.item(), fourth.item()], want[3:], rtol=1e-9)

    def along(f):
        return lambda t: tg.jvp(f, t, one, create_graph=True)[1]

    for k in range(1, 5):
        fn = along(fn)
        close(fn(Tensor(np.array(0.4))).item(), want[k], rtol=1e-9)


def test_the_fourth_derivative_in_all_directions():
    """Σ of a fourth-order tensor along four vectors, whatever their order, through attention."""
    inputs, *vs = ([normal(2, 2) for _ in range(3)] for _ in range(5))

    def along(f, d):
        return lambda *xs: tg.jvp(f, xs, d, create_graph=True)[1]

    def fn(q, k, v):
        return (tg.scaled_dot_product_attention(q, k, v) * QKV[0][:2]).sum()

    results = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        f = fn
        for k in order:
            f = along(f, vs[k])
        results.append(f(*map(Tensor, inputs)).item())
    assert abs(results[0]) > 1e-3
    close(*results, rtol=1e-8)


# --------------------------------------------------------------------------------------- modules


@pytest.fixture
def module(float64):
    tg.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), tg.tanh, nn.LayerNorm(3), nn.Linear(3, 2))


def test_a_module_is_a_function(module):
    x, d, v = normal(5, 4), normal(5, 4), normal(5, 2)
    y, tangent = tg.jvp(module, x, d)
    close(tangent.numpy(), difference(module, x, [d])[0], 1e-7, 1e-8)
    y, dx = tg.vjp(module, x, v)
    close((dx.numpy() * d).sum(), (v * tangent.numpy()).sum())
    assert tg.jacobian(module, x[0]).shape == (2, 4)
    assert all(p.grad is None for p in module.parameters())
    close(y.numpy(), module(Tensor(x)).numpy())


@pytest.mark.parametrize("which", ["lstm", "attention"])
def test_the_layers_of_the_classifier(which, float64):
    tg.manual_seed(0)
    rnn = nn.LSTM(4, 3, bidirectional=True)
    attend = MultiHeadAttention(2, 4, 3, 2).eval()
    fn = attend if which == "attention" else lambda x: rnn(x, lengths=[3, 1])[0]
    x, d, v = normal(2, 3, 4), normal(2, 3, 4), normal(2, 3, 4 if which == "attention" else 6)
    _, tangent = tg.jvp(fn, x, d)
    close(tangent.numpy(), difference(fn, x, [d])[0], 1e-7, 1e-8)
    close((tg.vjp(fn, x, v)[1].numpy() * d).sum(), (v * tangent.numpy()).sum())


def test_with_create_graph_the_parameters_are_reached_too(module):
    """A penalty on the slope of a network: its gradient with respect to the weights."""
    x, d = normal(5, 4), normal(5, 4)

    def penalty():
        return (tg.jvp(module, x, d, create_graph=True)[1] ** 2.0).sum()

    weight = module[0].weight
    (dw,) = tg.grad(penalty(), [weight])
    step = normal(*weight.shape)
    before, sides = weight.data.copy(), []
    for s in (EPS, -EPS):
        weight.data[...] = before + s * step
        sides.append(penalty().item())
    weight.data[...] = before
    close((dw.numpy() * step).sum(), (sides[0] - sides[1]) / (2 * EPS), 1e-6)


# ------------------------------------------------------------------------- what the results are


OPERATORS = {
    "vjp": lambda fn, x, **o: tg.vjp(fn, x, np.array(0.7), **o)[1],
    "jvp": lambda fn, x, **o: tg.jvp(fn, x, np.array([0.3, -0.2]), **o)[1],
    "hvp": lambda fn, x, **o: tg.hvp(fn, x, np.array([0.3, -0.2]), **o)[1],
    "jacobian": lambda fn, x, **o: tg.jacobian(fn, x, **o),
}
each = pytest.mark.parametrize("operator", OPERATORS)


def cubes(x):
    return (x * x * x).sum()


@each
def test_without_create_graph_nothing_is_left_behind(operator):
    x = Tensor(normal(2), requires_grad=True)
    w = Tensor(normal(2), requires_grad=True)
    y = x * 2.0
    result = OPERATORS[operator](lambda x: cubes(x * w), y)
    assert not result.requires_grad
    assert result.node is None
    assert x.grad is w.grad is y.grad is None
    y.sum().backward()  # the caller's graph is as it was
    assert x.grad.numpy().tolist() == [2, 2]
    leaked = []
    OPERATORS[operator](lambda x: cubes(leaked.append(x) or x), x)
    leaked[0].sum().backward()  # what fn is given has no way back to the caller's Tensor
    assert x.grad.numpy().tolist() == [2, 2]


@each
def test_with_create_graph_the_callers_tensor_stays_connected(operator):
    x = Tensor(normal(2), requires_grad=True)
    fn = lambda a: cubes(OPERATORS[operator](cubes, a * 2.0, create_graph=True))
    (dx,) = tg.grad(fn(x), [x])
    assert x.grad is None
    d = normal(2)
    close((dx.numpy() * d).sum(), difference(lambda a: fn(a), x.data, [d])[0], 1e-6)


def test_outputs_stay_connected_too():
    x = Tensor(normal(2), requires_grad=True)
    for y, _ in (
        tg.vjp(cubes, x, create_graph=True),
        tg.jvp(cubes, x, normal(2), create_graph=True),
        tg.hvp(cubes, x, normal(2), create_graph=True),
    ):
        close(tg.grad(y, [x])[0].numpy(), 3 * x.data**2)
    for y, _ in (tg.vjp(cubes, x), tg.jvp(cubes, x, normal(2)), tg.hvp(cubes, x, normal(2))):
        assert not y.requires_grad


def test_results_can_be_differentiated_by_v():
    """vjp, jvp and hvp are linear in v, so that the gradient by v is the transposed product."""
    x, w = normal(2, 3), normal(2, 3)
    fn = lambda x: tg.softmax(x) * x
    v = Tensor(normal(2, 3), requires_grad=True)
    tangent = tg.jvp(fn, x, v, create_graph=True)[1]
    close(tg.grad(tangent, [v], w)[0].numpy(), tg.vjp(fn, x, w)[1].numpy())
    gradient = tg.vjp(fn, x, v, create_graph=True)[1]
    close(tg.grad(gradient, [v], w)[0].numpy(), tg.jvp(fn, x, w)[1].numpy())
    product = tg.hvp(lambda x: fn(x).sum(), x, v, create_graph=True)[1]
    close(
        tg.grad(product, [v], w)[0].numpy(),
        tg.hvp(lambda x: fn(x).sum(), x, w)[1].numpy(),
    )


@each
def test_the_function_is_called_once(operator):
    calls = []
    OPERATORS[operator](lambda x: calls.append(1) or cubes(x), normal(2))
    assert len(calls) == 1


@each
def test_inside_no_grad(operator):
    """Whoever asks for a derivative gets it; and the mode is as before."""
    x = normal(2)
    want = OPERATORS[operator](cubes, x).numpy()
    with tg.no_grad():
        close(OPERATORS[operator](cubes, x).numpy(), want)
        t = Tensor(x, requires_grad=True)
        result = OPERATORS[operator](cubes, t, create_graph=True)
        assert result.requires_grad
        assert not (t * 2.0).requires_grad
        with pytest.raises(ZeroDivisionError):
            OPERATORS[operator](lambda x: 1 / 0, x)
        assert not (t * 2.0).requires_grad


@each
def test_everything_is_freed_at_once(operator):
    gc.collect()
    gc.disable()
    try:
        for create_graph in (False, True):
            seen = []

            def fn(x, seen=seen):
                y = tg.exp(x * 2.0)
                seen.append(weakref.ref(y))
                return cubes(y)

            result = OPERATORS[operator](fn, normal(2), create_graph=create_graph)
            assert create_graph or seen[0]() is None
            del result
            assert seen[0]() is None
    finally:
        gc.enable()


def test_structures_mirror_the_arguments():
    a, b, ids = normal(2), normal(2), np.array([0, 1])
    y, d = tg.vjp(lambda a: a * 1.0, [a], b)
    assert isinstance(d, tuple)
    assert isinstance(y, Tensor)
    y, d = tg.vjp(lambda a, ids: (a * 1.0,), (a, ids), (b,))
    assert isinstance(y, tuple)
    assert d[1] is None
    y, d = tg.vjp(lambda a: (a.sum(),), a)  # v may be left out here too
    assert y[0].item() == a.sum()
    assert d.numpy().tolist() == [1, 1]
    y, t = tg.jvp(lambda a, b: [a * b, a], (a, b), (b, None))
    assert [type(s) for s in (y, t)] == [tuple, tuple]
    close(hosts(t), [b * b, b])
    j = tg.jacobian(lambda a: (a, a.sum()), a)
    assert [block.shape for block in j] == [(2, 2), (2,)]
    j = tg.jacobian(lambda a, ids: a[ids], [a, ids])
    assert j[0].shape == (2, 2)
    assert j[1] is None
    ((da, db), (ea, eb)) = tg.jacobian(lambda a, b: (a @ b, a), [a, b])
    assert [t.shape for t in (da, db, ea, eb)] == [(2,), (2,), (2, 2), (2, 2)]


def test_results_that_are_no_numbers_to_differentiate():
    fn = lambda x: (x * 2.0, x.astype(np.int64))
    x = np.array([1.5, 2.5])
    y, t = tg.jvp(fn, x, [1.0, 0.5])
    assert y[1].numpy().tolist() == [1, 2]
    assert t[0].numpy().tolist() == [2, 1]
    assert t[1] is None
    y, dx = tg.vjp(fn, x, ([1.0, 0.5], None))
    assert dx.numpy().tolist() == [2, 1]
    assert tg.jacobian(fn, x)[1] is None


def test_what_does_not_depend_has_a_derivative_of_zero():
    a, b = normal(2), normal(3)
    da, db = tg.vjp(lambda a, b: a * 2.0, [a, b], a)[1]
    close(da.numpy(), 2 * a)
    close(db.numpy(), np.zeros(3))
    for fn in (lambda a, b: Tensor(np.ones(4)), lambda a, b: Tensor(a.data[:1].repeat(4))):
        assert [d.numpy().any() for d in tg.vjp(fn, [a, b], normal(4))[1]] == [False] * 2
        close(tg.jvp(fn, [a, b], [a, b])[1].numpy(), np.zeros(4))
        assert [d.shape for d in tg.jacobian(fn, [a, b])] == [(4, 2), (4, 3)]
        assert not any(d.numpy().any() for d in tg.jacobian(fn, [a, b]))
    _, (ha, hb) = tg.hvp(lambda a, b: a.sum() * b.sum() + (b * b).sum(), [a, b], [a, None])
    close(ha.numpy(), np.zeros(2))
    close(hb.numpy(), np.full(3, a.sum()))
    close(tg.hvp(lambda x: x.sum(), a, a)[1].numpy(), np.zeros(2))


def test_one_tensor_as_two_inputs_gives_two_partial_derivatives():
    x = Tensor(normal(3), requires_grad=True)
    for create_graph in (False, True):
        _, (da, db) = tg.vjp(lambda a, b: (a * a * b).sum(), [x, x], create_graph=create_graph)
        close(da.numpy(), 2 * x.data**2)
        close(db.numpy(), x.data**2)
    _, tangent = tg.jvp(lambda a, b: a * a * b, [x, x], [x, None])
    close(tangent.numpy(), 2 * x.data**3)


def test_results_share_no_memory():
    """Not with v, nor with one another: whoever scales one in place changes nothing else."""
    a, v = normal(3), normal(3)
    for create_graph in (False, True):
        _, (da, db) = tg.vjp(tg.add, [a, a], v, create_graph)
        _, tangent = tg.jvp(lambda x: x, a, v, create_graph)
        arrays = [a, v, da.data, db.data, tangent.data]
        for k, one in enumerate(arrays):
            assert not any(np.shares_memory(one, other) for other in arrays[:k])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,)])
def test_no_numbers_and_single_numbers(shape):
    x = np.full(shape, 0.5)
    y, tangent = tg.jvp(tg.exp, x, x)
    close(tangent.numpy(), np.exp(x) * x)
    assert y.shape == tg.vjp(tg.exp, x, x)[1].shape == shape
    assert tg.hvp(lambda x: tg.exp(x).sum(), x, x)[1].shape == shape
    for create_graph in (False, True):
        assert tg.jacobian(tg.exp, x, create_graph).shape == shape * 2
        assert tg.jacobian(tg.sum, x, create_graph).shape == shape
    assert type(tangent.data) is np.ndarray


def test_dtypes_are_those_of_the_arguments():
    a, b = normal(3).astype(np.float32), normal(3)
    _, (da, db) = tg.vjp(tg.mul, [a, b], [1, 2, 3])
    assert (da.dtype, db.dtype) == (np.float32, np.float64)
    _, (da, db) = tg.hvp(lambda a, b: (a * b).sum(), [a, b], [b, a])
    assert (da.dtype, db.dtype) == (np.float32, np.float64)
    for y, t in (tg.jvp(tg.exp, a, b), tg.jvp(tg.softmax, a, a), tg.vjp(tg.exp, a, b)):
        assert y.dtype == t.dtype == np.float32
    for x in (a, a[:0]):
        assert tg.jacobian(tg.exp, x).dtype == np.float32
    # a vector keeps all its digits, also a 0-d one: that is no Python number
    _, t = tg.jvp(lambda x: x * 1.0, np.array(1.0), np.float64(0.1))
    assert t.item() == 0.1


def test_a_released_graph_behind_an_input_or_a_weight_is_no_obstacle():
    """Only what lies between inputs and output is walked through."""
    x = Tensor(normal(3), requires_grad=True)
    y = x * 2.0
    y.sum().backward()
    fn = lambda a: tg.tanh(a * y)
    for create_graph in (False, True):
        tg.vjp(fn, y, normal(3), create_graph)
        tg.jvp(fn, y, normal(3), create_graph)
        tg.hvp(lambda a: fn(a).sum(), y, normal(3), create_graph)
        tg.jacobian(fn, y, create_graph)


def test_infinite_slopes_and_branches_not_taken():
    """jvp agrees with vjp about both: its dummy cotangent must not look like "nobody asked"."""
    d = np.array([0.5, 0.25])
    with np.errstate(divide="ignore"):
        tangent = tg.jvp(tg.log, np.array([0.0, 1.0]), d)[1]
        assert tangent.numpy().tolist() == [np.inf, 0.25]
        assert tg.vjp(tg.log, np.array([0.0, 1.0]), d)[1].numpy().tolist() == [np.inf, 0.25]
        for op in (tg.log, lambda x: 1.0 / x, lambda x: x**-0.5):
            fn = lambda x, op=op: tg.where(x.data > 0, op(x), x * 3.0)
            tangent = tg.jvp(fn, np.array([0.0, 1.0]), d)[1].numpy()
            assert tangent[0] == 1.5
            assert np.isfinite(tangent).all()


def test_the_dummy_of_jvp_warns_of_nothing():
    """Of its first pass only the graph counts; here the numbers overflow."""
    x = np.array([88.7], np.float32)
    assert tg.jvp(tg.exp, x, [1e-3])[1].item() == pytest.approx(np.exp(88.7) * 1e-3, rel=1e-4)


# ---------------------------------------------------------------------------------------- errors


def test_errors_about_v():
    x, pair = np.ones((2, 3)), [np.ones(2), np.ones(3)]
    double = lambda x: x * 2.0
    with pytest.raises(ValueError, match=r"vjp: v has shape \(3,\), the output \(2, 3\)"):
        tg.vjp(double, x, np.ones(3))
    with pytest.raises(ValueError, match=r"vjp: pass a v of the output's shape \(2, 3\)"):
        tg.vjp(double, x)
    with pytest.raises(ValueError, match=r"jvp: v has shape \(2,\), the input \(2, 3\)"):
        tg.jvp(double, x, np.ones(2))
    with pytest.raises(ValueError, match=r"jvp: v\[1\] has shape \(2,\), the input \(3,\)"):
        tg.jvp(lambda a, b: a.sum() * b, pair, pair[:1] * 2)
    with pytest.raises(
        TypeError, match="v should be a tuple of 2, one for each input, not a ndarr"
    ):
        tg.hvp(lambda a, b: a.sum() * b.sum(), pair, np.ones(2))
    with pytest.raises(TypeError, match=r"tuple of 2, one for each output, not a tuple of 1"):
        tg.vjp(lambda x: (x, x), x, (x,))
    with pytest.raises(TypeError, match="one for each output, not a NoneType"):
        tg.vjp(lambda x: (x, x), x)
    with pytest.raises(TypeError, match=r"v\[1\] should be None: that input \(int64 \(2,\)\) has"):
        tg.jvp(lambda a, i: a[i], [x, np.array([0, 1])], [x, np.ones(2)])
    with pytest.raises(TypeError, match=r"v\[1\] should be None: that output \(int64 \(2, 3\)\)"):
        tg.vjp(lambda x: (x, x.astype(int)), x, (x, x))
    with pytest.raises(TypeError, match="holds numbers, not complex128"):
        tg.jvp(double, x, x * 1j)


def test_errors_about_the_function():
    x = np.ones((2, 3))

    def forgetful(x):
        return x.data

    for operator in (tg.vjp, tg.jvp, tg.hvp):
        with pytest.raises(
            TypeError,
            match=rf"{operator.__name__}: forgetful should return a Tensor or a flat tuple of them,"
            r" not float64 \(2, 3\): compute with the ops",
        ):
            operator(forgetful, x, x)
    with pytest.raises(TypeError, match=r"not float64 \(2, 3\), tuple: compute"):
        tg.jacobian(lambda x: (x, (x, x)), x)
    with pytest.raises(TypeError, match="not an empty tuple"):
        tg.jacobian(lambda x: (), x)
    with pytest.raises(TypeError, match=r"<lambda> returns int64 \(2, 3\): only floating-point"):
        tg.vjp(lambda x: x.astype(int), x, x)
    with pytest.raises(ValueError, match=r"hvp: .* a single value, but <lambda> gives \(2, 3\)"):
        tg.hvp(lambda x: x * x, x, x)
    with pytest.raises(ValueError, match=r"gives \(\), \(\): reduce it, as with \.sum\(\)"):
        tg.hvp(lambda x: (x.sum(), x.sum()), x, x)


def test_errors_about_the_inputs():
    for inputs, kinds in (
        (np.array([1, 2]), r"int64 \(2,\)"),
        ([np.array([True]), 2.0, None], r"bool \(1,\), float, NoneType"),
        (2.0, "float"),
        ([], ""),
    ):
        with pytest.raises(TypeError, match=rf"jacobian: no input is a .* Tensor \({kinds}\), so"):
            tg.jacobian(lambda *xs: xs[0], inputs)


# ---------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("name", ["several outputs", "attention", "lstm", "classifier", "softmax"])
def test_same_numbers_on_the_device(name, cupy):
    fn, inputs = FUNCTIONS[name]
    ys = fn(*map(wrapped, many(inputs)))
    ds, vs = random_like(inputs, seed=1), random_like(ys, seed=2)

    def send(a):
        return cupy.asarray(a) if is_floating(a) else a

    def results(inputs, ds, vs):
        y, g = tg.vjp(fn, inputs, like(vs, ys))
        z, t = tg.jvp(fn, inputs, like(ds, inputs))
        u, h = tg.hvp(lambda *xs: scalar_on(fn(*xs), vs), inputs, like(ds, inputs))
        j = tg.jacobian(fn, inputs)
        blocks = j if isinstance(ys, tuple) else [j]
        return [many(r) for r in (y, g, z, t, u, h, *blocks)]

    theirs = [send(x) for x in inputs] if isinstance(inputs, list) else send(inputs)
    got = results(theirs, *([send(v) for v in w] for w in (ds, vs)))
    for a, b in zip(got, results(inputs, ds, vs), strict=True):
        for s, t in zip(a, b, strict=True):
            assert (s is None) == (t is None)
            if s is not None:
                assert isinstance(s.data, cupy.ndarray)
                close(to_host(s.data), t.numpy())


def scalar_on(ys, vs):
    return sum((y * v).sum() for y, v in zip(many(ys), many(vs), strict=True)) ** 2.0


def test_nobody_waits_for_the_device(cupy, forbid_sync):
    x, v = cupy.asarray(normal(3, 4)), cupy.asarray(normal(3, 4))
    fn = lambda x: tg.softmax(tg.tanh(x)) * x
    with forbid_sync():
        tg.vjp(fn, x, v)
        tg.jvp(fn, x, v)
        tg.hvp(lambda x: fn(x).sum(), x, v)
        tg.jacobian(fn, x)


def test_two_devices_are_named(cupy):
    x = cupy.asarray(np.ones(3))
    with pytest.raises(ValueError, match=r"jvp: v is on cpu, the input on cuda:0: move it with"):
        tg.jvp(tg.exp, x, np.ones(3))
    _, t = tg.jvp(tg.exp, x, [1.0, 0.0, 2.0])  # a list is nowhere yet
    assert t.device == "cuda:0"


# ---------------------------------------------------------------------------------------- PyTorch


def translations():
    """Our functions beside PyTorch's, and arrays to call both with."""
    torch = pytest.importorskip("torch", reason="needs PyTorch (extra torch)")
    f = torch.nn.functional
    goal, attend = np.array([2, 0]), tg.scaled_dot_product_attention

    def read_torch(x, h, c, w_ih, w_hh, b):
        layer = torch.nn.LSTM(2, 2).double()
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = dict(zip(names, (w_ih, w_hh, b, torch.zeros(8).double()), strict=True))
        return torch.func.functional_call(layer, weights, (x, (h[None], c[None])))[0]

    return torch, [
        (lambda x: tg.softmax(x) * x, lambda x: torch.softmax(x, -1) * x, [normal(2, 3)]),
        (lambda a, b: (a @ b, a.sum()), lambda a, b: (a @ b, a.sum()), [normal(2, 3), normal(3)]),
        (tg.layer_norm, lambda x, w: f.layer_norm(x, (3,), w), [normal(2, 3), normal(3)]),
        (
            lambda x: tg.cross_entropy(x, goal),
            lambda x: f.cross_entropy(x, torch.tensor(goal)),
            [normal(2, 3)],
        ),
        (
            lambda *a: attend(*a, is_causal=True),
            lambda *a: f.scaled_dot_product_attention(*a, is_causal=True),
            [normal(3, 2) for _ in range(3)],
        ),
        (lambda *a: tg.lstm(*a)[0], read_torch, LSTM),
    ]


@pytest.mark.torch
@pytest.mark.parametrize("which", range(6))
def test_agreement_with_torch(which):
    torch, table = translations()
    ours, theirs, arrays = table[which]
    api = torch.autograd.functional
    ts = tuple(map(torch.tensor, arrays))
    vs = random_like(ours(*map(Tensor, arrays)), seed=1)
    ds = random_like(arrays, seed=2)
    dt = tuple(map(torch.tensor, ds))
    several = isinstance(theirs(*ts), tuple)
    vt = tuple(map(torch.tensor, vs)) if several else torch.tensor(vs[0])

    def agree(a, b):
        for s, t in zip(many(a), many(b), strict=True):
            close(s.numpy(), t.numpy(), 1e-9, 1e-11)

    number, number_t = (
        lambda *xs: scalar_on(ours(*xs), vs),
        lambda *xs: scalar_on(theirs(*xs), vt),
    )
    pairs = [
        (tg.vjp(ours, arrays, vs if several else vs[0]), api.vjp(theirs, ts, vt)),
        (tg.jvp(ours, arrays, ds), api.jvp(theirs, ts, dt)),
        (tg.hvp(number, arrays, ds), api.hvp(number_t, ts, dt)),
    ]
    j, j_t = tg.jacobian(ours, arrays), api.jacobian(theirs, ts)
    pairs.append((j, j_t) if several else ([j], [j_t]))
    for a, b in pairs:
        for s, t in zip(a, b, strict=True):
            agree(s, t)
