"""Values of the fused ops where others were bitten: infinities, empty rows, pads, large means.

test_ops.py compares every fused op with its reference and with differences. Here the results are
compared with loops written down independently, and with what the docstrings promise.
"""

import sys

import numpy as np
import pytest
from words import close, grads, leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor
from tinygrad_mha.random import MaskKey, keep_mask, keep_scale, mask_stream, next_mask, threshold

rng = np.random.default_rng(0)
inf = np.inf


# ------------------------------------------------------------------------------ mixed dtypes


FUSED = sorted(name for name, op in tg.REGISTRY.items() if op.reference is not None)


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_op_computes_in_the_widest_dtype_of_its_inputs(name):
    """So float32 beside float64 gives what the same float32 numbers give as float64.

    Buffers had the dtype of x alone: an LSTM of a float32 x with float64 weights computed in
    float32 or failed, and layer_norm with a float64 bias gave float32, its reference float64.
    """
    op = tg.REGISTRY[name]
    args, params = op.sample(np.random.default_rng(1))
    floats = [k for k, a in enumerate(args) if a.dtype.kind == "f"]
    for narrow in floats:
        low = {k: args[k].astype(np.float32 if k == narrow else np.float64) for k in floats}

        def run(dtypes, create_graph, low=low):
            ts = {k: Tensor(low[k].astype(dtypes[k]), requires_grad=True) for k in floats}
            ys = op(*(ts.get(k, a) for k, a in enumerate(args)), **params)
            ys = ys if isinstance(ys, tuple) else (ys,)
            g = np.random.default_rng(2)
            loss = sum((y * g.standard_normal(y.shape).astype(y.dtype)).sum() for y in ys)
            return ys, tg.grad(loss, list(ts.values()), create_graph=create_graph)

        for create_graph in (False, True):
            ys, ds = run({k: low[k].dtype for k in floats}, create_graph)
            want, want_ds = run(dict.fromkeys(floats, np.float64), create_graph)
            if len(floats) > 1:
                for y, z in zip(ys, want, strict=True):
                    assert y.dtype == np.float64
                    close(y.data, z.data)
            for k, d, e in zip(floats, ds, want_ds, strict=True):
                assert d.dtype == low[k].dtype
                close(d.data, e.data, *([1e-5] * 2 if k == narrow else ()))


def test_whole_numbers_are_read_as_floats():
    """Given integers, softmax and its kin failed in the middle; dropout scaled by int(1 / (1-p))"""
    x = np.array([[1, 2, 3], [3, 0, 1]])
    same = {
        "softmax": lambda x: tg.softmax(x),
        "logsumexp": lambda x: tg.logsumexp(x, axis=1),
        "rms_norm": lambda x: tg.rms_norm(x),
        "nll_loss": lambda x: tg.nll_loss(x, [0, 1]),
        "mse_loss": lambda x: tg.mse_loss(x, [[0, 1, 2], [1, 1, 1]]),
        "bce": lambda x: tg.binary_cross_entropy_with_logits(x, [[0, 1, 1], [1, 0, 0]]),
        "log_softmax": lambda x: tg.log_softmax(x),
        "cross_entropy": lambda x: tg.cross_entropy(x, [0, 1], label_smoothing=0.1),
        "attention": lambda x: tg.scaled_dot_product_attention(x, x, x),
        "dropout": lambda x: tg.dropout(x, 0.3, seed=1),
    }
    for name, f in same.items():
        assert f(x).dtype == np.float32, name
        close(f(x), f(x.astype(float)), 1e-6, 1e-6)


# ----------------------------------------------------------------------------------- softmax


def test_softmax_by_hand():
    close(tg.softmax(np.log([1.0, 2.0, 5.0])), [1 / 8, 2 / 8, 5 / 8])
    x = rng.standard_normal((2, 3, 4))
    for axis in (0, 1, 2, -1):
        e = np.exp(x)
        close(tg.softmax(x, axis), e / e.sum(axis=axis, keepdims=True))
        close(tg.log_softmax(x, axis), np.log(e / e.sum(axis=axis, keepdims=True)))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "rms_norm", "gelu", "var"])
