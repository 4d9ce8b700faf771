"""Attention in tiles is attention: the same numbers as the dense path, in memory that grows with T.

Here tiles are tiny and every call is "long", so that small cases meet every corner.
"""

import gc
import threading
import tracemalloc
import weakref
from functools import partial

import numpy as np
import pytest
from cases import CASES
from hypothesis import given, settings
from test_ops import assert_close, check_on_device, run, tracked
from words import close, grads

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, Tensor, attention, threads, tiled_attention
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.random import MaskKey, keep_mask, keep_rows, mask_stream

NAME = "scaled_dot_product_attention"
attend = tg.scaled_dot_product_attention
inf = np.inf


def tiles(patch, rows=4, columns=3, long=-1):
    """From here on: tiles of this size for all that has more scores than ``long``."""
    patch.setattr(tiled_attention, "ROWS", rows)
    patch.setattr(tiled_attention, "COLUMNS", columns)
    patch.setattr(attention, "LONG", long)


def results(q, k, v, g, **params):
    """y, dq, dk, dv as arrays."""
    xs = [Tensor(x, requires_grad=True) for x in (q, k, v)]
    y = attend(*xs, **params)
    return [y.numpy(), *grads(y, *xs, g=g)]


def inputs(tq, tk, lead=(), d=3, e=2, dtype=np.float64, seed=0):
    """q, k, v and a gradient for y."""
    rng = np.random.default_rng(seed)
    shapes = (tq, d), (tk, d), (tk, e), (tq, e)
    return [rng.standard_normal((*lead, *s)).astype(dtype) for s in shapes]


def both(monkeypatch, arrays, **params):
    """The results of the dense path, and of tiles."""
    monkeypatch.setattr(attention, "LONG", 10**9)
    dense = results(*arrays, **params)
    tiles(monkeypatch)
    return dense, results(*arrays, **params)


# ---------------------------------------------------------------------------- the same numbers


