"""Optimizers, clipping and schedules, against the formulas written out in Python numbers."""

import math
import re
import threading

import numpy as np
import pytest
from words import leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn, optim
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.optim import PIECE, SGD, Adam, AdamW


@pytest.fixture(autouse=True)
def fresh_numbers():
    global rng  # so that a test draws the same numbers whichever ran before it
    rng = np.random.default_rng(0)
    tg.manual_seed(0)


def feed(optimizer, p, gradients):
    """One step for each gradient; returns the values of p after each."""
    seen = []
    for g in gradients:
        p.grad = Tensor(np.array(g, p.dtype).reshape(p.shape))
        optimizer.step()
        seen.append(p.data.copy())
    return np.array(seen)


# ------------------------------------------------------------------------- the formulas of each


@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.5, True)])
def test_sgd_by_hand(momentum, nesterov, decay):
    p, lr = leaf([2.0]), 0.125
    seen = feed(SGD([p], lr, momentum, nesterov, decay), p, [1.0, -3.0, 0.5])
    x, v, expected = 2.0, 0.0, []
    for g in [1.0, -3.0, 0.5]:
        d = g + decay * x
        v = momentum * v + d
        x -= lr * (d + momentum * v if nesterov else v)
        expected.append([x])
    assert seen.tolist() == expected  # powers of two: no rounding


@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_by_hand(kind, decay):
    p, lr, b1, b2, eps = leaf([2.0]), 0.1, 0.8, 0.9, 1e-3
    seen = feed(kind([p], lr, (b1, b2), eps, decay), p, [1.0, -3.0, 0.5])
    x, m, v, expected = 2.0, 0.0, 0.0, []
    for t, g in enumerate([1.0, -3.0, 0.5], start=1):
        if kind is AdamW:
            x *= 1 - lr * decay
        else:
            g += decay * x
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        x -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
        expected.append([x])
    np.testing.assert_allclose(seen, expected, rtol=1e-14)


def test_the_defaults_are_those_of_the_papers():
    p = leaf([1.0])
    assert repr(SGD([p], 0.1)) == (
        "SGD(1 parameters of 1 numbers: lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)"
    )
    assert repr(Adam([p])) == (
        "Adam(1 parameters of 1 numbers: lr=0.001, betas=(0.9, 0.999), eps=1e-08, "
        "weight_decay=0.0, lazy=False)"
    )
    assert AdamW([p]).param_groups[0]["weight_decay"] == 0.01


MAKERS = {
    "sgd": lambda ps: SGD(ps, 0.1),
    "momentum": lambda ps: SGD(ps, 0.1, momentum=0.9),
    "nesterov": lambda ps: SGD(ps, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda ps: Adam(ps, 0.1, weight_decay=0.1),
    "adamw": lambda ps: AdamW(ps, 0.1),
    "lazy": lambda ps: AdamW(ps, 0.1, lazy=True),
}
every_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_kind
def test_it_goes_downhill(make):
    p = leaf([[3.0, -2.0]])
    optimizer = make([p])
    for _ in range(300):
        optimizer.zero_grad()
        ((p - 1.0) * (p - 1.0)).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.data, 1.0, atol=0.1)


@every_kind
def test_shapes_and_layouts_make_no_difference(make):
    """A 0-d parameter, an empty one, large ones; gradients that lie in memory in odd ways."""
    shapes = [(), (0,), (3, 0), (5,), (PIECE + 7,), (300, 301), (2, 3, 4)]
    ps = [leaf(rng.standard_normal(s)) for s in shapes]
    qs = [leaf(p.data.reshape(-1, 1)) for p in ps]  # the same numbers, as tables of one column
    one, other = make(ps), make(qs)
    for _ in range(3):
        for p, q in zip(ps, qs, strict=True):
            g = rng.standard_normal(p.shape)
            q.grad = Tensor(g.reshape(-1, 1).copy())
            p.grad = Tensor(np.array(g, order="F"))
        one.step()
        other.step()
    for p, q in zip(ps, qs, strict=True):
        assert p.data.shape == p.shape
        np.testing.assert_allclose(p.data.reshape(-1, 1), q.data, rtol=1e-13, atol=1e-15)


