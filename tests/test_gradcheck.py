"""The certificate must fail where a gradient is wrong, and say what is the matter."""

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import GradientError, Tensor, gradcheck
from tinygrad_mha.tensor import value

rng = np.random.default_rng(0)
x = rng.standard_normal(3)


def wrong(*rules, name="wrong"):
    """An op x -> exp(x), or (a, b) -> a b, with these rules."""

    def one(x):
        return np.exp(x)

    def two(a, b):
        return a * b

    forward = one if len(rules) == 1 else two
    forward.__name__ = name
    return tg.primitive(*rules, registry={})(forward)


def failure(fn, inputs, **options):
    with pytest.raises(GradientError) as caught:
        gradcheck(fn, inputs, **options)
    return str(caught.value)


def test_right_gradients_pass():
    assert gradcheck(tg.exp, [x]) is True
    assert gradcheck(tg.exp, [Tensor(x, requires_grad=True)], order=4)
    assert gradcheck(lambda a, b: a @ b, [rng.standard_normal((2, 3)), x], order=2)
    assert gradcheck(lambda a: (a * 2.0, a.sum()), [x], order=2)
    assert gradcheck(lambda a: a * 0.0 + 1.0, [x], order=2)
    assert gradcheck(lambda a, b: a * 1.0, [x, x], order=2)  # b plays no part
    assert gradcheck(lambda a: tg.Tensor(np.ones(3)), [x])  # nor does anything else
    assert gradcheck(tg.sum, [np.zeros((2, 0))], order=2)
    assert gradcheck(tg.embedding, [np.array([0, 1, 1]), rng.standard_normal((2, 3))], order=2)


def test_a_failure_names_the_op_the_input_the_place_and_the_values():
    op = wrong(lambda g, y, a, b: g * b, lambda g, y, a, b: g * (a + (np.arange(3) == 1)))
    message = failure(op, [np.array([[1.0, 2.0, 3.0]]), np.ones((1, 3))], seed=7)
    assert message.startswith("wrong: wrong gradient for input 1 (b)\n  at index (0, 1): backward ")
    g = np.random.default_rng([7, 0]).standard_normal((1, 3))[0, 1]
    assert f"backward says {3 * g:.6g}, differences say {2 * g:.6g}" in message
    assert message.endswith("reproduce with gradcheck(wrong, inputs, order=1, seed=7)")


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (lambda g, y, x: g * y * 2, "a factor of 2: counted twice"),
        (lambda g, y, x: g * y * 0.5, "a factor of 1/2: one of two contributions is lost"),
        (lambda g, y, x: -g * y, "likely cause: the sign"),
        (lambda g, y, x: g * y * 3, "backward is 3 times too large"),
        (lambda g, y, x: g * 0.0, "no gradient arrives"),
        (lambda g, y, x: g * np.inf, "backward computes inf or nan"),
    ],
)
def test_likely_causes(rule, cause):
    assert cause in failure(wrong(rule), [x])


def test_the_cause_is_a_broadcast():
    op = wrong(lambda g, y, a, b: g * b, lambda g, y, a, b: (g * a)[0])
    assert "its gradient is a *sum* over the axes" in failure(op, [rng.standard_normal((2, 3)), x])
    op = wrong(lambda g, y, x: g[0])
    message = failure(op, [x])
    assert "input of shape (3,) came back with shape ()" in message


def test_the_cause_is_a_kink():
    message = failure(tg.abs, [np.array([2.0, 1e-7])])
    assert "at index (1,)" in message
    assert "likely cause: a kink" in message


def test_a_kink_that_only_several_elements_reach():
    """No step of eps along one axis crosses it; a random direction does."""
    message = failure(lambda t: tg.relu(t.sum() - 2e-6), [np.zeros(20)])
    assert "each element alone agrees, all together they do not" in message


def test_the_cause_is_the_function():
    with np.errstate(invalid="ignore"):
        assert "the function itself is nan" in failure(tg.log, [np.array([1.0, -1.0])])


def test_a_gradient_cut_off_inside():
    message = failure(lambda t: tg.exp(Tensor(t.data)) * t.sum() * 0.0 + tg.exp(t.detach()), [x])
    assert "<lambda> that ends in add: wrong gradient for input 0 (t)" in message
    assert "no gradient arrives" in message


