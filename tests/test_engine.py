"""What the machine promises, whatever the ops: graphs, gradients, dtypes, errors, threads."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from scheduling import JOINS, work

import tinygrad_mha as tg
from tinygrad_mha import Op, Tensor, device_check, gradcheck
from tinygrad_mha.movement import getitem, scatter, sum_to
from tinygrad_mha.tensor import backpropagate, history, value

rng = np.random.default_rng(0)


def leaf(data, dtype=np.float64):
    return Tensor(np.array(data, dtype), requires_grad=True)


def grads(y, *xs, **options):
    return [d.numpy() for d in tg.grad(y, list(xs), **options)]


# ----------------------------------------------------------------------------------- graphs


def test_a_diamond():
    x = leaf([2.0])
    a, b = x * 3.0, x * x
    (a * b).sum().backward()  # 3 x^3
    assert x.grad.numpy() == [36.0]


def test_fan_out_into_many():
    x = leaf([1.0, 2.0])
    y = sum((x * float(k) for k in range(10)), start=x * 0.0)
    y.backward(np.array([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [45.0, 450.0])


def test_nested_diamonds_cost_one_visit_each():
    """2^40 paths, 40 nodes: each is visited once, when its gradient is complete."""
    x = leaf(1.0)
    y = x
    for _ in range(40):
        y = y * 0.5 + y * 0.5
    y.backward()
    assert x.grad.item() == 1.0


def test_an_unused_branch_changes_nothing():
    x = leaf([2.0])
    y = x * 3.0
    unused = tg.exp(y) * x
    y.sum().backward(retain_graph=True)
    assert x.grad.item() == 3.0
    unused.backward()
    assert x.grad.item() == pytest.approx(3.0 + np.exp(6.0) * 7.0)


def test_a_result_that_is_used_and_differentiated_too():
    x = leaf([3.0])
    y = x * x
    z = y * x + y
    assert [d.item() for d in grads(z, x, y)] == [3 * 9 + 6, 3 + 1]


def test_an_intermediate_and_its_ancestor_get_total_derivatives():
    """As if each were asked for alone: the path through the other one counts."""
    x = leaf([1.5])
    y = tg.exp(x)
    z = y * y * x
    both = grads(z, x, y)
    assert both == [grads(z, x)[0], grads(z, y)[0]]
    e = np.exp(1.5)
    np.testing.assert_allclose(both[0], e * e * (1 + 2 * 1.5))
    np.testing.assert_allclose(both[1], 2 * e * 1.5)
    dx, dy = tg.grad(z, [x, y], create_graph=True)
    np.testing.assert_allclose([dx.data, dy.data], both)


def test_the_same_target_twice_and_the_output_itself():
    x = leaf([2.0])
    y = x * x
    assert [d.item() for d in grads(y, x, x, y)] == [4.0, 4.0, 1.0]


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_chain_of_100_000_ops(create_graph):
    """Forward, backward and freeing do not recurse, and freeing needs no garbage collector."""
    x = leaf(1.0)
    n = 100_000 if not create_graph else 10_000
    gc.disable()
    try:
        y = x
        for _ in range(n):
            y = y + 1.0
        middle = weakref.ref(y.node.inputs[0])
        (dx,) = tg.grad(y, [x], create_graph=create_graph)
        assert dx.item() == 1.0
        del y, dx
        assert middle() is None
    finally:
        gc.enable()


def test_backward_frees_the_graph_of_a_long_chain():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = -y
    middle = weakref.ref(y.node.inputs[0])
    y.backward()
    assert x.grad.item() == 1.0
    assert middle() is None
    assert y.item() == 1.0  # the result lives on


def test_work_per_node_does_not_grow():
    """The number of rule calls is the number of nodes, however wide or deep the graph."""
    calls = []
    spy = tg.primitive(lambda g, y, a, b: calls.append(1) or g, lambda g, y, a, b: g, registry={})

    @spy
    def plus(a, b):
        return a + b

    x = leaf(0.0)
    rows = [plus(x, float(k)) for k in range(1000)]
    while len(rows) > 1:
        rows = [plus(a, b) for a, b in zip(rows[::2], rows[1::2], strict=False)] + (
            rows[-1:] if len(rows) % 2 else []
        )
    rows[0].backward()
    assert x.grad.item() == 1000
    assert len(calls) == 1000 + 999


@pytest.mark.parametrize("join", ["one after another", "in pairs", "by one op"])
def test_work_per_pending_node_grows_as_the_logarithm_at_most(join):
    """30,000 gradients wait at once. Counted: calls, their arguments, and comparisons."""
    few, many = (work(n, JOINS[join]) for n in (300, 30_000))
    assert many <= few * np.log2(30_000) / np.log2(300)
    assert many < 200


def test_a_recorded_backward_walks_each_reference_and_not_what_lies_behind_it(monkeypatch):
    """It once walked the whole graph again for every fused op: twice the ops, four times as long"""
    walked = []

    def spy(*args, **options):
        walked.append(len(trail := history(*args, **options)))
        return trail

    monkeypatch.setattr(tg.tensor, "history", spy)

    def cost(n):
        walked.clear()
        y = x = leaf([0.1, 0.2, 0.5])
        for _ in range(n):
            y = tg.softmax(y)
        tg.grad(y.sum(), [x], create_graph=True)
        return sum(walked)

    assert cost(80) <= 2 * cost(40) + 10


def test_grad_of_an_intermediate_needs_nothing_behind_it():
    x = leaf([1.0, 2.0])
    middle = x * x
    (middle * 3.0).sum().backward(retain_graph=True)
    middle.sum().backward()  # releases the way from middle to x
    assert grads((middle * middle).sum(), middle)[0].tolist() == [2, 8]


def test_no_cycle_keeps_a_graph_alive():
    gc.collect()
    gc.disable()
    try:
        x = leaf(rng.standard_normal((2, 3)))
        y = tg.softmax(tg.layer_norm(x * 2.0))
        seen = weakref.ref(y.node.inputs[0])
        loss = y.sum()
        losses = [float(loss)]
        del y, loss
        assert seen() is None
        assert len(losses) == 1
    finally:
        gc.enable()


# ------------------------------------------------------------------------------ backward, grad


def test_a_second_backward_says_how_to_keep_the_graph():
    x = leaf([1.0])
    y = tg.exp(x) * 2.0
    y.backward()
    with pytest.raises(RuntimeError, match=r"released by an earlier backward.*retain_graph=True"):
        y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):  # also by way of a new node
        (y * 1.0).backward()


def test_retain_graph_keeps_it():
    x = leaf([1.0])
    y = tg.tanh(x * x)
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)


def test_create_graph_and_grad_keep_it_too():
    x = leaf([1.0])
    y = x * x
    y.backward(create_graph=True)
    assert tg.grad(y, [x])[0].item() == 2.0
    assert tg.grad(y, [x])[0].item() == 2.0
    assert x.grad.requires_grad


def test_grad_of_an_input_that_plays_no_part():
    x, z = leaf([1.0]), leaf([1.0, 2.0])
    y = x * 2.0
    with pytest.raises(ValueError, match=r"does not depend on input 1 \(2,\); pass allow_unused"):
        tg.grad(y, [x, z])
    dx, dz = tg.grad(y, [x, z], allow_unused=True)
    assert dx.item() == 2.0
    assert dz is None


def test_grad_touches_no_grad():
    x = leaf([1.0])
    tg.grad(x * 2.0, x)
    assert x.grad is None


def test_grad_wants_tensors_that_require_it():
    x = leaf([1.0])
    with pytest.raises(ValueError, match="input 1 is no Tensor with requires_grad=True"):
        tg.grad(x * 2.0, [x, Tensor([1.0])])


def test_backward_wants_a_gradient_unless_there_is_one_value():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"backward: .*shape \(2, 3\), so pass a gradient"):
        (x * 2.0).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), the Tensor \(2, 3\)"):
        (x * 2.0).backward(np.ones(3))
    (x[:1, :1] * 2.0).backward()  # shape (1, 1) is a single value
    assert x.grad.numpy().sum() == 2.0


def test_backward_wants_something_to_differentiate():
    with pytest.raises(ValueError, match="does not require a gradient"):
        Tensor([1.0]).backward()
    x = leaf([1.0])
    with tg.no_grad():
        y = x * 2.0
    with pytest.raises(ValueError, match="no_grad"):
        y.backward()


def test_backward_of_a_leaf():
    x = leaf([1.0, 2.0])
    g = np.array([3.0, 4.0])
    x.backward(g)
    np.testing.assert_array_equal(x.grad.numpy(), g)
    assert not np.shares_memory(x.grad.data, g)


def test_the_incoming_gradient_may_be_a_list_or_a_tensor():
    x = leaf([1.0, 2.0])
    (x * x).backward([1, 2])
    (x * x).backward(Tensor([1.0, 2.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [4.0, 16.0])


def test_the_incoming_gradient_can_be_differentiated():
    """d<v, dy/dx>/dv: with create_graph, the gradient is a function of g as well."""
    x, v = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (dx,) = tg.grad(x * x * x, [x], v, create_graph=True)
    np.testing.assert_allclose(grads(dx.sum(), v)[0], [3.0, 12.0])
    (x * x * x).backward(v, create_graph=True)
    np.testing.assert_allclose(grads(x.grad.sum(), v)[0], [3.0, 12.0])


def test_grad_accumulates_and_may_be_set():
    x = leaf([1.0])
    (x * 2.0).backward()
    (x * 3.0).backward()
    assert x.grad.item() == 5.0
    x.grad = Tensor([10.0], dtype=np.float64)
    (x * 1.0).backward()
    assert x.grad.item() == 11.0
    x.grad = None
    (x * 1.0).backward()
    assert x.grad.item() == 1.0


def test_grad_is_never_shared():
    a, b, c = (leaf(np.ones((2, 2))) for _ in range(3))
    g = np.ones((2, 2))
    (a + b + c.reshape(4).reshape(2, 2)).backward(g)
    arrays = [a.grad.data, b.grad.data, c.grad.data, g]
    for k, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[:k])
    a.grad.data += 1.0
    np.testing.assert_array_equal(b.grad.numpy(), g)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_gradient_for_two_leaves_is_two_arrays(create_graph):
    """A rule may hand the very same gradient to both of its inputs; the leaves get one each."""
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (a + b) * 2.0
    da, db = tg.grad(y, [a, b], [1.0, 10.0], create_graph=create_graph)
    assert not np.shares_memory(da.data, db.data)
    y.backward([1.0, 10.0], create_graph=create_graph)
    assert not np.shares_memory(a.grad.data, b.grad.data)
    assert a.grad.numpy().tolist() == b.grad.numpy().tolist() == [2, 20]


def test_an_earlier_grad_is_not_written_into():
    x = leaf([1.0])
    (x * 2.0).backward()
    kept = x.grad
    (x * 2.0).backward()
    assert kept.item() == 2.0


def test_a_plain_backward_records_nothing_in_grad():
    """Not even if the grad that was there has a history: the sum would keep that graph alive."""
    x = leaf([1.0, 2.0])
    (x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    x.sum().backward()
    assert x.grad.numpy().tolist() == [3, 5]
    assert not x.grad.requires_grad


def test_a_gradient_holds_real_numbers():
    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match="gradient holds real numbers, not complex128"):
        (x * x).backward(np.array([1j, 2.0]))
    with pytest.raises(TypeError, match="the output should be a Tensor, not a ndarray"):
        tg.grad(x.data, [x])


def test_several_outputs():
    """Any output may be used, none of them need be, and each may be used twice."""

    def both_reference(x):
        """y = x², z = x³"""
        return x * x, x * x * x

    @tg.fused(reference=both_reference, registry={})
    def both(x):
        def pullback(gs):
            gy, gz = gs
            dx = 0.0 * x
            if gy is not None:
                dx = dx + gy * 2 * x
            return (dx if gz is None else dx + gz * 3 * x * x,)

        return (x * x, x * x * x), pullback

    x = leaf([2.0])
    y, z = both(x)
    assert y.node is z.node
    assert grads(y, x)[0] == 4.0
    assert grads(z, x)[0] == 12.0
    assert grads(y * z + z, x)[0] == 5 * 16 + 12
    assert grads(z * y, y)[0] == 8.0
    assert gradcheck(both, [np.array([1.0, 0.3])], order=3)


def test_higher_orders():
    x = leaf(0.5)
    y, expected = tg.exp(x * x), []
    for _ in range(4):
        (y,) = tg.grad(y, [x], create_graph=True)
        expected.append(y.item())
    e, x0 = np.exp(0.25), 0.5
    hermite = [2 * x0, 4 * x0**2 + 2, 8 * x0**3 + 12 * x0, 16 * x0**4 + 48 * x0**2 + 12]
    np.testing.assert_allclose(expected, np.array(hermite) * e, rtol=1e-12)


# ------------------------------------------------------------------------------------ no_grad


def test_no_grad_as_context_and_decorator():
    x = leaf([1.0])

    @tg.no_grad()
    def evaluate():
        return x * 2.0

    assert not evaluate().requires_grad
    with tg.no_grad():
        assert not (x * 2.0).requires_grad
        with tg.no_grad():
            pass
        assert not (x * 2.0).requires_grad  # the inner one restores what it found
    assert (x * 2.0).requires_grad


def test_no_grad_ends_with_an_exception():
    x = leaf([1.0])
    with pytest.raises(ZeroDivisionError), tg.no_grad():
        raise ZeroDivisionError
    assert (x * 2.0).requires_grad


def test_one_no_grad_entered_twice():
    quiet = tg.no_grad()
    x = leaf([1.0])
    with quiet, quiet:
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad


def test_no_grad_is_for_one_thread():
    x, seen = leaf([1.0]), []
    with tg.no_grad():
        worker = threading.Thread(target=lambda: seen.append((x * 2.0).requires_grad))
        worker.start()
        worker.join()
    assert seen == [True]


def test_a_gradient_of_another_dtype_inside_no_grad():
    """The answer depends on the incoming gradient, whatever has to be done to it first."""
    x, v = leaf([1.0, 2.0], np.float32), leaf([3.0, 4.0])
    y = x * x
    with tg.no_grad():
        (dx,) = tg.grad(y, [x], v, create_graph=True)
    assert grads(dx.sum(), v)[0].tolist() == [2, 4]


def test_create_graph_inside_no_grad():
    x = leaf([3.0])
    y = x * x * x
    with tg.no_grad():
        (dx,) = tg.grad(y, [x], create_graph=True)
        assert dx.requires_grad
        assert not (x * 2.0).requires_grad


def test_a_new_tensor_inside_no_grad_may_require_a_gradient():
    with tg.no_grad():
        x = leaf([1.0])
    assert (x * 2.0).requires_grad


# ------------------------------------------------------------------------------------- dtypes


def test_python_numbers_become_the_default_dtype():
    assert Tensor(1.0).dtype == np.float32
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor(np.float64(1.0)).dtype == np.float32  # a float64 scalar *is* a Python float
    assert Tensor(np.ones(2)).dtype == np.float64  # an array keeps its own
    assert Tensor(np.ones(2, np.float16)).dtype == np.float16
    try:
        tg.set_default_dtype(np.float64)
        assert Tensor([1.0]).dtype == np.float64
    finally:
        tg.set_default_dtype(np.float32)
    with pytest.raises(TypeError, match="default dtype is a floating-point one, not int64"):
        tg.set_default_dtype(np.int64)


@pytest.mark.parametrize("shape", [(), (2,), (0,)])
@pytest.mark.parametrize(
    "number", [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.sqrt(64)]
)
def test_numbers_never_promote(shape, number):
    x = leaf(np.ones(shape), np.float32)
    for y in (x + number, number - x, x * number, number / x, x**number, number**x):
        assert y.dtype == np.float32
        y.backward(np.ones(shape, np.float32))
        assert x.grad.dtype == np.float32


def test_reductions_of_float32_stay_float32():
    x = leaf(np.ones((2, 3)), np.float32)
    for y in (x.sum(), x.mean(), x.max(), x.min(), tg.softmax(x).sum() / 3, x.sum() * np.sqrt(2)):
        assert type(y.data) is np.ndarray
        assert y.dtype == np.float32


def test_float32_and_float64_meet():
    """The result is float64; each gradient returns in the dtype of its input."""
    a, b = leaf([1.0, 2.0], np.float32), leaf([3.0, 4.0])
    for y in (a * b, tg.concatenate(a, b), tg.stack(a, b), tg.maximum(a, b)):
        assert y.dtype == np.float64
        da, db = tg.grad(y.sum(), [a, b])
        assert (da.dtype, db.dtype) == (np.float32, np.float64)
        da, db = tg.grad(y.sum(), [a, b], create_graph=True)
        assert (da.dtype, db.dtype) == (np.float32, np.float64)


def test_astype_and_its_gradient():
    x = leaf([1.0, 2.0])
    y = x.astype(np.float32)
    assert y.dtype == np.float32
    (y * y).sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0])


def test_integers():
    i = Tensor([1, 2, 3])
    assert (i + 1).dtype == np.int64
    assert (i * 0.5).dtype == np.float32  # the default dtype, not NumPy's float64
    assert i.mean().dtype == np.float32
    x = leaf([1.0, 2.0, 3.0], np.float32)
    assert (x * i).dtype == np.float32  # where NumPy says float64
    assert grads((x * i).sum(), x)[0].dtype == np.float32
    np.testing.assert_array_equal(grads((x * i).sum(), x)[0], [1, 2, 3])


def test_integers_cannot_require_a_gradient():
    for make in (lambda: Tensor([1, 2], requires_grad=True), lambda: Tensor([True], True)):
        with pytest.raises(TypeError, match=r"only floating-point Tensors .*\.astype\(np\.float32"):
            make()
    i = Tensor([1, 2])
    with pytest.raises(TypeError, match="this one is int64"):
        i.requires_grad = True
    assert not leaf([1.5]).astype(np.int64).requires_grad
    assert not (leaf([1.5]).astype(bool)).requires_grad


def test_other_data_is_refused():
    with pytest.raises(TypeError, match="holds numbers, not"):
        Tensor(["a"])
    with pytest.raises(ValueError, match="rows of equal length"):
        Tensor([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="add: cannot compute with dict"):
        Tensor([1.0]) + {}


def test_no_cast_leads_out_of_the_numbers():
    for dtype in (complex, str, object):
        with pytest.raises(TypeError, match="holds numbers, not"):
            Tensor([1.0], dtype=dtype)
        with pytest.raises(TypeError, match="holds numbers, not"):
            leaf([1.0]).astype(dtype)


def test_zero_d_all_the_way():
    """NumPy makes scalars of 0-d results; the engine keeps arrays, and float64 stays exact."""
    x = leaf(1.3)
    y = tg.where(True, x[()] * 1.1, 0.0) ** 2.0 + x.reshape(1)[0] * np.float64(0.3)
    y = y + tg.stack(x, x * 2.0)[1] + tg.matmul(x.reshape(1), x.reshape(1)) * 0.7
    assert type(y.data) is np.ndarray
    assert y.shape == ()
    y.backward()
    want = 2 * 1.1**2 * 1.3 + 0.3 + 2 + 1.4 * 1.3
    assert x.grad.item() == pytest.approx(want, rel=1e-14)


# ---------------------------------------------------------------------------- the array in it


def test_comparisons_are_plain_boolean_arrays():
    x = leaf([1.0, 2.0, 3.0])
    for got in (x > 1.5, x >= 2.0, ~(x < 2), ~(x <= 1), x != 1.0, ~(x == 1.0), x > Tensor(1.5)):
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, [False, True, True])
    np.testing.assert_array_equal(np.array([2.0, 2.0, 2.0]) > x, [True, False, False])


def test_arrays_and_numpy_scalars_on_the_left():
    x = leaf([1.0, 2.0])
    a = np.array([3.0, 4.0])
    for y, d in ((a + x, 1), (a - x, -1), (a * x, a), (a / x, -a / x.data**2)):
        assert type(y) is Tensor
        np.testing.assert_allclose(grads(y.sum(), x)[0], np.broadcast_to(d, 2))
    assert type(np.float64(2) * x) is Tensor
    assert type(np.ones((2, 2)) @ x) is Tensor
    np.testing.assert_allclose(grads((2.0**x).sum(), x)[0], 2**x.data * np.log(2), rtol=1e-15)
    with pytest.raises(TypeError):
        np.exp(x)


def test_no_array_behind_the_back_of_the_gradient():
    x = leaf([1.0, 2.0])
    for convert in (np.asarray, np.array, lambda t: np.ones(2).__iadd__(t), np.mean):
        with pytest.raises(TypeError):
            convert(x)
    with pytest.raises(TypeError, match=r"not turned into an array silently.*\.numpy\(\)"):
        np.asarray(x)
    assert np.asarray(x.detach()).tolist() == [1.0, 2.0]
    assert np.asarray(x.detach(), dtype=np.float32).dtype == np.float32


def test_detach_shares_the_values_and_not_the_graph():
    x = leaf([1.0])
    y = x * 2.0
    assert y.detach().data is y.data
    assert not y.detach().requires_grad
    with pytest.raises(ValueError, match=r"use \.detach\(\) to cut it off"):
        y.requires_grad = False


def test_length_iteration_and_numbers():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    first, second = x
    assert type(first) is Tensor
    np.testing.assert_array_equal(grads((first * second).sum(), x)[0], [[3, 4], [1, 2]])
    scalar = leaf(2.5)
    assert (float(scalar), int(scalar), bool(scalar), scalar.item()) == (2.5, 2, True, 2.5)
    assert not Tensor(0.0)
    for f in (len, list):
        with pytest.raises(TypeError):
            f(scalar)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    assert {x: 1}[x] == 1  # hashed by identity


def test_it_prints():
    assert repr(Tensor([1.0])) == "Tensor([1.])"
    assert repr(Tensor([1.0], True)) == "Tensor([1.], requires_grad=True)"
    assert repr(Tensor([1.0], True) * 2) == "Tensor([2.], op=mul)"
    assert f"{Tensor(1.25)}" == "Tensor(1.25)"
    assert f"{Tensor(1.25):.1f}" == "1.2"
    assert "dtype=float64" in repr(Tensor(np.zeros(0)))


def test_pickles_and_copies_without_the_graph():
    x = leaf([1.0, 2.0])
    y = x * 3.0
    for again in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y), copy.copy(y)):
        np.testing.assert_array_equal(again.numpy(), y.numpy())
        assert again.node is None
        assert again.requires_grad
    long = x
    for _ in range(20_000):
        long = long + 1.0
    assert len(pickle.dumps(long)) < 1000  # and without recursion
    assert not np.shares_memory(copy.deepcopy(x).data, x.data)


def test_a_tensor_of_a_tensor():
    x = leaf([1.0])
    assert Tensor(x).data is x.data
    assert not Tensor(x).requires_grad


def test_indexing_by_everything():
    """Lists and Tensors too; values and gradients as NumPy has them."""
    x = leaf(rng.standard_normal((3, 4)))
    i, mask = [0, 2, 0], np.array([True, False, True])
    keys = [(1, 1), (-1, -1), (np.s_[::-2], np.s_[::-2]), (..., ...)]
    keys += [(i, i), (np.array(i), i), (Tensor(i), i), (mask, mask), (Tensor(mask), mask)]
    keys += [([], np.array([], int)), (x > 0, x.data > 0), ((i, i), (i, i)), ((mask, 1), (mask, 1))]
    keys += [((None, 1), (None, 1)), ((slice(1), i), (slice(1), i))]
    keys += [((Tensor([[0], [1]]), [1, 3]), ([[0], [1]], [1, 3]))]
    for key, plain in keys:
        y = x[key]
        np.testing.assert_array_equal(y.numpy(), x.data[plain])
        v = rng.standard_normal(y.shape)
        want = np.zeros((3, 4))
        np.add.at(want, plain, v)
        np.testing.assert_allclose(grads(y, x, grad_output=v)[0], want)


def test_repeated_indices_add_up():
    x = leaf([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(grads(x[[0, 0, 2, 0]].sum(), x)[0], [3, 0, 1])
    y = scatter(x, key=np.array([1, 1, 0]), shape=(2,))
    np.testing.assert_array_equal(y.numpy(), [3.0, 3.0])


def test_methods_and_properties():
    x = leaf(rng.standard_normal((2, 3, 4)))
    assert x.T.shape == (4, 3, 2)
    assert x.mT.shape == (2, 4, 3)
    assert x.reshape(6, 4).shape == x.reshape((6, 4)).shape == x.reshape(-1, 4).shape == (6, 4)
    assert x.transpose().shape == (4, 3, 2)
    assert x.transpose(1, 0, 2).shape == x.transpose((1, 0, 2)).shape == (3, 2, 4)
    assert x.sum(axis=(0, 2)).shape == (3,)
    assert x.sum(1).shape == (2, 4)
    assert (-x).abs().max().item() == abs(x.data).max()
    assert (x.device, x.ndim, x.size) == ("cpu", 3, 24)
    for name, op in tg.REGISTRY.items():
        if hasattr(Tensor, name) and callable(getattr(Tensor, name)):
            assert getattr(Tensor, name).__doc__, op


# --------------------------------------------------------------------------------------- errors


def test_errors_name_the_op_the_shapes_and_the_remedy():
    a, b = leaf(np.ones((2, 3))), leaf(np.ones((4, 5)))
    with pytest.raises(
        ValueError,
        match=r"matmul: a \(2, 3\) and b \(4, 5\) do not fit: a's last axis is 3, "
        r"b's second-to-last is 4",
    ):
        a @ b
    with pytest.raises(
        ValueError,
        match=r"add: axis -1 is 3 in a and 5 in b: equal lengths broadcast, and a length of 1 does "
        r"\[a \(2, 3\) float64, b \(4, 5\) float64\]",
    ):
        a + b
    with pytest.raises(ValueError, match=r"where: axis -2 is 2 in a and 4 in b: equal lengths"):
        tg.where(True, a, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"matmul: .* before the matrices, axis -1 is 2 in a and"):
        leaf(np.ones((2, 3, 4))) @ np.ones((3, 4, 5))
    with pytest.raises(ValueError, match=r"multiplied with \*, not @"):
        a @ Tensor(2.0)
    with pytest.raises(ValueError, match=r"reshape: cannot reshape .*\[x \(2, 3\) float64\]"):
        a.reshape(7)
    with pytest.raises(IndexError, match=r"sum: axis 5 is out of bounds"):
        a.sum(axis=5)
    with pytest.raises(IndexError, match=r"getitem: index 9 is out of bounds .*\(2, 3\)"):
        a[9]
    with pytest.raises(ValueError, match="nothing to join, the sequence is empty"):
        tg.concatenate([])


def test_errors_about_arguments_name_them():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"softmax: unknown argument dim; it takes \(x, axis\)"):
        tg.softmax(x, dim=1)
    with pytest.raises(TypeError, match=r"softmax: x given twice"):
        tg.softmax(x, x=x)
    with pytest.raises(TypeError, match=r"add: missing argument b; it takes \(a, b\)"):
        tg.add(x)
    with pytest.raises(TypeError, match=r"reshape: missing argument shape"):
        tg.reshape(x)
    with pytest.raises(TypeError, match=r"add: 3 arguments, but it takes \(a, b\)"):
        tg.add(x, x, x)


def test_arguments_by_position_and_by_keyword():
    x, y = leaf(np.ones((2, 3))), leaf(np.ones((2, 3)))
    np.testing.assert_array_equal(tg.softmax(x, 0).data, tg.softmax(x, axis=0).data)
    np.testing.assert_array_equal(tg.sub(b=x, a=y).data, tg.sub(y, x).data)
    assert tg.concatenate([x, y], 1).shape == tg.concatenate(x, y, axis=1).shape == (2, 6)
    assert tg.stack((x, y)).shape == (2, 2, 3)
    assert x.reshape(shape=(3, 2)).shape == x.transpose(axes=(1, 0)).shape == (3, 2)
    assert x.swapaxes(axis1=0, axis2=1).shape == (3, 2)
    with pytest.raises(TypeError, match="concatenate: 2 arguments, but it takes"):
        tg.concatenate([x, y], 0, 1)
    with pytest.raises(TypeError, match="concatenate: axis given twice"):
        tg.concatenate([x, y], 0, axis=1)


@pytest.mark.parametrize("create_graph", [False, True])
def test_concatenate_without_an_axis_joins_flat_rows(create_graph):
    x, y = leaf([[1.0, 2.0], [3.0, 4.0]]), leaf([5.0])
    z = tg.concatenate([x, y], axis=None)
    assert z.numpy().tolist() == [1, 2, 3, 4, 5]
    dx, dy = tg.grad(z, [x, y], np.arange(5.0), create_graph=create_graph)
    assert dx.numpy().tolist() == [[0, 1], [2, 3]]
    assert dy.numpy().tolist() == [4]


def test_the_wrong_gradient_of_an_own_op_is_named():
    @tg.primitive(lambda g, y, x: g, registry={})
    def total(x):
        return x.sum()

    with pytest.raises(
        ValueError, match=r"total: .*input of shape \(3,\) came back with shape \(\)"
    ):
        total(leaf([1.0, 2.0, 3.0])).backward()

    @tg.primitive(lambda g, y, x: g * np.ones(7), registry={})
    def double(x):
        return x * 2

    with pytest.raises(
        ValueError, match=r"^backward of double: .*\(7,\).* \[inputs \(3,\) float64\]"
    ):
        (double(leaf([1.0, 2.0, 3.0])) * 2.0).sum().backward()

    def pair_reference(a, b):
        return a + b

    @tg.fused(reference=pair_reference, registry={})
    def pair(a, b):
        return a + b, lambda g: (g,)

    with pytest.raises(TypeError, match="pair: the pullback gave 1 gradients for 2 arguments"):
        pair(leaf([1.0]), leaf([1.0])).backward()


# -------------------------------------------------------------------------------- defining ops


def test_python_numbers_are_0d_arrays_or_named_in_the_error():
    assert tg.sum(3.0).item() == 3.0
    assert tg.matmul([1.0, 2.0], [3.0, 4.0]).item() == 11.0
    assert tg.exp(0.0).dtype == np.float32
    with pytest.raises(
        TypeError, match=r"layer_norm: weight is the number 2.0, and should be an a"
    ):
        tg.layer_norm(np.ones((2, 3)), 2.0)
    with pytest.raises(
        ValueError, match=r"matmul: .* a single number is multiplied with \*, not @"
    ):
        leaf([1.0]) @ 2.0


def test_the_result_of_an_own_op_is_an_array():
    @tg.primitive(lambda g, y, x: 1.0, registry={})
    def half(x):
        return x * 0.5

    with pytest.raises(TypeError, match="half: a gradient is an array, not a float"):
        half(leaf([1.0, 2.0])).sum().backward()

    @tg.primitive(lambda g, y, x: g, registry={})
    def listed(x):
        return [x]

    with pytest.raises(TypeError, match="listed: forward gave a list, not an array"):
        listed(leaf([1.0]))

    @tg.fused(reference=lambda x: x, registry={})
    def forgetful(x):
        return x * 1

    with pytest.raises(TypeError, match=r"forgetful: .* returns \(y, pullback\)"):
        forgetful(leaf([1.0, 2.0]))
    with pytest.raises(
        TypeError, match=r"mul: the result has dtype kind .c., and a Tensor holds real"
    ):
        leaf([1.0, 2.0]) * np.array([1j, 2])


def test_ops_are_pickled_by_name():
    for copied in (pickle.loads(pickle.dumps(tg.gelu)), copy.deepcopy(tg.gelu), copy.copy(tg.gelu)):
        assert copied is tg.gelu
    own = tg.primitive(lambda g, y, x: g, registry={})(lambda x: x)
    with pytest.raises(TypeError, match="no op of the package"):
        pickle.dumps(own)


@pytest.mark.parametrize("op", [tg.exp, tg.softmax, tg.neg])
def test_other_data_between_forward_and_backward(op):
    """``w.data = w.data - step`` is common; the gradient is still that of the values of then."""
    x = leaf([1.0, 2.0])
    g = rng.standard_normal(2)
    y = op(x * x)
    want = grads(y, x, grad_output=g)[0]
    x.data = x.data + 5.0
    np.testing.assert_array_equal(grads(y, x, grad_output=g)[0], want)
    with pytest.raises(RuntimeError, match=r"mul: the .data of a \(2,\) was set to another array"):
        tg.grad(y, [x], g, create_graph=True)


def test_lists_among_the_parameters_are_copied():
    x, reps = leaf([[1.0, 2.0]]), [2, 1]
    y = x.tile(reps)
    reps[:] = [1, 2]
    assert grads(y, x, grad_output=np.ones((2, 2)))[0].tolist() == [[2, 2]]


def test_joining_by_name():
    x = leaf([1.0])
    assert tg.concatenate(xs=[x, x]).shape == (2,)
    assert tg.stack(xs=(x, x), axis=1).shape == (1, 2)


def test_comparisons_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"lt: a \(2, 3\) on cpu and b \(3, 2\) .*: axis -1 is 3"):
        assert leaf(np.ones((2, 3))) < np.ones((3, 2))


def test_a_gradient_on_another_device_is_refused(cupy):
    x = Tensor(np.ones(3), requires_grad=True).to("cuda")
    with pytest.raises(
        tg.DeviceError, match=r"the gradient is on cpu, the Tensor \(3,\) on cuda:0"
    ):
        (x * 2.0).backward(np.ones(3))


def test_arity_is_checked_at_definition():
    with pytest.raises(TypeError, match="two: 2 arguments but 1 rules"):

        @tg.primitive(lambda g, y, a: g, registry={})
        def two(a, b):
            return a + b

    with pytest.raises(TypeError, match="three: the reference takes other arguments"):

        @tg.fused(reference=lambda a, b: a, registry={})
        def three(a, b, c):
            return a, lambda g: (g, None, None)


def test_a_name_of_the_package_is_defined_once():
    before = tg.REGISTRY["exp"]
    with pytest.raises(ValueError, match="op 'exp' is already defined"):

        @tg.primitive(lambda g, y, x: g)
        def exp(x):
            return x

    assert tg.REGISTRY["exp"] is before


def test_own_registries_may_redefine():
    mine = {}
    for factor in (2.0, 3.0):

        @tg.primitive(lambda g, y, x, f: g * f, registry=mine)
        def exp(x, *, f=factor):
            return x * f

        x = leaf([1.0])
        assert grads(mine["exp"](x), x)[0].item() == factor
    assert set(mine) == {"exp"}
    assert tg.REGISTRY["exp"] is not mine["exp"]
    assert gradcheck(tg.exp, [np.ones(2)])


def test_a_node_is_only_made_by_an_op():
    x = leaf(rng.standard_normal((2, 3)))
    y = tg.cross_entropy(tg.layer_norm(x @ x.T, eps=1e-3), np.array([0, 1]))
    trail = history([y])
    assert [t.node.op.name for t in trail][-2:] == ["layer_norm", "cross_entropy"]
    assert all(tg.REGISTRY[t.node.op.name] is t.node.op for t in trail)


def test_unused_targets_cost_nothing():
    """grad() walks only where the targets are: the other branch's rule is never called."""
    called = []

    @tg.primitive(lambda g, y, x: called.append(1) or g, registry={})
    def watched(x):
        return x * 1

    a, b = leaf([1.0]), leaf([1.0])
    tg.grad(a * 2.0 + watched(b), [a])
    assert not called


