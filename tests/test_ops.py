"""The certificate: every op of the registry, on every case that cases.py can draw.

Nothing here names an op, except where it says why. A new op is checked as soon as it is defined;
without cases it fails the first test.
"""

import contextlib
import gc
import re
import weakref
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import tinygrad_mha as tg
from cases import CASES
from hypothesis import given, settings
from tinygrad_mha import REGISTRY, Op, Tensor, gradcheck
from tinygrad_mha.tensor import backpropagate, history, value, wanted

# The weight of a case is its running time; the heavy ops get fewer of them.
HEAVY = {"lstm": 3, "scaled_dot_product_attention": 2}
FUSED = [name for name, op in REGISTRY.items() if op.reference]


def over(names, share=1.0):
    """Turn ``check(op, args, params)`` into a test of each op, on cases that Hypothesis draws."""

    def decorate(check):
        @pytest.mark.parametrize("name", sorted(names))
        def test(name, request):
            def run(case):
                check(REGISTRY[name], *case, *extra)

            wants = check.__code__.co_varnames[3 : check.__code__.co_argcount]
            extra = [request.getfixturevalue(fixture) for fixture in wants]
            run.__name__ = f"{check.__name__}_{name}"
            examples = settings().max_examples * share / HEAVY.get(name, 1)
            settings(max_examples=max(2, round(examples)))(given(CASES[name])(run))()

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
    return [np.asarray(value(found[x])) if x in found else np.zeros(x.shape, x.dtype) for x in xs]


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

    call, reference = Op.__call__, op.reference
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Op, "__call__", spy)
        patch.setattr(op, "reference", lambda *a, **k: called.append("the reference"))
        ys = outputs(op(*xs, **params))
        assert {t.node for t in history(ys)} == {ys[0].node}
        gradients(ys, cotangents(ys), xs)
    assert reference is op.reference
    # sum_to belongs to the engine: it undoes a broadcast
    assert [name for name in called if name != "sum_to"] == [op.name]


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


# These look at numbers on the host, and so must wait for the GPU.
WAITS = {
    "getitem": "the shape of x[mask] depends on the mask",
    "scatter": "so does where its values go",
}
# These arguments stay on the host, where they are checked before they are sent.
HOST_ARGUMENTS = {("embedding", 0), ("cross_entropy", 1)}


def on_device(cupy, name, args, params):
    def send(a):
        if isinstance(a, tuple):
            return tuple(map(send, a))
        return cupy.asarray(a) if isinstance(a, np.ndarray) else a

    args = [a if (name, k) in HOST_ARGUMENTS else send(a) for k, a in enumerate(args)]
    params = {k: v if k == "lengths" else send(v) for k, v in params.items()}
    if name == "to":
        params = {"device": "cuda"}
    return args, params


@over(REGISTRY)
def test_same_numbers_on_the_device(op, args, params, cupy, forbid_sync):
    """On CuPy or its double: forward and backward, without once waiting for the GPU."""
    want = run(op, args, params)
    args, params = on_device(cupy, op.name, args, params)
    xs = [Tensor(a, True) if hasattr(a, "dtype") and a.dtype.kind == "f" else a for a in args]
    if not any(wanted(x) for x in xs):
        return
    shapes = [y.shape for y in outputs(op(*xs, **params))]
    vs = [cupy.asarray(v) for v in cotangents([np.zeros(s) for s in shapes])]
    with contextlib.nullcontext() if op.name in WAITS else forbid_sync():
        ys = outputs(op(*xs, **params))
        ds = [d for d in tg_gradients(ys, vs, xs) if d is not None]
    got = [*(y.data for y in ys), *ds]
    assert all(isinstance(a, cupy.ndarray) for a in got)
    zeros = len(want) - len(got)  # gradients that nothing contributes to
    want = want if not zeros else [w for w in want if w.any() or w.size == 0][: len(got)]
    if not zeros:
        assert_close([cupy.asnumpy(a) for a in got], want)


def tg_gradients(ys, vs, xs, create_graph=False):
    roots = [(y, v) for y, v in zip(ys, vs, strict=True) if wanted(y)]
    xs = [x for x in xs if wanted(x)]
    found = backpropagate(roots, xs, create_graph)
    return [found.get(x) for x in xs]
