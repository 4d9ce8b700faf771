"""The certificate: every op of the registry, on every case that cases.py can draw.

Nothing here names an op, except where it says why. A new op is checked as soon as it is defined;
without cases it fails the first test.
"""

import contextlib
import gc
import os
import re
import weakref
import zlib
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from cases import CASES
from conftest import real_cupy_wanted
from figures import seen
from hypothesis import given, seed, settings

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, Op, Tensor, gradcheck
from tinygrad_mha.backend import xp
from tinygrad_mha.kernels.table import KERNELS
from tinygrad_mha.tensor import backpropagate, history, value, wanted

# A heavy op gets fewer examples: 1 / this of them.
HEAVY = {"lstm": 1.5}
FUSED = [name for name, op in REGISTRY.items() if op.reference]


def over(names, share=1.0):
    """Turn ``check(op, args, params)`` into a test of each op, on cases that Hypothesis draws."""

    def decorate(check):
        @pytest.mark.parametrize("name", sorted(names))
        def test(name, request):
            def run(case):
                check(REGISTRY[name], *case, *extra)
                seen("certificate", check.__name__, name)

            wants = check.__code__.co_varnames[3 : check.__code__.co_argcount]
            extra = [request.getfixturevalue(fixture) for fixture in wants]
            run.__name__ = f"{check.__name__}_{name}"
            examples = settings().max_examples * share / HEAVY.get(name, 1)
            run = settings(max_examples=max(2, round(examples)))(given(CASES[name])(run))
            if settings().derandomize:  # else all checks would see the same cases
                run = seed(zlib.crc32(run.__name__.encode()))(run)
            run()

        test.__doc__ = check.__doc__
        return test

    return decorate


# --------------------------------------------------------------------------------- small words


def is_float(a):
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def tracked(args):
    """The same arguments, with a Tensor that wants a gradient for every float array."""
    return [Tensor(a, requires_grad=True) if is_float(a) else a for a in args]


def outputs(y):
    return list(y) if isinstance(y, tuple) else [y]


def cotangents(ys, dtype=np.float64, seed=0):
    """A random gradient for each output, read-only: writing into it is an error at once."""
    rng = np.random.default_rng(seed)
    vs = [np.asarray(rng.standard_normal(y.shape)).astype(dtype) for y in ys]
    for v in vs:
        v.flags.writeable = False
    return vs


def gradients(ys, vs, xs, create_graph=False):
    """One array for each Tensor in xs that wants a gradient; zeros where nothing arrives."""
    roots = [(y, v) for y, v in zip(ys, vs, strict=True) if wanted(y)]
    xs = [x for x in xs if wanted(x)]
    found = backpropagate(roots, xs, create_graph)
    ds = [value(found[x]) if x in found else xp(x.data).zeros_like(x.data) for x in xs]
    return [np.asarray(d) if isinstance(d, np.generic) else d for d in ds]


def run(f, args, params, dtype=np.float64, create_graph=False):
    """All results of f and all gradients, as arrays."""
    xs = tracked(args)
    ys = outputs(f(*xs, **params))
    return [y.data for y in ys] + gradients(ys, cotangents(ys, dtype), xs, create_graph)


def assert_close(got, want, rtol=1e-9, atol=1e-12):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        assert np.shape(a) == np.shape(b)


