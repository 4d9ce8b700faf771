"""Every kernel of tinygrad_mha/kernels beside the array code that defines it, on CuPy itself.

Needs a GPU, or CUDA on the CPU: TINYGRAD_MHA_REAL_CUPY=1 with CuPy installed; else all of it is
skipped. The numbers wanted are NumPy's in float64. Where an emulator is at hand (emu_counters),
each of its orders of threads has to give them, in memory that is NaN when it is fresh, and with
guard bytes around every array. A GPU has an order of its own.

Sizes are off the block (64 to 1024 threads) and the warp (32), and some are several blocks long.
``python -m tests.cuda.mutate_kernels`` asks whether all this would notice a broken kernel.
"""

import contextlib
import functools
import itertools
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import real_cupy_wanted

import tinygrad_mha as tg
from tinygrad_mha import backend
from tinygrad_mha.kernels import attention as attention_kernels
from tinygrad_mha.kernels import columns, launch
from tinygrad_mha.kernels import lstm as lstm_kernels
from tinygrad_mha.kernels import optim as optim_kernels
from tinygrad_mha.random import MaskKey, keep_mask, keep_scale
from tinygrad_mha.tensor import backpropagate, wanted

if not real_cupy_wanted():
    pytest.skip(
        "kernels run on CuPy itself: set TINYGRAD_MHA_REAL_CUPY=1 beside a GPU or an emulator",
        allow_module_level=True,
    )
import cupy

try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as e:
    pytest.skip(f"CuPy finds no GPU: {e}", allow_module_level=True)
try:
    import emu_counters as emu
except ImportError:
    emu = None
else:
    emu = emu if emu.available() else None

ORDERS = sorted(emu.ORDERS.values()) if emu else [None]
# Relative to the largest number of an array. One of float32 is a sum of a few hundred rounded terms
# at most (6e-8 each), or the end of a few steps of an LSTM. The worst seen is 7e-7; a GPU's exp and
# tanh are a little less exact than the host's, and it adds in another order.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
KEY = MaskKey(seed=0xFEDCBA9876543210, step=2**33 + 3, layer=2**34 + 5, first_row=7)
PROMISED = set()  # the kernels that the tests below are about


def of(*names):
    """The test is about these kernels: every one of them has to be launched."""
    PROMISED.update(names)

    def decorate(test):
        @functools.wraps(test)
        def run(**fixtures):
            with launched() as seen:
                test(**fixtures)
            assert set(names) <= seen, "the array code has taken over"

        return run

    return decorate


@contextlib.contextmanager
def launched():
    """The names of the kernels that are launched inside."""
    names, found = set(), launch.kernel

    def watch(file, name, *rest):
        names.add(name)
        return found(file, name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "kernel", watch)
        yield names


def in_order(order):
    return contextlib.nullcontext() if order is None else emu.settings(order=order)


@pytest.fixture(autouse=True)
def exact_memory(monkeypatch):
    """What is written outside an array is an error, and a ticket is 0 when nobody uses it."""
    monkeypatch.setattr(launch, "CHECKED", True)
    columns._tickets.clear()  # what is kept there shall have guard bytes, too
    backend._sent.clear()
    with emu.exact_allocations() if emu else contextlib.nullcontext():
        yield
        assert not any(t.any() for t in columns._tickets.values())
        columns._tickets.clear()
        backend._sent.clear()


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def draw(request):
    """Random numbers of a shape, the same ones in every run."""
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    draw = lambda *shape: rng.standard_normal(shape)
    draw.rng = rng
    return draw


# ------------------------------------------------------------------------------ the comparison


def close(got, want, dtype, what=""):
    got = cupy.asnumpy(got)
    assert (got.dtype, got.shape) == (dtype, want.shape), what
    size = np.abs(want[np.isfinite(want)]).max(initial=1)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[dtype] * size, err_msg=what)


