"""detect_anomaly: who made the first NaN, and who wrote into what backward still needs."""

import gc
import inspect
import re
import threading

import numpy as np
import pytest
from cases import CASES
from hypothesis import given, settings

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, AnomalyError, Tensor
from tinygrad_mha.anomaly import locks
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.tensor import wanted


@pytest.fixture(autouse=True)
def nothing_stays_locked():
    with np.errstate(all="ignore"):
        yield
    gc.collect()
    assert locks._held == {}


def leaf(*numbers):
    return Tensor(np.array(numbers), requires_grad=True)


def here(offset=0):
    """``this file, line N``: the line that calls, moved by some lines."""
    return f"test_anomaly.py, line {inspect.currentframe().f_back.f_lineno + offset}"


def caught(f, error=AnomalyError):
    with pytest.raises(error) as e, tg.detect_anomaly():
        f()
    return str(e.value)


# ------------------------------------------------------------------------ a value is not a number


def test_the_birth_certificate_of_a_nan_loss():
    where = []

    def run():
        x = leaf([3.0, 2.0], [-1.0, -4.0]).astype(np.float32)
        where.append(here(1))
        y = tg.log(x) + 1.0
        tg.tanh(y).sum().backward()

    lines = caught(run).split("\n")
    assert lines[0] == "the output () has NaN at index ():"
    assert lines[1] == "log gave NaN at index (1, 0) (and 1 more), from operands without any NaN"
    assert where[0] in lines[2]
    assert lines[2].endswith("in run: y = tg.log(x) + 1.0")
    assert lines[3:] == ["  x (2, 2) float32, from -4 to 3"]


def test_a_nan_that_comes_from_an_infinity_tells_of_both():
    def run():
        x = leaf(1.0, 800.0)
        e = x.exp()
        (e - e).sum().backward()

    text = caught(run)
    nan, inf = text.split("where an operand was infinite before:")
    assert "sub gave NaN at index (1,), from operands without any NaN" in nan
    assert "(e - e).sum().backward()" in nan
    assert "a (2,) float64, from 2.71828 to 2.71828, 1 infinite" in nan
    assert "exp gave inf at index (1,), from operands without any infinity" in inf
    assert "e = x.exp()" in inf
    assert "x (2,) float64, from 1 to 800" in inf


def test_an_infinite_loss():
    def run():
        (1.0 / leaf(0.0, 2.0)).sum().backward()

    text = caught(run)
    assert "the output () has inf at index ()" in text
    assert "div gave inf at index (0,)" in text
    assert "a = 1.0\n  b (2,) float64, from 0 to 2" in text


def test_a_nan_that_came_with_the_data():
    def run(x, y=2.0):
        (x.exp() * y).sum().backward()

    assert "exp was given NaN at index (1,) as x" in caught(lambda: run(leaf(1.0, np.nan)))
    assert "mul was given NaN at index () as b" in caught(lambda: run(leaf(1.0), np.nan))
    constant = np.array([1.0, np.nan])
    assert "mul was given NaN at index (1,) as b" in caught(lambda: run(leaf(1.0, 2.0), constant))
    assert "it came with the data: a Tensor (1,)" in caught(lambda: leaf(np.nan).backward())


def test_nan_where_no_gradient_flows_is_told_at_once():
    def evaluate():
        with tg.no_grad():
            tg.sqrt(leaf(4.0, -1.0))

    assert "sqrt gave NaN at index (1,)" in caught(evaluate)
    assert "sqrt gave NaN" in caught(lambda: tg.sqrt(Tensor([-1.0])))


def test_infinities_on_the_way_are_no_anomaly():
    with tg.detect_anomaly():
        x = leaf(0.0, 1.0, 2.0)
        tg.where(x.data > 0, x.log(), 0.0).sum().backward()
        np.testing.assert_array_equal(x.grad.data, [0, 1, 0.5])
        y = tg.softmax(x.masked_fill([True, False, False], -np.inf))
        (y * [1.0, 2.0, 3.0]).sum().backward()
        tg.scaled_dot_product_attention(*[leaf([1.0], [2.0])] * 3, is_causal=True).sum().backward()


