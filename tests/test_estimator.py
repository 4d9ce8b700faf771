"""The scikit-learn estimator, and the weights of rows that it trains with."""

import copy
import functools
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import types
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
import tinygrad_mha.models
from tinygrad_mha.models import InputError
from tinygrad_mha.models import run as run_module
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.text import BucketedBatches, Vocabulary, stratified_split
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
    loss, accuracy = run_module.measure(Fixed(), [], targets, None)
    assert (loss, accuracy) == (pytest.approx(cost.mean()), pytest.approx(1 / 3))
    w = np.array([2.0, 1.0, 5.0])
    loss, accuracy = run_module.measure(Fixed(), [], targets, None, None, w)
    assert (loss, accuracy) == (pytest.approx((cost * w).sum() / 8), pytest.approx(2 / 8))
    classes = np.array([1.0, 10.0], np.float32)
    loss, _ = run_module.measure(Fixed(), [], targets, classes, None, w)
    w = w * [1, 1, 10]
    assert loss == pytest.approx((cost * w).sum() / w.sum())


def test_the_loss_on_held_out_rows_is_a_mean_with_their_weights():
    stop = dataset(["one", "two", "three"], "xyy")
    parts = Split(dataset(["one two", "three four", "two one"], "xyx"), stop, dataset([], []))
    settings = Settings(d_model=8, h=2, batch_size=8, workers=1, epochs=2, lr=0.03)
    w = np.array([1.0, 0.0, 5.0])
    trained = training.train(parts, settings, stop_weights=w)
    each = -np.log(trained.predict_proba(stop.texts)[[0, 1, 2], [0, 1, 1]])
    assert trained.metrics["valid_loss"] == pytest.approx((each * w).sum() / 6, rel=1e-5)
    assert each.mean() != pytest.approx((each * w).sum() / 6, rel=1e-2)


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


# ------------------------------------------------------------------------------- the estimator

try:
    import sklearn

    from tinygrad_mha.models import TextClassifierEstimator
except ImportError:
    sklearn = None
needs_sklearn = pytest.mark.skipif(
    sklearn is None, reason="needs scikit-learn: pip install 'tinygrad_mha[sklearn]'"
)
SMALL = {"d_model": 8, "h": 2, "bidirectional": False, "workers": 1}
WORDS = {"a": "red green blue", "b": "one two three", "c": "cat dog cow"}


def texts_and_labels(n=60, labels="abc", seed=0):
    """n different texts, each of words of its class."""
    rng = np.random.default_rng(seed)
    y = [labels[k % len(labels)] for k in range(n)]
    words = dict(zip(labels, WORDS.values(), strict=False))
    return [f"{' '.join(rng.choice(words[c].split(), 1 + k % 4))} {k}" for k, c in enumerate(y)], y


def small(**more):
    return TextClassifierEstimator(**{**SMALL, "epochs": 15, "lr": 0.02, "random_state": 0, **more})


def weights(estimator):
    return b"".join(x.tobytes() for x in estimator.trained_.model.state_dict().values())


@pytest.fixture(scope="module")
def fitted():
    X, y = texts_and_labels()
    return small().fit(X, y)


def python(code, **environment):
    """What a fresh interpreter prints, whose warnings are errors."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True,
        env={**os.environ, **environment}, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---- what scikit-learn asks of an estimator

# A weight of k is as k copies of the row, to seven digits, where one batch holds all rows, nothing
# is hidden by chance, and numbers are float64: EXACT meets every check. With mini-batches more rows
# are other batches, so that the usual settings cannot meet that one. (scikit-learn checks its own
# MLPClassifier with the solver "lbfgs" only.)
MINI = {"batch_size": 32, "epochs": 8}
EXACT = {"batch_size": 10_000, "dropout": 0.0, "word_dropout": 0.0, "epochs": 50}
DIFFERENT = {"check_sample_weight_equivalence_on_dense_data"}  # with MINI
# scikit-learn reads SCIPY_ARRAY_API when it is imported: see the test in a process of its own
APART = {"check_array_api_input"}


@functools.cache
def numbers_as_texts():
    """An estimator for rows of numbers, as scikit-learn's checks have them: c0b3 is a word."""
    from sklearn.utils.validation import check_is_fitted, validate_data

    class OnNumbers(TextClassifierEstimator):
        def fit(self, X, y, sample_weight=None):
            return super().fit(self.texts(X, True), y, sample_weight)

        def partial_fit(self, X, y, classes=None, sample_weight=None):
            texts = self.texts(X, not hasattr(self, "classes_"))
            return super().partial_fit(texts, y, classes, sample_weight)

        def predict_proba(self, X):
            check_is_fitted(self)
            return super().predict_proba(self.texts(X, False))

        def texts(self, X, first):
            bins = np.clip(np.floor(2 * validate_data(self, X, reset=first)), -20, 20) + 20
            return [" ".join(f"c{j}b{b:.0f}" for j, b in enumerate(row)) for row in bins]

        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array = True
            tags.input_tags.one_d_array = tags.input_tags.string = False
            return tags

    globals()["OnNumbers"] = OnNumbers  # where pickle looks for it
    OnNumbers.__qualname__ = "OnNumbers"
    return OnNumbers


def checks(given):
    try:
        from sklearn.utils.estimator_checks import estimator_checks_generator
    except ImportError:  # no scikit-learn, or one before 1.6
        skip = pytest.mark.skip(reason="needs scikit-learn 1.6: pip install scikit-learn")
        return [pytest.param(None, None, id="none", marks=skip)]
    estimator = numbers_as_texts()(**SMALL, **given, lr=0.03, min_count=1)
    made = estimator_checks_generator(estimator)
    return [pytest.param(e, check, id=name_of(check)) for e, check in made]