def results(f, args, vs=None, dtype="float64", send=np.asarray, used=None):
    """What f gives, and the gradients that it sends back for cotangents vs, as arrays.

    ``used``: which of several outputs somebody uses.
    """
    xs = [tg.Tensor(send(a.astype(dtype)), True) if is_float(a) else a for a in args]
    ys = f(*xs)
    ys = ys if isinstance(ys, tuple) else (ys,)
    if vs is None:
        rng = np.random.default_rng(1)
        vs = [rng.standard_normal(y.shape) for y in ys]
    roots = [
        (y, send(v.astype(dtype)))
        for k, (y, v) in enumerate(zip(ys, vs, strict=True))
        if used is None or k in used
    ]
    leaves = [x for x in xs if wanted(x)]
    found = backpropagate(roots, leaves, create_graph=False)
    return [y.data for y in ys], [found.get(x) for x in leaves], vs


def is_float(a):
    return getattr(a, "dtype", np.dtype(int)).kind == "f"


def compare(f, args, dtype, used=None):
    """f and its gradients on the GPU, in every order of threads, beside those on the CPU."""
    args = [a.astype(dtype) if is_float(a) else a for a in args]  # both begin with these numbers
    ys, ds, vs = results(f, args, vs=None, used=used)
    vs = [v.astype(dtype) for v in vs]
    ys, ds, _ = results(f, args, vs, used=used)
    for order in ORDERS:
        with in_order(order):
            got_ys, got_ds, _ = results(f, args, vs, dtype, cupy.asarray, used)
            for k, (got, want) in enumerate(zip(got_ys, ys, strict=True)):
                close(got, want, dtype, f"order {order}, result {k}")
            for k, (got, want) in enumerate(zip(got_ds, ds, strict=True)):
                if want is None:
                    assert got is None or not got.any()
                else:
                    got = cupy.zeros(want.shape, dtype) if got is None else got
                    close(got, want, dtype, f"order {order}, gradient {k}")


def test_every_kernel_has_a_test():
    """A name in the list is a promise that the test keeps: see ``of``."""
    text = "".join(f.read_text("utf-8") for f in Path(launch.__file__).parent.glob("*.cu"))
    kernels = re.findall(r"__global__ void (?:__launch_bounds__\(.*?\)\s+)?(\w+)\(", text)
    assert set(kernels) == PROMISED
    assert len(kernels) == text.count("__global__")


# --------------------------------------------------------------------------------------- LSTM

LSTM = [(5, 3, 4, 6), (3, 9, 2, 40), (1, 1, 1, 1)]  # steps, texts, numbers of a token, units


def lstm_arguments(draw, steps, batch, width, units, biases="both"):
    args = [
        draw(steps, batch, width), draw(batch, units), draw(batch, units),
        draw(4 * units, width), draw(4 * units, units) / units**0.5,
        draw(4 * units) if biases != "second" else None,
        draw(4 * units) if biases != "first" else None,
    ]  # fmt: skip
    lengths = draw.rng.integers(0, steps + 1, batch)
    lengths[0], lengths[-1] = 0, steps  # one is empty, unless it is the only one
    return args, lengths


def check_lstm(draw, dtype, shape, lengths, reverse, batch_first, biases="both", used=None):
    args, ends = lstm_arguments(draw, *shape, biases)
    if lengths:
        args[0][np.arange(shape[0])[:, None] >= ends] = np.nan  # a pad may be anything
    if batch_first:
        args[0] = args[0].swapaxes(0, 1).copy()

    def f(x, *rest):
        x = x.swapaxes(0, 1) if batch_first else x
        y, *states = tg.lstm(x, *rest, lengths=ends if lengths else None, reverse=reverse)
        return (y.swapaxes(0, 1) if batch_first else y, *states)

    compare(f, args, dtype, used)


@of("lstm_forward", "lstm_backward", "without_pads", "column_sum")
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_lstm(rows, dtype, draw, monkeypatch):
    """A block owns some texts: all sizes of a block, the last of which may not be full."""
    monkeypatch.setattr(lstm_kernels, "texts_of_a_block", lambda *a: rows)
    for shape in LSTM:
        for lengths, reverse in [(True, False), (False, True), (True, True)]:
            check_lstm(draw, dtype, shape, lengths, reverse, batch_first=lengths != reverse)


