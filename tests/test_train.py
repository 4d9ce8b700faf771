"""What a training run promises, beside a good classifier."""

import json

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import InputError, prepared
from tinygrad_mha.models import run as run_module
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.text import BucketedBatches, Vocabulary
from tinygrad_mha.models.train import Run, Settings, split
from tinygrad_mha.models.trained import TrainedClassifier, build_model

TINY = {"d_model": 8, "h": 2, "batch_size": 16, "workers": 1}


def dataset(texts, labels):
    return Dataset(list(texts), list(labels), list(range(1, len(texts) + 1)), "d.csv")


def sentences(n=60):
    words = {"x": "red green blue", "y": "one two three"}
    rng = np.random.default_rng(0)
    labels = ["xy"[k % 2] for k in range(n)]
    return dataset(
        [f"{' '.join(rng.choice(words[c].split(), 3))} {k}" for k, c in enumerate(labels)], labels
    )


# ---------------------------------------------------------------------------------- the split


def test_duplicates_go_first_and_every_class_is_split_alike():
    texts = [f"text {k}" for k in range(150)]
    labels = ["many"] * 100 + ["few"] * 50
    parts = split(dataset(texts * 3, labels * 3))
    for part, many, few in ((parts.test, 20, 10), (parts.stop, 8, 4), (parts.fit, 72, 36)):
        assert (part.labels.count("many"), part.labels.count("few")) == (many, few)
    assert sorted(parts.fit.texts + parts.stop.texts + parts.test.texts) == sorted(texts)


