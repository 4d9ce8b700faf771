"""Labels from Python to files and back: their types, their spelling, and what is refused.

And what a trained classifier says of texts, places and folders that are none.
"""

import json
import pickle
import re
import shlex
import unicodedata

import numpy as np
import pytest

import tinygrad_mha.models
from tinygrad_mha.models import InputError, pretrained
from tinygrad_mha.models import train as training
from tinygrad_mha.models.cli import main
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.text import Vocabulary, tokenize
from tinygrad_mha.models.text_classifier import TextClassifier
from tinygrad_mha.models.trained import FINE_TUNED, FORMAT, TrainedClassifier, check_replaceable

TEXTS = [f"{word} {k}" for k in range(15) for word in ("red", "two")]
YES = [True, False] * 15
LEARNT = {"epochs": 12, "lr": 0.03}


def estimator_class():
    pytest.importorskip("sklearn", reason="needs scikit-learn (extra sklearn)")
    return tinygrad_mha.models.TextClassifierEstimator


def small(**more):
    given = {"d_model": 8, "h": 2, "bidirectional": False, "workers": 1, "random_state": 0}
    return estimator_class()(**{**given, "epochs": 1, **more})


def weights(estimator):
    return b"".join(x.tobytes() for x in estimator.trained_.model.state_dict().values())


def refused(call, says, kind=InputError):
    """The message, which is one line."""
    with pytest.raises(kind, match=says) as e:
        call()
    assert "\n" not in str(e.value)
    return str(e.value)


def evaluated(folder, path):
    """The accuracy of a saved model on a file."""
    assert main(["evaluate", str(folder), str(path)]) == 0
    return training.evaluate(TrainedClassifier.load(folder), read_dataset(path))["accuracy"]


# --------------------------------------------------------------------------------- their types


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Int64", "int64"),
        ("UInt8", "uint8"),
        ("boolean", "bool"),
        ("Float64", "float64"),
        # those that have been right before
        ("int64", "int64"),
        ("int8", "int8"),
        ("bool", "bool"),
        ("float32", "float32"),
        ("category", "bool"),
        (object, "bool"),
    ],
)
def test_the_types_of_pandas_keep_their_labels(given, kept):
    pandas = pytest.importorskip("pandas")
    y = pandas.Series(YES, dtype=given)
    estimator = small(**LEARNT).fit(TEXTS, y)
    assert estimator.classes_.dtype == kept
    assert estimator.classes_.tolist() == [0, 1]
    answers = estimator.predict(TEXTS)
    assert answers.dtype == kept
    assert answers.tolist() == YES
    assert estimator.score(TEXTS, y.tolist() if given is object else y) == 1
    again = small().partial_fit(TEXTS, y, classes=pandas.Series(YES[:2], dtype=given))
    assert again.classes_.dtype == kept


@pytest.mark.parametrize("given", [str, "string", "category", object])
def test_strings_of_pandas(given):
    pandas = pytest.importorskip("pandas")
    y = pandas.Series(["yes", "no"] * 15, dtype=given)
    estimator = small(**LEARNT).fit(pandas.Series(TEXTS), y)
    assert (estimator.classes_.dtype, estimator.classes_.tolist()) == (object, ["no", "yes"])
    assert estimator.predict(TEXTS).tolist() == ["yes", "no"] * 15


@pytest.mark.parametrize(
    ("given", "values", "among"),
    [
        ("Int64", [1, None, 0], "integers"),
        ("boolean", [True, None, False], "booleans"),
        ("string", ["a", None, "b"], "strings"),
    ],
)
def test_labels_that_pandas_misses(given, values, among):
    pandas = pytest.importorskip("pandas")
    says = rf"^y\[1\] is <NA> among {among}; give it a label, or drop the row$"
    refused(lambda: small().fit(list("xyz"), pandas.Series(values, dtype=given)), says)