@of("lstm_forward", "lstm_backward")
@pytest.mark.parametrize("room", ["none", "some", "all"])
def test_lstm_whose_weights_lie_in_three_places(room, dtype, draw, monkeypatch):
    """In registers, in shared memory as far as there is room, and in global memory."""
    shape, size = (3, 5, 2, 11), np.dtype(dtype).itemsize
    units = shape[-1]
    states = 2 * units * 10 * size  # what the way back needs of shared memory for two texts
    free = {"none": 0, "some": states + 3 * 4 * units * size, "all": 1 << 15}
    monkeypatch.setattr(lstm_kernels, "KEPT", {128: size})  # as much room as four numbers take
    monkeypatch.setattr(lstm_kernels, "texts_of_a_block", lambda *a: 2)
    monkeypatch.setattr(lstm_kernels, "limit", lambda *a: free[room])
    check_lstm(draw, dtype, shape, True, True, False)
    check_lstm(draw, dtype, shape, False, False, True)


@of("lstm_forward", "lstm_backward")
def test_lstm_of_many_units(dtype, draw):
    """Blocks as large as they can be."""
    check_lstm(draw, dtype, (2, 2, 3, 200), True, False, False)


@of("lstm_forward", "lstm_backward", "without_pads")
@pytest.mark.parametrize("batch_first", [False, True])
def test_lstm_of_which_something_is_missing(batch_first, dtype, draw):
    """A bias, or the gradient of an output."""
    for biases in ("first", "second"):
        check_lstm(draw, dtype, (4, 3, 2, 5), False, False, batch_first, biases)
    for used in ([0], [1], [2], [1, 2]):
        check_lstm(draw, dtype, (4, 3, 2, 5), True, True, batch_first, used=used)


@of("lstm_step", "lstm_step_back", "without_pads")
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_step_by_step(reverse, dtype, draw, monkeypatch):
    """Wide layers: a product and a launch for every step."""
    check_lstm(draw, dtype, (2, 3, 2, lstm_kernels.WIDEST + 4), True, reverse, False)
    monkeypatch.setattr(lstm_kernels, "WIDEST", 0)
    for shape in LSTM:
        for lengths, batch_first in [(True, False), (False, True), (True, True)]:
            check_lstm(draw, dtype, shape, lengths, reverse, batch_first)
    for biases in ("first", "second"):
        check_lstm(draw, dtype, (4, 3, 2, 5), True, reverse, True, biases)
    for used in ([0], [1], [2], [1, 2]):
        check_lstm(draw, dtype, (4, 3, 2, 5), True, reverse, False, used=used)