def assert_same_bits(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------- what an op must have


def test_every_op_has_cases():
    assert set(CASES) == set(REGISTRY)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_op_explains_itself(name):
    """A formula for the gradient in its docstring, and an example that works from a wheel."""
    op = REGISTRY[name]
    assert re.search(r"\bd\w+(\[k\])?( = |, )", op.__doc__), op.__doc__
    if op.reference:
        assert op.reference.__doc__
        assert op.reference.__name__ == f"{name}_reference"
    args, params = op.sample(np.random.default_rng(0))
    assert gradcheck(partial(op, **params), args, order=2)


# ----------------------------------------------------------------------------- the gradient


@over(REGISTRY)
def test_gradient_and_its_gradient(op, args, params):
    """Against differences, at orders 1 and 2; create_graph agrees; a second backward agrees;
    inputs and incoming gradients stay untouched (gradcheck looks at all of it)."""
    gradcheck(partial(op, **params), args, order=2)


@over(FUSED)
def test_fused_equals_reference(op, args, params):
    """Values and gradients, of all outputs together and of each selection of them."""
    fast, slow = tracked(args), tracked(args)
    params = op.resolve(**(op.defaults | params)) if op.resolve else params
    ys, zs = outputs(op(*fast, **params)), outputs(op.reference(*slow, **params))
    assert_close([y.data for y in ys], [z.data for z in zs])
    vs = cotangents(ys)
    for n in range(1, len(ys) + 1):
        for used in combinations(range(len(ys)), n):
            some = [([t[k] for k in used], [vs[k] for k in used]) for t in (ys, zs)]
            assert_close(gradients(*some[0], fast), gradients(*some[1], slow))


@over(FUSED)
def test_the_fast_path_is_one_node(op, args, params):
    """At order 1 a fused op records itself and nothing else, and asks no other op for help."""
    xs, called = tracked(args), []

    def spy(self, *args, **params):
        called.append(self.name)
        return call(self, *args, **params)

    call = Op.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Op, "__call__", spy)
        patch.setattr(op, "reference", lambda *a, **k: called.append("the reference"))
        ys = outputs(op(*xs, **params))
        assert {t.node for t in history(ys)} == {ys[0].node}
        gradients(ys, cotangents(ys), xs)
    # sum_to belongs to the engine: it undoes a broadcast
    assert [name for name in called if name != "sum_to"] == [op.name]


@over([name for name, op in REGISTRY.items() if op.without_way_back])
def test_without_a_way_back_the_bits_are_the_same(op, args, params):
    """Of arrays, and of Tensors where nothing is recorded; in float64 and in float32."""
    params = op.resolve(**(op.defaults | params)) if op.resolve else params
    for plain in (args, [to_float32(a) for a in args]):
        want = [y.data for y in outputs(op(*tracked(plain), **params))]
        assert_same_bits(outputs(op(*plain, **params)), want)
        with tg.no_grad():
            ys = outputs(op(*tracked(plain), **params))
        assert all(y.node is None for y in ys)
        assert_same_bits([y.data for y in ys], want)


@over(REGISTRY, share=0.5)
def test_a_second_pullback_starts_afresh(op, args, params):
    """Other gradients in between leave nothing behind, and what was handed out stays as it was."""
    xs = tracked(args)
    ys = outputs(op(*xs, **params))
    first = gradients(ys, cotangents(ys), xs)
    kept = [d.copy() for d in first]
    other = gradients(ys, cotangents(ys, seed=1), xs)
    assert_same_bits(first, kept)
    assert_same_bits(gradients(ys, cotangents(ys), xs), kept)
    # a pullback is linear, so the gradients of the sum are the sum of the gradients
    both = [a + b for a, b in zip(cotangents(ys), cotangents(ys, seed=1), strict=True)]
    sums = [a + b for a, b in zip(first, other, strict=True)]
    assert_close(gradients(ys, both, xs), sums, rtol=1e-9, atol=1e-9)


@over(REGISTRY, share=0.5)
def test_the_layout_of_the_incoming_gradient_does_not_matter(op, args, params):
    """Transposed, with steps, reversed, or one number for all places as it comes from sum()."""
    xs = tracked(args)
    ys = outputs(op(*xs, **params))
    vs = cotangents(ys)
    twice = [np.repeat(v, 2, axis=-1)[..., ::2] if v.ndim else v for v in vs]
    flipped = [np.flip(np.flip(v).copy()) for v in vs]
    fortran = [v.T.copy().T for v in vs]
    for other in (twice, flipped, fortran):
        assert_close(gradients(ys, other, xs), gradients(ys, vs, xs))
    flat = [np.broadcast_to(np.float64(0.7), y.shape) for y in ys]
    assert_close(gradients(ys, flat, xs), gradients(ys, [v.copy() for v in flat], xs))