def test_a_column_of_integers_that_may_be_missing():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"y": pandas.Series([1, 0] * 15, dtype="Int64")})
    with pytest.warns(UserWarning, match="column-vector"):
        assert small().fit(TEXTS, table).classes_.dtype == np.int64


def test_integers_of_pandas_are_those_of_a_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS, "label": pandas.Series([10, 9] * 15, dtype="Int64")})
    small(**LEARNT).fit(table["text"], table["label"]).save(tmp_path / "model")
    table.to_csv(tmp_path / "data.csv", index=False)
    assert TrainedClassifier.load(tmp_path / "model").labels == ["10", "9"]
    assert evaluated(tmp_path / "model", tmp_path / "data.csv") == 1
    loaded = estimator_class().load(tmp_path / "model")
    assert (loaded.classes_.dtype, loaded.classes_.tolist()) == (np.int64, [9, 10])
    assert loaded.predict(TEXTS).tolist() == [10, 9] * 15


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([1, 0], np.int64),
        ([np.int8(1), np.int8(0)], np.int8),
        ([True, np.bool_(False)], bool),
        ([1, 0.0], np.float64),
        (["a", "b"], "U1"),
        ([2**63 + 2**20, 1], np.uint64),
        (np.array([1, 0], object), np.int64),
        (np.array([True, False], object), bool),
        (np.array(["a", "b"], object), object),
    ],
    ids=repr,
)
def test_lists_and_object_arrays(labels, kept):
    estimator = small().fit(["x", "y"], labels)
    assert (estimator.classes_.dtype, {*estimator.classes_.tolist()}) == (kept, {*labels})


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            [1, "neg", 1],
            r"^y\[0\] is 1 among strings; give labels of one type: all strings, ",
        ),
        (["neg", True, "x"], r"^y\[1\] is True among strings; give labels of one type"),
        ([True, False, 2], r"^y\[2\] is 2 among booleans; give labels of one type"),
        ([1, 0, True], r"^y\[2\] is True among integers; give labels of one type"),
        ([2**70, 1, 0], r"^y\[0\] is 1180591620717411303424, for which 64 bits are too few; make"),
        ([1, -(2**70), 0], r"^y\[1\] is -1180591620717411303424, for which 64"),
        ([2**63, -1, 0], r"^y\[0\] is 9223372036854775808, for which 64 bits"),
        ([1, None, 0], r"^y\[1\] is None among integers; give it a label, or drop the row$"),
        ([None, None, None], r"^y\[0\] is None; give it a label, or drop the row$"),
        ([b"a", b"b", b"a"], r"^y\[0\] is b'a'; give labels of one type"),
        ([np.datetime64("2020-01-01")] * 3, r"^y\[0\] is np.datetime64.*; give labels of one type"),
    ],
)
def test_labels_of_several_types(labels, says):
    for y in (labels, tuple(labels), np.array(labels, object)):
        refused(lambda y=y: small().fit(list("xyz"), y), says)
    says = says.replace(r"^y\[", r"^classes\[")
    refused(lambda: small().partial_fit(["x"], ["a"], classes=labels), says)


@pytest.mark.parametrize(("dtype", "shown"), [("M8[Y]", r"datetime64\[Y\]"), ("S4", r"\|S4")])
def test_what_save_would_refuse_is_refused_by_fit(dtype, shown):
    y = np.array(["2020", "2021"]).astype(dtype)
    says = f"^labels of type {shown} cannot be saved; turn them into strings$"
    refused(lambda: small().fit(["x", "y"], y), says)
    estimator = small().fit(["x", "y"], ["a", "b"])
    estimator.classes_ = y  # in a pickle of an older version
    refused(lambda: estimator.save("nowhere"), says)


# -------------------------------------------------------------------------------- their spelling


def as_rows(path, labels):
    rows = (json.dumps({"text": t, "label": y}) for t, y in zip(TEXTS, labels, strict=True))
    path.write_text("\n".join(rows))
    return path