def name_of(check):
    """Its name, with the options that tell it from another one."""
    options = {}
    while hasattr(check, "func"):
        options |= check.keywords
        check = check.func
    return "-".join([check.__name__, *(f"{k}={v}" for k, v in options.items())])


@pytest.mark.parametrize(("estimator", "check"), checks(EXACT))
def test_check_of_scikit_learn(estimator, check, float64):
    run_check(estimator, check)


@pytest.mark.parametrize(("estimator", "check"), checks(MINI))
def test_check_of_scikit_learn_with_mini_batches(estimator, check):
    if name_of(check).split("-")[0] in DIFFERENT:
        with pytest.raises(AssertionError, match="not equivalent"):
            check(estimator)
    else:
        run_check(estimator, check)


def run_check(estimator, check):
    name = name_of(check).split("-")[0]
    try:
        check(estimator)
    except unittest.SkipTest as skipped:
        if "pandas" not in str(skipped) and name not in APART:
            pytest.fail(f"this check was skipped: {skipped}")
        raise


@needs_sklearn
def test_the_check_that_takes_a_process_of_its_own():
    code = """
import test_estimator as t
for p in t.checks(t.MINI):
    estimator, check = p.values
    if check and t.name_of(check).split("-")[0] in t.APART:
        check(estimator)
        print("passed")
"""
    assert python(code, SCIPY_ARRAY_API="1") in ("passed\n", "")  # an older scikit-learn has none


def test_without_scikit_learn_one_line_says_what_to_install():
    out = python("""
import sys, doctest
sys.modules["sklearn"] = None
from tinygrad_mha.models import TextClassifier
import tinygrad_mha.models.estimator as module
assert doctest.testmod(module).failed == 0
for what in ("from tinygrad_mha.models import TextClassifierEstimator",
             "module.TextClassifierEstimator(level='char')"):
    try:
        exec(what)
    except ImportError as e:
        print(e)
""")
    line = "TextClassifierEstimator needs scikit-learn: pip install 'tinygrad_mha[sklearn]'\n"
    assert out == line * 2


def test_nobody_else_has_to_wait_for_scikit_learn():
    code = "import sys, tinygrad_mha.models as m; m.TextClassifier; print('sklearn' in sys.modules)"
    assert python(code) == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'TextClassifierEstimators'"):
        _ = tinygrad_mha.models.TextClassifierEstimators


PARAMETERS = """
    d_model h num_layers bidirectional dropout attention_dropout word_dropout label_smoothing
    weight_decay level min_count max_len epochs batch_size lr early_stopping class_weight base tune
    device workers random_state verbose
"""


@needs_sklearn
def test_the_parameters():
    parameters = TextClassifierEstimator().get_params()
    names = set(PARAMETERS.split())
    assert names == set(parameters)
    assert {k for k, v in parameters.items() if v is not None} == {"verbose"}
    marks = {name: object() for name in names}
    given = TextClassifierEstimator(**marks)
    assert all(getattr(given, name) is mark for name, mark in marks.items())


# ---- what it learns, and from what

REGULARISED = {
    "dropout": 0.1, "attention_dropout": 0.3, "word_dropout": 0.2, "label_smoothing": 0.1,
    "weight_decay": 0.05,
}  # fmt: skip


@needs_sklearn
@pytest.mark.parametrize("level", [None, "char"])
@pytest.mark.parametrize("more", [{}, REGULARISED], ids=["as it is", "regularised"])
def test_it_is_what_train_makes(level, more):
    """Settings that suit the level where nothing is given, bit for bit."""
    X, y = texts_and_labels(80)
    estimator = TextClassifierEstimator(level=level, epochs=1, workers=1, random_state=3, **more)
    estimator.fit(X, y)
    keep, out = stratified_split(X, y, 0.1, 3)
    assert len(out) == 9  # a tenth of 27, of 27 and of 26
    data = dataset(X, y)
    parts = Split(training.subset(data, keep), training.subset(data, out), dataset([], []))
    settings = Settings.for_level(level or "word", epochs=1, workers=1, seed=3, **more)
    trained = training.train(parts, settings)
    assert estimator.trained_.config == trained.config
    assert estimator.trained_.metrics["rows"] == {"fit": 71, "stop": 9, "test": 0}
    for name, x in trained.model.state_dict().items():
        np.testing.assert_array_equal(estimator.trained_.model.state_dict()[name], x)
    np.testing.assert_allclose(
        estimator.predict_proba(X)[:, [0, 1, 2]], trained.predict_proba(X), atol=1e-5
    )


@needs_sklearn
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["x", "yy", "z"]),
        np.array(["x", "yy", "z"], object),
        np.array([10, 9, -2]),  # as strings their order is another one
        np.array([10, 9, -2], np.int8),
        np.array([2.0, 10.0, 1.0], np.float32),
        np.array([True, False]),
        np.array(["ß", "a b", "é"]),
    ],
)
def test_labels_keep_their_type(labels):
    X, y = texts_and_labels(labels="abc"[: len(labels)])
    y = np.array([labels["abc".index(c)] for c in y], labels.dtype)
    estimator = small().fit(X, y)
    assert estimator.classes_.dtype == estimator.predict(X).dtype == labels.dtype
    np.testing.assert_array_equal(estimator.classes_, np.unique(labels))
    np.testing.assert_array_equal(estimator.predict(X), y)
    p = estimator.predict_proba(X)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    right = p[np.arange(len(X)), np.searchsorted(estimator.classes_, y)]
    assert right.min() > 0.5
    assert estimator.score(X, y) == 1
    assert type(estimator.fit(X, y.tolist()).classes_.tolist()[0]) is type(labels.tolist()[0])


