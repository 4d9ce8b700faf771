"""The losses of chapter 9 beside loops, torch's conventions, and what their errors say.

cross_entropy has its tests in test_fused_ops.py.
"""

import numpy as np
import pytest
from words import close, grads, leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor

rng = np.random.default_rng(0)
inf = np.inf
bce = tg.binary_cross_entropy_with_logits
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def ended(losses, reduction, count):
    """A list of losses, as the reduction has it."""
    losses = np.asarray(losses, dtype=float)
    total = losses.sum()
    return {"none": losses, "sum": total, "mean": total / (count or 1)}[reduction]


# ----------------------------------------------------------------- what all of them share


LOSSES = {
    "cross_entropy": (np.ones((2, 3)), [0, 2]),
    "nll_loss": (np.ones((2, 3)), [0, 2]),
    "binary_cross_entropy_with_logits": (np.ones((2, 3)), np.ones((2, 3))),
    "mse_loss": (np.ones((2, 3)), np.zeros((2, 3))),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_an_unknown_reduction(name):
    with pytest.raises(ValueError, match=f"{name}: reduction 'avg' is none of 'mean', 'sum', 'non"):
        tg.REGISTRY[name](*LOSSES[name], reduction="avg")


@every_loss
def test_the_loss_of_nobody_is_zero(name):
    """Not 0 / 0: an empty shard of a batch must not poison the others."""
    x, t = LOSSES[name]
    x, t = leaf(x[:0]), np.asarray(t)[:0]
    for reduction in ("mean", "sum"):
        y = tg.REGISTRY[name](x, t, reduction=reduction)
        assert y.item() == 0
        for create_graph in (False, True):
            assert tg.grad(y, [x], create_graph=create_graph)[0].shape == x.shape
    assert tg.REGISTRY[name](x, t, reduction="none").shape in ((0,), (0, 3))


@every_loss
def test_the_mean_is_the_sum_over_the_count(name):
    x, t = LOSSES[name]
    op = tg.REGISTRY[name]
    each, total, mean = (op(x, t, reduction=r) for r in ("none", "sum", "mean"))
    close(total, each.sum())
    close(mean, each.mean())


# ------------------------------------------------------------------------------- nll_loss


@reductions
@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 0.0, 1.0])])
@pytest.mark.parametrize("ignore", [None, -1, 2])
@pytest.mark.parametrize("lead", [(6,), (2, 5), ()])
def test_nll_loss_is_the_loop(reduction, weight, ignore, lead):
    x = leaf(np.log(rng.dirichlet(np.ones(4), lead)))
    t = rng.integers(0, 4, lead)
    if ignore is not None and lead:
        t[..., 1] = ignore
    w = np.ones(4) if weight is None else weight
    losses, slopes, total = np.zeros(lead), np.zeros(x.shape), 0.0
    for i in np.ndindex(lead):
        if t[i] != ignore:
            losses[i] = -w[t[i]] * x.data[i][t[i]]
            slopes[(*i, t[i])] = -w[t[i]]
            total += w[t[i]]
    y = tg.nll_loss(x, t, weight=weight, ignore_index=ignore, reduction=reduction)
    close(y.data, ended(losses, reduction, total))
    g = rng.standard_normal(y.shape)
    want = g[..., None] * slopes / ((total or 1) if reduction == "mean" else 1)
    for create_graph in (False, True):
        close(grads(y, x, g=g, create_graph=create_graph)[0], want)