def test_booleans_are_those_of_json(tmp_path, capsys):
    estimator = small(**LEARNT, class_weight={True: 1.5}).fit(TEXTS, YES)
    assert estimator.trained_.labels == ["false", "true"]
    words = small(**LEARNT, class_weight={"True": 1.5}).fit(TEXTS, list(map(str, YES)))
    assert weights(estimator) == weights(words)  # what they are called has no part in the training
    estimator.save(tmp_path / "model")
    assert evaluated(tmp_path / "model", as_rows(tmp_path / "data.jsonl", YES)) == 1

    loaded = estimator_class().load(tmp_path / "model")
    for one in (estimator, loaded, pickle.loads(pickle.dumps(loaded))):
        assert (one.classes_.dtype, one.classes_.tolist()) == (bool, [False, True])
        assert one.predict(TEXTS).tolist() == YES
    assert loaded.class_weight == {True: 1.5}
    assert weights(loaded.fit(TEXTS, YES)) == weights(estimator)

    rows = [f"{t},{y}" for t, y in zip(TEXTS, YES, strict=True)]  # as pandas writes them
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "model"), str(tmp_path / "data.csv")]) == 2
    err = capsys.readouterr().err
    assert "line 2: unknown label 'True', the known ones are 'false', 'true'; correct it" in err
    assert err.count("\n") == 1


def test_partial_fit_with_booleans():
    estimator = small(lr=0.03).partial_fit(TEXTS, YES, classes=[False, True])
    assert estimator.trained_.labels == ["false", "true"]
    for _ in range(11):
        estimator.partial_fit(TEXTS, YES)
    assert estimator.predict(TEXTS).tolist() == YES


def test_booleans_that_an_older_version_has_written(tmp_path):
    estimator = small(**LEARNT).fit(TEXTS, YES)
    want = estimator.predict_proba(TEXTS)
    estimator.save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "labels": ["False", "True"]}))
    estimator.trained_.labels = ["False", "True"]
    for old in (
        estimator_class().load(tmp_path / "model"),
        pickle.loads(pickle.dumps(estimator)),
    ):
        np.testing.assert_array_equal(old.predict_proba(TEXTS), want)
        assert (old.classes_.dtype, old.predict(TEXTS).tolist()) == (bool, YES)
        assert old.partial_fit(TEXTS, YES).predict(TEXTS).tolist() == YES
        old.save(tmp_path / "new")
        assert TrainedClassifier.load(tmp_path / "new").labels == ["false", "true"]
        assert estimator_class().load(tmp_path / "new").classes_.dtype == bool


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("a\nb", r"^y\[2\]: the label 'a\\nb' there holds '\\n'; labels have no line breaks"),
        ("a\0", r"^y\[2\]: the label 'a\\x00' there holds '\\x00'"),
        ("", r"^y\[2\]: no label there; fill it in or remove the row"),
        (" \t", r"^y\[2\]: no label there; fill it in or remove the row"),
        ("neg ", r"^y\[2\] is 'neg ', with blanks around it, .*; do so, too: label.strip\(\)$"),
        (" neg", r"^y\[2\] is ' neg', with blanks around it"),
    ],
)
def test_labels_that_no_file_can_hold(label, says):
    estimator = small()
    for y in ["a", "a", label, label], np.array(["a", "a", label, label], object):
        refused(lambda y=y: estimator.fit(list("wxyz"), y), says)
    says = says.replace(r"^y\[2\]", r"^classes\[1\]")
    refused(lambda: estimator.partial_fit(["x"], ["a"], classes=["a", label]), says)
    assert not hasattr(estimator, "classes_")


class Compared(str):
    times = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Compared.times += 1
        return str.__eq__(self, other)


def test_many_different_labels_take_time_that_grows_with_them():
    """Not with their square: texts given as labels would take minutes until they are refused."""
    estimator_class()
    from tinygrad_mha.models.estimator import check_names

    check_names([Compared(k) for k in range(2000)], "y")
    assert Compared.times < 10_000
    labels = list(map(str, range(2001))) * 2
    refused(lambda: small().fit(labels, labels), "y holds 2001 classes, more than")