def test_texts_of_a_block():
    """As many as keep the processors busy; a power of two; not more than fit into its memory."""
    like = cupy.zeros(1)
    processors = like.device.attributes["MultiProcessorCount"]
    of_a_block = lambda batch, size: lstm_kernels.texts_of_a_block(batch, size, like)
    assert of_a_block(1, 8) == of_a_block(processors, 8) == 1
    assert of_a_block(processors + 1, 8) == of_a_block(2 * processors, 8) == 2
    assert of_a_block(1000 * processors, 8) == 8
    assert of_a_block(1000 * processors, launch.SHARED_BYTES // 4) == 4
    assert of_a_block(1000 * processors, launch.SHARED_BYTES) == 1


# ---------------------------------------------------------------------------------- attention

ATTENTION = ("attention", "attention_dq", "attention_dkv")
attend = tg.scaled_dot_product_attention


def heads_apart(f):
    """f for heads as projections leave them, (B, T, h, d) in memory; the result goes back so."""
    return lambda *xs: f(*(x.swapaxes(1, 2) for x in xs)).swapaxes(1, 2)


def check_attention(draw, dtype, lead, tq, tk, d, e, strided=False, **params):
    shapes = (tq, d), (tk, d), (tk, e)
    f = lambda q, k, v: attend(q, k, v, **params)
    if strided:
        batch, heads = lead
        args = [draw(batch, t, heads, w) for t, w in shapes]
        f = heads_apart(f)
    else:
        args = [draw(*lead, *s) for s in shapes]
    compare(f, args, dtype)


@of(*ATTENTION)
@pytest.mark.parametrize(("tq", "tk"), [(5, 7), (70, 67), (33, 130), (130, 33)])
def test_attention(tq, tk, dtype, draw):
    """Several blocks of queries and keys, several tiles; causal from either side of a square."""
    settings = itertools.product((False, True), (0.0, 0.3), (False, True))
    for k, (causal, p, strided) in enumerate(settings):
        lead = (2, 3) if strided or k % 4 < 2 else (2,)
        if tq * tk > 2000:
            lead = lead[:1] if len(lead) == 1 else (1, 2)
        check_attention(
            draw, dtype, lead, tq, tk, 4, 3, strided, is_causal=causal, dropout_p=p, seed=KEY
        )  # fmt: skip


@of(*ATTENTION)
@pytest.mark.parametrize("widths", [(1, 1), (3, 5), (16, 16), (64, 2)])
def test_attention_widths(widths, dtype, draw):
    check_attention(draw, dtype, (1, 2), 6, 35, *widths)
    check_attention(draw, dtype, (1, 2), 6, 35, *widths, strided=True, scale=0.3)


def test_attention_of_the_widest_heads(dtype, draw):
    """Two tiles have to fit into a block's shared memory; wider heads are the array code's."""
    widest = attention_kernels.WIDEST_BYTES // np.dtype(dtype).itemsize
    for extra in (0, 1):
        with launched() as names:
            check_attention(draw, dtype, (2,), 3, 4, widest + extra, widest)
        assert names == (set() if extra else set(ATTENTION))


def broadcast_shapes(*shape):
    """All shapes of as many axes that broadcast to it, and some of fewer."""
    yield from itertools.product(*((1, n) for n in shape))
    yield from (shape[k:] for k in range(1, len(shape)))
    yield ()


@of(*ATTENTION)
@pytest.mark.parametrize("kind", ["boolean", "floating"])
@pytest.mark.parametrize("lead", [(2, 3), (2,)])
def test_attention_masks(lead, kind, dtype, draw):
    """Of every shape. A query that may attend to nothing gets zeros, and sends nothing back."""
    for k, shape in enumerate(broadcast_shapes(*lead, 5, 7)):
        mask = np.asarray(draw.rng.random(shape) < 0.6)
        if mask.ndim > 1:
            mask[..., 0, :] = False
        if kind == "floating":
            mask = np.where(mask, draw(*shape), -np.inf)
        check_attention(
            draw, dtype, lead, 5, 7, 4, 3, mask=mask, is_causal=k % 3 == 0,
            dropout_p=0.3 * (k % 2), seed=KEY,
        )  # fmt: skip


@of(*ATTENTION)
def test_attention_masks_of_several_tiles(dtype, draw):
    """The first tile of a query may hold nothing, and a later one something; or the other way."""
    mask = draw.rng.random((2, 1, 70, 100)) < 0.5
    mask[0, 0, 3:9, :40] = mask[0, 0, 20:30, 31:] = mask[1, 0, 66] = False
    mask[1, 0, :, 80:] = False
    for p in (0.0, 0.3):
        check_attention(draw, dtype, (2, 2), 70, 100, 4, 3, mask=mask, dropout_p=p, seed=KEY)
    added = np.where(mask[:, 0], 3 * draw(2, 70, 100), -np.inf)
    check_attention(draw, dtype, (2,), 70, 100, 4, 3, mask=added, is_causal=True)


@of(*ATTENTION)
def test_attention_of_large_scores(dtype, draw):
    """The largest score is subtracted, whenever it comes: e^1000 is no number."""
    q, k, v = draw(1, 2, 4), draw(1, 100, 4), draw(1, 100, 3)
    k[0, 50], k[0, 99], q[0, 0] = 60, 100, 10
    compare(lambda q, k, v: attend(q, k, v, scale=1.0), [q, k, v], dtype)


@of(*ATTENTION)
@pytest.mark.parametrize("where", [0, 1, 2], ids=["query", "key", "value"])
def test_attention_hides_no_nan(where, dtype, draw):
    """Not as if nobody might look there: in results and gradients it stands where it should."""
    args = [draw(2, 5, 4), draw(2, 7, 4), draw(2, 7, 3)]
    args[where][0, 1, 2] = np.nan
    with np.errstate(invalid="ignore"):
        compare(attend, args, dtype)


# -------------------------------------------------------------------------- softmax and gelu


@of("softmax", "softmax_back", "log_softmax", "log_softmax_back")
@pytest.mark.parametrize("shape", [(5, 1), (3, 4, 33), (33, 70), (300,)])
def test_softmax(shape, dtype, draw):
    x = draw(*shape) * 5
    for f in (tg.softmax, tg.log_softmax):
        compare(f, [x], dtype)
        x.reshape(-1, shape[-1])[0, ::2] = -np.inf
        x.reshape(-1, shape[-1])[-1] += 1000
        compare(f, [x], dtype)


@of("softmax", "softmax_back", "log_softmax", "log_softmax_back")
def test_softmax_at_the_edge(dtype, draw):
    """Rows of nothing but -inf; NaN stays NaN; arrays with gaps; another axis, or none."""
    x = draw(6, 40)
    x[0], x[1, 3:], x[2, 5] = -np.inf, -np.inf, np.nan
    for f in (tg.softmax, tg.log_softmax):
        compare(f, [x], dtype)
        compare(lambda x, f=f: f(x.T).T, [draw(40, 6)], dtype)
        with launched() as names:
            compare(lambda x, f=f: f(x, axis=0), [draw(6, 5)], dtype)
        assert not names


@of("gelu", "gelu_tanh", "gelu_back")
@pytest.mark.parametrize("shape", [(), (7,), (3, 400)])
def test_gelu(shape, dtype, draw):
    for approximate in ("none", "tanh"):
        f = lambda x, a=approximate: tg.gelu(x, approximate=a)
        compare(f, [np.asarray(draw(*shape)) * 3], dtype)
        compare(lambda x, f=f: f(x.T).T, [np.asarray(draw(*shape))], dtype)


@of("gelu", "gelu_tanh", "gelu_back")
def test_gelu_at_the_edge(dtype):
    """Far out, and in the tail, where small numbers have all their digits."""
    for approximate in ("none", "tanh"):
        for v in (-np.inf, -1e30, -41.0, -11.0, -9.5, 9.5, 11.0, 41.0, 1e30, np.inf, np.nan):
            compare(lambda x, a=approximate: tg.gelu(x, approximate=a), [np.array([v])], dtype)
    x = tg.Tensor(cupy.asarray([-6, -5.5, -5, np.nan], dtype), True)
    y = tg.gelu(x)
    np.testing.assert_allclose(y.numpy(), tg.gelu(x.numpy().astype("f8")), rtol=TOLERANCE[dtype])
    (dx,) = tg.grad(y, [x], cupy.asarray([1, 1, 1, 0], dtype))  # nobody wants the last slope
    assert np.isfinite(dx.numpy()).all()


# ----------------------------------------------------------------------------- losses, norms


@of("cross_entropy", "cross_entropy_back")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("rows", "classes"), [((5,), 4), ((2, 3), 33), ((1,), 1), ((150,), 70)])
def test_cross_entropy(rows, classes, reduction, dtype, draw):
    settings = list(itertools.product((False, True), (0.0, 0.1), (None, 0, -100)))
    for weighted, smoothing, ignored in settings if rows != (150,) else settings[-2:]:
        targets = draw.rng.integers(0, classes, rows)
        if ignored is not None:
            targets.flat[::3] = ignored
        params = {
            "weight": draw.rng.random(classes) + 0.5 if weighted else None,
            "label_smoothing": smoothing, "ignore_index": ignored, "reduction": reduction,
        }  # fmt: skip
        f = lambda x, targets=targets, params=params: tg.cross_entropy(x, targets, **params)
        compare(f, [draw(*rows, classes) * 3], dtype)