def test_each_of_several_outputs_is_looked_at():
    def run():
        x, w = leaf([[1.0]]), leaf([1.0], [1.0], [1.0], [1.0])
        _, h, _ = tg.lstm(x, leaf([np.nan]), leaf([1.0]), w, w)
        h.sum().backward()

    assert "lstm was given NaN at index (0, 0) as h0" in caught(run)


# --------------------------------------------------------------------- a gradient is not a number


def test_the_birth_certificate_of_a_gradient():
    where = []

    def run():
        x = leaf(0.0, 3.0)
        where.append(here(1))
        y = x**-2.0 * 0.0 + 1.0
        z = tg.where(np.array([False, True]), y, 1.0) + (x + 1.0) ** 0.5
        (z * 2.0 + tg.log(x + 1e-320)).sum().backward()

    text = caught(run)
    assert "log has a backward pass that gave inf at index (0,) as the gradient of x" in text
    assert "from a finite gradient of its output" in text
    assert f"{where[0].rsplit(' ', 1)[0]} {int(where[0].rsplit(' ', 1)[1]) + 2}" in text
    assert "x (2,) float64, from 9.99989e-321 to 3" in text


def test_a_nan_gradient_of_an_own_op():
    @tg.primitive(lambda g, y, x: g * np.nan, registry={})
    def broken(x):
        return x * 1

    text = caught(lambda: (broken(leaf(1.0, 2.0)) * 3.0).sum().backward())
    assert "broken has a backward pass that gave NaN at index (0,) (and 1 more)" in text