# --------------------------------------------------------------------- what is asked of a model


@pytest.fixture
def trained():
    config = {"level": "word", "max_len": 9, "d_model": 8, "h": 1, "num_layers": 1}
    config |= {"bidirectional": False, "dropout": 0.0, "pooling": "mean"}
    model = TextClassifier(4, 8, 2, bidirectional=False)
    return TrainedClassifier(model, Vocabulary(["good", "day"]), ["no", "yes"], config)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("good day", r"^texts is a single string; give a list.*, for one text \[text\]$"),
        (["a", None], r"^texts\[1\] is None, not a string; fill in or drop"),
        ([float("nan")], r"^texts\[0\] is nan, not a string"),
        (["a", "b", 5], r"^texts\[2\] is 5, not a string; .*turn other things into strings$"),
        ([b"good"], r"^texts\[0\] is b'good', not a string"),
        ([["good"]], r"^texts\[0\] is \['good'\], not a string"),
        (b"good", "^texts is of type bytes; give a list"),
        ({"good": 1}, "^texts is of type dict; give a list"),
        ({"good", "day"}, "^texts is of type set; give a list"),
        (None, "^texts is of type NoneType; give a list"),
        (5, "^texts is of type int; give a list"),
        (np.array([["a", "b"]]), "^texts has 2 dimensions; give a list"),
    ],
)
def test_what_are_no_texts(trained, texts, says):
    refused(lambda: trained.predict(texts), says)
    refused(lambda: trained.predict_proba(texts), says)


def test_what_are_texts(trained):
    want = trained.predict_proba(["good day", "day", ""])
    assert want.shape == (3, 2)
    for texts in (
        ("good day", "day", ""),
        np.array(["good day", "day", ""]),
        np.array(["good day", "day", ""], object),
        {"good day": 1, "day": 2, "": 3}.keys(),
    ):
        np.testing.assert_array_equal(trained.predict_proba(texts), want)
    np.testing.assert_array_equal(trained.predict_proba(iter(["good day", "day", ""])), want)
    assert trained.predict_proba([]).shape == (0, 2)
    assert trained.predict([]) == []


def test_what_are_texts_of_pandas(trained):
    pandas = pytest.importorskip("pandas")
    texts = pandas.Series(["good day", "day"], index=[7, 5])
    assert trained.predict(texts) == trained.predict(["good day", "day"])
    table = pandas.DataFrame({"text": texts})
    refused(lambda: trained.predict(table), "^texts has 2 dimensions; .*: one column of a table$")


# ----------------------------------------------------------------------------------- on disk


def test_a_place_that_cannot_be_replaced(trained, tmp_path):
    (tmp_path / "notes").write_text("mine")
    says = f"{tmp_path}: it holds 'notes', so it is no model folder; choose another place"
    assert refused(lambda: trained.save(tmp_path), "no model folder") == says
    estimator = small().fit(["x", "y"], ["a", "b"])
    assert refused(lambda: estimator.save(tmp_path), "no model folder") == says
    # the command line has a name for the place
    assert refused(lambda: check_replaceable(tmp_path), "no m") == f"{says} with --out"


def test_a_folder_inside_the_current_one(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: trained.save("."), "current folder .*; choose a folder inside it$")


def test_files_are_no_folders(trained, tmp_path):
    place = tmp_path / "my model"
    trained.save(place)
    says = "is a file, and a model is a folder; give the folder that"
    (tmp_path / "a.csv").write_text("text,label\n")
    for call in (TrainedClassifier.load, estimator_class().load):
        if call != TrainedClassifier.load:
            pytest.importorskip("sklearn")
        told = refused(lambda call=call: call(tmp_path / "a.csv"), says)
        assert told == f"{tmp_path}/a.csv: {says} `tinygrad-mha train` wrote"
        told = refused(lambda call=call: call(place / "vocab.json"), says)
        assert told == f"{place}/vocab.json: {says} it is in: {shlex.quote(str(place))}"
    refused(lambda: TrainedClassifier.load(tmp_path / "none"), "no such model folder; train one")


