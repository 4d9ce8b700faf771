"""The classifier: its parts, its options, and that padding and company change nothing."""

import itertools

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifier

TEXTS = [[5, 3, 9, 2], [7], [], [4, 4, 8, 6, 3, 9]]
OPTIONS = [
    dict(zip(("bidirectional", "pooling", "num_layers"), values, strict=True))
    for values in itertools.product((False, True), ("mean", "max", "last"), (1, 2))
]


@pytest.fixture(autouse=True)
def seeded(float64):
    tg.manual_seed(0)


def batch(texts, width):
    ids = np.zeros((len(texts), width), np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids


def run(model, texts, width, cotangents, give_lengths=True):
    """Logits and all gradients for a batch padded to ``width``."""
    model.zero_grad()
    lengths = [len(t) for t in texts] if give_lengths else None
    logits = model(batch(texts, width), lengths)
    (logits * cotangents).sum().backward()
    return logits.numpy(), {k: p.grad.numpy() for k, p in model.named_parameters()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_order_and_company_change_nothing(options):
    model = TextClassifier(10, 8, 3, h=2, **options).eval()
    v = np.random.default_rng(0).standard_normal((len(TEXTS), 3))
    logits, gradients = run(model, TEXTS, 6, v)

    for give_lengths in (True, False):  # a hundred pads more, with the lengths given or read
        wide, wide_gradients = run(model, TEXTS, 106, v, give_lengths)
        np.testing.assert_allclose(wide, logits, rtol=0, atol=1e-12)
        for name, g in gradients.items():
            np.testing.assert_allclose(wide_gradients[name], g, rtol=0, atol=1e-12, err_msg=name)

    order = [2, 0, 3, 1]
    mixed, mixed_gradients = run(model, [TEXTS[i] for i in order], 6, v[order])
    np.testing.assert_allclose(mixed, logits[order], rtol=0, atol=1e-12)
    for name, g in gradients.items():
        np.testing.assert_allclose(mixed_gradients[name], g, rtol=0, atol=1e-12, err_msg=name)

    summed = dict.fromkeys(gradients, 0)
    for i, text in enumerate(TEXTS):  # each alone
        alone, alone_gradients = run(model, [text], max(1, len(text)), v[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i], rtol=0, atol=1e-12)
        summed = {name: s + alone_gradients[name] for name, s in summed.items()}
    for name, g in gradients.items():
        np.testing.assert_allclose(summed[name], g, rtol=0, atol=1e-11, err_msg=name)


def test_gradients_reach_every_parameter():
    model = TextClassifier(10, 8, 3, h=2, bidirectional=True).eval()
    v = np.random.default_rng(0).standard_normal((len(TEXTS), 3))
    _, gradients = run(model, TEXTS, 6, v)
    eps, rng = 1e-6, np.random.default_rng(1)
    for name, p in model.named_parameters():
        d = rng.standard_normal(p.shape)
        if name == "embedding.weight":
            d[0] = 0  # the padding row learns nothing by definition
        before = p.data
        sides = []
        for sign in (1, -1):
            p.data = before + sign * eps * d
            sides.append((model(batch(TEXTS, 6)).numpy() * v).sum())
        p.data = before
        numeric, analytic = (sides[0] - sides[1]) / (2 * eps), (gradients[name] * d).sum()
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-8), name
        shift_of_keys = name == "multihead_attn.w_k.bias"  # adds the same to all scores of a query
        assert (np.abs(gradients[name]).max() < 1e-12) == shift_of_keys, name


def test_the_parts_and_their_default_shape():
    model = TextClassifier(100, 64, 5)
    assert model.multihead_attn.h == 8
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes["embedding.weight"] == (100, 64)
    assert shapes["rnn.weight_ih_l0"] == (256, 64)
    assert shapes["multihead_attn.w_q.weight"] == (64, 64)
    assert shapes["fc.weight"] == (5, 64)
    assert not any("reverse" in name or "_l1" in name for name in shapes)
    two = {n: p.shape for n, p in TextClassifier(9, 64, 5, bidirectional=True).named_parameters()}
    assert two["rnn.weight_hh_l0_reverse"] == (128, 32)


def test_one_recorded_lstm_node_a_layer_and_direction():
    model = TextClassifier(10, 8, 3, h=2, bidirectional=True, num_layers=2)
    nodes, todo = set(), [model(batch(TEXTS, 6))]
    while todo:
        node = todo.pop().node
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [x for x in node.inputs if isinstance(x, tg.Tensor)]
    names = [node.op.name for node in nodes]
    assert names.count("lstm") == 4
    assert names.count("scaled_dot_product_attention") == names.count("add_layer_norm") == 1


def test_eval_records_and_training_drops():
    model = TextClassifier(10, 8, 3, h=2, dropout=0.5)
    ids = batch(TEXTS, 6)
    assert (model(ids).numpy() != model(ids).numpy()).any()
    model.eval()
    assert (model(ids).numpy() == model(ids).numpy()).all()
    assert model(ids).requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": 3}, "d_model 8 is not divisible by 3 heads"),
        ({"h": 2, "pooling": "sum"}, "pooling 'sum' is none of mean, max, last"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextClassifier(10, 8, 3, **arguments)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_whatever_stands_in_the_row_of_the_pad_takes_no_part(options):
    """A row of NaN at the pads' id: not one logit, not one gradient notices."""
    model = TextClassifier(10, 8, 3, h=2, **options).eval()
    v = np.random.default_rng(0).standard_normal((len(TEXTS), 3))
    logits, gradients = run(model, TEXTS, 9, v)
    model.embedding.weight.data[0] = np.nan
    poisoned, poisoned_gradients = run(model, TEXTS, 9, v)
    np.testing.assert_array_equal(poisoned, logits)
    for name, g in gradients.items():
        np.testing.assert_array_equal(poisoned_gradients[name], g, err_msg=name)


def test_batches_without_texts_or_tokens():
    model = TextClassifier(10, 8, 3, h=2).eval()
    assert model(np.zeros((0, 4), int)).shape == (0, 3)
    np.testing.assert_array_equal(model([[], []]).numpy(), np.tile(model.fc.bias.data, (2, 1)))


def test_bad_ids():
    model = TextClassifier(10, 8, 3, h=2)
    with pytest.raises(IndexError, match=r"id 10 at \[0, 1\] is outside the table"):
        model(np.array([[1, 10]]))
    with pytest.raises(ValueError, match="ids should be integers"):
        model(np.array([[1.0]]))
    with pytest.raises(ValueError, match="one for each of 1 texts"):
        model(np.array([[1, 2]]), [1, 2])
    with pytest.raises(ValueError, match="between 0 and the 2 ids"):
        model(np.array([[1, 2]]), [3])
    with pytest.raises(ValueError, match="lengths should be integers, not float64"):
        model(np.array([[1, 2]]), [1.5])