@needs_sklearn
def test_texts_in_anything_that_has_an_order(fitted):
    X, _ = texts_and_labels()
    want = fitted.predict_proba(X)
    for same in (tuple(X), np.array(X), np.array(X, object), [np.str_(x) for x in X]):
        np.testing.assert_array_equal(fitted.predict_proba(same), want)
    assert fitted.predict([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 3)


@needs_sklearn
def test_series_and_tables_of_pandas(fitted):
    pandas = pytest.importorskip("pandas")
    X, y = texts_and_labels()
    table = pandas.DataFrame({"text": X, "label": y}, index=range(100, 160))
    np.testing.assert_array_equal(fitted.predict(table["text"]), fitted.predict(X))
    again = small().fit(table["text"], table["label"], sample_weight=table.index * 0 + 1.0)
    assert again.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(again.predict_proba(X), fitted.predict_proba(X), atol=1e-3)
    with pytest.raises(InputError, match=r"^X has 2 dimensions; .* one column, if it is a table$"):
        fitted.predict(table)
    table.loc[102, "text"] = None
    with pytest.raises(InputError, match=r"^X\[2\] is (nan|None), not a string; fill in or drop"):
        fitted.predict(table["text"])


@needs_sklearn
@pytest.mark.parametrize(
    ("X", "says"),
    [
        (None, "X is of type NoneType; give a list"),
        (3, "X is of type int; give a list"),
        ("one text", r"X is a single string; .* for one text \[text\]"),
        (b"one text", "X is of type bytes"),
        ({"a": 1}, "X is of type dict"),
        ({"a"}, "X is of type set"),
        (iter(["a"]), "X is of type list_iterator; give a list"),
        (np.array("a"), "X has 0 dimensions"),
        (np.array([["a"]]), "X has 2 dimensions"),
        ([["a"]], r"X\[0\] is \['a'\], not a string; .* str\(\)"),
        (["a", None], r"X\[1\] is None, not a string; fill in or drop"),
        (["a", float("nan")], r"X\[1\] is nan, not a string; fill in or drop"),
        ([1, 2], r"X\[0\] is 1, not a string; .* turn numbers into strings"),
        (np.array([1.5]), r"X\[0\] is .*1\.5.*, not a string"),
        (["a", b"b"], r"X\[1\] is b'b', not a string"),
    ],
)
def test_what_is_no_list_of_texts(fitted, X, says):
    for call in (fitted.predict, fitted.predict_proba, lambda X: small().fit(X, ["a", "b"])):
        with pytest.raises(InputError, match=f"^{says}") as e:
            call(X)
        assert "\n" not in str(e.value)


@needs_sklearn
@pytest.mark.parametrize(
    ("y", "says"),
    [
        (None, "requires y to be passed, but the target y is None; give one label"),
        (["a", "b"], "X has 3 texts, but y has 2 labels"),
        (["a", "a", "a"], "y holds one class only, 'a'; a classifier needs two"),
        (["a", None, "b"], r"y\[1\] is None among strings; give it a label, or drop the row"),
        (np.array(["a", float("nan"), "b"], object), r"y\[1\] is nan among strings"),
        ([0.0, float("nan"), 1.0], "Input y contains NaN"),
        ([0.5, 0.25, 1.0], "continuous"),
        ([["a"], ["b", "c"], []], r"^y\[0\] is \['a'\]; give labels of one type: all strings, "),
    ],
)
def test_what_are_no_labels(y, says):
    with pytest.raises(ValueError, match=says):
        small().fit(["one", "two", "three"], y)


@needs_sklearn
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"d_model": 8.0}, "d_model is 8.0, it must be a whole number, or None"),
        ({"epochs": True}, "epochs is True, it must be a whole number, at least 1"),
        ({"epochs": 0}, "epochs is 0, .* at least 1, or None"),
        ({"bidirectional": 1}, "bidirectional is 1, it must be True or False"),
        ({"level": "sentence"}, "level is 'sentence'; the levels are word, char"),
        ({"d_model": 6, "h": 4}, "not divisible by 4 heads; choose another h, or d_model 8"),
        ({"d_model": 7, "h": 7, "bidirectional": True}, "even d_model, or bidirectional=False"),
        ({"min_count": 9}, "^X: no token occurs 9 times .* a smaller min_count$"),
        ({"class_weight": "alike"}, "class_weight is 'alike', it must be 'balanced', a dict or N"),
        ({"class_weight": {"a": 1, "z": 2}}, "class_weight names 'z', which is no label in y"),
        ({"class_weight": np.ones(2)}, "class_weight is array.*, it must be 'balanced', a dict"),
        ({"lr": True}, "lr is True, it must be a number, or None"),
        ({"class_weight": {"a": -1}}, "class_weight of 'a' is -1; give a number from 0 on"),
        ({"class_weight": {"a": 0, "b": 0}}, "class_weight leaves no text a weight"),
        ({"tune": "head"}, "tune chooses among the weights of a base"),
        ({"random_state": -1}, "must be between 0 and"),
        ({"random_state": "x"}, "cannot be used to seed"),
        ({"device": "gpu"}, "gpu"),
    ],
)
def test_impossible_parameters(parameters, says):
    with pytest.raises((ValueError, tg.DeviceError), match=says) as e:
        small(**parameters).fit(["one two", "two one", "one"], ["a", "b", "a"])
    assert "--" not in str(e.value)  # which is for the command line


