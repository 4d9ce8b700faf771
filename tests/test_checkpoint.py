"""checkpoint: the same numbers to the last bit, less memory, gradients for what fn closes over."""

import tracemalloc

import numpy as np
import pytest
from words import leaf

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.tensor import history


@pytest.fixture
def rng():
    tg.manual_seed(0)
    return np.random.default_rng(0)


def bits(*tensors):
    return [None if t is None else t.data.tobytes() for t in tensors]


def both_ways(fn, *inputs, over=()):
    """Value and gradients, plain and recomputed, for a random cotangent."""
    answers = []
    for run in (fn, lambda *xs: tg.checkpoint(fn, *xs)):
        tg.manual_seed(7)
        y = run(*inputs)
        g = np.random.default_rng(1).standard_normal(y.shape)
        targets = [x for x in (*inputs, *over) if isinstance(x, Tensor) and x.requires_grad]
        answers.append(bits(y, *tg.grad(y, targets, g, allow_unused=True)))
    return answers


def test_the_same_bits(rng):
    x, w = leaf(rng.standard_normal((5, 4))), leaf(rng.standard_normal((4, 4)))
    plain, again = both_ways(lambda x: tg.layer_norm(tg.tanh(x @ w)) * x, x, over=[w])
    assert plain == again


def test_the_same_dropout(rng):
    x = leaf(rng.standard_normal((50, 4)))
    plain, again = both_ways(lambda x: tg.dropout(tg.dropout(x, 0.5), 0.3) * x, x)
    assert plain == again
    tg.manual_seed(0)
    first = tg.checkpoint(lambda x: tg.dropout(x, 0.5), x)
    after = tg.dropout(x, 0.5)
    tg.manual_seed(0)
    assert bits(tg.dropout(x, 0.5), tg.dropout(x, 0.5)) == bits(first, after)
    first.sum().backward()  # the replay leaves the sequence of masks where it was
    third = tg.dropout(x, 0.5)
    tg.manual_seed(0)
    assert bits([tg.dropout(x, 0.5) for _ in range(3)][2]) == bits(third)


def test_a_module_inside(rng):
    lstm, norm = nn.LSTM(3, 4), nn.LayerNorm(4)
    x = leaf(rng.standard_normal((2, 5, 3)))
    over = [*lstm.parameters(), *norm.parameters()]
    plain, again = both_ways(lambda x: norm(lstm(x, lengths=[5, 3])[0]), x, over=over)
    assert plain == again
    assert all(d is not None for d in again)


def test_what_fn_closes_over_may_be_computed_itself(rng):
    """A Tensor computed before the call counts as a leaf in it: nothing is counted twice."""
    w, x = leaf(rng.standard_normal(3)), leaf(rng.standard_normal(3))
    u = tg.exp(w)
    plain, again = both_ways(lambda x: x * u * tg.sin(w), x, over=[w, u])
    assert plain == again
    assert tg.gradcheck(lambda w, x: tg.checkpoint(lambda x: x * tg.exp(w) * w, x), [w, x], order=2)


def test_the_certificate_at_orders_1_and_2(rng):
    x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
    assert tg.gradcheck(
        lambda x, w: tg.checkpoint(lambda a, b: tg.tanh(a @ b) * a, x, w), [x, w], order=2
    )
    assert tg.gradcheck(
        lambda x: tg.checkpoint(lambda a, b: a * tg.exp(b), x, x), [x], order=2
    )  # one Tensor in both places


def test_one_inside_another(rng):
    x = leaf(rng.standard_normal(4))

    def inner(x):
        return tg.checkpoint(lambda x: tg.sin(x) * x, x) * 2.0

    plain, again = both_ways(inner, x)
    assert plain == again
    assert tg.gradcheck(lambda x: tg.checkpoint(inner, x), [x], order=2)


def test_several_outputs_of_which_some_are_used(rng):
    x = leaf(rng.standard_normal(4))
    a, b, c = tg.checkpoint(lambda x: (tg.sin(x), tg.cos(x), x.detach() * 2.0), x)
    assert not c.requires_grad
    g = rng.standard_normal(4)
    np.testing.assert_array_equal(tg.grad(b, [x], g)[0].data, tg.grad(tg.cos(x), [x], g)[0].data)
    (both,) = tg.grad(a * b, [x], g)
    np.testing.assert_allclose(both.data, g * np.cos(2 * x.data))


def test_a_frozen_input_and_other_arguments(rng):
    x, frozen = leaf(rng.standard_normal(3)), Tensor(rng.standard_normal(3))
    y = tg.checkpoint(lambda x, f, n, a: (x * f * a) ** n, x, frozen, 2, np.arange(3.0))
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, 2 * x.data * (frozen.data * np.arange(3)) ** 2)
    assert not tg.checkpoint(lambda x: x * 2.0, frozen).requires_grad


def test_inside_no_grad_it_is_a_plain_call(rng):
    x = leaf(rng.standard_normal(3))
    with tg.no_grad():
        assert not tg.checkpoint(tg.exp, x).requires_grad
    with pytest.raises(TypeError, match=r"checkpoint: fn returned a ndarray, and should return"):
        tg.checkpoint(lambda x: x.numpy(), x)


def test_a_second_backward_and_a_changed_input(rng):
    x = leaf(rng.standard_normal(3))
    y = tg.checkpoint(lambda x: tg.exp(x) * x, x)
    want = tg.grad((tg.exp(x) * x).sum(), [x])
    x.data = x.data + 1  # the values of then are what counts
    for _ in range(2):
        assert bits(*tg.grad(y.sum(), [x])) == bits(*want)
    with pytest.raises(RuntimeError, match=r"checkpoint: the \.data of number 0"):
        tg.grad(y.sum(), [x], create_graph=True)


def test_only_the_inputs_are_kept(rng):
    """Nothing of the insides is reachable, and the peak of a deep chain shows it."""
    x = leaf(rng.standard_normal(50_000))

    def deep(x):
        for _ in range(20):
            x = tg.tanh(x * 1.1)
        return x

    y = tg.checkpoint(deep, x)
    assert [t.node.op.name for t in history([y])] == ["checkpoint"]
    peaks = []
    for run in (deep, lambda x: tg.checkpoint(deep, x)):
        tracemalloc.start()
        y = x
        for _ in range(4):
            y = run(y)
        y.sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.4 * peaks[0]


def test_a_classifier_trained_with_checkpoints(rng):
    ids = rng.integers(1, 30, (4, 6))

    def gradients(run):
        tg.manual_seed(3)
        model = TextClassifier(30, 16, 3, h=4)
        attend = model.multihead_attn.forward
        model.multihead_attn.forward = lambda x, mask=None: run(lambda x: attend(x, mask=mask), x)
        loss = tg.cross_entropy(model(ids), np.array([0, 1, 2, 0]))
        return bits(loss, *tg.grad(loss, model.parameters()))

    assert gradients(lambda fn, x: fn(x)) == gradients(tg.checkpoint)


def test_under_detect_anomaly(rng):
    x = leaf(rng.standard_normal(3))
    with tg.detect_anomaly():
        y = tg.checkpoint(lambda x: tg.exp(x) * x, x)
        y.sum().backward()
    assert bits(x.grad) == bits(*tg.grad((tg.exp(x) * x).sum(), [x]))