def test_nll_loss_of_log_softmax_is_cross_entropy():
    x, t = leaf(rng.standard_normal((5, 4))), np.array([3, 0, -100, 2, 2])
    options = {"weight": [1.0, 2.0, 3.0, 4.0], "ignore_index": -100}
    y, z = tg.nll_loss(tg.log_softmax(x), t, **options), tg.cross_entropy(x, t, **options)
    close(y.data, z.data)
    close(grads(y, x)[0], grads(z, x)[0])


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_class_of_no_weight_may_be_impossible(create_graph):
    """0 · log 0 counts as 0, as it does in cross_entropy; and so does a row that is ignored."""
    x = leaf([[-inf, -1.0], [-inf, -2.0]])
    y = tg.nll_loss(x, [0, 1], weight=[0.0, 1.0])
    assert y.item() == 2
    assert grads(y, x, create_graph=create_graph)[0].tolist() == [[0, 0], [0, -1]]
    y = tg.nll_loss(x, [0, 1], ignore_index=0)
    assert y.item() == 2
    assert grads(y, x, create_graph=create_graph)[0].tolist() == [[0, 0], [0, -1]]
    assert tg.nll_loss(x, [0, 1]).item() == inf
    y = tg.nll_loss(x, [1, 1], ignore_index=1)
    assert y.item() == 0
    assert not grads(y, x, create_graph=create_graph)[0].any()


def test_nll_loss_says_what_is_wrong():
    x = np.zeros((2, 3))
    with pytest.raises(
        ValueError, match=r"nll_loss: target 3 at \[1\] is no class number: there are 3"
    ):
        tg.nll_loss(x, [0, 3])
    with pytest.raises(TypeError, match="nll_loss: targets are class numbers: an integer array"):
        tg.nll_loss(x, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"log_probs \(2, 3\) want targets \(2,\), not \(3,\)"):
        tg.nll_loss(x, [0, 0, 0])
    with pytest.raises(
        ValueError, match=r"weight \(2,\) should hold one number for each of 3 classes"
    ):
        tg.nll_loss(x, [0, 0], weight=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"log_probs \(\) want targets"):
        tg.nll_loss(np.array(1.0), 0)


# -------------------------------------------------------------- binary cross-entropy, logits


def loop_bce(x, t, w, p):
    s = 1 / (1 + np.exp(-x))
    return -w * (p * t * np.log(s) + (1 - t) * np.log(1 - s))


@reductions
@pytest.mark.parametrize("weight", [None, 2.0, [[0.5], [3.0]]])
@pytest.mark.parametrize("pos_weight", [None, 0.3, [1.0, 2.0, 3.0]])
def test_binary_cross_entropy_is_the_loop(reduction, weight, pos_weight):
    """The mean is over all, whatever they weigh: that is how torch counts."""
    x, t = leaf(rng.standard_normal((2, 3)) * 3), leaf(rng.random((2, 3)))
    y = bce(x, t, weight=weight, pos_weight=pos_weight, reduction=reduction)
    w, p = (np.ones(1) if v is None else np.array(v) for v in (weight, pos_weight))
    close(y.data, ended(loop_bce(x.data, t.data, w, p), reduction, 6))


def test_plain_binary_cross_entropy_has_the_famous_gradient():
    x, t = leaf(rng.standard_normal((2, 3))), leaf(rng.random((2, 3)))
    dx, dt = grads(bce(x, t, reduction="sum"), x, t)
    close(dx, 1 / (1 + np.exp(-x.data)) - t.data)
    close(dt, -x.data)  # log (1 − σ) − log σ


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_extreme_logits(dtype):
    """Wrong by 1000 costs 1000, not infinity; and small costs keep their digits."""
    x, t = leaf([1000, -1000, 1000, -1000, 30, -30], dtype), np.array([1, 0, 0, 1, 1, 0])
    y = bce(x, t, reduction="none")
    close(y.data, [0, 0, 1000, 1000, np.exp(-30), np.exp(-30)], rtol=1e-5, atol=0)
    small = np.exp(-30)
    for create_graph in (False, True):
        (dx,) = grads(y.sum(), x, create_graph=create_graph)
        close(dx[:4], [0, 0, 1, -1])
        close(dx[4:], [-small, small], atol=1e-7 if create_graph else 0, rtol=1e-5)


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_infinite_logit_that_is_right_costs_nothing(create_graph):
    """As a class that was masked away should; wrong, it costs infinity. (0 · inf would be NaN.)"""
    x = leaf([inf, -inf, inf, -inf, 0.0])
    y = bce(x, np.array([1.0, 0.0, 0.0, 1.0, 1.0]), reduction="none", pos_weight=2.0)
    np.testing.assert_array_equal(y.data, [0, 0, inf, inf, 2 * np.log(2)])
    g = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    assert grads(y, x, g=g, create_graph=create_graph)[0].tolist() == [0, 0, 0, 0, -1]
    t = leaf([1.0, 0.0])
    y = bce(np.array([inf, -inf]), t)
    assert np.isfinite(grads(y, t, create_graph=create_graph)[0]).all()