@of("cross_entropy", "cross_entropy_back")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_at_the_edge(reduction, dtype, draw):
    """No target counts; logits of -inf, right and wrong, and far from 0; a transposed g."""
    f = lambda x: tg.cross_entropy(x, np.full(6, 2), ignore_index=2, reduction=reduction)
    compare(f, [draw(6, 5)], dtype)
    x = draw(9, 40)
    x[:, 3:35], x[4, 36] = -np.inf, 1e4
    f = lambda x: tg.cross_entropy(x, np.arange(9) % 3, reduction=reduction)
    compare(f, [x], dtype)
    targets = draw.rng.integers(0, 5, (4, 3))

    def of_transposed(x):
        losses = tg.cross_entropy(x.swapaxes(0, 1), targets, reduction=reduction)
        return losses.T if losses.ndim else losses

    compare(of_transposed, [draw(3, 4, 5)], dtype)


@of("row_norm", "row_norm_back", "column_sum")
@pytest.mark.parametrize("shape", [(3, 5, 70), (33, 33), (7, 1), (1, 300)])
def test_norms(shape, dtype, draw):
    n = shape[-1]
    compare(tg.layer_norm, [draw(*shape), draw(n), draw(n)], dtype)
    compare(tg.layer_norm, [draw(*shape) + 5, draw(n), None], dtype)
    compare(lambda x, b: tg.layer_norm(x, None, b, eps=0.1), [draw(*shape), draw(n)], dtype)
    compare(tg.layer_norm, [draw(*shape)], dtype)
    compare(lambda x: tg.rms_norm(x, eps=0.1), [draw(*shape)], dtype)
    x = draw(*shape)
    away = x + np.sign(x)  # a row of one small number is nearly a constant: little is left of dx
    compare(tg.rms_norm, [away, draw(n)], dtype)