def test_complex_numbers_are_refused_not_cut_in_half(name):
    with pytest.raises(TypeError, match=f"^{name}: numbers are real here, not complex128"):
        tg.REGISTRY[name](np.array([[1 + 2j, 3.0]]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_huge_numbers(dtype):
    x = leaf([[1e4, 1e4 + 1, -1e30], [-1e30, -1e30, -1e30]], dtype)
    for op in (tg.softmax, tg.log_softmax):
        y = op(x)
        (dx,) = grads(y, x, g=rng.standard_normal(y.shape))
        assert np.isfinite(y.numpy()).all()
        assert np.isfinite(dx).all()
    s = 1 / (1 + np.e)
    close(tg.softmax(x).numpy(), [[s, 1 - s, 0], [1 / 3] * 3], rtol=1e-6)


def test_log_softmax_never_leaves_the_logarithms():
    """log(softmax(x)) would be -inf here."""
    assert tg.log_softmax(np.array([0.0, 1000.0])).tolist() == [-1000.0, 0.0]


def test_rows_of_minus_infinity():
    x = leaf([[-inf, -inf, -inf], [0.0, -inf, 0.0]])
    y = tg.softmax(x)
    np.testing.assert_array_equal(y.numpy(), [[0, 0, 0], [0.5, 0, 0.5]])
    np.testing.assert_array_equal(
        grads(y, x, g=np.array([[1.0, 2, 3], [1, 2, 4]]))[0], [[0, 0, 0], [-0.75, 0, 0.75]]
    )
    z = tg.log_softmax(x)
    np.testing.assert_array_equal(z.numpy(), [[-inf] * 3, [-np.log(2), -inf, -np.log(2)]])
    assert np.isfinite(grads(z, x, g=np.ones((2, 3)))[0]).all()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_row_of_minus_infinity_poisons_no_shared_weight(create_graph):
    """0 · nan would reach w through the row that has no entry left."""
    x, w = rng.standard_normal((3, 4)), leaf(rng.standard_normal((4, 5)))
    mask = np.zeros((3, 5), bool)
    mask[1] = True
    scores = tg.masked_fill(Tensor(x) @ w, mask, value=-inf)
    g = rng.standard_normal((3, 5))
    (dw,) = tg.grad(tg.softmax(scores), [w], g, create_graph=create_graph)
    y = tg.softmax(Tensor(x[[0, 2]]) @ w)
    close(dw.numpy(), grads(y, w, g=g[[0, 2]])[0])


def test_softmax_over_several_axes_and_none():
    x = rng.standard_normal((2, 3, 4))
    for op in (tg.softmax, tg.log_softmax):
        whole = op(x.reshape(2, -1), axis=1).reshape(x.shape)
        close(op(x, axis=(1, -1)), whole)
        assert tg.gradcheck(lambda x, op=op: op(x, axis=(0, 2)), [x], order=2)
    with pytest.raises(IndexError, match="softmax: axis 5 is out of bounds"):
        tg.softmax(x, axis=5)


def test_softmax_of_nothing():
    assert tg.softmax(np.zeros((2, 0))).shape == (2, 0)
    assert tg.softmax(np.zeros((0, 3)), axis=0).shape == (0, 3)
    assert tg.log_softmax(np.zeros((2, 0))).shape == (2, 0)


# -------------------------------------------------------------------------------- logsumexp


def test_logsumexp_by_hand():
    x = np.log([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0]])
    close(tg.logsumexp(x), np.log(24))
    close(tg.logsumexp(x, axis=1), np.log([8, 16]))
    close(tg.logsumexp(x, axis=-2, keepdims=True), [np.log([5, 6, 13])])
    close(tg.logsumexp(x, axis=()), x)
    y = rng.standard_normal((2, 3, 4))
    close(tg.logsumexp(y, axis=(0, -1)), np.log(np.exp(y).sum(axis=(0, 2))))
    close(tg.logsumexp(y, (2, 0), True), np.log(np.exp(y).sum(axis=(0, 2), keepdims=True)))
    close(tg.logsumexp(y, 2), (y - tg.log_softmax(y))[..., 0])
    assert tg.logsumexp(np.array(3.0)) == 3
    with pytest.raises(IndexError, match="logsumexp: axis 3 is out of bounds"):
        tg.logsumexp(y, axis=3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("create_graph", [False, True])
def test_logsumexp_never_overflows(dtype, create_graph):
    huge = float(np.finfo(dtype).max)
    x = leaf([[1e4, 1e4, -1e30], [huge, -huge, -huge], [-huge, -huge, -huge]], dtype)
    y = tg.logsumexp(x, axis=1)
    assert y.dtype == dtype
    close(y.numpy(), [1e4 + np.log(2), huge, -huge], rtol=1e-6)
    (dx,) = tg.grad(y, [x], np.array([1.0, 2.0, 3.0]), create_graph=create_graph)
    close(dx.numpy(), [[0.5, 0.5, 0], [2, 0, 0], [1, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize("create_graph", [False, True])
def test_logsumexp_of_infinities(create_graph):
    """Rows of -inf give -inf, a +inf gives +inf; both send back zeros, and nothing is NaN."""
    x = leaf([[-inf, -inf, -inf], [0, -inf, 0], [inf, 0, -inf], [inf, inf, 1e300]])
    for keepdims in (False, True):
        y = tg.logsumexp(x, axis=1, keepdims=keepdims)
        np.testing.assert_array_equal(y.numpy().ravel(), [-inf, np.log(2), inf, inf])
        g = np.array([1.0, 2.0, 3.0, 4.0]).reshape(y.shape)
        (dx,) = tg.grad(y, [x], g, create_graph=create_graph)
        np.testing.assert_array_equal(dx.numpy(), [[0] * 3, [1, 0, 1], [0] * 3, [0] * 3])
    if create_graph:
        (ddx,) = tg.grad(dx, [x], np.ones((4, 3)))
        np.testing.assert_array_equal(ddx.numpy(), np.zeros((4, 3)))


def test_logsumexp_of_nothing():
    """The empty sum is 0, and its logarithm -inf."""
    x = leaf(np.zeros((2, 0)))
    assert tg.logsumexp(x).item() == -inf
    y = tg.logsumexp(x, axis=1)
    assert y.numpy().tolist() == [-inf, -inf]
    for create_graph in (False, True):
        assert tg.grad(y.sum(), [x], create_graph=create_graph)[0].shape == (2, 0)
    assert tg.logsumexp(x, axis=0).shape == (0,)
    assert tg.logsumexp(x, axis=0, keepdims=True).shape == (1, 0)
    assert np.isnan(tg.logsumexp(np.array([1.0, np.nan])))


# ----------------------------------------------------------------------------- cross-entropy


def loop_cross_entropy(logits, targets, weight, smoothing, ignore, reduction):
    """One row after another, one class after another."""
    rows, goals = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    classes, losses, total = logits.shape[-1], [], 0.0
    w = np.ones(classes) if weight is None else weight
    for row, t in zip(rows, goals, strict=True):
        loss = 0.0
        if t != ignore:
            log_p = row - np.log(sum(np.exp(row)))
            for c in range(classes):
                q = (1 - smoothing) * (c == t) + smoothing / classes
                loss -= w[c] * q * log_p[c]
            total += w[t]
        losses.append(loss)
    if reduction == "none":
        return np.reshape(losses, targets.shape)
    return sum(losses) / (total or 1.0) if reduction == "mean" else sum(losses)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 0.0, 1.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ignore", [None, -1, 2])
def test_cross_entropy_is_the_loop(reduction, weight, smoothing, ignore):
    logits = rng.standard_normal((2, 5, 4))
    targets = rng.integers(0, 4, (2, 5))
    if ignore is not None:
        targets[0, 1] = targets[1, 3] = ignore
    options = (weight, smoothing, ignore, reduction)
    close(
        tg.cross_entropy(logits, targets, *options), loop_cross_entropy(logits, targets, *options)
    )


def test_plain_cross_entropy_has_the_famous_gradient():
    x, t = leaf(rng.standard_normal((3, 4))), np.array([2, 0, 3])
    (dx,) = grads(tg.cross_entropy(x, t), x)
    close(dx, (tg.softmax(x.data) - np.eye(4)[t]) / 3)


def test_cross_entropy_of_extreme_logits():
    x = leaf([[1e4, 0.0], [0.0, 1e4]], np.float32)
    loss = tg.cross_entropy(x, np.array([0, 0]))
    assert loss.item() == 5000.0
    close(grads(loss, x)[0], [[0, 0], [-0.5, 0.5]])


def test_an_impossible_class_costs_nothing():
    """A logit of -inf is no class anybody hoped for: 0 · log 0 counts as 0."""
    x = leaf([[1.0, -inf, 2.0]])
    loss = tg.cross_entropy(x, np.array([0]))
    assert loss.item() == pytest.approx(np.log(1 + np.e))
    p = 1 / (1 + np.e)
    close(grads(loss, x)[0], [[p - 1, 0, 1 - p]])
    (dx,) = tg.grad(loss, [x], create_graph=True)
    close(dx.numpy(), [[p - 1, 0, 1 - p]])


def test_all_targets_ignored():
    x = leaf(rng.standard_normal((2, 3)))
    loss = tg.cross_entropy(x, np.array([9, 9]), ignore_index=9)
    assert loss.item() == 0.0
    np.testing.assert_array_equal(grads(loss, x)[0], np.zeros((2, 3)))
    assert tg.cross_entropy(np.zeros((0, 3)), np.zeros(0, int)) == 0.0


def test_cross_entropy_takes_lists():
    logits = rng.standard_normal((2, 3))
    want = tg.cross_entropy(logits, np.array([0, 2]), weight=np.array([1.0, 2.0, 3.0]))
    close(tg.cross_entropy(logits, [0, 2], weight=[1, 2, 3]), want)
    assert tg.cross_entropy(np.zeros((0, 3)), []) == 0
    close(tg.cross_entropy(logits[0], 2), tg.cross_entropy(logits[:1], [2]))
    with pytest.raises(ValueError, match=r"label_smoothing 1.5 is not between 0 and 1"):
        tg.cross_entropy(logits, [0, 2], label_smoothing=1.5)


def test_cross_entropy_says_what_is_wrong():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"target 3 at \[1\] is no class number: there are 3"):
        tg.cross_entropy(x, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"target -1 at \[0\].*ignore_index"):
        tg.cross_entropy(x, np.array([-1, 0]))
    with pytest.raises(TypeError, match="an integer array"):
        tg.cross_entropy(x, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"logits \(2, 3\) want targets \(2,\), not \(3,\)"):
        tg.cross_entropy(x, np.zeros(3, int))
    with pytest.raises(ValueError, match=r"weight \(2,\) should hold one number for each of 3"):
        tg.cross_entropy(x, np.zeros(2, int), weight=np.ones(2))
    with pytest.raises(ValueError, match="'average' is none of 'mean', 'sum', 'none'"):
        tg.cross_entropy(x, np.zeros(2, int), reduction="average")


# -------------------------------------------------------------------------------- layer norm


def test_layer_norm_by_hand():
    """eps stands inside the root."""
    x = np.array([1e-3, -1e-3])
    close(tg.layer_norm(x, eps=1e-5), x / np.sqrt(1e-6 + 1e-5))
    y = tg.layer_norm(np.array([[1.0, 3.0]]), np.array([2.0, 3.0]), np.array([0.5, 0.25]), eps=0.0)
    close(y, [[-2 + 0.5, 3 + 0.25]])


def test_layer_norm_of_constant_rows():
    x, w, b = leaf([[5.0] * 4, [0.0] * 4], np.float32), leaf(np.ones(4)), leaf(np.arange(4))
    y = tg.layer_norm(x, w, b)
    np.testing.assert_array_equal(y.numpy(), [np.arange(4)] * 2)
    for d in grads(y, x, w, b, g=rng.standard_normal((2, 4))):
        assert np.isfinite(d).all()


@pytest.mark.parametrize("mean", [1e5, 4e4, -1e5])
def test_layer_norm_of_rows_with_a_large_mean(mean):
    """E[x²] − E[x]² has no digit left in float32 here, and may be negative."""
    row = np.array([0.0, 1.0, 2.0, 3.0])
    big, small = leaf(mean + row, np.float32), leaf(row)
    close(tg.layer_norm(big).numpy(), tg.layer_norm(small).numpy(), rtol=1e-5)
    g = rng.standard_normal(4)
    close(*(grads(tg.layer_norm(x), x, g=g)[0] for x in (big, small)), rtol=1e-4, atol=1e-5)


def test_layer_norm_over_several_axes():
    x, w = rng.standard_normal((5, 2, 3)), rng.standard_normal((2, 3))
    z = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    close(tg.layer_norm(x, w), z * w)
    close(tg.layer_norm(x, bias=w), z + w)


def test_layer_norm_says_what_is_wrong():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"weight of shape \(2,\) does not fit .* x \(2, 3\)"):
        tg.layer_norm(x, np.ones(2))
    with pytest.raises(ValueError, match=r"weight \(3,\) and bias \(2, 3\) should have one shape"):
        tg.layer_norm(x, np.ones(3), np.ones((2, 3)))
    assert tg.layer_norm(np.ones((0, 3))).shape == (0, 3)


# ---------------------------------------------------------------------------------- rms norm


def test_rms_norm_by_hand():
    """eps stands inside the root, and no mean is subtracted."""
    x = np.array([3e-3, 4e-3])
    close(tg.rms_norm(x, eps=1e-5), x / np.sqrt(12.5e-6 + 1e-5))
    close(tg.rms_norm(np.array([[1.0, 7.0]]), np.array([2.0, 3.0]), eps=0.0), [[0.4, 4.2]])
    x, w = rng.standard_normal((5, 2, 3)), rng.standard_normal((2, 3))
    close(tg.rms_norm(x, w), x / np.sqrt((x * x).mean((1, 2), keepdims=True) + 1e-5) * w)
    close(tg.rms_norm(x), x / np.sqrt((x * x).mean(2, keepdims=True) + 1e-5))


@pytest.mark.parametrize("create_graph", [False, True])
def test_rms_norm_of_zeros(create_graph):
    """0 / √eps: the gradient is large, but it is a number."""
    x, w = leaf(np.zeros((2, 4)), np.float32), leaf(np.ones(4), np.float32)
    y = tg.rms_norm(x, w)
    assert not y.numpy().any()
    dx, dw = tg.grad(y, [x, w], np.ones((2, 4)), create_graph=create_graph)
    close(dx.numpy(), np.full((2, 4), 1e-5**-0.5), rtol=1e-6)
    assert not dw.numpy().any()


def test_rms_norm_does_not_care_for_the_scale():
    x = rng.standard_normal((3, 4))
    for scale in (1e-2, 1e5, 1e15):
        big = leaf(x * scale, np.float32)
        y = tg.rms_norm(big, eps=0.0)
        close(y.numpy(), tg.rms_norm(x, eps=0.0), rtol=1e-5)
        g = rng.standard_normal((3, 4))
        want = grads(tg.rms_norm(z := leaf(x), eps=0.0), z, g=g)[0]
        close(grads(y, big, g=g)[0] * scale, want, rtol=1e-4, atol=1e-4)


def test_rms_norm_is_layer_norm_of_centred_rows():
    x = rng.standard_normal((3, 4))
    x -= x.mean(axis=1, keepdims=True)
    w = rng.standard_normal(4)
    close(tg.rms_norm(x, w), tg.layer_norm(x, w))


def test_rms_norm_says_what_is_wrong():
    x = np.ones((2, 3))
    with pytest.raises(
        ValueError, match=r"rms_norm: a weight of shape \(2,\) does not fit .*\(2, 3\)"
    ):
        tg.rms_norm(x, np.ones(2))
    assert tg.rms_norm(np.ones((0, 3))).shape == (0, 3)


# ----------------------------------------------------------------------------------- dropout


def test_dropout_that_does_nothing():
    x = leaf(rng.standard_normal((3, 4)))
    for y in (tg.dropout(x, 0.0), tg.dropout(x, 0.7, training=False)):
        np.testing.assert_array_equal(y.numpy(), x.data)
        assert not np.shares_memory(y.data, x.data)
        np.testing.assert_array_equal(grads(y.sum(), x)[0], np.ones((3, 4)))


def test_dropout_of_everything():
    x = leaf(np.ones((3, 4)))
    y = tg.dropout(x, 1.0)
    assert not y.numpy().any()
    assert not grads(y.sum(), x)[0].any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 3, 1e-4])
def test_the_expectation_is_exact(p):
    """Sixteen bits decide, so p is rounded to 1/65536; the scale is that of the rounded p."""
    kept = (65536 - threshold(p)) / 65536
    assert kept * keep_scale(p) == pytest.approx(1.0, abs=1e-15)
    mask = keep_mask(MaskKey(0, 0, 0, 0), (500, 400), p)
    assert abs(mask.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / mask.size) + 1e-5


def test_the_gradient_goes_through_the_same_mask():
    x = leaf(rng.standard_normal((5, 7)))
    y = tg.dropout(x, 0.5)
    close(grads(y.sum(), x)[0], y.numpy() / x.data)
    assert set(np.unique(grads(y.sum(), x)[0])) == {0.0, 2.0}


@pytest.mark.parametrize("width", [(1,), (5,), (16,), (17,), (3, 7), ()])
def test_a_row_of_the_mask_depends_on_its_number_only(width):
    """However the batch is cut, the rows of the whole batch keep their masks."""
    x = np.ones((10, *width))
    with mask_stream(seed=3, step=7):
        whole = tg.dropout(x, 0.5)
    for cut in (1, 4, 9):
        with mask_stream(3, 7):
            head = tg.dropout(x[:cut], 0.5)
        with mask_stream(3, 7, first_row=cut):
            tail = tg.dropout(x[cut:], 0.5)
        np.testing.assert_array_equal(np.concatenate([head, tail]), whole)


def test_seed_step_and_layer_give_other_masks():
    def masks(seed, step, first_row=0):
        with mask_stream(seed, step, first_row):
            return [tg.dropout(np.ones((8, 32)), 0.5) for _ in range(2)]

    a, b = masks(0, 0)
    assert (a != b).any()  # the second layer of a step
    assert (a == masks(0, 0)[0]).all()
    for other in (masks(1, 0)[0], masks(0, 1)[0], masks(0, 0, 1)[0]):
        assert (a != other).mean() > 0.3
    assert len(np.unique(a, axis=0)) == 8  # no two rows alike


def test_manual_seed_starts_the_masks_over():
    def draw():
        return tg.dropout(np.ones((4, 16)), 0.5)

    tg.manual_seed(5)
    first, second = draw(), draw()
    assert (first != second).any()
    tg.manual_seed(5)
    tg.dropout(np.ones(3), 0.5, seed=9)  # an own seed draws nothing from the stream
    np.testing.assert_array_equal(draw(), first)
    tg.manual_seed(6)
    assert (draw() != first).any()
    tg.manual_seed(0)


def test_evaluation_draws_nothing():
    with mask_stream(0, 0):
        tg.dropout(np.ones(3), 0.5, training=False)
        tg.dropout(np.ones(3), 0.0)
        assert next_mask().layer == 1


def test_any_integer_is_a_seed():
    masks = [tg.dropout(np.ones((8, 32)), 0.5, seed=s) for s in (0, 1, -1, 2**31, 2**64 - 2, 2**80)]
    assert len({m.tobytes() for m in masks}) == 5  # 2^80 is 0 modulo 2^64


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_a_probability_is_a_probability(p):
    with pytest.raises(ValueError, match=r"dropout: dropout probability .* between 0 and 1"):
        tg.dropout(np.ones(3), p)


# --------------------------------------------------------------------------------- embedding


def test_repeated_ids_accumulate():
    w, ids = leaf(rng.standard_normal((7, 3))), rng.integers(0, 7, (4, 50))
    y = tg.embedding(ids, w)
    np.testing.assert_array_equal(y.numpy(), w.data[ids])
    g = rng.standard_normal(y.shape)
    want = np.zeros((7, 3))
    for place in np.ndindex(ids.shape):
        want[ids[place]] += g[place]
    close(grads(y, w, g=g)[0], want)


def test_the_padding_row_is_read_and_learns_nothing():
    w, ids = leaf(rng.standard_normal((4, 2))), np.array([[0, 1, 0], [3, 0, 1]])
    y = tg.embedding(ids, w, padding_idx=0)
    np.testing.assert_array_equal(y.numpy(), w.data[ids])
    g = rng.standard_normal(y.shape)
    want = grads(tg.embedding(ids, w), w, g=g)[0]
    want[0] = 0
    for create_graph in (False, True):
        (dw,) = tg.grad(y, [w], g, create_graph=create_graph)
        close(dw.numpy(), want)
    only_pads = tg.embedding(np.zeros(3, int), w, padding_idx=0)
    assert not grads(only_pads.sum(), w)[0].any()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_negative_padding_row_counts_from_the_end(create_graph):
    weight = leaf(np.ones((4, 2)))
    y = tg.embedding([3, 1], weight, padding_idx=-1)
    (d,) = tg.grad(y, [weight], np.ones((2, 2)), create_graph=create_graph)
    assert d.numpy()[:, 0].tolist() == [0, 1, 0, 0]
    with pytest.raises(ValueError, match="embedding: padding_idx 9 is none of 4 rows"):
        tg.embedding([3, 1], weight, padding_idx=9)
    with pytest.raises(ValueError, match=r"embedding: weight \(2,\) should be \(rows, width\)"):
        tg.embedding([0], [1.0, 2.0])


def test_ids_come_as_lists_tensors_and_empty():
    w = leaf(rng.standard_normal((4, 2)))
    for ids in ([1, 2], Tensor([1, 2]), np.array([1, 2], np.uint8)):
        np.testing.assert_array_equal(tg.embedding(ids, w).numpy(), w.data[[1, 2]])
    y = tg.embedding(np.zeros((2, 0), int), w)
    assert y.shape == (2, 0, 2)
    assert not grads(y.sum(), w)[0].any()


def test_embedding_says_which_id_is_wrong():
    w = np.ones((4, 2))
    with pytest.raises(
        IndexError, match=r"id 4 at \[0, 1\] is outside the table, which has 4 rows"
    ):
        tg.embedding(np.array([[0, 4]]), w)
    with pytest.raises(IndexError, match="id -1 at"):  # never the last row
        tg.embedding(np.array([-1]), w)
    with pytest.raises(TypeError, match="an integer array, not float64"):
        tg.embedding(np.array([1.0]), w)


# --------------------------------------------------------------------------------- attention


def loop_attention(q, k, v, allowed, scale):
    """(Tq, d), (Tk, d), (Tk, e): one query after another, one key after another."""
    y = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        weights = {j: np.exp(scale * (q[i] @ k[j])) for j in range(len(k)) if allowed[i, j]}
        for j, w in weights.items():
            y[i] += w / sum(weights.values()) * v[j]
    return y


def qkv(tq=4, tk=6, d=3, e=2):
    return [leaf(rng.standard_normal(s)) for s in ((tq, d), (tk, d), (tk, e))]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("tq", "tk"), [(4, 6), (6, 4), (1, 1)])