# ------------------------------------------------------- being told when a gradient is final


def announced(y, xs, **options):
    """What ``ready`` heard, in order, and the gradients in the end."""
    heard = []
    found = tg.grad(y, xs, ready=lambda k, g: heard.append((k, g)), **options)
    assert sorted(k for k, _ in heard) == list(range(len(xs)))  # each exactly once
    for k, g in heard:
        if found[k] is None:
            assert g is None
        else:
            np.testing.assert_array_equal(value(g), found[k].numpy())
    return [k for k, _ in heard], found


def test_a_gradient_is_announced_when_it_is_final():
    """Last used, first announced; a leaf that is used again, only after its first use."""
    early, late, both = leaf([2.0]), leaf([3.0]), leaf([5.0])
    y = ((early * both) * late * both).sum()
    order, found = announced(y, [early, late, both])
    assert order == [1, 2, 0] or order == [1, 0, 2]  # early and both go into one call
    assert [d.item() for d in found] == [75.0, 50.0, 60.0]


def test_the_announced_gradient_waits_for_every_use():
    x, w = leaf([2.0, 3.0]), leaf([1.0, 1.0])
    y = x
    for _ in range(5):
        y = y * w  # shared by five calls
    order, found = announced((y * x).sum(), [w, x])
    assert order[0] != order[1]
    np.testing.assert_array_equal(found[0].numpy(), 5 * x.data**2)