def masks(tq, tk):
    """Masks of all kinds for scores (2, 3, Tq, Tk)."""
    rng = np.random.default_rng(1)
    whole = rng.random((2, 3, tq, tk)) < 0.5
    bare = whole.copy()
    bare[:, :, ::3] = False  # queries that may attend nothing
    bare[..., :4] = False  # and tiles in which nobody may attend anything
    floats = rng.standard_normal((3, tq, tk))
    return {
        "none": None,
        "whole": whole,
        "pads": whole[:, :1, :1],
        "pads at the end": np.arange(tk) < tk // 2,
        "queries": whole[..., :1],
        "heads": whole[0, :, :1, :1],
        "plane": whole[0, 0],
        "one": np.array(True),
        "nobody": np.zeros((tq, tk), bool),
        "bare": bare,
        "floats": floats,
        "one row of floats": floats[0, 0],
        "floats and -inf": np.where(bare[0], floats, -inf),
        "float32": floats.astype(np.float32),
    }


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kind", masks(1, 1))
@pytest.mark.parametrize(("tq", "tk"), [(8, 6), (11, 17), (17, 11), (1, 5), (5, 1)])
def test_tiles_equal_dense(monkeypatch, tq, tk, kind, is_causal, dropout_p):
    """Values and gradients, for multiples of the tile and for others, with any mask."""
    params = {"is_causal": is_causal, "dropout_p": dropout_p, "seed": 5}
    dense, tiled = both(monkeypatch, inputs(tq, tk, (2, 3)), mask=masks(tq, tk)[kind], **params)
    assert_close(tiled, dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dropout_p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    "leads",
    [((), (), ()), ((2,), (2,), (2,)), ((2, 1), (3,), (1, 3)), ((1,), (2,), (4, 1)), ((), (3,), ())]
    + [((), (), (3,)), ((2, 1), (2, 1), (2, 3)), ((0,), (0,), (0,))],
)
def test_leading_axes_broadcast(monkeypatch, leads, dropout_p):
    """Also where only v has them, and all the v's share the scores and what is dropped of them."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((*lead, n, 3)) for lead, n in zip(leads, (9, 7, 7), strict=True))
    g = rng.standard_normal((*np.broadcast_shapes(*leads), 9, 3))
    tiles(monkeypatch)
    params = {"dropout_p": dropout_p, "seed": 2, "scale": -0.3}
    xs = tracked((q, k, v))
    y = REGISTRY[NAME].reference(*xs, **params | {"seed": MaskKey(2, 0, 0, 0)})
    want = [y.numpy(), *grads(y, *xs, g=g)]
    assert_close(results(q, k, v, g, **params), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sizes", [(0, 5, 3, 2), (5, 0, 3, 2), (0, 0, 3, 2), (5, 6, 0, 2), (5, 6, 3, 0)]
)
def test_sizes_of_zero(monkeypatch, sizes):
    tq, tk, d, e = sizes
    for params in ({}, {"is_causal": True}, {"dropout_p": 0.5, "seed": 1}):
        dense, tiled = both(monkeypatch, inputs(tq, tk, (2,), d, e), **params)
        assert_close(tiled, dense, rtol=1e-12, atol=1e-12)


def test_layouts_of_memory(monkeypatch):
    """Heads as MultiHeadAttention has them, and a gradient that is one number for all places."""
    q, k, v, _ = inputs(9, 9, (2, 3), 4, 4)
    q, k, v = (x.swapaxes(1, 2).copy().swapaxes(1, 2) for x in (q, k, v))
    for g in (np.broadcast_to(0.7, v.shape), v.swapaxes(-1, -2).copy().swapaxes(-1, -2)):
        dense, tiled = both(monkeypatch, (q, k, v, g))
        assert_close(tiled, dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_any_size(monkeypatch, dtype, scale):
    """Small ones need no maximum, which saves a pass; large ones must not overflow (a warning is
    an error here)."""
    arrays = inputs(13, 15, (2,), dtype=dtype)
    calm = tiled_attention.is_calm(arrays[0][0], arrays[1][0], scale)
    assert calm == (scale < 10)
    dense, tiled = both(monkeypatch, arrays, scale=scale)
    assert all(x.dtype == dtype for x in tiled)
    exact = 1e-5 if dtype == np.float32 else 1e-12  # of scores that are themselves up to 5,000
    assert_close(tiled, dense, rtol=exact * max(scale, 1), atol=exact * max(scale, 1))
    monkeypatch.setattr(tiled_attention, "is_calm", lambda *_: False)
    assert_close(results(*arrays, scale=scale), tiled, rtol=exact, atol=exact * max(scale, 1))


def test_very_large_numbers_are_not_calm():
    """Their squares overflow, and NaN compares as False; neither warns."""
    for x in (1e30, inf, np.nan):
        q = np.full((2, 3), x, np.float32)
        assert not tiled_attention.is_calm(q, q, 1.0)


def test_whole_numbers_and_mixed_dtypes(monkeypatch):
    q, k, v, _ = inputs(6, 7)
    for cast in (lambda x: x.astype(int), lambda x: x.astype(np.float32)):
        monkeypatch.setattr(attention, "LONG", 10**9)
        want = attend(cast(q), cast(k), v)
        ints = attend(cast(q), cast(k), cast(v))
        tiles(monkeypatch)
        close(attend(cast(q), cast(k), v), want)
        got = attend(cast(q), cast(k), cast(v))
        assert got.dtype == ints.dtype == np.float32
        close(got, ints, 1e-6, 1e-6)


def test_long_sequences_take_this_way(monkeypatch):
    """And short ones do not; by the product of the two lengths."""
    called = []
    real = attention.tiled_attention
    monkeypatch.setattr(
        attention, "tiled_attention", lambda *a, **k: called.append(1) or real(*a, **k)
    )
    n = attention.LONG
    for tq, tk, long in ((1, n, 0), (1, n + 1, 1)):
        called.clear()
        attend(*(x[None] for x in inputs(tq, tk, d=1, e=1)[:3]))
        assert len(called) == long


# ---------------------------------------------------------------------------- the certificate


def examples(share):
    return settings(max_examples=max(2, round(settings().max_examples * share)))


@examples(2.0)
@given(CASES[NAME])
def test_gradient_and_its_gradient(case):
    """Against differences, at orders 1 and 2, with all else that gradcheck looks at."""
    args, params = case
    with pytest.MonkeyPatch.context() as patch:
        tiles(patch, 2, 2)
        tg.gradcheck(partial(attend, **params), args, order=2)


@examples(2.0)
@given(CASES[NAME])
def test_fused_equals_reference(case):
    args, params = case
    op = REGISTRY[NAME]
    params = op.resolve(**(op.defaults | params))
    want = run(op.reference, args, params)
    with pytest.MonkeyPatch.context() as patch:
        tiles(patch, 2, 2)
        assert_close(run(op, args, params), want)


def test_the_second_order_goes_by_the_reference(monkeypatch):
    tiles(monkeypatch)
    arrays = inputs(5, 6)
    xs = [Tensor(x, requires_grad=True) for x in arrays[:3]]
    y = attend(*xs, is_causal=True)
    monkeypatch.setattr(tiled_attention, "backward", None)  # so that nobody can call it
    (dq,) = tg.grad(y, xs[:1], arrays[3], create_graph=True)
    assert dq.requires_grad


def test_the_graph_is_freed_at_once(monkeypatch):
    tiles(monkeypatch)
    gc.disable()
    try:
        xs = [x * 1.0 for x in tracked(inputs(5, 6)[:3])]
        y = attend(*xs)
        gone = [weakref.ref(x.data) for x in (*xs, y)]
        del xs, y
        assert [r() for r in gone if r() is not None] == []
    finally:
        gc.enable()


@examples(1.0)
@given(CASES[NAME])
def test_same_numbers_on_the_double(case):
    import strict_cupy

    with pytest.MonkeyPatch.context() as patch, strict_cupy.installed() as cupy:
        tiles(patch, 2, 2)
        check_on_device(REGISTRY[NAME], *case, cupy, strict_cupy.forbid_sync, False)


@pytest.mark.parametrize("kind", ["none", "whole", "pads", "bare", "floats and -inf"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_same_numbers_on_the_device(monkeypatch, cupy, forbid_sync, kind, is_causal, dropout_p):
    """All heads at once there, several tiles each way, without once waiting for the GPU."""
    tiles(monkeypatch)
    params = {"mask": masks(9, 11)[kind], "is_causal": is_causal}
    params |= {"dropout_p": dropout_p, "seed": 3}
    case = inputs(9, 11, (2, 3))[:3], params
    check_on_device(REGISTRY[NAME], *case, cupy, forbid_sync, False)
    empty = inputs(9, 11, (0, 3))[:3], params | {"mask": None}
    check_on_device(REGISTRY[NAME], *empty, cupy, forbid_sync, False)


# ---------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("shape", [(9, 21), (3, 9, 21), (2, 3, 9, 21), (2, 1, 3, 9, 5), (2, 9, 16)])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_few_rows_of_a_mask(shape, p):
    """Wherever they begin and end, their bits are those of the whole mask."""
    key = MaskKey(7, 3, 2, first_row=5)
    whole = keep_mask(key, shape, p)
    for index in np.ndindex(shape[:-2]):
        for rows in (slice(0, 9), slice(0, 1), slice(2, 7), slice(8, 9), slice(4, 4)):
            part = keep_rows(key, shape, p, index, rows)
            np.testing.assert_array_equal(part, whole[(*index, rows)])


def test_the_bits_are_the_words_of_the_generator():
    """As they come: random_raw is what NumPy promises never to change."""
    key = np.array([7, 2], np.uint64)
    words = np.random.Philox(key=key, counter=[5 * 2, 3, 0, 0]).random_raw(4 * 2 * 4).view("<u2")
    want = words.reshape(4, 32)[:, :20] >= 6554
    np.testing.assert_array_equal(keep_mask(MaskKey(7, 3, 2, 5), (4, 20), 0.1), want)


def test_a_part_of_the_batch_drops_what_the_whole_drops(monkeypatch):
    tiles(monkeypatch)
    q, k, v, _ = inputs(9, 7, (6, 2))
    with mask_stream(1, 2):
        whole = attend(q, k, v, dropout_p=0.5)
    with mask_stream(1, 2, first_row=4):
        close(attend(q[4:], k[4:], v[4:], dropout_p=0.5), whole[4:])


# ---------------------------------------------------------------------------- threads


@pytest.mark.parametrize("params", [{}, {"is_causal": True}, {"dropout_p": 0.3, "seed": 1}])
def test_threads_change_no_bit(monkeypatch, params):
    tiles(monkeypatch, 64, 32)
    arrays = inputs(150, 170, (2, 3), 16, 16, np.float32)
    several = []
    for n in (1, 2, 5):
        monkeypatch.setattr(threads, "free_threads", lambda n=n: n)
        several.append(results(*arrays, **params))
    for other in several[1:]:
        for a, b in zip(several[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_side_by_side_is_at_the_same_time(monkeypatch):
    """Two wait for each other, in the caller's np.errstate, with BLAS on one thread."""
    monkeypatch.setattr(threads, "free_threads", lambda: 2)
    meeting, seen = threading.Barrier(2), []

    def meet(item):
        meeting.wait(timeout=60)
        seen.append((item, np.geterr()["over"], {b["num_threads"] for b in threads._blas().info()}))

    with np.errstate(over="ignore"):
        threads.side_by_side(meet, [0, 1])
    assert sorted(x[0] for x in seen) == [0, 1]
    assert all(over == "ignore" and blas <= {1} for _, over, blas in seen)
    with pytest.raises(ZeroDivisionError):
        threads.side_by_side(lambda x: 1 // x, [1, 0])
    threads.side_by_side(meet, [])


def test_threads_do_not_nest():
    """Where the cores have been shared out, an op starts no threads; afterwards it may again."""
    before = threads.free_threads()
    assert 1 <= before <= threads.cores()
    with Workers(2) as workers:
        assert workers.map(lambda _: threads.free_threads(), [0, 1]) == [1, 1]
    assert threads.free_threads() == before
    names = set()
    with threads.one_blas_thread():
        threads.side_by_side(lambda _: names.add(threading.current_thread().name), range(4))
    assert names == {threading.current_thread().name}


# ---------------------------------------------------------------------------- work and memory


def visits(monkeypatch, tq, tk, **params):
    """How many tiles are computed, forward and backward (two products there)."""
    tiles(monkeypatch, 8, 8)
    count = []
    real = tiled_attention.Room.product
    spy = lambda self, a, b: count.append(a.shape[-2] * b.shape[-2]) or real(self, a, b)
    with monkeypatch.context() as patch:
        patch.setattr(tiled_attention.Room, "product", spy)
        q, k, v, g = inputs(tq, tk)
        results(q, k, v, g, **params)
    assert max(count, default=0) <= 64
    return len(count) / 3


def test_causal_skips_the_masked_half(monkeypatch):
    assert visits(monkeypatch, 64, 64) == 64
    assert visits(monkeypatch, 64, 64, is_causal=True) == 36  # 8 · 9 / 2
    assert visits(monkeypatch, 64, 32, is_causal=True) == 4 * 5 / 2 + 4 * 4
    assert visits(monkeypatch, 32, 64, is_causal=True) == 4 * 5 / 2


def test_tiles_of_pads_are_skipped(monkeypatch):
    """And those of blocks along the diagonal, as where several texts share one sequence."""
    assert visits(monkeypatch, 64, 64, mask=np.arange(64) < 20) == 8 * 3
    assert visits(monkeypatch, 64, 64, mask=np.zeros((64, 64), bool)) == 0
    block = np.kron(np.eye(4, dtype=bool), np.ones((16, 16), bool))
    assert visits(monkeypatch, 64, 64, mask=block) == 4 * 4


def peak(t, **params):
    """Most bytes at once above inputs, of a forward and backward pass."""
    arrays = inputs(t, t, (1, 1), 8, 8, np.float32)
    tracemalloc.start()
    try:
        results(*arrays, **params)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["plain", "causal", "pads", "dropout", "all"])
def test_memory_grows_with_t(monkeypatch, kind):
    """Twice the length, twice the memory; and never a T x T array, be it of single bytes."""
    tiles(monkeypatch, 64, 64)
    results(*inputs(9, 9, dtype=np.float32), dropout_p=0.5, seed=1)  # what is loaded only once
    peaks = []
    for t in (1024, 2048):
        pads = (np.arange(t) < t - 100)[None, None, None]
        params = {
            "plain": {},
            "causal": {"is_causal": True},
            "pads": {"mask": pads},
            "dropout": {"dropout_p": 0.1, "seed": 0},
        }
        params["all"] = params["causal"] | params["pads"] | params["dropout"]
        peaks.append(peak(t, **params[kind]))
        assert peaks[-1] < t * t
    assert peaks[1] < 2.1 * peaks[0]