@of("row_norm", "row_norm_back", "column_sum")
@pytest.mark.parametrize("shape", [(3, 5, 70), (33, 33), (1, 300)])
def test_norms_of_a_sum(shape, dtype, draw):
    n = shape[-1]
    compare(tg.add_layer_norm, [draw(*shape), draw(*shape) + 5, draw(n), draw(n)], dtype)
    compare(tg.add_layer_norm, [draw(*shape), draw(*shape)], dtype)
    compare(lambda x, z: tg.add_layer_norm(x.T, z.T).T, [draw(7, 40), draw(7, 40)], dtype)


@of("row_norm", "row_norm_back")
def test_norms_of_several_axes_and_of_arrays_with_gaps(dtype, draw):
    compare(tg.layer_norm, [draw(3, 5, 7), draw(5, 7), draw(5, 7)], dtype)
    compare(lambda x, w: tg.layer_norm(x.T, w.T).T, [draw(7, 40), draw(7)], dtype)
    compare(lambda x, w: tg.rms_norm(x.T, w).T, [draw(7, 40), draw(7)], dtype)


# --------------------------------------------------------------------------- columns, linear


@of("column_sum")
@pytest.mark.parametrize(
    ("rows", "n"), [(1, 1), (5, 3), (127, 33), (130, 32), (1000, 65), (2300, 5), (9000, 3)]
)
def test_column_sum(rows, n, dtype, draw):
    """In one stretch and in several, which the last block adds up."""
    x, z = draw(rows, n).astype(dtype), draw(rows, n).astype(dtype)
    sums = x.sum(0, dtype="f8")
    both = np.stack([sums, np.einsum("rn,rn->n", x, z, dtype="f8")])
    for order in ORDERS:
        with in_order(order):
            there = cupy.asarray(x), cupy.asarray(z)
            close(columns.column_sum(*there), both, dtype, f"order {order}")
            close(columns.column_sum(there[0]), sums, dtype, f"order {order}")  # the tickets again


@of("add_bias")
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 7), (300, 41)])
def test_add_bias(rows, n, dtype, draw):
    y, b = draw(rows, n).astype(dtype), draw(n).astype(dtype)
    for order in ORDERS:
        with in_order(order):
            there = cupy.asarray(y)
            columns.add_bias(there, cupy.asarray(b))
            np.testing.assert_array_equal(cupy.asnumpy(there), y + b)


@of("add_bias", "column_sum")
def test_linear(dtype, draw):
    compare(tg.linear, [draw(3, 5, 7), draw(4, 7), draw(4)], dtype)
    compare(tg.linear, [draw(300, 70), draw(65, 70), draw(65)], dtype)
    compare(lambda x, w: tg.linear(x.swapaxes(0, 1), w), [draw(3, 5, 7), draw(4, 7)], dtype)


@of("gelu", "gelu_tanh", "gelu_back", "column_sum")
def test_linear_and_gelu(dtype, draw):
    for form in ("none", "tanh"):
        f = lambda *args, form=form: tg.linear_gelu(*args, approximate=form)
        compare(f, [draw(3, 5, 7), draw(4, 7), draw(4)], dtype)
        compare(f, [draw(300, 70), draw(65, 70) / 8, draw(65)], dtype)
        turned = lambda x, w, f=f: f(x.swapaxes(0, 1), w)
        compare(turned, [draw(3, 5, 7), draw(4, 7)], dtype)