# Functions whose slope is infinite or NaN at the first of two places; their slope; the places.
STEEP = {
    "exp": (tg.exp, np.exp, [1000, 0.5]),
    "log": (tg.log, lambda x: 1 / x, [0, 0.5]),
    "sqrt": (tg.sqrt, lambda x: x**-0.5 / 2, [0, 0.5]),
    "1/x": (lambda x: 1 / x, lambda x: -(x**-2), [0, 0.5]),
    "x**-1": (lambda x: x**-1, lambda x: -(x**-2), [0, 0.5]),
    "x**[1.5]": (lambda x: x ** np.array([1.5, 1.5]), lambda x: 1.5 * x**0.5, [-1, 0.5]),
    "x**[1.5, 3]": (lambda x: x ** np.array([1.5, 3]), lambda x: 3 * x**2, [-1, -0.5]),
    "[a]**x": (lambda x: tg.pow(np.array([-1, 0.5]), x), lambda x: 0.5**x * np.log(0.5), [0.5, 2]),
}


@pytest.mark.parametrize("function", STEEP)
def test_a_gradient_of_zero_is_not_stuck_there(function):
    """Where g is 0 by chance an infinite slope is hidden, so that no NaN comes of it. A finite
    slope beside it is not: dx = g f'(x) moves as soon as g does."""
    f, slope, places = STEEP[function]
    x, g = Tensor(np.array(places, float), True), Tensor(np.zeros(2), True)
    with np.errstate(all="ignore"):  # the function itself may warn, and not the gradient
        y = f(x)
    (dx,) = tg.grad(y, [x], g, create_graph=True)
    (dg,) = tg.grad(dx, [g], np.array([3.0, 2.0]))
    assert dx.numpy().tolist() == [0, 0]
    assert np.isfinite(dg.numpy()[0])
    np.testing.assert_allclose(dg.numpy()[1], 2 * slope(places[1]))


@pytest.mark.parametrize("zero", [0.0, np.zeros(2)])
def test_a_power_of_zero_does_not_move(zero):
    """0^x is 1 at x = 0 and 0 beyond: its derivative is 0 by convention, and never 1 · log 0."""
    x = Tensor(np.array([0.0, 2.0]), True)
    for create_graph in (False, True):
        (dx,) = tg.grad(tg.pow(zero, x).sum(), [x], create_graph=create_graph)
        assert dx.numpy().tolist() == [0, 0]


@pytest.mark.parametrize("op", [tg.max, tg.min])
def test_a_nan_is_the_extremum(op):
    """NumPy says so; and the gradient goes where the value came from, with no 0 / 0 on the way."""
    x = Tensor(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 0.0]]), True)
    for create_graph in (False, True):
        (dx,) = tg.grad(op(x, axis=1), [x], np.array([2.0, 6.0]), create_graph=create_graph)
        assert dx.numpy().tolist() == [[0, 2, 0], [3, 3, 0]]


# ------------------------------------------------------------------------------ dtypes, devices


def to_float32(x):
    return x.astype(np.float32) if is_float(x) else x


@over(REGISTRY)
def test_float32_stays_float32(op, args, params):
    """Results and gradients, with the numbers of float64 to the digits that float32 has."""
    if op.casts:  # the dtype is what the caller asks for; test_engine.py looks at astype
        return
    small = [to_float32(a) for a in args]
    params = {k: to_float32(v) for k, v in params.items()}
    want = run(op, [a.astype(np.float64) if is_float(a) else a for a in small], params)
    for create_graph in (False, True):
        got = run(op, small, params, np.float32, create_graph)
        assert all(a.dtype == np.float32 for a in got)
        # a row of layer_norm divides by its spread, which may be small: hence not 1e-6
        assert_close(got, want, rtol=2e-4, atol=2e-4)


@over(REGISTRY, share=0.5)
def test_the_default_dtype_is_not_in_the_numbers(op, args, params):
    """A float64 computation must not pass through a constant that was rounded to float32."""
    results = []
    for dtype in (np.float32, np.float64):
        tg.set_default_dtype(dtype)
        try:
            results.append([run(op, args, params, create_graph=flag) for flag in (False, True)])
        finally:
            tg.set_default_dtype(np.float32)
    for single, double in zip(*results, strict=True):
        assert all(a.dtype == np.float64 for a in single)
        assert_same_bits(single, double)


# These arguments stay on the host, where they are checked before they are sent.
ON_THE_HOST = {("embedding", 0), ("cross_entropy", 1), ("nll_loss", 1)}