def test_jvp_at_an_infinite_slope_in_another_direction():
    with tg.detect_anomaly():
        _, dy = tg.jvp(tg.log, np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    np.testing.assert_array_equal(dy.data, [0, 1])


def test_a_sum_of_gradients_that_overflows():
    x = Tensor([1e-30], requires_grad=True)
    text = caught(lambda: (x * 3e38 + x * 3e38).sum().backward())
    assert "the gradient of a Tensor (1,) has inf at index (0,), as the sum" in text
    text = caught(lambda: tg.grad((x * 3e38 + x * 3e38).sum(), [x]))
    assert "the gradient of a Tensor (1,) has inf at index (0,), as the sum" in text
    y = x * 1.0
    text = caught(lambda: (y * 3e38 + y * 3e38).sum().backward())
    assert "the gradient of the output of mul has inf at index (0,), as the sum" in text
    assert "outside detect_anomaly(), so the line is not known" in text


def test_a_gradient_that_was_infinite_from_the_start():
    y = leaf(1.0, 2.0) * 2.0
    assert "given a gradient with inf at index (1,)" in caught(lambda: y.backward([1.0, np.inf]))


def test_a_recorded_backward_pass_is_watched_too():
    def run():
        x = leaf(1e-200)
        (dx,) = tg.grad(x.log(), [x], [1.0], create_graph=True)  # 1 / x
        (ddx,) = tg.grad(dx, [x], [1.0], create_graph=True)  # -1 / x² overflows
        return ddx

    text = caught(run)
    assert re.search(r"div has a backward pass that gave -inf at index \(0,\) as the gradient of b",
                     text)  # fmt: skip


# ----------------------------------------------------------------------- an array is overwritten


def test_a_write_fails_at_its_own_line():
    x, w = leaf(1.0, 2.0), np.array([3.0, 4.0])
    with tg.detect_anomaly():
        y = x * w
        for a in (x.data, w, y.data):
            with pytest.raises(ValueError, match="read-only"):
                a[0] = 9.0
        y.sum().backward()
    for a in (x.data, w, y.data):
        a[0] = 9.0  # the graph is gone


def test_the_lock_ends_with_the_graph():
    x = leaf(1.0, 2.0)
    with tg.detect_anomaly():
        y = x * x
        z = x * 3.0
        del y
        assert not x.data.flags.writeable
        del z
        assert x.data.flags.writeable
        y = (x * x).sum()
        y.backward(retain_graph=True)
        assert not x.data.flags.writeable
        y.backward()
        assert x.data.flags.writeable


def test_views_of_each_other_are_unlocked_in_any_order():
    a = np.ones(4)
    x, z = Tensor(a, requires_grad=True), Tensor(a[:2], requires_grad=True)
    with tg.detect_anomaly():
        one, two = (x * 2.0).sum(), (z * 2.0).sum()
        half = x.reshape(2, 2)
        three = (half * half).sum()
        two.backward()
        three.backward()
        one.backward()
    assert a.flags.writeable
    assert z.data.flags.writeable
    assert half.data.flags.writeable


def test_the_garbage_collector_may_come_at_any_moment():
    """A graph in a cycle that is freed while another call is being recorded: no deadlock."""

    class Trainer:
        pass

    def arrays():
        gc.collect()
        yield kept

    kept = np.ones(3)
    with tg.detect_anomaly():
        trainer = Trainer()
        trainer.me, trainer.loss = trainer, (leaf(1.0) * 2.0).sum()
        del trainer
        locks.add(arrays())
    assert not kept.flags.writeable
    locks.remove([kept])
    assert kept.flags.writeable


def test_no_false_alarms():
    with tg.detect_anomaly():
        # a recorded pass replays a reference, whose output is no loss
        x = leaf(-np.inf, -np.inf)
        tg.exp(tg.logsumexp(x)).backward(create_graph=True)
        # a gradient that nobody wants
        x, w = Tensor(np.float32([[1e-10, -1e-10]])), leaf(1e30, 1e30).astype(np.float32)
        tg.rms_norm(x, w, eps=0.0).sum().backward()
        # a NaN that somebody asked for
        tg.masked_fill(Tensor([1.0, 2.0]), [True, False], np.nan)
        tg.pad(Tensor([1.0]), 1, np.nan)


def test_an_array_that_was_read_only_stays_so():
    x = leaf(1.0, 2.0)
    x.data.flags.writeable = False
    with tg.detect_anomaly():
        (x * x).sum().backward()
    assert not x.data.flags.writeable


def overwritten(make):
    """What is said when the memory behind x is changed between the passes of ``make(x)``."""
    base = np.array([1.0, 2.0, 3.0])
    where = []

    def run():
        x = Tensor(base[:2], requires_grad=True)
        y = make(x)
        where.append(y.node.record.line)
        base[0] = 9.0
        y.sum().backward()

    return caught(run)


def test_a_write_through_another_view_is_noticed():
    text = overwritten(lambda x: x * 2.0 * x)
    assert "mul: input b (2,) was overwritten between the forward pass and the backward" in text
    assert "text = overwritten(lambda x: x * 2.0 * x)" in text
    assert "softmax: input x (2,) was overwritten" in overwritten(tg.softmax)
    ids = np.array([0, 1, 1])
    view = ids[:]

    def run():
        y = leaf(1.0, 2.0)[ids]
        view[0] = 1
        y.sum().backward()

    assert "getitem: argument key (3,) was overwritten" in caught(run)


def test_what_a_pullback_has_saved_is_watched():
    buffers = []

    def reference(x):
        return x * x

    @tg.fused(reference=reference, registry={})
    def square(x):
        twice = x * 2
        buffers.append(twice[:])
        return x * x, lambda g: (g * twice,)

    def run():
        y = square(leaf(1.0, 2.0))
        buffers[0][0] = 7.0
        y.sum().backward()

    with tg.detect_anomaly():
        y = square(leaf(1.0, 2.0))
        with pytest.raises(ValueError, match="read-only"):
            y.node.pullback.__closure__[0].cell_contents[0] = 1.0
    buffers.clear()
    assert "square: the saved array twice (2,) was overwritten" in caught(run)


def test_optimizers_and_load_state_dict_mean_to_write():
    layer = tg.nn.Linear(2, 1)
    sgd = tg.optim.SGD(layer.parameters(), lr=0.1)
    with tg.detect_anomaly():
        y = layer(np.ones((1, 2), np.float32)).sum()
        layer.weight.grad = tg.grad(y, [layer.weight])[0]  # grad() keeps the graph
        before = layer.weight.numpy().copy()
        sgd.step()
        assert (layer.weight.numpy() != before).all()
        layer.load_state_dict(layer.state_dict())
        assert not layer.weight.data.flags.writeable
    assert "was overwritten" in caught(lambda: tg.grad(y, [layer.weight]))


def test_the_same_numbers_as_without():
    def train():
        tg.manual_seed(0)
        model = TextClassifier(20, 8, 2, h=2)
        adam = tg.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            loss = tg.cross_entropy(model(np.array([[4, 5, 0], [6, 7, 8]])), [0, 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
        return model.state_dict()

    plain = train()
    with tg.detect_anomaly():
        watched = train()
    for name, a in plain.items():
        np.testing.assert_array_equal(a, watched[name])


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_no_false_alarm_and_nothing_is_written_into(name):
    """Saved arrays are read-only here: an op that writes into what it saved would stop."""
    op = REGISTRY[name]

    @settings(max_examples=max(5, settings().max_examples // 3))
    @given(CASES[name])
    def check(case):
        args, params = case
        xs = [
            Tensor(a, requires_grad=isinstance(a, np.ndarray) and a.dtype.kind == "f")
            if isinstance(a, np.ndarray) and a.dtype.kind == "f"
            else a
            for a in args
        ]
        with tg.detect_anomaly():
            y = op(*xs, **params)
            for z in y if isinstance(y, tuple) else (y,):
                if wanted(z) and np.isfinite(z.data).all():
                    xs_ = [x for x in xs if wanted(x)]
                    g = np.random.default_rng(0).standard_normal(z.shape)
                    tg.grad(z, xs_, g, allow_unused=True)
                    tg.grad(z, xs_, g, create_graph=True, allow_unused=True)

    check()


# ------------------------------------------------------------------------------ where it is active


def test_as_a_decorator_and_for_one_thread():
    @tg.detect_anomaly()
    def run():
        leaf(-1.0).log().backward()

    with pytest.raises(AnomalyError):
        run()
    leaf(-1.0).log().backward()  # not any more

    with tg.detect_anomaly():
        thread = threading.Thread(target=lambda: leaf(np.nan).exp().backward())
        thread.start()
        thread.join()


def test_workers_inherit_it():
    def run(x):
        leaf(x).exp().backward()

    with Workers(2) as workers:
        with pytest.raises(AnomalyError), tg.detect_anomaly():
            workers.map(run, [1.0, np.nan])
        workers.map(run, [1.0, np.nan])
        with tg.no_grad():
            assert workers.map(lambda x: leaf(x).exp().requires_grad, [1.0, 2.0]) == [False] * 2


def test_the_line_of_a_model_and_that_of_its_caller():
    model = TextClassifier(20, 8, 2, h=2)
    model.fc.weight.data[0, 0] = np.nan

    def run():
        loss = tg.cross_entropy(model(np.array([[4, 5]])), [0])
        loss.backward()

    text = caught(run)
    assert "was given NaN at index (0, 0) as" in text
    assert re.search(r"text_classifier.py, line \d+, in forward: ", text)
    assert "in run: loss = tg.cross_entropy(model(" in text


def test_on_the_device(cupy):
    def run():
        x = leaf(2.0, -1.0).to("cuda")
        x.log().sum().backward()

    text = caught(run)
    assert "log gave NaN at index (1,)" in text
    assert "x (2,) float64, from -1 to 2" in text

    def overwrite():
        x = leaf(2.0, -1.0).to("cuda")
        y = (x * x).sum()
        x.data[0] = 3.0
        y.backward()

    assert "mul: input a (2,) was overwritten" in caught(overwrite)