def test_it_is_announced_before_the_rest_is_computed():
    x, w = leaf([2.0]), leaf([3.0])
    calls = []

    def slow(x):
        return x * 1.0, lambda g: (calls.append("slow"), g)[1:]

    slow = tg.fused(lambda x: x * 1.0, registry={})(slow)
    tg.grad((slow(x) * w).sum(), [x, w], ready=lambda k, g: calls.append(k))
    assert calls == [1, "slow", 0]


def test_inputs_that_are_not_used_are_announced_without_a_gradient():
    x, unused, away = leaf([2.0]), leaf([1.0]), leaf([4.0])
    unheard = x * away
    order, found = announced((x * 3.0).sum(), [unused, x, away], allow_unused=True)
    assert order == [0, 2, 1]
    assert found[0] is None
    assert found[2] is None
    assert unheard.shape == x.shape


def test_a_call_that_no_gradient_reaches_announces_its_inputs_too():
    """The second state of an LSTM, say, when only the first is used."""
    x, w = leaf([2.0, 1.0]), leaf([3.0, 1.0])

    def halves(a):
        y = a[:1] * 1.0, a[1:] * 1.0
        return y, lambda g: (np.concatenate([d if d is not None else [0.0] for d in g]),)

    halves = tg.fused(lambda a: (a[:1] * 1.0, a[1:] * 1.0), registry={})(halves)

    def blind(a):  # its result depends on nothing
        return a * 0.0, lambda g: (None,)

    blind = tg.fused(lambda a: a * 0.0, registry={})(blind)
    order, found = announced((halves(x)[0] + blind(w * 2.0)[:1]).sum(), [x, w], allow_unused=True)
    assert sorted(order) == [0, 1]
    assert found[1] is None
    np.testing.assert_array_equal(found[0].numpy(), [1.0, 0.0])