@needs_sklearn
def test_numbers_of_numpy_are_numbers(tmp_path):
    X, y = texts_and_labels()
    grid = {"d_model": np.int64(8), "lr": np.float32(0.02), "bidirectional": np.bool_(False)}
    estimator = small(**grid, random_state=np.int64(0)).fit(X, y)
    estimator.save(tmp_path / "model")  # as JSON, too


@needs_sklearn
def test_a_loss_that_is_no_number():
    X, y = texts_and_labels()
    with pytest.raises(training.TrainingError, match="try a smaller lr"), np.errstate(all="ignore"):
        small(lr=1e30).fit(X, y)


# ---- held-out texts


@needs_sklearn
def test_a_tenth_is_held_out_if_there_are_enough_texts():
    X, y = texts_and_labels(30)
    patient = small(epochs=40, early_stopping=2, lr=0.05).fit(X, y)
    metrics = patient.trained_.metrics
    assert metrics["rows"] == {"fit": 27, "stop": 3, "test": 0}
    assert metrics["epochs"] < 40
    losses = [h["valid_loss"] for h in metrics["history"]]
    assert metrics["valid_loss"] == min(losses) == losses[-3]
    for few, n in ((small(early_stopping=0), 30), (small(), 29), (small(), 29)):
        few.fit(X[:n], y[:n])
        assert few.trained_.metrics["rows"] == {"fit": n, "stop": 0, "test": 0}
        assert few.trained_.metrics["epochs"] == 15


@needs_sklearn
def test_copies_of_a_text_are_no_more_texts():
    """They would be in both parts."""
    X, y = texts_and_labels(6)
    assert small().fit(X * 10, y * 10).trained_.metrics["rows"]["stop"] == 0


@needs_sklearn
def test_a_handful_of_texts():
    X, y = ["a fine day", "rain", "more rain"], ["good", "bad", "bad"]
    estimator = TextClassifierEstimator(workers=1, d_model=32, random_state=0).fit(X, y)
    assert estimator.predict(X).tolist() == y
    assert estimator.predict(["fine", ""]).tolist()[0] == "good"
    two = TextClassifierEstimator(**SMALL, random_state=0, epochs=40, lr=0.02)
    assert two.fit(["x", "y"], [True, False]).predict(["y", "x"]).tolist() == [False, True]


# ---- weights


@needs_sklearn
@pytest.mark.parametrize("level", ["word", "char"])
def test_a_weight_is_as_many_copies(float64, level):
    """Where nothing is drawn by lot: the same vocabulary, and the same answers to rounding."""
    X, y = texts_and_labels(24)
    w = np.random.default_rng(0).integers(0, 4, 24)
    exact = {**EXACT, "level": level, "early_stopping": 0, "min_count": 1}
    once, often = small(**exact), small(**exact)
    once.fit(X, y, w)
    often.fit(np.repeat(X, w), np.repeat(y, w))
    assert once.trained_.vocabulary.tokens == often.trained_.vocabulary.tokens
    assert once.trained_.vocabulary.tokens != small(**exact).fit(X, y).trained_.vocabulary.tokens
    np.testing.assert_allclose(once.predict_proba(X), often.predict_proba(X), rtol=0, atol=1e-9)


@needs_sklearn
def test_a_text_of_weight_zero_is_as_if_it_were_not_there():
    X, y = texts_and_labels()
    some = np.arange(60) % 7 != 3
    w = np.where(some, 1.5, 0.0)
    weighted = small().fit([*X, "zebra"], [*y, "z"], sample_weight=[*w, 0])
    kept = [k for k in range(60) if some[k]]
    alone = small().fit([X[k] for k in kept], [y[k] for k in kept], np.full(len(kept), 1.5))
    assert weighted.trained_.vocabulary.tokens == alone.trained_.vocabulary.tokens
    assert weighted.classes_.tolist() == ["a", "b", "c"]
    assert weights(weighted) == weights(alone)


@needs_sklearn
def test_weights_say_which_of_two_opinions_counts():
    X, y = ["the same words"] * 20, ["a", "b"] * 10
    p = small(epochs=60).fit(X, y).predict_proba(X[:1])[0, 0]
    assert p == pytest.approx(0.5, abs=0.1)
    p = small(epochs=60).fit(X, y, sample_weight=[3, 1] * 10).predict_proba(X[:1])[0, 0]
    assert p == pytest.approx(0.75, abs=0.1)
    p = small(epochs=60, class_weight={"a": 3}).fit(X, y).predict_proba(X[:1])[0, 0]
    assert p == pytest.approx(0.75, abs=0.1)
    both = small(epochs=60, class_weight={"a": 3}).fit(X, y, [1, 3] * 10)
    assert both.predict_proba(X[:1])[0, 0] == pytest.approx(0.5, abs=0.1)
    X, y = ["the same words"] * 20, ["a"] * 15 + ["b"] * 5
    p = small(epochs=60, class_weight="balanced").fit(X, y).predict_proba(X[:1])[0, 0]
    assert p == pytest.approx(0.5, abs=0.1)


@needs_sklearn
def test_the_weights_go_with_their_texts(monkeypatch):
    seen = {}

    def train(parts, settings, progress, source, row_weights, stop_weights):
        seen.update(parts=parts, row_weights=row_weights, stop_weights=stop_weights)
        raise InterruptedError

    monkeypatch.setattr(estimator_module(), "train", train)
    X, y = texts_and_labels()
    of = dict(zip(X, np.arange(60) / 10, strict=True))
    with pytest.raises(InterruptedError):
        small(class_weight={"a": 2}).fit(X, y, [of[x] for x in X])
    parts = seen["parts"]
    assert len(parts.fit) == 53  # without the first text, whose weight is 0
    assert len(parts.stop) == 6
    for part, name in ((parts.fit, "row_weights"), (parts.stop, "stop_weights")):
        want = [
            of[x] * (2 if c == "a" else 1) for x, c in zip(part.texts, part.labels, strict=True)
        ]
        np.testing.assert_allclose(seen[name], want)