# ------------------------------------------------------------------------ dropout, embedding


@of("dropout")
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 17), (33, 33), (), (3, 1100), (1, 9000)])
def test_dropout_is_numpys_bit_for_bit(shape, dtype, draw):
    x, g = (np.asarray(draw(*shape)).astype(dtype) for _ in range(2))
    for p in (0.3, 0.5, 1e-4, 1.0):
        grown = x.dtype.type(keep_scale(p)) * keep_mask(KEY, shape, p)
        for order in ORDERS:
            with in_order(order):
                there = tg.Tensor(cupy.asarray(x), True)
                y = tg.dropout(there, p, seed=KEY)
                (dx,) = tg.grad(y, [there], cupy.asarray(g))
                np.testing.assert_array_equal(y.numpy(), x * grown)
                np.testing.assert_array_equal(dx.numpy(), g * grown)


@of("dropout")
def test_dropout_of_arrays_with_gaps(dtype, draw):
    compare(lambda x: tg.dropout(x.T, 0.3, seed=5).T, [draw(6, 50)], dtype)


@of("embedding", "embedding_back")
@pytest.mark.parametrize("width", [1, 3, 32, 40])
def test_embedding(width, dtype, draw):
    """Words repeat, more often than a block has lines; others are absent; some are padding."""
    ids = draw.rng.integers(0, 9, (5, 60))
    ids[ids == 4] = 3
    for padding in (None, 0, 8):
        compare(lambda w, p=padding: tg.embedding(ids, w, padding_idx=p), [draw(9, width)], dtype)
    compare(lambda w: tg.embedding(np.array(2), w), [draw(9, width)], dtype)
    compare(lambda w: tg.embedding(ids, w.T).swapaxes(0, 1), [draw(width, 9)], dtype)


@of("embedding")
def test_embedding_of_nothing_but_padding(dtype, draw):
    compare(lambda w: tg.embedding(np.zeros((2, 3), int), w, padding_idx=0), [draw(4, 5)], dtype)


# --------------------------------------------------------------------------------- optimizers

SIZES = [(1,), (31,), (3, 5), (2500,), (2, 0), (257,)]


def parameters(arrays, gradients, dtype, send):
    made = []
    for a, g in zip(arrays, gradients, strict=True):
        p = tg.Tensor(send(a.astype(dtype)), True)
        p.grad = tg.Tensor(send(g.astype(dtype)))
        made.append(p)
    return made


def moved(optimizer, arrays, gradients, dtype, send, steps=3, **settings):
    """Parameters and the arrays that are remembered of them, after some steps."""
    ps = parameters(arrays, gradients, dtype, send)
    o = optimizer(ps, lr=0.1, **settings)
    for k in range(steps):
        o.step()
        for p in ps:
            p.grad = tg.Tensor(p.grad.data * (k - 0.5))
    kept = [x for p in ps for x in o.state[p].values()]
    return [p.data for p in ps] + [x for x in kept if hasattr(x, "shape")]


def arrays_of(draw, shapes, dtype):
    return [[draw(*s).astype(dtype) for s in shapes] for _ in range(2)]


@of("adam")
@pytest.mark.parametrize("optimizer", [tg.optim.Adam, tg.optim.AdamW])
@pytest.mark.parametrize("shapes", [SIZES, [(5,)] * 130], ids=["long", "many"])
def test_adam(optimizer, shapes, dtype, draw):
    """Also of more arrays than one launch takes."""
    ps, gs = arrays_of(draw, shapes, dtype)
    check_moved(optimizer, ps, gs, dtype, weight_decay=0.2, betas=(0.7, 0.95), eps=1e-3)


def check_moved(optimizer, ps, gs, dtype, **settings):
    want = moved(optimizer, ps, gs, "float64", np.asarray, **settings)
    for order in ORDERS:
        with in_order(order):
            got = moved(optimizer, ps, gs, dtype, cupy.asarray, **settings)
            for a, b in zip(got, want, strict=True):
                close(a, b, dtype, f"order {order}")


@of("sgd")
@pytest.mark.parametrize("shapes", [SIZES, [(5,)] * 130], ids=["long", "many"])
@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=len
)
def test_sgd(settings, shapes, dtype, draw):
    check_moved(tg.optim.SGD, *arrays_of(draw, shapes, dtype), dtype, weight_decay=0.2, **settings)