def test_attention_is_the_loop(is_causal, masked, tq, tk):
    """True means "may attend"; the causal triangle is aligned top left; both apply."""
    q, k, v = qkv(tq, tk)
    mask = rng.random((tq, tk)) < 0.6 if masked else None
    allowed = np.ones((tq, tk), bool) if mask is None else mask.copy()
    if is_causal:
        allowed &= np.arange(tk) <= np.arange(tq)[:, None]
    y = tg.scaled_dot_product_attention(q, k, v, mask=mask, is_causal=is_causal)
    close(y.numpy(), loop_attention(q.data, k.data, v.data, allowed, 3**-0.5))


def test_scale_and_batches():
    q, k, v = (rng.standard_normal(s) for s in ((2, 1, 4, 3), (5, 6, 3), (1, 5, 6, 2)))
    y = tg.scaled_dot_product_attention(q, k, v, scale=0.3)
    assert y.shape == (2, 5, 4, 2)
    everything = np.ones((4, 6), bool)
    for i, j in np.ndindex(2, 5):
        close(y[i, j], loop_attention(q[i, 0], k[j], v[0, j], everything, 0.3))


def test_a_query_that_may_attend_nothing():
    """Zeros, and zero gradients; also into the weights that all queries share."""
    x, w = rng.standard_normal((4, 3)), leaf(rng.standard_normal((3, 3)))
    mask = np.ones((4, 4), bool)
    mask[2] = False
    g = rng.standard_normal((4, 3))
    for create_graph in (False, True):
        q = Tensor(x, requires_grad=True)
        y = tg.scaled_dot_product_attention(q @ w, x @ w, x @ w, mask=mask)
        assert not y.numpy()[2].any()
        dq, dw = tg.grad(y, [q, w], g, create_graph=create_graph)
        assert not dq.numpy()[2].any()
        rest = [0, 1, 3]
        z = tg.scaled_dot_product_attention(x[rest] @ w, x @ w, x @ w)
        close(dw.numpy(), grads(z, w, g=g[rest])[0])
    nobody = tg.scaled_dot_product_attention(*qkv(), mask=np.zeros((4, 6), bool))
    assert not nobody.numpy().any()
    nothing = tg.scaled_dot_product_attention(*(np.zeros((n, 2)) for n in (3, 0, 0)))
    np.testing.assert_array_equal(nothing, np.zeros((3, 2)))