def estimator_module():
    import tinygrad_mha.models.estimator as module

    return module


@needs_sklearn
@pytest.mark.parametrize(
    ("w", "says"),
    [
        ([1, 2], r"^sample_weight has the shape \(2,\), but X has 3 texts; give one number"),
        (2.0, r"sample_weight has the shape \(\)"),
        ([[1], [2], [3]], r"sample_weight has the shape \(3, 1\)"),
        ([1, float("nan"), 1], r"^sample_weight\[1\] is nan; give finite numbers from 0 on$"),
        ([1, float("inf"), 1], r"sample_weight\[1\] is inf"),
        ([1, 1, -1], r"sample_weight\[2\] is -1\.0"),
        ([0, 0, 0], "^every sample_weight is zero"),
        (["x", "y", "z"], "^sample_weight holds no numbers"),
        ([0, 1, 0], "^y holds one class only, 'b'"),
    ],
)
def test_what_are_no_weights(w, says):
    with pytest.raises(InputError, match=says):
        small().fit(["one", "two", "three"], ["a", "b", "a"], w)


# ---- going on


@needs_sklearn
def test_partial_fit_learns_batch_by_batch():
    X, y = texts_and_labels(120)
    y = np.array(["abc".index(c) for c in y])
    estimator = small(batch_size=8)
    with pytest.raises(InputError, match=r"^the first call of partial_fit needs classes, all"):
        estimator.partial_fit(X, y)
    for k in range(0, 120, 30):
        estimator.partial_fit(X[k : k + 30], y[k : k + 30], classes=[2, 0, 1])
    assert estimator.classes_.tolist() == [0, 1, 2]
    assert estimator.score(X, y) > 0.9
    assert estimator.trained_.metrics["epochs"] == 4
    first = X[0].split()[-1], X[40].split()[-1]  # each text ends with its number
    assert [w in estimator.trained_.vocabulary.tokens for w in first] == [False, False]
    assert {"red", "cow"} <= set(estimator.trained_.vocabulary.tokens)


@needs_sklearn
def test_partial_fit_fixes_the_vocabulary_and_keeps_the_optimizer():
    X, y = texts_and_labels(24)
    estimator = small(batch_size=8).partial_fit(X, y, ["a", "b", "c", "never"])
    tokens = estimator.trained_.vocabulary.tokens
    estimator.partial_fit(["zebra zebra zebra"], ["a"])
    assert estimator.trained_.vocabulary.tokens == tokens
    # 3 batches and 1: Adam counts its steps
    assert estimator._pace.steps == estimator._pace.optimizer["param.0.step"] == 4
    assert estimator.predict_proba(["zebra"]).shape == (1, 4)
    copy = pickle.loads(pickle.dumps(estimator))
    before = weights(estimator)
    for e in (estimator, copy):
        e.partial_fit(X[:8], y[:8])
    assert weights(estimator) == weights(copy) != before
    forgetful = pickle.loads(pickle.dumps(estimator))
    forgetful._pace = estimator_module().Pace(0, forgetful._pace.steps)
    for e in (estimator, forgetful):
        e.partial_fit(X[:8], y[:8])
    assert weights(estimator) != weights(forgetful)


@needs_sklearn
def test_partial_fit_after_fit_and_load(tmp_path):
    X, y = texts_and_labels()
    estimator = small(dropout=0.0).fit(X, y)
    estimator.save(tmp_path / "model")
    loaded = TextClassifierEstimator.load(tmp_path / "model")
    before = estimator.predict_proba(["new words"])[0]
    for e in (estimator, loaded):
        for _ in range(10):
            e.partial_fit(["new words"], ["b"])
    assert weights(estimator) == weights(loaded)
    assert estimator.predict_proba(["new words"])[0, 1] > max(0.9, before[1])


@needs_sklearn
def test_partial_fit_goes_over_every_text_once_with_the_weights(monkeypatch):
    X, y = texts_and_labels(20)
    seen, plain = [], Run.train_step

    def train_step(self, ids, lengths, targets, workers, weights=None):
        seen.append((len(ids), weights, self.optimizer.lr))
        return plain(self, ids, lengths, targets, workers, weights)

    monkeypatch.setattr(Run, "train_step", train_step)
    estimator = small(batch_size=8, class_weight={"a": 2.0})
    estimator.partial_fit(X, y, ["a", "b", "c"], sample_weight=np.arange(20) + 1.0)
    estimator.partial_fit(X, y)
    assert sorted(n for n, _, _ in seen) == [4, 4, 8, 8, 8, 8]
    once = np.sort(np.concatenate([w for _, w, _ in seen[:3]]))
    want = np.sort([(k + 1.0) * (2 if c == "a" else 1) for k, c in enumerate(y)])
    np.testing.assert_array_equal(once, want)
    assert {lr for _, _, lr in seen} == {0.02}  # no warm-up, no decay


@needs_sklearn
def test_partial_fit_refuses():
    X, y = texts_and_labels(12)
    estimator = small().partial_fit(X, y, list("abc"))
    before = weights(estimator)
    for call, says in (
        (lambda: estimator.partial_fit(X, y, list("abd")), "classes are .* but they were"),
        (lambda: estimator.partial_fit(["x"], ["d"]), "the label 'd' is none of classes"),
        (lambda: estimator.partial_fit(["x", "y"], ["a"]), "X has 2 texts, but y has 1 labels"),
        (lambda: small().partial_fit(X, y, ["a", "a"]), "^classes holds one class only"),
        (lambda: small(class_weight="balanced").partial_fit(X, y, "abc"), "takes all texts at on"),
        (lambda: small(base="minilm").partial_fit(X, y, list("abc")), "use fit"),
    ):
        with pytest.raises(InputError, match=says):
            call()
    assert weights(estimator) == before