def test_only_the_second_order_is_wrong():
    op = wrong(lambda g, y, x: g * value(y))
    assert gradcheck(op, [x])
    message = failure(op, [x], order=2)
    assert "wrong gradient of the gradient for input 0 (x)" in message
    assert "order=2" in message


def test_a_reference_that_is_another_function():
    def reference(x):
        return x * x

    @tg.fused(reference=reference, registry={})
    def cube(x):
        return x**3, lambda g: (g * 3 * x * x,)

    message = failure(cube, [x])
    assert "with create_graph=True" in message
    assert "the fused op and its reference are not the same function" in message


def fused_square(pullback):
    def reference(x):
        return x * x

    @tg.fused(reference=reference, registry={})
    def square(x):
        kept = 2 * x
        return x * x, lambda g: pullback(g, x, kept)

    return square


def test_writing_where_one_must_not():
    def into_g(g, x, kept):
        g *= kept
        return (g,)

    def into_x(g, x, kept):
        x *= 2
        return (g * x,)

    def into_the_buffer(g, x, kept):
        kept *= g
        return (kept * 1,)

    def handed_out(g, x, kept):
        return ((g + 1 - 1) * kept,)

    assert "incoming gradient of output 0" in failure(fused_square(into_g), [x.copy()])
    assert "this input was overwritten" in failure(fused_square(into_x), [x.copy()])
    assert "a second backward pass gives other bits" in failure(
        fused_square(into_the_buffer), [x.copy()]
    )
    assert gradcheck(fused_square(handed_out), [x.copy()])


def test_a_backward_pass_that_stops():
    op = wrong(lambda g, y, x: g * np.exp(x))  # fine with arrays, not with Tensors
    message = failure(op, [x])
    assert "the backward pass stopped" in message


def test_nothing_to_check_is_an_error():
    for inputs in ([], [2.0], [np.array([1, 2])], [[x, x]]):
        with pytest.raises(TypeError, match="there is nothing to check: no input is an array"):
            gradcheck(lambda t=0.0: Tensor(np.ones(2)) * 1.0, inputs)
    with pytest.raises(TypeError, match="<lambda> gives no floating-point result"):
        gradcheck(lambda t: t.astype(np.int64), [x])


def test_a_single_array_and_no_grad():
    assert gradcheck(tg.exp, x)
    with tg.no_grad():
        assert gradcheck(tg.tanh, Tensor(x), order=2)


def test_a_failure_is_reproduced_with_its_own_options():
    op = wrong(lambda g, y, x: g * y * 2)
    text = failure(op, [x], eps=1e-5, rtol=1e-4)
    assert text.endswith("gradcheck(wrong, inputs, order=1, eps=1e-05, rtol=0.0001, seed=0)")


def test_what_cannot_be_checked():
    with pytest.raises(TypeError, match=r"input 1 is float32; .*\.astype\(np\.float64\)"):
        gradcheck(tg.add, [x, x.astype(np.float32)])
    with pytest.raises(TypeError, match="<lambda> should return Tensors, not ndarray"):
        gradcheck(lambda t: t.data, [x])
    with pytest.raises(ValueError, match="order 0 is not 1, 2"):
        gradcheck(tg.exp, [x], order=0)
    message = failure(lambda t: tg.dropout(t, 0.5), [x.repeat(20)])
    assert "called twice with the same inputs it gives different values" in message


def test_the_callers_tensors_stay_as_they_were():
    t = Tensor(x.copy(), requires_grad=True)
    gradcheck(tg.tanh, [t], order=2)
    assert t.grad is None
    np.testing.assert_array_equal(t.data, x)


def test_on_the_device(cupy):
    a, b = cupy.asarray(rng.standard_normal((2, 3))), cupy.asarray(x)
    assert gradcheck(tg.mul, [a, b], order=2)

    @tg.primitive(lambda g, y, x: g * x, registry={})
    def square(x):
        return x * x

    assert "a factor of 1/2" in failure(square, [Tensor(x).to("cuda")])