@every_kind
def test_data_that_the_user_replaced_by_a_transposed_array_is_updated_too(make):
    p, q = leaf(rng.standard_normal((3, 4))), leaf(np.zeros((3, 4)))
    one, other = make([p]), make([q])
    q.data = np.asfortranarray(p.data)
    g = rng.standard_normal((3, 4))
    p.grad, q.grad = Tensor(g), Tensor(g)
    one.step()
    other.step()
    np.testing.assert_array_equal(p.data, q.data)


@every_kind
@pytest.mark.parametrize("lr", [0.1, np.float64(0.1), np.float32(0.1)])
def test_float32_stays_float32(make, lr):
    p = nn.Parameter([[1.0, 2.0]])
    optimizer = make([p])
    optimizer.lr = lr
    for g in (np.ones((1, 2), np.float32), np.ones((1, 2))):  # even beside a float64 gradient
        p.grad = Tensor(g)
        optimizer.step()
    assert p.dtype == np.float32
    assert all(a.dtype == np.float32 for k, a in optimizer.state[p].items() if k != "step")


# ------------------------------------------------------------------------------ whose memory


@every_kind
def test_the_users_arrays_are_never_written_to(make):
    array = rng.standard_normal((2, 3))
    locked = rng.standard_normal((2, 3))
    locked.flags.writeable = False
    views = array, array.T, locked, np.broadcast_to(array[0], (2, 3))
    before = array.copy()
    ps = [Tensor(a, requires_grad=True) for a in views]
    optimizer = make(ps)
    gradients = [rng.standard_normal(p.shape) for p in ps]
    copies = [g.copy() for g in gradients]
    for _ in range(2):
        for p, g in zip(ps, gradients, strict=True):
            p.grad = Tensor(g)
        optimizer.step()
    np.testing.assert_array_equal(array, before)
    for p, a, g, c in zip(ps, views, gradients, copies, strict=True):
        assert not (p.data == a).any()
        np.testing.assert_array_equal(g, c)
    assert len({tuple(p.data[1]) for p in ps if p.shape == (2, 3)}) == 3


def test_a_parameter_whose_memory_is_locked_or_borrowed_gets_some_of_its_own():
    array = np.ones((2, 2))
    p, q = nn.Parameter(array), nn.Parameter(array)
    p.data.flags.writeable = False
    q.data = array[:]
    sgd = SGD([p, q], 0.5)
    p.grad = q.grad = Tensor(array)
    sgd.step()
    assert (p.data == 0.5).all()
    assert (q.data == 0.5).all()
    assert (array == 1).all()


@every_kind
def test_parameters_are_changed_in_place(make):
    p = nn.Parameter(np.ones((2, 2)))
    array = p.data
    optimizer = make([p])
    p.grad = Tensor(np.ones((2, 2)))
    optimizer.step()
    assert p.data is array
    assert (array < 1).all()


@every_kind
def test_one_array_may_be_the_gradient_of_two_parameters(make):
    p, q, r = (nn.Parameter(np.ones((2, 2))) for _ in range(3))
    shared = Tensor(np.full((2, 2), 0.5))
    p.grad = q.grad = shared
    r.grad = Tensor(np.full((2, 2), 0.5))
    make([p, q]).step()
    make([r]).step()
    np.testing.assert_array_equal(p.data, r.data)
    np.testing.assert_array_equal(q.data, r.data)


# ----------------------------------------------------------------------------- groups and lr


def test_groups_have_settings_of_their_own():
    a, b, c = leaf([1.0]), leaf([1.0]), leaf([1.0])
    groups = [{"params": [a]}, {"params": b, "lr": 0.5}, {"params": [c], "momentum": 0.5}]
    sgd = SGD(groups, lr=0.25)
    for _ in range(2):
        for p in (a, b, c):
            p.grad = Tensor([1.0], dtype=np.float64)
        sgd.step()
    assert [p.item() for p in (a, b, c)] == [0.5, 0.0, 1 - 0.25 - 0.25 * 1.5]
    assert [g["lr"] for g in sgd.param_groups] == [0.25, 0.5, 0.25]
    assert sgd.params == [a, b, c]