def test_an_input_that_is_given_twice_or_is_the_output():
    x = leaf([2.0])
    y = (x * x).sum()
    order, found = announced(y, [x, y, x])
    assert order == [1, 0, 2]
    assert [d.item() for d in found] == [4.0, 1.0, 4.0]


def test_announced_with_a_recorded_backward_pass():
    x = leaf([3.0])
    heard = []
    (d,) = tg.grad((x**3).sum(), [x], create_graph=True, ready=lambda k, g: heard.append(g))
    assert isinstance(heard[0], Tensor)
    assert heard[0].requires_grad
    assert grads(d.sum(), x)[0] == grads(heard[0].sum(), x)[0] == [18.0]


def test_leaves_inside_a_recomputed_stretch_are_announced_in_their_turn():
    tg.manual_seed(0)
    first, second, x = (leaf(rng.normal(size=(3, 3))) for _ in range(3))

    def closes_over(a):
        return tg.tanh(a @ second) @ second

    y = tg.checkpoint(closes_over, tg.checkpoint(lambda a: tg.exp(a @ first), x)).sum()
    order, found = announced(y, [x, first, second])
    assert order[0] == 2
    plain = closes_over(tg.exp(x @ first)).sum()
    for d, e in zip(found, tg.grad(plain, [x, first, second]), strict=True):
        np.testing.assert_array_equal(d.numpy(), e.numpy())