@pytest.mark.parametrize("pads", [3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pads_do_not_matter(pads, dtype):
    """Large values at the pads: with -1e9 for "masked", float32 would mix them in."""
    q, k, v = (rng.standard_normal((4, 3)).astype(dtype) for _ in range(3))
    padded = [np.concatenate([a, np.full((pads, 3), 1e3, dtype)]) for a in (k, v)]
    mask = np.arange(4 + pads) < 4
    ts = [Tensor(a, True) for a in (q, *padded)]
    y = tg.scaled_dot_product_attention(*ts, mask=mask)
    us = [Tensor(a, True) for a in (q, k, v)]
    z = tg.scaled_dot_product_attention(*us)
    tolerance = {"rtol": 1e-13 if dtype == np.float64 else 1e-5, "atol": 1e-6}
    close(y.numpy(), z.numpy(), **tolerance)
    g = rng.standard_normal((4, 3)).astype(dtype)
    for d, e in zip(grads(y, *ts, g=g), grads(z, *us, g=g), strict=True):
        close(d[:4], e, **tolerance)
        assert not d[4:].any()


def test_queries_of_no_width_look_everywhere():
    """An empty sum is 0 for every key. (1 / √0 was a bare ZeroDivisionError.)"""
    v = leaf(rng.standard_normal((3, 2)))
    y = tg.scaled_dot_product_attention(np.ones((2, 0)), np.ones((3, 0)), v)
    close(y.data, np.tile(v.data.mean(axis=0), (2, 1)))


@pytest.mark.parametrize("kind", [list, Tensor])
def test_a_mask_may_be_a_list_or_a_tensor(kind):
    q, k, v = (leaf(rng.standard_normal((3, 2))) for _ in range(3))
    for mask in (np.tri(3, dtype=bool), rng.standard_normal((3, 3))):
        want = tg.scaled_dot_product_attention(q, k, v, mask=mask)
        given = mask.tolist() if kind is list else Tensor(mask)
        close(tg.scaled_dot_product_attention(q, k, v, mask=given).data, want.data, 1e-6, 1e-6)


def test_float_masks_are_added():
    q, k, v = qkv()
    allowed = rng.random((4, 6)) < 0.7
    y = tg.scaled_dot_product_attention(q, k, v, mask=np.where(allowed, 0.0, -inf))
    close(y.numpy(), tg.scaled_dot_product_attention(q, k, v, mask=allowed).numpy())
    bias = rng.standard_normal((4, 6))
    scores = q.data @ k.data.T * 3**-0.5 + bias
    close(tg.scaled_dot_product_attention(q, k, v, mask=bias).numpy(), tg.softmax(scores) @ v.data)
    small = [Tensor(a.data.astype(np.float32)) for a in (q, k, v)]
    assert tg.scaled_dot_product_attention(*small, mask=bias).dtype == np.float32


def test_attention_dropout_is_the_mask_of_its_rows():
    q, k, v = (rng.standard_normal((6, 4, 3)) for _ in range(3))
    with mask_stream(1, 2):
        whole = tg.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    with mask_stream(1, 2, first_row=4):
        tail = tg.scaled_dot_product_attention(q[4:], k[4:], v[4:], dropout_p=0.5)
    close(tail, whole[4:])
    p = tg.softmax(q @ k.swapaxes(1, 2) * 3**-0.5)
    key = MaskKey(1, 2, 1, 0)
    close(whole, (p * keep_mask(key, p.shape, 0.5) * 2) @ v)


def test_attention_says_what_is_wrong():
    q, k, v = qkv()
    with pytest.raises(
        ValueError, match=r"mask \(5, 6\) does not broadcast to the scores \(4, 6\)"
    ):
        tg.scaled_dot_product_attention(q, k, v, mask=np.ones((5, 6), bool))
    with pytest.raises(TypeError, match=r"mask of int64: write booleans \(True = may attend\)"):
        tg.scaled_dot_product_attention(q, k, v, mask=np.ones((4, 6), int))
    with pytest.raises(ValueError, match=r"queries \(4, 3\) and keys \(6, 2\) must agree"):
        tg.scaled_dot_product_attention(q, v, v)
    with pytest.raises(ValueError, match=r"keys \(6, 3\) and values \(4, 3\) must be equally many"):
        tg.scaled_dot_product_attention(q, k, q)


# -------------------------------------------------------------------------------------- LSTM


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop_lstm(x, h, c, w_ih, w_hh, b_ih, b_hh):
    """One text (T, I), h and c (H,): one step after another; gates in the order i f g o."""
    y = []
    for x_t in x:
        i, f, g, o = np.split(w_ih @ x_t + w_hh @ h + b_ih + b_hh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        y.append(h)
    return np.reshape(y, (len(x), len(h))), h, c


def lstm_inputs(t=6, b=4, i=3, h=2):
    shapes = (t, b, i), (b, h), (b, h), (4 * h, i), (4 * h, h), (4 * h,), (4 * h,)
    return [leaf(rng.standard_normal(s)) for s in shapes]


LENGTHS = [2, 6, 0, 5]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_lstm_is_the_loop(lengths, reverse):
    """Each text alone, read from its first or its last real token; zeros at the pads."""
    x, h0, c0, *w = lstm_inputs()
    y, h, c = tg.lstm(x, h0, c0, *w, lengths=lengths, reverse=reverse)
    for k, n in enumerate(lengths or [6] * 4):
        text = x.data[:n, k]
        text = text[::-1] if reverse else text
        want, h_k, c_k = loop_lstm(text, h0.data[k], c0.data[k], *(a.data for a in w))
        close(y.data[:n, k], want[::-1] if reverse else want)
        assert not y.data[n:, k].any()
        close(h.data[k], h_k)
        close(c.data[k], c_k)
        if n:  # the last state is the output at the last real token, not at the last pad
            close(h.data[k], y.data[0 if reverse else n - 1, k])
        else:
            np.testing.assert_array_equal(h.data[k], h0.data[k])


def lstm_gradients(args, lengths, reverse, gs):
    ts = [Tensor(np.array(a), requires_grad=True) for a in args]
    outs = tg.lstm(*ts, lengths=lengths, reverse=reverse)
    loss = sum((o * g).sum() for o, g in zip(outs, gs, strict=True))
    return [o.numpy() for o in outs], grads(loss, *ts)


@pytest.mark.parametrize("reverse", [False, True])
def test_padding_changes_nothing(reverse):
    """Padded to 6 or to 50 steps, with garbage in the pads: the same numbers and gradients."""
    x, *rest = (t.data for t in lstm_inputs())
    gs = [rng.standard_normal(s) for s in ((6, 4, 2), (4, 2), (4, 2))]
    outs, ds = lstm_gradients([x, *rest], LENGTHS, reverse, gs)
    wide = rng.standard_normal((50, 4, 3)) * 100
    wide[:6] = x
    g_wide = rng.standard_normal((50, 4, 2))
    g_wide[:6] = gs[0]
    outs2, ds2 = lstm_gradients([wide, *rest], LENGTHS, reverse, [g_wide, *gs[1:]])
    assert not outs2[0][6:].any()
    assert not ds2[0][6:].any()
    for a, b in zip([outs2[0][:6], *outs2[1:], ds2[0][:6], *ds2[1:]], [*outs, *ds], strict=True):
        close(a, b)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_in_the_pads_goes_nowhere(reverse, create_graph):
    """Pads are not read, nor multiplied by zero: 0 · NaN would reach every weight."""
    x, *rest = lstm_inputs()
    poisoned = leaf(
        np.where(np.arange(6)[:, None, None] < np.array(LENGTHS)[:, None], x.data, np.nan)
    )
    answers = []
    for first in (x, poisoned):
        ts = [first, *rest]
        y, h, c = tg.lstm(*ts, lengths=LENGTHS, reverse=reverse)
        loss = (y * y).sum() + (h * c).sum()
        answers.append([y, h, c, *tg.grad(loss, ts, create_graph=create_graph)])
    for a, b in zip(*answers, strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("reverse", [False, True])
def test_company_and_order_change_nothing(reverse):
    """Each text alone gives what it gives in the batch, and so does any order of the batch."""
    x, h0, c0, *w = (t.data for t in lstm_inputs())
    gs = [rng.standard_normal(s) for s in ((6, 4, 2), (4, 2), (4, 2))]
    outs, ds = lstm_gradients([x, h0, c0, *w], LENGTHS, reverse, gs)
    total = [np.zeros_like(d) for d in ds[3:]]
    for k, n in enumerate(LENGTHS):
        one = slice(k, k + 1)
        alone, d = lstm_gradients(
            [x[:n, one], h0[one], c0[one], *w],
            None,
            reverse,
            [gs[0][:n, one], gs[1][one], gs[2][one]],
        )
        close(alone[0], outs[0][:n, one])
        close(alone[1], outs[1][one])
        close(alone[2], outs[2][one])
        close(d[0], ds[0][:n, one])
        close(d[1], ds[1][one])
        close(d[2], ds[2][one])
        total = [t + e for t, e in zip(total, d[3:], strict=True)]
    for t, d in zip(total, ds[3:], strict=True):
        close(t, d)
    order = [3, 0, 2, 1]
    outs2, ds2 = lstm_gradients(
        [x[:, order], h0[order], c0[order], *w],
        [LENGTHS[k] for k in order],
        reverse,
        [gs[0][:, order], gs[1][order], gs[2][order]],
    )
    close(outs2[0], outs[0][:, order])
    close(ds2[0], ds[0][:, order])
    for a, b in zip(ds2[3:], ds[3:], strict=True):
        close(a, b)


def test_biases_may_be_left_out():
    x, h0, c0, w_ih, w_hh, b, _ = lstm_inputs()
    zero = Tensor(np.zeros(8))
    for biases, same in (((), (zero, zero)), ((b,), (b, zero)), ((None, b), (zero, b))):
        a = tg.lstm(x, h0, c0, w_ih, w_hh, *biases)
        for one, other in zip(a, tg.lstm(x, h0, c0, w_ih, w_hh, *same), strict=True):
            np.testing.assert_array_equal(one.data, other.data)
    y = tg.lstm(x, h0, c0, w_ih, w_hh, b)[0]
    assert grads(y.sum(), b)[0].any()


def test_no_steps_and_no_tokens():
    x, h0, c0, *w = lstm_inputs(t=0)
    y, h, c = tg.lstm(x, h0, c0, *w)
    assert y.shape == (0, 4, 2)
    np.testing.assert_array_equal(h.data, h0.data)
    x, h0, c0, *w = lstm_inputs()
    y, h, c = tg.lstm(x, h0, c0, *w, lengths=[0] * 4)
    assert not y.data.any()
    np.testing.assert_array_equal(grads(h.sum() + c.sum() * 2.0, c0)[0], np.full((4, 2), 2.0))


def test_lstm_of_huge_numbers():
    """Gates saturate; nothing overflows (a warning would be an error)."""
    args = [leaf(t.data * 1e4, np.float32) for t in lstm_inputs()]
    y, h, c = tg.lstm(*args)
    for a in (y.data, h.data, c.data, *grads(y.sum() + c.sum(), *args)):
        assert np.isfinite(a).all()


def test_lstm_says_what_is_wrong():
    x, h0, c0, *w = lstm_inputs()
    for lengths, message in (
        ([1, 2], "lengths should be 4 integers"),
        ([1.0, 2.0, 3.0, 4.5], "lengths should be 4 integers"),
        ([1, 2, 3, 7], "a length of 7 is not between 0 and the 6 steps of x"),
        ([1, 2, 3, -1], "a length of -1"),
    ):
        with pytest.raises(ValueError, match=message):
            tg.lstm(x, h0, c0, *w, lengths=lengths)
    with pytest.raises(ValueError, match=r"lstm: c0 \(3, 2\) should be \(4, 2\) for x \(6, 4, 3\)"):
        tg.lstm(x, h0, c0[:3], *w)
    with pytest.raises(ValueError, match=r"x \(6, 3\) should be \(steps, batch, features\)"):
        tg.lstm(x[:, 0], h0, c0, *w)


# ------------------------------------------------------------------------------------ PyTorch


@pytest.mark.torch
def test_agreement_with_torch():
    """Where it is installed: values and gradients of what torch has too."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    x, goal = rng.standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    w, b = rng.standard_normal(4), rng.standard_normal(4)
    positive = np.abs(w)
    q, k, v = (rng.standard_normal((2, n, 4)) for n in (3, 5, 5))
    mask = rng.random((2, 3, 5)) < 0.7
    mask[..., 0] = True
    t = torch.tensor
    smooth = {"label_smoothing": 0.2, "ignore_index": 1}
    attend = tg.scaled_dot_product_attention
    cases = [
        (lambda x: tg.softmax(x, 0), lambda x: f.softmax(x, 0), [x]),
        (lambda x: tg.log_softmax(x), lambda x: f.log_softmax(x, -1), [x]),
        (
            lambda x: tg.cross_entropy(x, goal, weight=positive, **smooth),
            lambda x: f.cross_entropy(x, t(goal), weight=t(positive), **smooth),
            [x],
        ),
        (tg.layer_norm, lambda x, w, b: f.layer_norm(x, (4,), w, b), [x, w, b]),
        (lambda *a: attend(*a), f.scaled_dot_product_attention, [q, k, v]),
        (
            lambda *a: attend(*a, mask=mask),
            lambda *a: f.scaled_dot_product_attention(*a, attn_mask=t(mask)),
            [q, k, v],
        ),
        (
            lambda *a: attend(*a, is_causal=True, scale=0.3),
            lambda *a: f.scaled_dot_product_attention(*a, is_causal=True, scale=0.3),
            [q, k, v],
        ),
    ]
    for ours, theirs, arrays in cases:
        xs = [leaf(a) for a in arrays]
        ts = [t(a, requires_grad=True) for a in arrays]
        y, z = ours(*xs), theirs(*ts)
        close(y.numpy(), z.detach().numpy())
        g = rng.standard_normal(y.shape)
        for d, e in zip(grads(y, *xs, g=g), torch.autograd.grad(z, ts, t(g)), strict=True):
            close(d, e.numpy())


@pytest.mark.torch
def test_the_lstm_agrees_with_torch():
    torch = pytest.importorskip("torch")
    args = lstm_inputs()
    ts = [torch.tensor(a.data, requires_grad=True) for a in args]
    layer = torch.nn.LSTM(3, 2).double()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    state = (ts[1][None], ts[2][None])
    y, (h, c) = torch.func.functional_call(
        layer, dict(zip(names, ts[3:], strict=True)), (ts[0], state)
    )
    ours = tg.lstm(*args)
    for a, z in zip(ours, (y, h[0], c[0]), strict=True):
        close(a.numpy(), z.detach().numpy())
    gs = [rng.standard_normal(a.shape) for a in ours]
    ours_loss = sum((a * g).sum() for a, g in zip(ours, gs, strict=True))
    theirs = sum((z * torch.tensor(g)).sum() for z, g in zip((y, h[0], c[0]), gs, strict=True))
    for d, e in zip(grads(ours_loss, *args), torch.autograd.grad(theirs, ts), strict=True):
        close(d, e.numpy())


# ------------------------------------------------------------------------------------ linear


def test_linear_by_hand():
    x, w, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 10.0]]), np.array([0.5])
    assert tg.linear(x, w, b).tolist() == [[21.5], [43.5]]
    assert tg.linear(x[0], w).tolist() == [21.0]


def test_linear_takes_the_rows_as_they_lie_in_memory():
    """A batch that was computed step by step is not copied, and comes out as it went in."""
    rng = np.random.default_rng(0)
    steps, w, b = rng.standard_normal((7, 5, 4)), rng.standard_normal((3, 4)), np.arange(3.0)
    x = Tensor(steps.swapaxes(0, 1), requires_grad=True)  # (5, 7, 4) to its user
    y = tg.linear(x, leaf(w), leaf(b))
    close(y.data, steps.swapaxes(0, 1) @ w.T + b)
    assert y.data.swapaxes(0, 1).flags.c_contiguous
    kept = [cell.cell_contents for cell in y.node.pullback.__closure__]
    (saved,) = [a for a in kept if isinstance(a, np.ndarray) and a.shape == (35, 4)]
    assert np.shares_memory(saved, steps)
    for g in (rng.standard_normal((5, 7, 3)), rng.standard_normal((7, 5, 3)).swapaxes(0, 1)):
        dx, dw, db = tg.grad(y, [x, *y.node.inputs[1:]], g)
        close(dx.data, g @ w)
        close(dw.data, np.einsum("btm,btn->mn", g, x.data))
        close(db.data, g.sum((0, 1)))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0), (0, 2, 1)])
def test_linear_on_any_layout(order):
    rng = np.random.default_rng(0)
    x = rng.standard_normal([(2, 3, 4)[axis] for axis in order]).transpose(np.argsort(order))
    w = rng.standard_normal((5, 4))
    close(tg.linear(x, w), x @ w.T)
    assert tg.gradcheck(tg.linear, [x, w, rng.standard_normal(5)])


def test_linear_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"linear: x \(2, 3\) and weight \(5, 4\) must agree"):
        tg.linear(np.ones((2, 3)), np.ones((5, 4)))
    with pytest.raises(ValueError, match=r"linear: bias \(4,\) should be \(5,\), as weight"):
        tg.linear(np.ones((2, 4)), np.ones((5, 4)), np.ones(4))


# --------------------------------------------------------- attention, a few texts at a time


@pytest.mark.parametrize("at_a_time", [1, 100, 1 << 16])
@pytest.mark.parametrize("size", [1.0, 30.0, -30.0])
def test_attention_with_mild_scores_and_with_wild_ones(size, at_a_time, monkeypatch):
    """Without the row maximum e^s would be infinite, or 0 in a whole row; the numbers agree."""
    monkeypatch.setattr(sys.modules["tinygrad_mha.attention"], "IN_CACHE", at_a_time)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((3, 2, 4, 5)) for _ in range(3))
    q[1] = size * np.abs(q[1]) * 10  # one text with scores of size² · 10, the others as they are
    k[1] = np.abs(k[1]) * abs(size)
    mask = rng.random((3, 1, 4, 4)) < 0.7
    mask[0, 0, 1] = False
    xs = [leaf(x) for x in (q, k, v)]
    g = rng.standard_normal((3, 2, 4, 5))
    op = tg.scaled_dot_product_attention
    for params in ({"mask": mask}, {"dropout_p": 0.5, "seed": 1}, {"is_causal": True}):
        params = op.defaults | {"seed": None} | params
        if params["dropout_p"]:
            params["seed"] = MaskKey(0, 0, 0, 0)
        y, want = op(*xs, **params), op.reference(*xs, **params)
        close(y.data, want.data)
        for got, d in zip(tg.grad(y, xs, g), tg.grad(want, xs, g), strict=True):
            close(got.data, d.data, rtol=1e-8, atol=1e-10)


def test_attention_leaves_the_heads_where_they_are():
    """(T, B, h, d) in memory goes in and comes out: nothing between two linear layers is copied."""
    rng = np.random.default_rng(0)
    heads = [leaf(rng.standard_normal((6, 3, 2, 4)).transpose(1, 2, 0, 3)) for _ in range(3)]
    y = tg.scaled_dot_product_attention(*heads)
    assert y.data.transpose(2, 0, 1, 3).flags.c_contiguous
    for d in tg.grad(y, heads, rng.standard_normal(y.shape)):
        assert d.data.transpose(2, 0, 1, 3).flags.c_contiguous


def test_attention_whose_scores_are_all_far_below_zero():
    """e^−101 is no ordinary float32 any more: without the row maximum p would lose its digits."""
    rng = np.random.default_rng(0)
    q = np.full((1, 3, 4), -1.0, np.float32)
    k = np.float32(101 / 4) + rng.standard_normal((1, 5, 4)).astype(np.float32)
    v = rng.standard_normal((1, 5, 2)).astype(np.float32)
    y = tg.scaled_dot_product_attention(q, k, v, scale=1.0)
    exact = tg.scaled_dot_product_attention(*(x.astype(float) for x in (q, k, v)), scale=1.0)
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-5)


def test_half_precision_rows_do_not_overflow():
    """Their sum exceeds 65,504, the largest float16; their mean does not."""
    x = (np.full((2, 1024), 100) + np.arange(1024) % 7).astype(np.float16)
    for op in (tg.layer_norm, tg.rms_norm):
        want = op(x.astype(np.float64))
        np.testing.assert_allclose(op(x).astype(np.float64), want, atol=2e-2)
        y = Tensor(x, requires_grad=True)
        op(y).sum().backward()
        assert np.isfinite(y.grad.numpy()).all()


@pytest.mark.parametrize("records", [True, False])
def test_an_integer_state_is_a_state(records):
    rng = np.random.default_rng(0)
    w = [rng.standard_normal(shape) for shape in ((8, 3), (8, 2))]
    x = Tensor(rng.standard_normal((4, 1, 3)), requires_grad=records)
    for ones in ([[1, 1]], [[True, True]]):
        got = tg.lstm(x, ones, ones, *w)
        want = tg.lstm(x.numpy(), np.ones((1, 2)), np.ones((1, 2)), *w)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a.numpy(), b)