@of("adam", "sgd")
@pytest.mark.parametrize("norm", [2.0, np.inf, -np.inf, np.nan])
def test_nothing_moves_unless_a_number_is_finite(norm, dtype, draw):
    ps, gs = arrays_of(draw, SIZES[:3], dtype)
    for order, optimizer in itertools.product(ORDERS, (tg.optim.Adam, tg.optim.SGD)):
        with in_order(order):
            there = parameters(ps, gs, dtype, cupy.asarray)
            o = optimizer(there, lr=0.1)
            o.step(only_if=cupy.asarray(norm, dtype))
            for p, before in zip(there, ps, strict=True):
                assert np.array_equal(p.numpy(), before) != np.isfinite(norm)
                for x in o.state[p].values():  # the number of steps, and arrays
                    assert not hasattr(x, "any") or bool(x.any()) == np.isfinite(norm)


@of("grad_norm", "scale")
@pytest.mark.parametrize("shapes", [SIZES[:4], [(5,)] * 63 + [(5000,)]], ids=["few", "many"])
def test_clip_grad_norm(shapes, dtype, draw):
    """Several times, since the last block leaves the ticket as it has found it."""
    ps, gs = arrays_of(draw, shapes, dtype)
    norm = np.sqrt(sum(np.vdot(g.astype("f8"), g) for g in gs))
    for order in ORDERS:
        with in_order(order):
            for most in (norm / 3, 2 * norm, 0.0)[: 3 if len(ps) < 9 else 1]:
                there = parameters(ps, gs, dtype, cupy.asarray)
                given = [p.grad.data for p in there]
                close(tg.optim.clip_grad_norm(there, most), norm, dtype, f"order {order}")
                factor = min(most / (norm + 1e-6), 1)
                for p, g, before in zip(there, gs, given, strict=True):
                    close(p.grad.data, g.astype("f8") * factor, dtype, f"order {order}")
                    np.testing.assert_array_equal(cupy.asnumpy(before), g)


@of("grad_norm", "scale")
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_clip_grad_norm_of_a_gradient_that_is_not_finite(odd, dtype, draw):
    """As the array code has it: the norm says what happened, and the factor with it."""
    ps, gs = arrays_of(draw, [(3,), (40,)], dtype)
    gs[1][33] = odd
    here = parameters(ps, gs, dtype, np.asarray)
    with np.errstate(invalid="ignore"):
        norm = tg.optim.clip_grad_norm(here, 1.0)
    for order in ORDERS:
        with in_order(order):
            there = parameters(ps, gs, dtype, cupy.asarray)
            np.testing.assert_array_equal(cupy.asnumpy(tg.optim.clip_grad_norm(there, 1.0)), norm)
            for p, q in zip(there, here, strict=True):
                np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_clip_grad_norm_of_more_arrays_than_a_launch_takes(dtype, draw):
    """The array code takes over."""
    ps, gs = arrays_of(draw, [(5,)] * (optim_kernels.COUNT + 1), dtype)
    norm = np.sqrt(sum(np.vdot(g.astype("f8"), g) for g in gs))
    there = parameters(ps, gs, dtype, cupy.asarray)
    with launched() as names:
        close(tg.optim.clip_grad_norm(there, 1.0), norm, dtype)
    assert not names
    for p, g in zip(there, gs, strict=True):
        close(p.grad.data, g / (norm + 1e-6), dtype)


# ---------------------------------------------------------------------------------- launching


def test_kernels_can_be_switched_off(draw, monkeypatch):
    monkeypatch.setattr(launch, "ON", False)
    with launched() as names:
        compare(tg.layer_norm, [draw(3, 7), draw(7), draw(7)], "float64")
        compare(lambda *x: attend(*x, is_causal=True), [draw(2, 5, 4) for _ in range(3)], "float64")
    assert not names


def test_a_launch_refuses_arrays_with_gaps():
    """Kernels read from end to end."""
    y, b = cupy.zeros((4, 6)), cupy.zeros(3)
    with pytest.raises(AssertionError, match="add_bias: arrays with gaps"):
        columns.add_bias(y[:, ::2], b)