def on_device(cupy, op, args, params):
    """The same call for the GPU."""

    def send(a):
        if isinstance(a, tuple):
            return tuple(map(send, a))
        return cupy.asarray(a) if isinstance(a, np.ndarray) else a

    args = [a if (op.name, k) in ON_THE_HOST else send(a) for k, a in enumerate(args)]
    params = {k: v if k == "lengths" else send(v) for k, v in params.items()}
    return args, {"device": "cuda"} if op.name == "to" else params


def has_to_wait(op, params):
    """Whether the call must wait for the GPU: the shape of x[mask] depends on the mask's values."""
    key = params.get("key")
    parts = key if isinstance(key, tuple) else (key,)
    return any(str(getattr(part, "dtype", None)) == "bool" for part in parts)


def tracked_on_device(cupy, args):
    return [
        Tensor(a, True) if isinstance(a, cupy.ndarray) and a.dtype.kind == "f" else a for a in args
    ]


def from_device(cupy, arrays):
    assert all(isinstance(a, cupy.ndarray) for a in arrays)
    return [cupy.asnumpy(a) for a in arrays]


def run_on_device(cupy, forbid_sync, op, args, params, vs, create_graph=False):
    """All results and gradients, as ``run`` has them, with not one wait on the way."""
    vs = [cupy.asarray(v) for v in vs]
    args, params = on_device(cupy, op, args, params)
    xs = tracked_on_device(cupy, args)
    with contextlib.nullcontext() if has_to_wait(op, params) else forbid_sync():
        ys = outputs(op(*xs, **params))
        ds = gradients(ys, vs, xs, create_graph)
    return from_device(cupy, [*(y.data for y in ys), *ds])


def check_on_device(op, args, params, cupy, forbid_sync, create_graph):
    if not any(map(is_float, args)):
        return
    want = run(op, args, params, create_graph=create_graph)
    vs = cotangents(outputs(op(*args, **params)))
    assert_close(run_on_device(cupy, forbid_sync, op, args, params, vs, create_graph), want)


@over(REGISTRY)
def test_same_numbers_on_the_device(op, args, params, cupy, forbid_sync):
    """On CuPy or its double: forward and backward, without once waiting for the GPU."""
    check_on_device(op, args, params, cupy, forbid_sync, create_graph=False)


@over(REGISTRY, share=0.5)
def test_same_numbers_on_the_device_when_recorded(op, args, params, cupy, forbid_sync):
    """The way to the second order: the backward pass itself is recorded."""
    check_on_device(op, args, params, cupy, forbid_sync, create_graph=True)


def second_derivative(ys, vs, xs, send=np.asarray):
    """Gradients of Σ ⟨w, dx⟩, for random w, of the xs and of the cotangents vs that made the dx."""
    vs = [Tensor(send(v), True) for v in vs]
    roots = [(y, v) for y, v in zip(ys, vs, strict=True) if wanted(y)]
    ds = backpropagate(roots, [x for x in xs if wanted(x)], create_graph=True).values()
    ds = [d for d in ds if wanted(d)]
    return gradients(ds, [send(w) for w in cotangents(ds, seed=1)], [*xs, *vs])


ALL_OF_IT = real_cupy_wanted() or os.environ.get("HYPOTHESIS_PROFILE", "default") != "default"


@pytest.mark.skipif(not ALL_OF_IT, reason="on the double by HYPOTHESIS_PROFILE=ci only")
@over(REGISTRY, share=0.3)
def test_same_second_derivative_on_the_device(op, args, params, cupy, forbid_sync):
    """Differentiated twice, and no wait on the way."""
    if not any(map(is_float, args)):
        return
    xs = tracked(args)
    ys = outputs(op(*xs, **params))
    vs = cotangents(ys)
    want = second_derivative(ys, vs, xs)
    args, params = on_device(cupy, op, args, params)
    xs = tracked_on_device(cupy, args)
    with contextlib.nullcontext() if has_to_wait(op, params) else forbid_sync():
        got = second_derivative(outputs(op(*xs, **params)), vs, xs, cupy.asarray)
    assert_close(from_device(cupy, got), want)


@pytest.mark.skipif(not real_cupy_wanted(), reason="the double has no kernels")
@over(KERNELS, share=0.5)
def test_kernels_of_float32(op, args, params, cupy, forbid_sync):
    """As test_float32_stays_float32, for what runs on a GPU in place of the op's own forward."""
    small = [to_float32(a) for a in args]
    params = {k: to_float32(v) for k, v in params.items()}
    want = run(op, [a.astype(np.float64) if is_float(a) else a for a in small], params)
    vs = cotangents(outputs(op(*small, **params)), np.float32)
    got = run_on_device(cupy, forbid_sync, op, small, params, vs)
    assert all(a.dtype == np.float32 for a in got)
    assert_close(got, want, rtol=2e-4, atol=2e-4)


