"""The formula of "Attention Is All You Need", head by head, and what masks and weights promise."""

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import Tensor
from tinygrad_mha.models import MultiHeadAttention


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded(float64):
    tg.manual_seed(0)


def by_hand(layer, q, k, v, mask=None):
    """The definition with loops over texts and heads, in plain NumPy."""
    w = layer.state_dict()

    def project(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    out, weights = np.zeros_like(q), np.zeros((len(q), layer.h, q.shape[1], k.shape[1]))
    for b in range(len(q)):
        heads = []
        parts = (np.split(project(x[b], n), layer.h, axis=-1)
                 for x, n in ((q, "w_q"), (k, "w_k"), (v, "w_v")))  # fmt: skip
        for head, (qh, kh, vh) in enumerate(zip(*parts, strict=True)):
            scores = qh @ kh.T / np.sqrt(qh.shape[-1])
            if mask is not None:
                scores = np.where(np.broadcast_to(mask, weights.shape)[b, head], scores, -np.inf)
            e = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights[b, head] = e / e.sum(axis=-1, keepdims=True)
            heads.append(weights[b, head] @ vh)
        y = q[b] + project(np.concatenate(heads, axis=-1), "fc_out")
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        out[b] = y * w["layer_norm.weight"] + w["layer_norm.bias"]
    return out, weights


@pytest.mark.parametrize(("h", "d_k", "d_v"), [(1, 6, 6), (2, 3, 3), (3, 2, 5)])
def test_self_attention_is_the_formula(rng, h, d_k, d_v):
    layer = MultiHeadAttention(h, 6, d_k, d_v).eval()
    x = rng.standard_normal((2, 4, 6))
    y, weights = layer(Tensor(x), need_weights=True)
    expected, expected_weights = by_hand(layer, x, x, x)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weights.numpy(), expected_weights, rtol=1e-12, atol=1e-12)


def test_cross_attention_is_the_formula(rng):
    layer = MultiHeadAttention(2, 6, 3, 3).eval()
    q, k, v = (rng.standard_normal((2, n, 6)) for n in (3, 5, 5))
    y, weights = layer(Tensor(q), Tensor(k), Tensor(v), need_weights=True)
    expected, expected_weights = by_hand(layer, q, k, v)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weights.numpy(), expected_weights, rtol=1e-12, atol=1e-12)
    same = layer(Tensor(q), Tensor(k)).numpy()
    np.testing.assert_allclose(same, by_hand(layer, q, k, k)[0], rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 4), (2, 1, 1, 4), (2, 2, 4, 4)])
def test_masks_broadcast_and_true_means_may_attend(rng, shape):
    layer = MultiHeadAttention(2, 6, 3, 3).eval()
    x = rng.standard_normal((2, 4, 6))
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    y, weights = layer(Tensor(x), mask=mask, need_weights=True)
    expected, expected_weights = by_hand(layer, x, x, x, mask)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weights.numpy(), expected_weights, rtol=1e-12, atol=1e-12)
    assert (weights.numpy()[~np.broadcast_to(mask, weights.shape)] == 0).all()


def test_no_texts_no_steps_and_no_batch(rng):
    layer = MultiHeadAttention(2, 6, 3, 5)
    for shape in ((0, 4, 6), (2, 0, 6)):
        y, weights = layer(Tensor(np.zeros(shape)), need_weights=True)
        assert y.shape == shape
        assert weights.shape == (shape[0], 2, shape[1], shape[1])
        y.sum().backward()
    with pytest.raises(ValueError, match=r"query \(4, 6\) should be \(batch, steps, d_model\)"):
        layer(Tensor(np.zeros((4, 6))))


def test_a_text_that_may_attend_nothing_poisons_nothing(rng):
    """0 · NaN would reach the weights that all texts share."""
    layer = MultiHeadAttention(2, 6, 3, 3).eval()
    x = rng.standard_normal((2, 4, 6))
    v = rng.standard_normal((2, 4, 6))
    mask = np.array([True, False])[:, None, None, None]

    def gradients(x, mask, v):
        layer.zero_grad()
        (layer(Tensor(x), mask=mask) * v).sum().backward()
        return {name: p.grad.numpy() for name, p in layer.named_parameters()}

    both, first = gradients(x, mask, v), gradients(x[:1], None, v[:1])
    for name in ("w_q.weight", "w_k.weight", "w_v.weight", "w_v.bias", "fc_out.weight"):
        np.testing.assert_allclose(both[name], first[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_gradients_of_the_whole_layer(rng):
    layer = MultiHeadAttention(2, 4, 2, 3).eval()
    mask = np.tril(np.ones((3, 3), bool))
    tg.gradcheck(lambda q, k, v: layer(q, k, v, mask=mask),
                 [rng.standard_normal((2, 3, 4)) for _ in range(3)])  # fmt: skip
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = Tensor(rng.standard_normal((2, 3, 4)))

    def of_parameters(*values):
        kept = [p.data for p in parameters]
        try:
            return with_parameters(layer, names, values, lambda: layer(x, mask=mask))
        finally:
            for p, data in zip(parameters, kept, strict=True):
                p.data = data

    tg.gradcheck(of_parameters, [p.numpy().copy() for p in parameters])


def with_parameters(module, names, values, run):
    """Run with other Tensors in the places of the parameters, then put the parameters back."""
    before = []
    for name, tensor in zip(names, values, strict=True):
        *path, last = name.split(".")
        owner = module
        for part in path:
            owner = getattr(owner, part)
        before.append((owner, last, getattr(owner, last)))
        setattr(owner, last, tensor)
    try:
        return run()
    finally:
        for owner, last, parameter in before:
            setattr(owner, last, parameter)


def test_dropout_only_in_training_and_by_the_seed(rng):
    layer = MultiHeadAttention(2, 6, 3, 3, dropout=0.5)
    x = Tensor(rng.standard_normal((2, 4, 6)))
    tg.manual_seed(1)
    first = layer(x).numpy()
    tg.manual_seed(1)
    np.testing.assert_array_equal(layer(x).numpy(), first)
    assert (layer(x).numpy() != first).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), layer(x).numpy())