def test_targets_are_no_logits():
    """The two arguments are not alike; each gets its own gradient, also as one Tensor."""
    x = leaf([0.3, 0.7])
    (both,) = grads(bce(x, x, reduction="sum"), x)
    a, b = leaf(x.data), leaf(x.data)
    da, db = grads(bce(a, b, reduction="sum"), a, b)
    close(both, da + db)
    assert (da != db).all()


def test_whole_and_boolean_targets():
    x = rng.standard_normal((2, 3)).astype(np.float32)
    yes = rng.random((2, 3)) < 0.5
    for t in (yes, yes.astype(int), yes.astype(np.float64), yes.tolist(), Tensor(yes)):
        y = bce(x, t, reduction="sum")
        close(y, loop_bce(x.astype(float), yes, 1, 1).sum(), 1e-6)
    assert bce(x, yes).dtype == np.float32


def test_binary_cross_entropy_says_what_is_wrong():
    x = np.zeros((4, 1))
    with pytest.raises(
        ValueError, match=r"_with_logits: logits \(4, 1\) and targets \(4,\) should"
    ):
        bce(x, np.zeros(4))
    for name in ("weight", "pos_weight"):
        with pytest.raises(ValueError, match=rf"{name} \(4,\) does not broadcast to the logits"):
            bce(x, x, **{name: np.ones(4)})


# ------------------------------------------------------------------------------ square errors


def test_mean_squared_error_by_hand():
    p, t = leaf([[1.0, 2.0], [3.0, 5.0]]), leaf([[1.0, 0.0], [3.0, 6.0]])
    assert tg.mse_loss(p, t).item() == 5 / 4
    assert tg.mse_loss(p, t, reduction="sum").item() == 5
    assert tg.mse_loss(p, t, reduction="none").data.tolist() == [[0, 4], [0, 1]]
    dp, dt = grads(tg.mse_loss(p, t), p, t)
    assert dp.tolist() == [[0, 1], [0, -0.5]]
    assert dt.tolist() == [[0, -1], [0, 0.5]]
    assert tg.mse_loss(leaf(3.0), 1).item() == 4


def test_nothing_is_broadcast_in_silence():
    """(N, 1) beside (N,) is N² differences; least squares then learns the mean of the targets."""
    for shapes in (((4, 1), (4,)), ((4,), (4, 1)), ((4,), ()), ((2, 3), (1, 3))):
        a, b = (np.zeros(s) for s in shapes)
        with pytest.raises(
            ValueError, match=r"mse_loss: predictions \(.*\) and targets \(.*reshape one"
        ):
            tg.mse_loss(a, b)


# --------------------------------------------------------------------------- on the device


def test_constants_may_stay_on_the_host(cupy, forbid_sync):
    """Weights, targets and ids as the host has them, beside logits that live on the GPU."""
    x = rng.standard_normal((3, 4))
    t, share = np.array([1, 9, 0]), rng.random((3, 4))
    options = {"weight": [1.0, 2.0, 3.0, 4.0]}
    for op, args, kw in (
        (tg.nll_loss, [t], {**options, "ignore_index": 9}),
        (tg.cross_entropy, [t], {**options, "ignore_index": 9}),
        (bce, [cupy.asarray(share)], {**options, "pos_weight": np.array([[2.0], [1.0], [0.5]])}),
    ):
        host = [a.get() if isinstance(a, cupy.ndarray) else a for a in args]
        want = op(h := leaf(x), *host, **kw)
        for create_graph in (False, True):
            a = Tensor(cupy.asarray(x), requires_grad=True)
            with forbid_sync():
                y = op(a, *args, **kw)
                (dx,) = tg.grad(y, [a], create_graph=create_graph)
            close(y.numpy(), want.data)
            close(dx.numpy(), grads(want, h)[0])