def test_being_told_keeps_nothing_alive():
    gc.collect()
    gc.disable()
    try:
        x, w = leaf([2.0, 3.0]), leaf([1.0, 4.0])
        middle = x * w
        trace = weakref.ref(middle)
        y = (tg.exp(middle) * w).sum()
        del middle
        tg.grad(y, [w, x], retain_graph=False, ready=lambda k, g: None)
        assert trace() is None
        node = weakref.ref(x), weakref.ref(w)
        del x, w, y
        assert [r() for r in node] == [None, None]
    finally:
        gc.enable()


def test_who_listens_may_raise():
    x = leaf([2.0])

    def ready(k, g):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        tg.grad((x * x).sum(), [x], ready=ready)


def test_backpropagate_takes_several_roots():
    x = leaf([2.0])
    y, z = x * x, x * 3.0
    found = backpropagate([(y, np.array([1.0])), (z, np.array([10.0]))], [x], False)
    assert found[x] == 34.0


def test_sum_to_is_what_undoes_a_broadcast():
    a = leaf(np.ones((3, 1)))
    b = leaf(np.ones((2, 1, 4)))
    da, db = grads((a * b).sum(), a, b)
    assert (da.shape, db.shape) == ((3, 1), (2, 1, 4))
    assert (da == 8).all()
    assert (db == 3).all()
    assert sum_to(np.ones((2, 3)), shape=()).shape == ()
    one = leaf(np.ones((1, 1)))
    assert grads((one * np.ones((2, 3))).sum(), one)[0].tolist() == [[6.0]]