# ------------------------------------------------------------------------------------ memory


@over(REGISTRY)
def test_nobody_shares_memory(op, args, params):
    """The gradients of the leaves lie apart from each other, from g, the inputs and the results;
    and overwriting them does not change what a second backward computes."""
    xs = tracked(args)
    leaves = [x for x in xs if wanted(x)]
    ys = outputs(op(*xs, **params))
    vs = [np.array(v) for v in cotangents(ys)]
    for create_graph in (False, True):
        ds = []
        for y, v in zip(ys, vs, strict=True):
            # at y itself g is the caller's array; where something follows, an op has made it
            for end in (y, y * 2.0) if wanted(y) else ():
                for x in leaves:
                    x.grad = None
                ds += tg.grad(end, leaves, v, create_graph, allow_unused=True)
                end.backward(v, create_graph=create_graph, retain_graph=True)
                ds += [x.grad for x in leaves]
        ds = [d.data for d in ds if d is not None]
        others = [*vs, *(y.data for y in ys), *(x.data for x in leaves)]
        for k, d in enumerate(ds):
            assert not any(np.shares_memory(d, other) for other in (*ds[:k], *others))
    before = gradients(ys, vs, xs)
    kept = [d.copy() for d in before]
    for y, v in zip(ys, vs, strict=True):
        if wanted(y):
            for d in tg.grad(y, leaves, v, allow_unused=True):
                if d is not None:
                    d.data[...] = np.nan
    assert_same_bits(gradients(ys, vs, xs), kept)


@over(REGISTRY, share=0.5)
def test_the_graph_is_freed_at_once(op, args, params):
    """No cycles: memory comes back with the last name, or with backward(), not at the next gc."""
    leaves = tracked(args)
    gc.disable()
    try:
        for create_graph in (False, True):
            xs = [x * 1.0 if wanted(x) else x for x in leaves]
            ys = outputs(op(*xs, **params))
            vs = cotangents(ys)
            gone = [weakref.ref(x) for x in xs if wanted(x)] + [weakref.ref(y) for y in ys]
            gone += [weakref.ref(x.data) for x in xs if wanted(x)]
            ds = gradients(ys, vs, leaves, create_graph)
            if op.name == "identity":
                gone = gone[:2]  # its result is the array of its input
            del xs, ys, ds
            assert [r() for r in gone if r() is not None] == []
        xs = [x * 1.0 if wanted(x) else x for x in leaves]
        inner = [weakref.ref(x) for x in xs if wanted(x)]
        ys = outputs(op(*xs, **params))
        roots = [(y, v) for y, v in zip(ys, vs, strict=True) if wanted(y)]
        del xs
        backpropagate(roots, None, False, release=True)
        assert [r() for r in inner if r() is not None] == []  # though the results still live
    finally:
        gc.enable()


# --------------------------------------------------------------------- what may be an argument


@over(REGISTRY)
def test_constants_in_any_argument(op, args, params):
    """Plain arrays and Tensors that want no gradient, anywhere among the arguments, do not change
    the gradients of the others, and get none."""
    everything = dict(
        zip([k for k, a in enumerate(args) if is_float(a)], [None] * 99, strict=False)
    )
    xs = tracked(args)
    ys = outputs(op(*xs, **params))
    vs = cotangents(ys)
    for create_graph in (False, True):
        full = dict(zip(everything, gradients(ys, vs, xs, create_graph), strict=True))
        for k in full:
            for make in (np.copy, Tensor):
                some = [
                    a if not is_float(a) else Tensor(a, True) if j == k else make(a)
                    for j, a in enumerate(args)
                ]
                zs = outputs(op(*some, **params))
                assert_close([z.data for z in zs], [y.data for y in ys])
                assert_close(gradients(zs, vs, some, create_graph), [full[k]])
    for z in outputs(op(*(Tensor(a) if is_float(a) else a for a in args), **params)):
        assert not wanted(z)