def test_folders_without_a_model(trained, tmp_path):
    (tmp_path / "notes").write_text("mine")
    assert refused(lambda: TrainedClassifier.load(tmp_path), "no model") == (
        f"{tmp_path}: no model is in this folder: model.safetensors, config.json, vocab.json, "
        "metrics.json are missing; give the folder that `tinygrad-mha train` wrote"
    )
    trained.save(tmp_path / "model")
    for name in ("config.json", "vocab.json"):  # of half a model the missing file is named
        (tmp_path / "model" / name).unlink()
        said = "is missing; this is no complete model folder: train again"
        refused(lambda: TrainedClassifier.load(tmp_path / "model"), f"config.json: {said}")


@pytest.mark.parametrize("kind", [FORMAT, FINE_TUNED])
def test_a_model_of_this_program_is_no_base(trained, tmp_path, kind):
    trained.save(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format": kind}))
    says = (
        f"{tmp_path / 'model'}: this is a trained classifier of this program, and no encoder to "
        "begin from; give a pretrained encoder, such as minilm"
    )
    assert refused(lambda: pretrained.load_encoder(tmp_path / "model"), "trained") == says
    config.write_text('{"format": []}')  # anything else is said as before
    refused(lambda: pretrained.load_encoder(tmp_path / "model"), "model_type is 'None'; this prog")


def test_finetune_from_a_model_of_this_program(trained, tmp_path, capsys):
    trained.save(tmp_path / "model")
    data = as_rows(tmp_path / "data.jsonl", YES)
    options = ["--base", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    assert main(["finetune", str(data), *options]) == 2
    assert "this is a trained classifier of this program" in capsys.readouterr().err


# ------------------------------------------------------------------ what an ONNX file says of texts

ODD = [
    "Don’t panic: 東京! It's ’tis o'clock'",
    "e\u0301le\u0300ve É ﬁne STRASSE straße İstanbul ǅ",
    "a" + "\u0301" * 40 + "b",
    "❤️ 👩‍🚀 ♥\ufe0e ไทย\u200b สวัสดี \ufeffשלום نوشته\u200cها हिन्दी",
    "a\ud800b \t\n\u00a0c x_1 3.14",
]


@pytest.mark.parametrize("level", ["word", "char"])
def test_the_metadata_say_how_texts_are_cut(trained, level):
    """Done again by the words and the pattern of the file alone."""
    from tinygrad_mha.models.onnx_export import metadata_of

    trained.config["level"] = level
    told = metadata_of(trained)
    assert all(isinstance(value, str) for value in told.values())
    steps = told["cutting"].removesuffix(".").split("; ")
    for text in ODD:
        tokens = None
        for step in steps:
            if step == "Lone surrogates become U+FFFD":
                text = re.sub("[\ud800-\udfff]", "\ufffd", text)
            elif kept := re.search(r"^of a run of combining marks .* only (\d+) are kept", step):
                text = shortened(text, int(kept[1]))
            elif step.startswith("normalise to NFC"):
                text = unicodedata.normalize("NFC", text)
            elif same := re.fullmatch(r"U\+([0-9A-F]+) (?:becomes (.)|is removed)", step):
                text = text.replace(chr(int(same[1], 16)), same[2] or "")
            elif step == "apply Unicode's full case folding":
                text = text.casefold()
            elif step == "every character (code point) is a token":
                tokens = list(text)
            else:
                assert step.startswith("the tokens are the matches of `pattern` from left to right")
                tokens = re.findall(told["pattern"], text)
        assert tokens == tokenize(text, level)


def shortened(text, most):
    """`text` with at most so many combining marks in a row."""
    kept, run = "", 0
    for c in text:
        run = run + 1 if unicodedata.category(c)[0] == "M" else 0
        kept += c if run <= most else ""
    return kept