# ------------------------------------------------------------------- kinks, ties and dead branches


def test_ties_share_the_gradient():
    x = leaf([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(grads(x.max(axis=1).sum(), x)[0], [[0, 0.5, 0.5], [1 / 3] * 3])
    np.testing.assert_allclose(grads(x.min(axis=1).sum(), x)[0], [[1, 0, 0], [1 / 3] * 3])
    np.testing.assert_allclose(grads(x.max(), x)[0], [[0, 0.5, 0.5], [0, 0, 0]])
    a, b = leaf([1.0, 2.0, 3.0]), leaf([2.0, 2.0, 2.0])
    np.testing.assert_array_equal(grads(tg.maximum(a, b).sum(), a, b), [[0, 0.5, 1], [1, 0.5, 0]])
    np.testing.assert_array_equal(grads(tg.minimum(a, b).sum(), a, b), [[1, 0.5, 0], [0, 0.5, 1]])
    np.testing.assert_array_equal(grads(tg.maximum(a, 2.0).sum(), a)[0], [0, 0.5, 1])


def test_kinks():
    x = leaf([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(grads(tg.relu(x).sum(), x)[0], [0, 0, 1])
    np.testing.assert_array_equal(grads(tg.abs(x).sum(), x)[0], [-1, 0, 1])


def test_powers_at_zero():
    x = leaf([0.0, 2.0])
    for n, want in ((0, [0, 0]), (1, [1, 1]), (2, [0, 4]), (3.0, [0, 12])):
        np.testing.assert_array_equal(grads((x**n).sum(), x)[0], want)
        np.testing.assert_array_equal(grads((x ** np.full(2, float(n))).sum(), x)[0], want)
    a, b = leaf([0.0, 0.0, 2.0]), leaf([0.0, 1.0, 0.0])
    da, db = grads((a**b).sum(), a, b)
    np.testing.assert_array_equal(da, [0, 1, 0])
    np.testing.assert_allclose(db, [0, 0, np.log(2)])
    # d²(a^b)/da db = a^(b-1) (1 + b log a), also where b = 0
    (da,) = tg.grad((a**b)[2:].sum(), [a], create_graph=True)
    np.testing.assert_allclose(grads(da.sum(), b)[0], [0, 0, 0.5])


def test_a_nan_in_the_branch_not_taken_stays_there():
    x = leaf([-1.0, 4.0])
    with np.errstate(invalid="ignore"):
        y = tg.where(x > 0, tg.sqrt(x), x * 0.5)
        (dx,) = grads(y.sum(), x)
    np.testing.assert_array_equal(y.numpy(), [-0.5, 2.0])
    assert dx[1] == 0.25  # sqrt's own derivative at -1 is nan, but where() sent it a plain zero
    x = leaf([1.0, 2.0])
    y = tg.masked_fill(x, np.array([True, False]), -np.inf)
    assert y.numpy().tolist() == [-np.inf, 2.0]
    np.testing.assert_array_equal(grads(y, x, grad_output=np.array([5.0, 7.0]))[0], [0, 7])


def test_sigmoid_and_tanh_of_large_numbers():
    """No overflow, hence no warning (which would be an error here)."""
    x = leaf([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32)
    want = [0, 1 / (1 + np.exp(100.0)), 0.5, 1, 1]  # 3.7e-44 is a number in float32 too
    np.testing.assert_allclose(tg.sigmoid(x).numpy(), want, rtol=1e-6, atol=2e-45)
    small = leaf([-20.0], np.float32)
    np.testing.assert_allclose(tg.log(tg.sigmoid(small)).numpy(), [-20.0], rtol=1e-6)
    for f in (tg.sigmoid, tg.tanh):
        assert np.isfinite(grads(f(x).sum(), x)[0]).all()


def test_empty_arrays():
    x = leaf(np.zeros((2, 0)))
    assert grads(x.sum(), x)[0].shape == (2, 0)
    np.testing.assert_array_equal(x.sum(axis=1).numpy(), [0, 0])
    with pytest.raises(ValueError, match=r"max: zero-size array .*\[x \(2, 0\) float64\]"):
        x.max(axis=1)
    w = leaf(np.ones((0, 3)))
    y = x @ w
    np.testing.assert_array_equal(y.numpy(), np.zeros((2, 3)))
    assert [d.shape for d in grads(y.sum(), x, w)] == [(2, 0), (0, 3)]
    deep = leaf(np.zeros((2, 3, 0)))
    assert [d.shape for d in grads((deep @ w).sum(), deep, w)] == [(2, 3, 0), (0, 3)]


# -------------------------------------------------------------------------------------- threads


def test_threads_go_backward_at_once():
    """Shared weights, a graph each: every thread gets its own gradients, and the right ones."""
    w = leaf(rng.standard_normal((8, 8)))
    xs = [rng.standard_normal((5, 8)) for _ in range(8)]

    def work(x):
        y = tg.tanh(tg.layer_norm(x @ w) @ w.T)
        return tg.grad((y * y).sum(), [w])[0].numpy()

    want, got = [work(x) for x in xs], {}

    def run(k):
        for _ in range(20):
            got.setdefault(k, []).append(work(xs[k]))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(xs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, expected in enumerate(want):
        assert len(got[k]) == 20
        for dw in got[k]:
            np.testing.assert_array_equal(dw, expected)


# --------------------------------------------------------------------------------------- devices


def test_devices_by_name(cupy):
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    y = x.to("cuda")
    assert (x.device, y.device) == ("cpu", "cuda:0")
    assert isinstance(y.data, cupy.ndarray)
    (y * y).sum().backward()
    assert x.grad.device == "cpu"
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))
    assert type(y.numpy()) is np.ndarray
    assert Tensor([1.0], device="cuda:0").device == "cuda:0"
    together = r"bring them together, as with \.to\('cuda:0'\)"
    for mixed in (lambda: y + np.ones((2, 3)), lambda: y @ x.T, lambda: tg.layer_norm(y, x[0])):
        with pytest.raises(
            tg.DeviceError, match=rf"^\w+: \w+ \(.*\) on cuda:0 and \w+ \(.*\) on cpu: {together}"
        ):
            mixed()
    with pytest.raises(
        tg.DeviceError, match=rf"^maximum: a \(2, 3\) on cpu and b \(2, 3\) on cuda:0: {together}"
    ):
        tg.maximum(x, y)


def test_without_cupy_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    monkeypatch.setattr(device_check, "cupy_packages", list)
    monkeypatch.setattr(device_check, "driver_cuda", lambda: 12090)
    with pytest.raises(tg.DeviceError, match=r"pip install 'tinygrad_mha\[cuda12\]'"):
        Tensor([1.0], device="cuda")
    with pytest.raises(tg.DeviceError, match="unknown device 'gpu': write 'cpu', 'cuda'"):
        Tensor([1.0]).to("gpu")


def test_getitem_is_an_op_like_any_other():
    np.testing.assert_array_equal(getitem(np.arange(3.0), key=1), 1.0)


# ------------------------------------------------------------------- what is done only once


def test_a_result_that_is_asked_for_twice_counts_twice():
    """One Tensor as two outputs: of an op with one result, and of one with several."""
    x, w = np.ones((1, 1, 1)), np.ones((4, 1))
    z = np.ones((1, 1))
    one = {"exp": tg.exp, "lstm": lambda x: tg.lstm(x, z, z, w, w)[1]}
    for f in one.values():
        v = np.ones(f(x).shape)
        _, once = tg.vjp(f, x, v)
        _, twice = tg.vjp(lambda x, f=f: (lambda y: (y, y))(f(x)), x, (v, v))
        np.testing.assert_allclose(twice.numpy(), 2 * once.numpy(), rtol=1e-15)
        leaf = Tensor(x, requires_grad=True)
        h, same = tg.checkpoint(lambda x, f=f: (lambda y: (y, y))(f(x)), leaf)
        (h * 2.0 + same).sum().backward()
        np.testing.assert_allclose(leaf.grad.numpy(), 3 * once.numpy(), rtol=1e-15)
    y = Tensor([2.0], requires_grad=True)
    e = y.exp()
    found = backpropagate([(e, np.float32([1])), (e, np.float32([1]))], [e, y], False)
    assert found[e].tolist() == [2]
    np.testing.assert_allclose(found[y], 2 * np.exp(np.float32([2])))


def test_every_op_computes_once(cupy):
    """Whatever it is given: what the short way cannot do, the long one need not do again."""
    calls = []

    def half(x):
        """y = x / 2        dx = g / 2"""
        calls.append(x.dtype)
        return x > 0 if kind == "to bool" else x * 0.5

    op = Op(half, rules=(lambda g, y, x: g / 2,), registry={})
    given = {
        "float": Tensor([1.0]), "scalar": Tensor(1.0), "integer": Tensor([1]),
        "to bool": Tensor([1.0]), "array": np.ones(2), "device": Tensor([1.0], device="cuda"),
    }  # fmt: skip
    for kind, x in given.items():
        calls.clear()
        op(x)
        assert len(calls) == 1, kind


def test_an_op_that_fails_fails_once():
    calls = []

    def bad(x):
        """y = x        dx = g"""
        calls.append(x)
        raise ValueError("no")

    op = Op(bad, rules=(lambda g, y, x: g,), registry={})
    with pytest.raises(ValueError, match=r"bad: no \[x \(1,\) float32\]"):
        op(Tensor([1.0]))
    assert len(calls) == 1