@needs_sklearn
def test_a_pass_that_fails_changes_nothing(monkeypatch):
    X, y = texts_and_labels(24)
    estimator = small(batch_size=8).partial_fit(X, y, list("abc"))
    before, pace, plain = weights(estimator), estimator._pace, Run.loss_of

    def loss_of(self, *batch):
        loss, said = plain(self, *batch)
        return (loss * np.inf if self.step == pace.steps + 2 else loss), said

    monkeypatch.setattr(Run, "loss_of", loss_of)
    with pytest.raises(training.TrainingError, match=r"try a smaller lr than 0\.02"):
        estimator.partial_fit(X, y)
    assert weights(estimator) == before
    assert estimator._pace is pace


# ---- chance


@needs_sklearn
def test_random_state():
    X, y = texts_and_labels(40)

    def made(state):
        return weights(small(epochs=2, random_state=state).fit(X, y))

    one = made(1)
    assert one == made(1) != made(2)
    generator = np.random.RandomState(5)
    first, second = made(generator), made(generator)
    assert first != second
    assert first == made(np.random.RandomState(5))
    np.random.seed(7)
    drawn = made(None)
    assert drawn != made(None)
    np.random.seed(7)
    assert drawn == made(None)
    twice = small(epochs=2, random_state=1).fit(X, y)
    assert weights(twice.fit(X, y)) == one


@needs_sklearn
def test_training_leaves_the_state_of_the_world_alone():
    X, y = texts_and_labels(40)
    tg.manual_seed(11)
    want = [tg.random.uniform((3,), 0, 1) for _ in range(2)], tg.random.masks()
    tg.manual_seed(11)
    first = tg.random.uniform((3,), 0, 1)
    tg.dropout(tg.Tensor(np.ones((2, 2))), p=0.5)
    place, numpys = tg.random.masks(), np.random.get_state()[1].tolist()
    small(epochs=1, dropout=0.3).fit(X, y)
    small().partial_fit(X, y, list("abc"))
    with pytest.raises(InputError):
        small(min_count=99).fit(X, y)
    assert np.random.get_state()[1].tolist() == numpys
    assert tg.random.masks() == place != want[1]
    np.testing.assert_array_equal([first, tg.random.uniform((3,), 0, 1)], want[0])


@needs_sklearn
def test_threads_get_the_same_answers(fitted):
    X, _ = texts_and_labels()
    want = fitted.predict_proba(X)
    with ThreadPoolExecutor(4) as pool:
        for p in pool.map(fitted.predict_proba, [X] * 24):
            np.testing.assert_array_equal(p, want)


@needs_sklearn
def test_trainings_side_by_side_do_not_take_each_others_random_numbers(monkeypatch):
    X, y = texts_and_labels(40)
    alone = weights(small(epochs=2).fit(X, y))
    both, plain = threading.Barrier(2), training.build_model

    def build_model(*args):
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # if the other one is here, too, they draw at the same time
        return plain(*args)

    monkeypatch.setattr(training, "build_model", build_model)
    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(lambda _: weights(small(epochs=2).fit(X, y)), range(2)):
            assert made == alone


@needs_sklearn
def test_an_answer_depends_on_its_text_alone():
    """To the tolerances of scikit-learn's checks, at a size where float32 is not enough."""
    X, y = texts_and_labels(48)
    X = [f"{x} " * (1 + k % 7) for k, x in enumerate(X)]
    estimator = TextClassifierEstimator(level="char", workers=1, epochs=2, random_state=0).fit(X, y)
    p = estimator.predict_proba(X)
    assert np.ptp(p) > 0.1
    one_by_one = np.concatenate([estimator.predict_proba([x]) for x in X])
    np.testing.assert_allclose(one_by_one, p, rtol=1e-7, atol=1e-9)
    order = np.random.default_rng(0).permutation(48)
    mixed = estimator.predict_proba([X[k] for k in order])
    np.testing.assert_allclose(mixed, p[order], rtol=1e-7, atol=1e-9)


# ---- company