def test_a_text_with_several_labels_stays_on_one_side():
    texts = [f"text {k}" for k in range(100)]
    labels = ["xy"[k % 2] for k in range(100)]
    parts = split(dataset(texts + texts[:60], labels + ["z"] * 60))
    sides = [set(part.texts) for part in (parts.fit, parts.stop, parts.test)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 100
    assert sum(len(part) for part in (parts.fit, parts.stop, parts.test)) == 160


def test_a_test_set_of_its_own_takes_nothing_from_the_data():
    data, test = sentences(), sentences(10)
    parts = split(data, test)
    assert parts.test is test
    assert len(parts.fit) + len(parts.stop) == 60


@pytest.mark.parametrize("test", [None, sentences(4)])
def test_too_few_texts(test):
    with pytest.raises(InputError, match=r"^d\.csv: no class has more than 1 different text,"):
        split(dataset("aaaabbbb", "xxxxyyyy"), test)


# -------------------------------------------------------------------------------- the training


def test_the_best_weights_are_kept_not_the_last(monkeypatch):
    losses, states = iter([3.0, 1.0, 2.0, 1.0, 5.0]), []

    def measure(trained, *_):
        states.append(trained.model.state_dict())
        return next(losses), 0.5

    monkeypatch.setattr(run_module, "measure", measure)
    trained = training.train(split(sentences()), Settings(**TINY, epochs=9, early_stopping=3))
    assert trained.metrics["epochs"] == len(states) == 5  # three without progress
    assert trained.metrics["valid_loss"] == 1.0
    for name, x in trained.model.state_dict().items():
        np.testing.assert_array_equal(x, states[1][name])
    assert not np.array_equal(states[1]["fc.weight"], states[4]["fc.weight"])


def step(workers, class_weight="none", **more):
    """The parameters after one step of plain gradient descent in float64, and what it said."""
    s = Settings(
        **{**TINY, "workers": workers}, optimizer="sgd", lr=1.0, clip=1e9, warmup=0.0, epochs=1,
        class_weight=class_weight, **more,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    encoded = [rng.integers(2, 20, n).astype(np.int32) for n in rng.integers(1, 9, 13)]
    targets = (np.arange(13) % 5 == 0).astype(np.int64)
    weight = training.class_weights(targets, 2, class_weight)
    config = {k: getattr(s, k) for k in ("d_model", "h", "num_layers", "bidirectional", "dropout")}
    tg.manual_seed(0)
    tg.set_default_dtype(np.float64)
    try:
        model = build_model({**config, "pooling": "mean"}, 20, 2)
    finally:
        tg.set_default_dtype(np.float32)
    trained = TrainedClassifier(model, Vocabulary(list(map(str, range(18)))), ["a", "b"], {})
    run = Run(trained, s, BucketedBatches(encoded, targets, 13, seed=0), weight)
    [(ids, lengths, answers, _)] = run.batches.epoch(0)
    before = model.state_dict()
    logits = model.eval()(ids, lengths)
    model.train()
    with Workers(workers, parameters=run.parameters) as threads:
        said = run.train_step(ids, lengths, answers, threads)
    slopes = {name: before[name] - x for name, x in model.state_dict().items()}
    return slopes, said, logits.numpy(), answers


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_the_cut_into_shards_changes_nothing(class_weight):
    """Neither the gradients nor the masks of dropout depend on the number of workers."""
    options = {"dropout": 0.4, "word_dropout": 0.3, "num_layers": 2, "class_weight": class_weight}
    whole, (loss, right, _), _, _ = step(1, **options)
    assert any(np.abs(x).max() > 1e-3 for x in whole.values())
    for workers in (2, 3):
        slopes, said, _, _ = step(workers, **options)
        assert said[:2] == (pytest.approx(loss, abs=1e-12), right)
        for name, x in whole.items():
            np.testing.assert_allclose(slopes[name], x, rtol=0, atol=1e-12, err_msg=name)
    other, _, _, _ = step(1, **{**options, "dropout": 0.0})
    assert np.abs(other["fc.weight"] - whole["fc.weight"]).max() > 1e-6, "there was no dropout"


def test_class_weights_make_the_classes_count_alike():
    weights = training.class_weights(np.array([0, 0, 0, 1]), 2, "balanced")
    np.testing.assert_allclose(weights, [4 / (2 * 3), 4 / (2 * 1)], rtol=1e-6)
    assert training.class_weights(np.array([0, 1]), 2, "none") is None
    still = {"dropout": 0.0, "word_dropout": 0.0}
    _, (loss, _, _), logits, answers = step(2, "balanced", **still)
    each = -tg.log_softmax(logits)[np.arange(len(answers)), answers]
    alike = np.mean([each[answers == 0].mean(), each[answers == 1].mean()])
    assert loss == pytest.approx(alike, rel=1e-6)
    _, (loss, _, _), _, _ = step(2, "none", **still)
    assert loss == pytest.approx(each.mean(), rel=1e-12)


def test_a_folder_holds_what_one_needs_to_train_it_again(tmp_path):
    parts = split(sentences())
    first = training.train(parts, Settings(**TINY, epochs=2, seed=3), source="d.csv")
    first.save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    shape = (
        "d_model",
        "h",
        "num_layers",
        "bidirectional",
        "dropout",
        "pooling",
        "level",
        "max_len",
    )
    again = Settings(**config["training"], **{k: config[k] for k in shape})
    training.train(parts, again, source="d.csv").save(tmp_path / "b")
    a, b = ((tmp_path / x / "model.safetensors").read_bytes() for x in "ab")
    assert a == b
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["data"] == "d.csv"
    assert metrics["rows"] == {"fit": 44, "stop": 4, "test": 12}
    assert len(metrics["history"]) == metrics["epochs"] == 2
    best = min(h["valid_loss"] for h in metrics["history"])
    assert metrics["valid_loss"] == best


# -------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"early_stopping": -1}, "early_stopping is -1"),
        ({"max_len": 10**20}, "at most 1000000"),
        ({"num_layers": 10**6}, "at most 1000"),
        ({"d_model": 10**6}, "GiB of .* smaller --d-model"),
        ({"d_model": 7, "h": 7}, "odd.*--no-bidirectional"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(settings, says):
    with pytest.raises(InputError, match=says):
        Settings(**settings)


@pytest.mark.parametrize("given", [None, 0.0, 0.01])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_weight_decay_suits_the_optimizer_unless_it_is_given(optimizer, given, monkeypatch):
    seen, make = [], Run.make_optimizer

    def watched(self):
        seen.append(make(self))
        return seen[0]

    monkeypatch.setattr(Run, "make_optimizer", watched)
    settings = Settings(**TINY, epochs=1, lr=1e-3, optimizer=optimizer, weight_decay=given)
    trained = training.train(split(sentences()), settings)
    want = given if given is not None else {"sgd": 0.0}.get(optimizer, 0.2)
    assert [group["weight_decay"] for group in seen[0].param_groups] == [want]
    assert trained.config["training"]["weight_decay"] == want


def test_texts_without_a_known_token():
    data = dataset([f"only{k}" for k in range(40)], "xy" * 20)
    with pytest.raises(InputError, match=r"^d\.csv: no token occurs 2 times .* --min-count"):
        training.train(split(data), Settings(**TINY, min_count=2))


def test_so_many_classes_mean_that_the_column_is_the_wrong_one(monkeypatch):
    monkeypatch.setattr(prepared, "MOST_CLASSES", 1)
    with pytest.raises(InputError, match=r"^d\.csv: 2 different labels, .* --label-column"):
        training.train(split(sentences()), Settings(**TINY))


def test_a_validation_loss_that_never_is_a_number(monkeypatch):
    monkeypatch.setattr(run_module, "measure", lambda *_: (float("nan"), 0.5))
    with pytest.raises(training.TrainingError, match=r"early-stopping rows is .* smaller --lr"):
        training.train(split(sentences()), Settings(**TINY, epochs=2))


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_training_on_the_device_gives_the_numbers_of_the_cpu(cupy, float64, pooling):
    """In float64: Adam turns a gradient that is nothing but rounding into a step of full size."""
    parts = split(sentences())
    options = {**TINY, "epochs": 2, "dropout": 0.3, "pooling": pooling, "class_weight": "balanced"}
    there = training.train(parts, Settings(**options, device="cuda"))
    assert all(isinstance(p.data, cupy.ndarray) for p in there.model.parameters())
    here = training.train(parts, Settings(**options))
    for name, x in here.model.state_dict().items():
        np.testing.assert_allclose(there.model.state_dict()[name], x, rtol=1e-9, atol=1e-12)
    texts = parts.test.texts
    np.testing.assert_allclose(there.predict_proba(texts), here.predict_proba(texts), atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_without_numbers_ends_the_run_and_changes_no_weight(device, cupy, monkeypatch):
    """On a GPU it is noticed later, and named just as well."""
    kept, plain = [], Run.loss_of

    def loss_of(self, part, *batch):
        loss, said = plain(self, part, *batch)
        if self.step < 2:
            return loss, said
        kept.append(self.model.state_dict())
        return loss * np.inf, said

    monkeypatch.setattr(Run, "loss_of", loss_of)
    with pytest.raises(training.TrainingError, match=r"norm of the grad.* at step 3 of epoch"):
        training.train(split(sentences()), Settings(**TINY, epochs=1, device=device))
    for state in kept[1:]:
        for name, x in state.items():
            np.testing.assert_array_equal(x, kept[0][name])


def test_shards_add_up_whatever_the_layout_of_their_gradients():
    """A number, a row, a matrix whose gradient is transposed in memory: by 1, 2 and 3 threads."""
    rng = np.random.default_rng(0)
    w, v, s = (tg.nn.Parameter(rng.standard_normal(shape)) for shape in ((5, 3), (3,), ()))
    x = rng.standard_normal((6, 5))

    def loss_of(rows):
        y = tg.tanh(tg.transpose(tg.transpose(w) @ x[rows].T)) * v * s
        return y.sum(), len(x[rows])

    want = tg.grad(loss_of(slice(None))[0], [w, v, s])
    for count in (1, 2, 3):
        with Workers(count, parameters=[w, v, s]) as workers:
            assert sum(workers.gradients(loss_of, 6)) == 6
        for p, d in zip((w, v, s), want, strict=True):
            np.testing.assert_allclose(p.grad.data, d.data, rtol=1e-12)
