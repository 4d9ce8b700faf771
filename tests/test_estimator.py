"""The scikit-learn estimator, and the weights of rows that it trains with."""

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.text import BucketedBatches, Vocabulary
from tinygrad_mha.models.train import Run, Settings, Split
from tinygrad_mha.models.trained import TrainedClassifier, build_model

# ------------------------------------------------------------- the weights of rows, in training


def dataset(texts, labels):
    return Dataset(list(texts), list(labels), list(range(1, len(texts) + 1)), "d.csv")


def slopes(rows, weights=None, workers=1, device="cpu", **more):
    """The gradients of one step on some of 13 rows, in float64; the loss; each row's own loss."""
    s = Settings(
        d_model=8, h=2, batch_size=32, workers=workers, optimizer="sgd", lr=1.0, clip=1e9,
        warmup=0.0, epochs=1, dropout=0.0, word_dropout=0.0, device=device, **more,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    encoded = [rng.integers(2, 20, n).astype(np.int32) for n in rng.integers(1, 9, 13)]
    targets = (np.arange(13) % 5 == 0).astype(np.int64)
    weight = training.class_weights(targets, 2, s.class_weight)
    encoded, targets = [encoded[k] for k in rows], targets[rows]
    config = {k: getattr(s, k) for k in ("d_model", "h", "num_layers", "bidirectional", "dropout")}
    tg.manual_seed(0)
    model = build_model({**config, "pooling": "mean"}, 20, 2).to(device)
    trained = TrainedClassifier(model, Vocabulary(list(map(str, range(18)))), ["a", "b"], {})
    weights = None if weights is None else np.array(weights, float)
    run = Run(trained, s, BucketedBatches(encoded, targets, 32, seed=0), weight, weights)
    logits = trained.logits(encoded)
    before = model.state_dict()
    with Workers(workers, parameters=run.parameters) as threads:
        loss = run.epoch(0, threads, False)["train_loss"]
    each = -tg.log_softmax(logits.astype(float))[np.arange(len(rows)), targets]
    return {k: before[k] - x for k, x in model.state_dict().items()}, loss, each, weight, targets


ROWS = np.arange(13)
WEIGHTS = np.array([1, 2, 0, 1, 3, 0, 1, 1, 2, 1, 0, 4, 1])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_weight_counts_a_row_so_often(float64, workers):
    once, loss, _, _, _ = slopes(ROWS, WEIGHTS, workers, label_smoothing=0.1)
    often, same, _, _, _ = slopes(np.repeat(ROWS, WEIGHTS), label_smoothing=0.1)
    assert loss == pytest.approx(same, abs=1e-12)
    for name, x in often.items():
        np.testing.assert_allclose(once[name], x, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_equal_weights_are_none(float64, class_weight):
    plain, loss, _, _, _ = slopes(ROWS, class_weight=class_weight)
    equal, same, _, _, _ = slopes(ROWS, np.full(13, 2.5), class_weight=class_weight)
    assert loss == pytest.approx(same, rel=1e-7)  # the weights of classes are float32
    for name, x in plain.items():
        np.testing.assert_allclose(equal[name], x, rtol=1e-6, atol=1e-8, err_msg=name)


def test_the_loss_is_the_mean_with_weights_of_rows_and_of_classes(float64):
    _, loss, each, weight, targets = slopes(ROWS, WEIGHTS, 2, class_weight="balanced")
    w = WEIGHTS * weight[targets]
    assert loss == pytest.approx((each * w).sum() / w.sum(), rel=1e-6)
    _, loss, each, _, _ = slopes(ROWS, WEIGHTS)
    assert loss == pytest.approx((each * WEIGHTS).sum() / WEIGHTS.sum(), rel=1e-6)


def test_rows_that_do_not_count_give_no_gradient(float64):
    found, loss, _, _, _ = slopes(ROWS, np.zeros(13))
    assert loss == 0
    assert not any(x.any() for x in found.values())


def test_weights_of_rows_on_the_device(float64, cupy):
    here, loss, _, _, _ = slopes(ROWS, WEIGHTS, class_weight="balanced")
    there, same, _, _, _ = slopes(ROWS, WEIGHTS, class_weight="balanced", device="cuda")
    assert loss == pytest.approx(same, abs=1e-12)
    for name, x in here.items():
        np.testing.assert_allclose(there[name], x, rtol=0, atol=1e-12, err_msg=name)


def test_what_is_measured_while_training_has_weights_too():
    class Fixed:
        def logits(self, encoded, workers=None):
            return np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)

    targets = np.array([0, 0, 1])
    cost = np.log1p(np.exp([-2.0, 1.0, 3.0]))
    loss, accuracy = training.measure(Fixed(), [], targets, None)
    assert (loss, accuracy) == (pytest.approx(cost.mean()), pytest.approx(1 / 3))
    w = np.array([2.0, 1.0, 5.0])
    loss, accuracy = training.measure(Fixed(), [], targets, None, None, w)
    assert (loss, accuracy) == (pytest.approx((cost * w).sum() / 8), pytest.approx(2 / 8))
    classes = np.array([1.0, 10.0], np.float32)
    loss, _ = training.measure(Fixed(), [], targets, classes, None, w)
    w = w * [1, 1, 10]
    assert loss == pytest.approx((cost * w).sum() / w.sum())


def test_training_with_nothing_held_out_keeps_the_last_weights(capsys, monkeypatch):
    losses, states, plain = iter([1.0, 2.0, 3.0]), [], Run.epoch

    def epoch(self, *args):
        said = plain(self, *args)
        states.append(self.model.state_dict())
        return said | {"train_loss": next(losses)}

    data, none = dataset(["one two", "three four", "two one"], "xyx"), dataset([], [])
    settings = Settings(d_model=8, h=2, batch_size=8, workers=1, epochs=3, early_stopping=1)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch", epoch)
        trained = training.train(Split(data, none, none), settings, progress=True)
    assert "validation" not in capsys.readouterr().err
    assert trained.metrics["epochs"] == len(states) == 3
    assert "valid_loss" not in trained.metrics
    for name, x in trained.model.state_dict().items():
        np.testing.assert_array_equal(x, states[2][name])
    assert not np.array_equal(states[2]["fc.weight"], states[0]["fc.weight"])


def test_a_row_without_weight_teaches_nothing():
    data, none = dataset(["one two", "three four", "two one"], "xyx"), dataset([], [])
    parts = Split(data, none, none)
    settings = Settings(d_model=8, h=2, batch_size=8, workers=1, epochs=40, lr=0.03)
    assert training.train(parts, settings).predict(data.texts) == ["x", "y", "x"]
    weights = np.array([1.0, 0.0, 1.0])
    trained = training.train(parts, settings, row_weights=weights)
    assert trained.predict(data.texts) == ["x", "x", "x"]