@needs_sklearn
def test_in_pipelines_and_searches():
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    X, y = texts_and_labels()
    upper = [x.replace("e", "#") for x in X]
    clean = FunctionTransformer(lambda X: [x.replace("#", "e") for x in X])
    pipeline = make_pipeline(clean, small(epochs=25))
    pipeline.fit(upper, y, textclassifierestimator__sample_weight=np.ones(60))
    assert pipeline.score(upper, y) == 1
    assert pipeline.predict_proba(upper).shape == (60, 3)
    assert cross_val_score(small(epochs=25), X, y, cv=3).min() > 0.8
    assert cross_val_score(small(epochs=25), X, y, cv=3, scoring="neg_log_loss").min() > -0.7
    search = GridSearchCV(small(epochs=25), {"lr": [1e-6, 0.02]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_ == {"lr": 0.02}
    assert search.cv_results_["mean_test_score"][0] < 0.7 < search.best_score_
    assert weights(search.best_estimator_) == weights(small(epochs=25).fit(X, y))
    np.testing.assert_array_equal(search.predict(X), y)


@needs_sklearn
def test_copies(fitted):
    from sklearn.base import clone

    X, _ = texts_and_labels()
    want = fitted.predict_proba(X)
    data = pickle.dumps(fitted)
    np.testing.assert_array_equal(pickle.loads(data).predict_proba(X), want)
    assert b"float64" not in data and b"f8" not in data  # noqa: PT018 the weights once, not thrice
    np.testing.assert_array_equal(copy.deepcopy(fitted).predict_proba(X), want)
    fresh = clone(fitted)
    assert not hasattr(fresh, "classes_")
    assert fresh.get_params() == fitted.get_params()
    assert pickle.loads(pickle.dumps(fresh)).get_params() == fresh.get_params()


@needs_sklearn
def test_verbose(capfd):
    X, y = texts_and_labels()
    small(epochs=2).fit(X, y)
    small(epochs=2).partial_fit(X, y, list("abc"))
    assert capfd.readouterr() == ("", "")
    small(epochs=2, verbose=1).fit(X, y)
    out, err = capfd.readouterr()
    assert out == ""
    assert "X: 60 rows; 54 train, 6 stop early" in err
    assert "epoch  2  loss" in err
    estimator = small(verbose=True).partial_fit(X, y, list("abc")).partial_fit(X, y)
    lines = re.findall(r"pass (\d)  loss (\S+)  accuracy (\S+)", capfd.readouterr().err)
    assert [line[0] for line in lines] == ["1", "2"]
    for (_, loss, accuracy), said in zip(lines, estimator.trained_.metrics["history"], strict=True):
        assert loss == f"{said['train_loss']:.3f}"
        assert accuracy == f"{said['train_accuracy']:.3f}"


# ---- on disk


@needs_sklearn
@pytest.mark.parametrize("labels", [["a", "b", "c"], [10, 9, -2], [False, True], [0.0, 2.0]])
def test_the_folder_is_one_of_train(labels, tmp_path, capsys):
    from tinygrad_mha.models.cli import main

    X, y = texts_and_labels(labels="abc"[: len(labels)])
    y = [labels["abc".index(c)] for c in y]
    options = {"class_weight": {labels[0]: 2.0}, "max_len": 7, "min_count": 1, "dropout": 0.1}
    estimator = small(**options).fit(X, y)
    estimator.save(tmp_path / "model")
    loaded = TextClassifierEstimator.load(tmp_path / "model")
    assert loaded.classes_.dtype == estimator.classes_.dtype
    np.testing.assert_array_equal(loaded.classes_, estimator.classes_)
    np.testing.assert_array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    for name, given in estimator.get_params().items():
        assert given in (None, getattr(loaded, name)), name
    assert (loaded.level, loaded.num_layers, loaded.early_stopping) == ("word", 1, 6)
    assert weights(loaded.fit(X, y)) == weights(estimator)
    (tmp_path / "texts").write_text("\n".join(X), encoding="utf-8")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "texts")]) == 0
    spelled = json.dumps if labels[1] is True else str  # booleans as in a .jsonl file
    assert capsys.readouterr().out.split() == [spelled(c) for c in estimator.predict(X).tolist()]
    loaded.save(tmp_path / "model")  # over itself
    assert set(os.listdir(tmp_path / "model")) == {
        "model.safetensors", "config.json", "vocab.json", "metrics.json"
    }  # fmt: skip


@needs_sklearn
def test_a_folder_of_train_is_an_estimator(tmp_path):
    X, y = texts_and_labels()
    settings = Settings.for_level("char", d_model=8, h=2, epochs=2, seed=4, workers=1)
    trained = training.train(training.split(dataset(X, y)), settings)
    trained.save(tmp_path / "model")
    loaded = TextClassifierEstimator.load(tmp_path / "model")
    assert loaded.classes_.tolist() == ["a", "b", "c"]
    assert (loaded.level, loaded.d_model, loaded.random_state) == ("char", 8, 4)
    np.testing.assert_allclose(loaded.predict_proba(X), trained.predict_proba(X), atol=1e-5)
    assert loaded.predict(X).tolist() == trained.predict(X)


@needs_sklearn
@pytest.mark.parametrize(
    "damage",
    [
        {"classes": [1, 2, 4]},
        {"classes": None},
        {"classes": [[1], [2, 3], 4]},
        {"classes": ["x", "y", "z"]},
        {"dtype": "<U1000000000"},
        {"dtype": "O,O"},
        {"dtype": None},
        {"class_weight": [1]},
        [],
    ],
)
def test_a_damaged_folder(damage, tmp_path):
    X, y = texts_and_labels()
    small(epochs=1).fit(X, ["abc".index(c) + 1 for c in y]).save(tmp_path / "model")
    path = tmp_path / "model" / "metrics.json"
    metrics = json.loads(path.read_text())
    good = metrics["estimator"]
    metrics["estimator"] = {**good, **damage} if isinstance(damage, dict) else damage
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: 'estimator' does not fit .* train again"):
        TextClassifierEstimator.load(tmp_path / "model")


@needs_sklearn
def test_labels_that_no_folder_can_hold(tmp_path):
    """`fit` refuses them; a pickle of an older version may have them all the same."""
    for labels, says in ((["a\nb", "c"], "line breaks"), (["", "c"], "no label in classes_")):
        estimator = small(epochs=1).fit(["one two", "two one"], ["a", "c"])
        estimator.trained_.labels[:] = labels
        estimator.classes_ = np.array(labels)
        with pytest.raises(InputError, match=says):
            estimator.save(tmp_path / "model")
    with pytest.raises(sklearn.exceptions.NotFittedError):
        small().save(tmp_path / "model")
    with pytest.raises(InputError, match="no such model folder"):
        TextClassifierEstimator.load(tmp_path / "model")


# ---- elsewhere