def test_lr_is_read_from_the_first_group_and_set_in_all():
    sgd = SGD([{"params": [leaf([1.0])], "lr": 0.5}, {"params": [leaf([1.0])]}], lr=0.25)
    assert sgd.lr == 0.5
    sgd.lr = 0.125
    assert [g["lr"] for g in sgd.param_groups] == [0.125, 0.125]
    with pytest.raises(ValueError, match="lr should be a finite number from 0 on, not -1"):
        sgd.lr = -1
    assert sgd.lr == 0.125


def test_a_generator_of_parameters_will_do():
    net = nn.Linear(2, 2)
    adam = Adam(p for p in net.parameters())
    assert adam.params == net.parameters()


@every_kind
def test_a_parameter_without_a_gradient_is_passed_over(make):
    p, q = leaf([[1.0]]), leaf([[1.0]])
    optimizer = make([p, q])
    for g in (1.0, 2.0):
        p.grad = Tensor(np.array([[g]]))
        optimizer.step()
    assert q.item() == 1
    assert optimizer.state[q] == {}
    q.grad = Tensor(np.array([[1.0]]))  # its first step is a first step
    optimizer.step()
    alone = leaf([[1.0]])
    feed(make([alone]), alone, [1.0])
    assert q.item() == alone.item()


def test_zero_grad():
    p = leaf([1.0])
    sgd = SGD([p], 0.1)
    p.grad = Tensor([1.0])
    sgd.zero_grad()
    assert p.grad is None
    sgd.step()
    assert p.item() == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: SGD([p], -0.1), ValueError, "lr should be a finite number from 0 on, not -0.1"),
        (lambda p: SGD([p], math.nan), ValueError, "lr should be .* not nan"),
        (lambda p: SGD([p], "0.1"), ValueError, "lr should be .* not '0.1'"),
        (lambda p: SGD([p], 0.1, momentum=-1), ValueError, "momentum should be"),
        (lambda p: SGD([p], 0.1, weight_decay=math.inf), ValueError, "weight_decay should be"),
        (lambda p: SGD([p], 0.1, nesterov=True), ValueError, "nesterov needs a momentum above 0"),
        (lambda p: Adam([p], eps=-1), ValueError, "eps should be"),
        (lambda p: Adam([p], betas=(0.9, 1.0)), ValueError, r"betas should be .* \(0.9, 1.0\)"),
        (lambda p: Adam([p], betas=(0.9,)), ValueError, "betas should be two numbers"),
        (lambda p: Adam([]), ValueError, "Adam: there are no parameters"),
        (lambda p: Adam([{"params": []}]), ValueError, "Adam: there are no parameters"),
        (lambda p: Adam([p, p]), ValueError, r"Adam: a parameter \(2,\) is listed twice"),
        (lambda p: Adam([{"params": p}, {"params": p}]), ValueError, "listed twice"),
        (lambda p: Adam([p * 2]), ValueError, "computed by mul; only leaves are optimized"),
        (lambda p: Adam([p.data]), TypeError, "Adam: parameters are Tensors, not ndarray"),
        (lambda p: Adam(p), TypeError, r"list of Tensors \(module.parameters\(\)\).* a Tensor"),
        (lambda p: Adam(nn.Linear(1, 1)), TypeError, r"\(module.parameters\(\)\).* not a Linear"),
        (lambda p: Adam([p, {"params": p}]), TypeError, "every group should be a dict with 'par"),
        (lambda p: Adam([{"lr": 1}]), TypeError, "every group should be a dict with 'params'"),
        (lambda p: SGD([{"params": p, "eps": 1}], 1), ValueError, "unknown setting eps; there are"),
        (lambda p: SGD([{"params": p, "lr": -1}], 1), ValueError, "lr should be"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make(leaf([1.0, 2.0]))


def test_a_gradient_of_another_shape_is_an_error():
    p = leaf([1.0, 2.0])
    p.grad = Tensor([1.0])
    with pytest.raises(ValueError, match=r"a parameter \(2,\) has a gradient \(1,\)"):
        SGD([p], 0.1).step()


# ------------------------------------------------------------------------- saving and loading


@every_kind
def test_it_goes_on_exactly_where_it_was(make, tmp_path):
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((9, 4, 3))
    p = leaf(start, np.float32)
    straight = feed(make([p]), p, gradients)

    p = leaf(start, np.float32)
    first = make([p])
    first.lr = 0.07  # settings travel too
    first.lr = 0.1
    feed(first, p, gradients[:4])
    np.savez(tmp_path / "state.npz", **first.state_dict())
    q = leaf(p.data, np.float32)
    second = make([q])
    second.lr = 0.5
    with np.load(tmp_path / "state.npz") as state:
        second.load_state_dict(state)
    assert second.param_groups[0] | {"params": 0} == first.param_groups[0] | {"params": 0}
    np.testing.assert_array_equal(feed(second, q, gradients[4:]), straight[4:])


def test_a_state_is_flat_arrays_and_a_copy():
    p, q = nn.Parameter(np.ones((2, 3))), nn.Parameter([1.0])
    adam = Adam([p, q])
    p.grad = Tensor(np.ones((2, 3)))
    adam.step()
    state = adam.state_dict()
    assert {name: a.shape for name, a in state.items()} == {
        "group.0.lr": (),
        "group.0.betas": (2,),
        "group.0.eps": (),
        "group.0.weight_decay": (),
        "group.0.lazy": (),
        "param.0.step": (),
        "param.0.mean": (2, 3),
        "param.0.square": (2, 3),
    }
    state["param.0.mean"][:] = 9
    assert not (adam.state[p]["mean"] == 9).any()
    adam.load_state_dict(state)
    state["param.0.mean"][:] = 8
    assert (adam.state[p]["mean"] == 9).all()
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
    assert adam.state[q] == {}


def adam_state(**changes):
    p = leaf([[1.0, 2.0]])
    adam = Adam([p])
    feed(adam, p, [[1.0, 2.0]])
    state = adam.state_dict()
    for key, x in changes.items():
        key = key.replace("_", ".")
        state.pop(key) if x is None else state.update({key: np.array(x)})
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (SGD([leaf([1.0])], 0.1).state_dict(), "another optimizer: group.0.betas, .* missing"),
        (adam_state(param_1_step=1), "another optimizer: param.1.step is unexpected"),
        (adam_state(param_0_velocity=[[1.0, 1.0]]), "param.0.velocity is unexpected"),
        (adam_state(group_1_lr=1.0), "group.1.lr is unexpected"),
        (adam_state(nonsense=1.0), "nonsense is unexpected"),
        (adam_state(param_0_mean=[1.0]), r"param.0.mean is \(1,\), the parameter \(1, 2\)"),
        (adam_state(param_0_square=None), "param.0 has no square"),
        (adam_state(group_0_lr=-1.0), "lr should be"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, message):
    p = leaf([[1.0, 2.0]])
    adam = Adam([p], lr=0.5)
    feed(adam, p, [[3.0, 4.0]])
    before = adam.state_dict()
    with pytest.raises(ValueError, match=message):
        adam.load_state_dict(state)
    after = adam.state_dict()
    assert before.keys() == after.keys()
    assert all((before[k] == after[k]).all() for k in before)


# --------------------------------------------------------------------------------------- lazy


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_lazy_leaves_rows_without_a_gradient_alone(kind):
    table = rng.standard_normal((5, 3))
    p, settings = leaf(table), {"lr": 0.1, "weight_decay": 0.1}
    lazy = kind([p], lazy=True, **settings)
    g = np.zeros((3, 5, 3))
    for t, rows in enumerate([[1, 3], [3], [1, 4]]):
        g[t, rows] = rng.standard_normal((len(rows), 3))
    g[0, 1, 0] = 0  # a zero in a row that has others
    feed(lazy, p, g)
    np.testing.assert_array_equal(p.data[[0, 2]], table[[0, 2]])
    assert not lazy.state[p]["mean"][[0, 2]].any()

    # each row by itself sees only its own gradients, at the steps of the whole
    for row in (1, 3, 4):
        q = leaf(table[row])
        dense = kind([q], **settings)
        dense.state[q] = {"step": 0, "mean": np.zeros(3), "square": np.zeros(3)}
        for t in range(3):
            dense.state[q]["step"] = t
            if g[t, row].any():
                feed(dense, q, [g[t, row]])
        np.testing.assert_allclose(p.data[row], q.data, rtol=1e-14)


def test_lazy_and_dense_agree_while_every_row_has_a_gradient_and_on_vectors():
    for shape in ((4, 3), (4,)):
        g = rng.standard_normal((5, *shape)) + 3
        g[:, 0] = 0 if shape == (4,) else g[:, 0]  # a vector has no rows to leave out
        p, q = leaf(np.ones(shape)), leaf(np.ones(shape))
        np.testing.assert_array_equal(feed(AdamW([p]), p, g), feed(AdamW([q], lazy=True), q, g))


def test_lazy_is_not_what_adam_is():
    p, q = leaf(np.ones((2, 1))), leaf(np.ones((2, 1)))
    g = [[[1.0], [1.0]], [[1.0], [0.0]]]
    dense, lazy = feed(Adam([p]), p, g), feed(Adam([q], lazy=True), q, g)
    assert dense[1, 0] == lazy[1, 0]
    assert dense[1, 1] < lazy[1, 1] == lazy[0, 1]


# ----------------------------------------------------------------------------------- clipping


def with_gradients(*gradients):
    ps = [leaf(np.zeros(np.shape(g))) for g in gradients]
    for p, g in zip(ps, gradients, strict=True):
        p.grad = Tensor(np.array(g, dtype=np.float64))
    return ps


def test_clipping_scales_all_gradients_by_one_factor():
    ps = with_gradients([3.0, 0.0], [[4.0]], 12.0)
    ps.insert(1, leaf([1.0]))  # no gradient
    assert float(optim.clip_grad_norm(ps, 6.5)) == 13.0
    factor = 6.5 / (13 + 1e-6)
    np.testing.assert_allclose(ps[0].grad.data, [3 * factor, 0], rtol=1e-15)
    np.testing.assert_allclose(ps[2].grad.data, [[4 * factor]], rtol=1e-15)
    np.testing.assert_allclose(ps[3].grad.data, 12 * factor, rtol=1e-15)
    assert ps[1].grad is None


def test_small_gradients_are_left_alone():
    (p,) = with_gradients([3.0, 4.0])
    for max_norm in (6.0, math.inf):
        assert float(optim.clip_grad_norm([p], max_norm)) == 5.0
        assert p.grad.numpy().tolist() == [3, 4]


def test_clipping_edge_cases():
    (p,) = with_gradients([3.0, 4.0])
    assert float(optim.clip_grad_norm(p, 0.0)) == 5.0  # a single Tensor; down to nothing
    assert p.grad.numpy().tolist() == [0, 0]
    assert float(optim.clip_grad_norm(p, 1.0)) == 0.0  # no 0 / 0
    assert float(optim.clip_grad_norm([leaf([1.0])], 1.0)) == 0.0
    assert float(optim.clip_grad_norm([], 1.0)) == 0.0
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm should be a number from 0 on"):
            optim.clip_grad_norm([p], bad)


def test_clipping_writes_to_no_array_and_keeps_the_dtype():
    p, q = nn.Parameter([1.0, 1.0]), nn.Parameter([1.0, 1.0])
    array = np.array([3.0, 4.0], np.float32)
    p.grad = q.grad = Tensor(array)
    norm = optim.clip_grad_norm([p, q], 1.0)
    assert array.tolist() == [3, 4]
    assert norm.dtype == p.grad.dtype == np.float32
    np.testing.assert_allclose(q.grad.data, array / math.sqrt(50), rtol=1e-6)
    np.testing.assert_array_equal(p.grad.data, q.grad.data)  # scaled once each


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite(bad):
    ps = with_gradients([bad], [1.0])
    with pytest.raises(ValueError, match=f"the norm of the gradients is {bad}"):
        optim.clip_grad_norm(ps, 1.0, error_if_nonfinite=True)
    assert ps[1].grad.item() == 1
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(optim.clip_grad_norm(ps, 1.0))
    assert math.isnan(ps[0].grad.item())
    if math.isnan(bad):
        assert math.isnan(ps[1].grad.item())  # as in PyTorch: nothing hides it


# ---------------------------------------------------------------------------------- schedules


def rates(schedule, optimizer, steps):
    seen = []
    for _ in range(steps):
        seen.append(optimizer.lr)
        optimizer.step()
        schedule.step()
    return seen


def test_linear_warm_up_and_decay():
    sgd = SGD([leaf([1.0])], lr=8.0)
    assert rates(optim.WarmupLinear(sgd, 4, 8), sgd, 10) == [0, 2, 4, 6, 8, 6, 4, 2, 0, 0]
    sgd = SGD([leaf([1.0])], lr=8.0)
    schedule = optim.WarmupLinear(sgd, 2, 4, floor=0.25, start=0.5)
    assert rates(schedule, sgd, 6) == [4, 6, 8, 5, 2, 2]


def test_cosine_by_hand():
    half = math.sqrt(0.5) / 2  # cos 45° / 2
    sgd = SGD([leaf([1.0])], lr=2.0)
    seen = rates(optim.WarmupCosine(sgd, 2, 6), sgd, 9)
    np.testing.assert_allclose(seen, [0, 1, 2, 1 + 2 * half, 1, 1 - 2 * half, 0, 0, 0], atol=1e-15)
    sgd = SGD([leaf([1.0])], lr=2.0)
    seen = rates(optim.WarmupCosine(sgd, 0, 2, floor=0.5), sgd, 4)
    np.testing.assert_allclose(seen, [2, 1.5, 1, 1], atol=1e-15)
    sgd = SGD([leaf([1.0])], lr=2.0)
    assert rates(optim.WarmupCosine(sgd, 2, 4, start=0.5), sgd, 3) == [1, 1.5, 2]


def test_a_floor_of_one_is_a_warm_up_and_nothing_else():
    for kind in (optim.WarmupLinear, optim.WarmupCosine):
        sgd = SGD([leaf([1.0])], lr=4.0)
        assert rates(kind(sgd, 4, 10, floor=1.0), sgd, 12) == [0, 1, 2, 3] + [4] * 8


def test_a_schedule_without_steps_or_without_decay():
    sgd = SGD([leaf([1.0])], lr=4.0)
    assert rates(optim.WarmupLinear(sgd, 2, 2), sgd, 4) == [0, 2, 0, 0]
    sgd = SGD([leaf([1.0])], lr=4.0)
    assert rates(optim.WarmupCosine(sgd, 0, 0, floor=0.5), sgd, 2) == [2, 2]


def test_groups_keep_their_proportions():
    sgd = SGD([{"params": [leaf([1.0])], "lr": 4.0}, {"params": [leaf([1.0])]}], lr=1.0)
    schedule = optim.WarmupLinear(sgd, 2, 4)
    schedule.step()
    assert [g["lr"] for g in sgd.param_groups] == [2.0, 0.5]


def test_a_schedule_goes_on_where_it_was():
    def make():
        sgd = SGD([leaf([1.0])], lr=4.0)
        return sgd, optim.WarmupCosine(sgd, 3, 9)

    sgd, schedule = make()
    straight = rates(schedule, sgd, 9)
    sgd, schedule = make()
    rates(schedule, sgd, 5)
    state = schedule.state_dict()
    sgd, schedule = make()
    sgd.lr = 77.0
    schedule.load_state_dict(state)
    assert rates(schedule, sgd, 4) == straight[5:]
    with pytest.raises(ValueError, match="this state has 2 groups, the optimizer 1"):
        schedule.load_state_dict({"step": 0, "rates": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": 5, "total": 4}, "warmup 5 should lie between 0 and total 4"),
        ({"warmup": -1, "total": 4}, "warmup -1 should lie between 0 and total 4"),
        ({"warmup": 1, "total": 4, "floor": 1.5}, "floor is a share of the learning rate"),
        ({"warmup": 1, "total": 4, "start": -0.5}, "start is a share of the learning rate"),
    ],
)
def test_schedule_errors(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        optim.WarmupLinear(SGD([leaf([1.0])], 0.1), **arguments)


# ------------------------------------------------------------------------------------- device


@every_kind
def test_the_same_steps_on_the_gpu_without_waiting_for_it(make, cupy, forbid_sync, request):
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((3, 4, 3))
    host, far = nn.Parameter(start), nn.Parameter(start, device="cuda")
    one, other = make([host]), make([far])
    uploaded = [Tensor(g, device="cuda") for g in gradients]
    lazy = "lazy" in request.node.callspec.id  # looks which rows are in use, and says so
    for g, up in zip(gradients, uploaded, strict=True):
        host.grad, far.grad = Tensor(g), up
        expected = optim.clip_grad_norm([host], 1.0)
        with forbid_sync():
            norm = optim.clip_grad_norm([far], 1.0)
            if not lazy:
                other.step()
        if lazy:
            other.step()
        one.step()
        assert float(norm) == pytest.approx(float(expected))
    assert far.device == "cuda:0"
    np.testing.assert_allclose(far.numpy(), host.numpy(), rtol=1e-12)
    state = other.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    other.load_state_dict(state)
    far.grad, host.grad = uploaded[0], Tensor(gradients[0])
    other.step()
    one.step()
    np.testing.assert_allclose(far.numpy(), host.numpy(), rtol=1e-12)


@every_kind
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_without_numbers_changes_nothing(make, device, cupy):
    """The norm of the gradients decides, and nobody has to look at it first."""
    p, q = (nn.Parameter(rng.standard_normal((4, 3)), device=device) for _ in range(2))
    optimizer = make([p, q])
    for bad in (np.inf, np.nan):
        before = p.numpy().copy(), q.numpy().copy()
        g = rng.standard_normal((4, 3))
        p.grad = Tensor(np.where(np.arange(3) == 1, bad, g), device=device)
        q.grad = Tensor(g, device=device)
        with np.errstate(invalid="ignore"):
            norm = optim.clip_grad_norm([p, q], 1.0)
            optimizer.step(only_if=norm)
        assert not np.isfinite(float(norm))
        assert (p.numpy() == before[0]).all()
        assert (q.numpy() == before[1]).all()
        p.grad, q.grad = Tensor(g, device=device), Tensor(-g, device=device)
        optimizer.step(only_if=optim.clip_grad_norm([p, q], 1.0))
        assert (p.numpy() != before[0]).all()
        assert np.isfinite(q.numpy()).all()


def test_a_small_model_learns():
    """The whole loop: module, loss, clipping, optimizer, schedule."""
    tg.manual_seed(0)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    targets = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    net = nn.Sequential(nn.Linear(4, 16), tg.tanh, nn.Linear(16, 2))
    adam = AdamW(net.parameters(), lr=0.05)
    schedule = optim.WarmupCosine(adam, 10, 150)
    losses = []
    for _ in range(150):
        net.zero_grad()
        loss = tg.cross_entropy(net(x), targets)
        loss.backward()
        optim.clip_grad_norm(net.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


# ---------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW])
def test_workers_share_the_work_and_change_no_bit(make, monkeypatch):
    monkeypatch.setattr(optim, "PIECE", 7)  # so that one parameter is cut, too
    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(shape) for shape in ((5, 4), (3,), (), (0, 2), (4, 4))]
    gradients = [[rng.standard_normal(x.shape) for x in starts] for _ in range(3)]
    results = []
    for count in (1, 2, 3):
        params = [tg.nn.Parameter(x) for x in starts]
        optimizer = make(params, lr=0.1)
        with Workers(count) as workers:
            for step in gradients:
                for p, g in zip(params, step, strict=True):
                    p.grad = Tensor(g)
                optimizer.step(workers)
        results.append([p.data.tobytes() for p in params])
    assert results[0] == results[1] == results[2]


def test_the_pieces_of_one_large_table_go_to_different_threads():
    names = set()

    class Named(optim.Adam):
        def _move(self, arrays, t, group):
            names.add(threading.get_ident())
            barrier.wait(timeout=10)
            super()._move(arrays, t, group)

    barrier = threading.Barrier(2)  # passed only if two are at work at the same time
    table = tg.nn.Parameter(np.ones((2 * optim.PIECE // 64, 64), np.float32))
    table.grad = Tensor(np.ones(table.shape, np.float32))
    with Workers(2) as workers:
        Named([table]).step(workers)
    assert len(names) == 2