@over(REGISTRY)
def test_plain_arrays_in_plain_arrays_out(op, args, params):
    """Without a Tensor among the arguments an op is just a function of arrays."""
    ys = outputs(op(*args, **params))
    assert all(type(y) is np.ndarray for y in ys)
    zs = outputs(op(*tracked(args), **params))
    if any(map(is_float, args)):
        assert all(type(z) is Tensor for z in zs)
        assert_same_bits(ys, [z.data for z in zs])
    with tg.no_grad():
        assert not any(wanted(z) for z in outputs(op(*tracked(args), **params)))


# One Tensor in several arguments: x (3, 3) of numbers between 0.5 and 2, without ties.
SHARED = {
    "add": lambda x: tg.add(x, x),
    "sub": lambda x: tg.sub(x, x),
    "mul": lambda x: tg.mul(x, x),
    "div": lambda x: tg.div(x, x),
    "pow": lambda x: tg.pow(x, x),
    "einsum": lambda x: tg.einsum("ij,jk,ik->k", x, x, x),
    "matmul": lambda x: tg.matmul(x, x),
    "maximum": lambda x: tg.maximum(x, x),
    "minimum": lambda x: tg.minimum(x, x),
    "where": lambda x: tg.where(value(x) > 1, x, x),
    "concatenate": lambda x: tg.concatenate(x, x, x, axis=1),
    "stack": lambda x: tg.stack(x, x, x, axis=1),
    "clip": lambda x: tg.clip(x, x, x) + tg.clip(x.T, x, 2.1 * x),
    "outer": lambda x: tg.outer(x, x),
    "layer_norm": lambda x: tg.layer_norm(x, x, x),
    "linear": lambda x: tg.linear(x, x, x[0]),
    "linear_gelu": lambda x: tg.linear_gelu(x, x, x[0]),
    "add_layer_norm": lambda x: tg.add_layer_norm(x, x, x, x),
    "rms_norm": lambda x: tg.rms_norm(x, x),
    "mse_loss": lambda x: tg.mse_loss(x, x) + tg.mse_loss(x, x.T),
    "binary_cross_entropy_with_logits": lambda x: tg.binary_cross_entropy_with_logits(x, x),
    "scaled_dot_product_attention": lambda x: tg.scaled_dot_product_attention(x, x, x),
    "lstm": lambda x: tg.lstm(
        x.reshape(3, 3, 1), x[:, :1], x[:, :1], w := x[:2, :2].reshape(4, 1), w, w[:, 0], w[:, 0]
    ),
}
# Here the other argument never gets a gradient.
SINGLE = {"masked_fill", "cross_entropy", "nll_loss", "embedding", "take", "take_along_axis"}


def test_every_op_of_several_arguments_is_shared():
    several = {n for n, op in REGISTRY.items() if op.arity != 1}
    assert set(SHARED) == several - SINGLE


@pytest.mark.parametrize("name", sorted(SHARED))
def test_one_tensor_in_several_arguments(name):
    """Every use sends its own gradient, also the second time."""
    x = np.random.default_rng(0).permutation(9).reshape(3, 3) / 6 + 0.5
    assert gradcheck(SHARED[name], [x], order=2)


# --------------------------------------------------------------------------- the test machinery


def test_a_wrong_rule_is_caught():
    """The certificate itself works: of these rules for a product, only the right one passes."""
    rules = {
        "right": (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
        "sign": (lambda g, y, a, b: -g * b, lambda g, y, a, b: g * a),
        "swapped": (lambda g, y, a, b: g * a, lambda g, y, a, b: g * b),
        "zero": (lambda g, y, a, b: g * b * 0, lambda g, y, a, b: g * a),
        "forgotten": (lambda g, y, a, b: g * b, lambda g, y, a, b: (g * a)[0]),
        "order 2": (lambda g, y, a, b: g * value(b), lambda g, y, a, b: g * value(a)),
    }
    passed = []
    for name, pair in rules.items():

        @tg.primitive(*pair, registry={})
        def product(a, b):
            return a * b

        rng = np.random.default_rng(0)
        with contextlib.suppress(tg.GradientError):
            gradcheck(product, [rng.standard_normal((2, 3)), rng.standard_normal(3)], order=2)
            passed.append(name)
    assert passed == ["right"]