@needs_sklearn
def test_on_the_device(cupy, float64):
    X, y = texts_and_labels(40)
    here = small(epochs=2, class_weight={"a": 2}).fit(X, y)
    there = small(epochs=2, class_weight={"a": 2}, device="cuda").fit(X, y)
    assert all(p.device.startswith("cuda") for p in there.trained_.model.parameters())
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-6)
    for e in (here, there):
        e.partial_fit(X, y).partial_fit(X, y)
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-6)
    there.set_params(device="cpu").partial_fit(X, y)
    here.partial_fit(X, y)
    assert all(p.device == "cpu" for p in there.trained_.model.parameters())
    np.testing.assert_allclose(there.predict_proba(X), here.predict_proba(X), atol=1e-6)


@needs_sklearn
def test_a_base_is_fine_tuned(monkeypatch, fitted):
    """Whatever finetune() makes answers; what says nothing about a base is refused."""
    seen = {}

    @dataclass
    class FinetuneSettings:
        base: str
        tune: str = "all"
        epochs: int = 3
        lr: float = 1e-4
        seed: int = 0
        device: str = "cpu"
        class_weight: str = "none"

    def finetune(parts, settings, progress, source, row_weights=None, stop_weights=None):
        seen.update(parts=parts, settings=settings, source=source, row_weights=row_weights)
        return fitted.trained_

    module = types.ModuleType("tinygrad_mha.models.finetune")
    module.FinetuneSettings, module.finetune = FinetuneSettings, finetune
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(tinygrad_mha.models, "finetune", module, raising=False)
    X, y = texts_and_labels()
    estimator = TextClassifierEstimator(base="minilm", tune="head", lr=0.01, random_state=3)
    assert estimator.fit(X, y).score(X, y) == 1
    assert seen["settings"] == FinetuneSettings("minilm", "head", 3, 0.01, 3)
    assert (len(seen["parts"].fit), len(seen["parts"].stop)) == (54, 6)
    assert seen["row_weights"] is None
    estimator.fit(X, y, np.full(60, 2.0))
    np.testing.assert_array_equal(seen["row_weights"], np.full(54, 2.0))
    with pytest.raises(InputError, match=r"^num_layers is of no use with base='minilm'; leave"):
        estimator.set_params(num_layers=2).fit(X, y)


@needs_sklearn
def test_a_base_for_real(monkeypatch, tmp_path):
    """A tiny encoder: it is what finetune() makes, kept in every way, and asked by a command."""
    from test_finetune import Letters, pretrained_folder, texts

    from tinygrad_mha.models import fine_tuned, finetune
    from tinygrad_mha.models.cli import main

    for module in (finetune, fine_tuned):
        monkeypatch.setattr(module, "WordPiece", Letters)
    folder = pretrained_folder(tmp_path / "base")
    data = texts(80)
    X, y = data.texts, ["ab".index(c) for c in data.labels]
    given = {"base": folder, "tune": "attention", "epochs": 2, "batch_size": 8, "lr": 5e-3}
    given |= {"max_len": 12, "workers": 1}
    estimator = TextClassifierEstimator(**given, random_state=4)
    w = np.arange(80) % 4.0
    assert estimator.fit(X, y, w).classes_.tolist() == [0, 1]
    rows = np.flatnonzero(w)
    some = training.subset(data, rows)
    keep, out = stratified_split(some.texts, some.labels, 0.1, 4)
    parts = Split(*(training.subset(some, part) for part in (keep, out, [])))
    settings = finetune.FinetuneSettings(**given, seed=4)
    trained = finetune.finetune(
        parts, settings, row_weights=w[rows][keep], stop_weights=w[rows][out]
    )
    want = estimator.predict_proba(X)
    np.testing.assert_allclose(trained.predict_proba(X), want, atol=1e-5)
    assert np.ptp(want) > 0.01
    estimator.save(tmp_path / "model")
    loaded = TextClassifierEstimator.load(tmp_path / "model")
    assert loaded.classes_.tolist() == [0, 1]
    assert (loaded.base, loaded.tune, loaded.epochs) == (folder, "attention", 2)
    for same in (loaded, pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        np.testing.assert_array_equal(same.predict_proba(X), want)
    assert weights(loaded.fit(X, y, w)) == weights(estimator)
    one_by_one = np.concatenate([estimator.predict_proba([x]) for x in X])
    np.testing.assert_allclose(one_by_one, want, atol=1e-6)  # in float32
    (tmp_path / "texts").write_text("\n".join(X), encoding="utf-8")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "texts")]) == 0


@needs_sklearn
@pytest.mark.filterwarnings("ignore")  # of the tokenizers library
def test_minilm_for_real():
    """The published model: what cross-validation finds on a few texts of two kinds."""
    from sklearn.model_selection import cross_val_score

    from tinygrad_mha.models import pretrained

    pytest.importorskip("tokenizers", reason="extra: hub")
    try:
        pretrained.find("minilm")
    except InputError as e:
        pytest.skip(str(e))
    X = ["I love this", "what a wonderful day", "great, thank you", "so happy about it"]
    X += ["the best film ever", "brilliant work", "she smiled with joy", "delicious food"]
    X += ["I hate this", "what an awful day", "terrible, go away", "so sad about it"]
    X += ["the worst film ever", "useless work", "she cried in pain", "disgusting food"]
    y = [True] * 8 + [False] * 8
    estimator = TextClassifierEstimator(
        base="minilm", tune="head", epochs=40, workers=1, random_state=0
    )
    assert cross_val_score(estimator, X, y, cv=4).mean() >= 0.75
    estimator.fit(X, y)
    assert estimator.predict(["a lovely evening", "a dreadful evening"]).tolist() == [True, False]
