"""The ONNX file, run by onnxruntime, answers as the model does."""

import doctest
import itertools
import json
import os
import sys

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.models import (
    InputError,
    MultiHeadAttention,
    TextClassifier,
    TrainedClassifier,
    cli,
    lora,
    onnx_export,
)
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.fine_tuned import FineTunedClassifier
from tinygrad_mha.models.onnx_export import Graph, export, export_folder
from tinygrad_mha.models.text import Vocabulary, pad_batch, tokenize
from tinygrad_mha.models.train import Settings, split, train
from tinygrad_mha.models.transformer import TransformerBlock, TransformerEncoder

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

OPTIONS = [
    dict(zip(("bidirectional", "pooling", "num_layers", "h"), values, strict=True))
    for values in itertools.product((False, True), ("mean", "max", "last"), (1, 3), (1, 4))
]
SHAPES = [(6, 40), (1, 1), (3, 1), (2, 300), (3, 0), (0, 4), (0, 0)]  # of ids


@pytest.fixture(autouse=True)
def rng():
    tg.manual_seed(0)
    return np.random.default_rng(0)


def session(content):
    """A runner of one thread that is silent about the errors the tests provoke."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = content if isinstance(content, bytes) else str(content)
    return onnxruntime.InferenceSession(source, options)


def close(theirs, ours):
    assert theirs.dtype == np.float32
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def drawn(model, rng, scale=1.5):
    """The model, with weights of some size and no zeros or ones among them."""
    for p in model.parameters():
        p.data[...] = p.data * scale + rng.standard_normal(p.shape) * 0.1
    return model.eval()


def batch(rng, rows, steps, words=30):
    """Ids, and lengths from the largest to 0; something stands behind the lengths."""
    lengths = rng.integers(0, steps + 1, rows)
    lengths[: min(rows, 2)] = [steps, 0][: min(rows, 2)]
    return rng.integers(1, words, (rows, steps)), lengths


def compare(path, model, rng, shapes=SHAPES):
    runner = session(path)
    for shape in shapes:
        ids, lengths = batch(rng, *shape)
        logits, probabilities = runner.run(
            ["logits", "probabilities"], {"ids": ids, "lengths": lengths}
        )
        ours = model(ids, lengths).numpy()
        close(logits, ours)
        close(probabilities, tg.softmax(ours))


# --------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option(options, rng, tmp_path):
    model = drawn(TextClassifier(30, 16, 5, **options), rng)
    export(model, tmp_path / "model.onnx")
    compare(tmp_path / "model.onnx", model, rng)


def test_what_stands_behind_the_length_is_not_looked_at(rng, tmp_path):
    export(drawn(TextClassifier(30, 8, 3, h=2), rng), tmp_path / "model.onnx")
    runner = session(tmp_path / "model.onnx")
    ids, lengths = batch(rng, 5, 12)
    [first] = runner.run(["logits"], {"ids": ids, "lengths": lengths})
    ids[np.arange(12) >= lengths[:, None]] = 7
    wide = np.pad(ids, ((0, 0), (0, 50)), constant_values=3)
    for other in (ids, wide):
        [again] = runner.run(["logits"], {"ids": other, "lengths": lengths})
        np.testing.assert_allclose(again, first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_nothing_on_the_way_of_an_empty_text_is_undefined(pooling, rng, tmp_path):
    """Another runtime may do anything with 0 steps of an LSTM, or stop at a NaN."""
    export(drawn(TextClassifier(30, 8, 3, h=2, pooling=pooling), rng), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    inside = [name for node in model.graph.node for name in (*node.input, *node.output)]
    known = {x.name for x in (*model.graph.initializer, *model.graph.input, *model.graph.output)}
    inside = sorted({*inside} - known - {""})
    for name in inside:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    [steps] = [node.input[4] for node in model.graph.node if node.op_type == "LSTM"]
    ids, lengths = batch(rng, 2, 5)
    values = session(model.SerializeToString()).run(inside, {"ids": ids, "lengths": lengths})
    values = dict(zip(inside, values, strict=True))
    assert lengths.min() == 0
    assert values[steps].tolist() == [5, 1]
    for name, x in values.items():
        assert not np.isnan(x).any(), name


def test_a_model_in_float64_and_in_training_mode(rng, float64, tmp_path):
    model = drawn(TextClassifier(30, 8, 3, h=2, dropout=0.5), rng).train()
    before = model.state_dict()
    export(model, tmp_path / "model.onnx")
    assert model.training
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])
    compare(tmp_path / "model.onnx", model.eval(), rng)


def generated(rows, rng):
    """Texts whose class is the colour that comes last; some of one word, some long, one empty."""
    words, colours = [f"w{k}" for k in range(20)], ["red", "green", "blue"]
    texts, labels = [""], ["red"]
    for _ in range(rows):
        text, label = list(rng.choice(words, rng.integers(0, 15))), rng.choice(colours)
        text.insert(rng.integers(0, len(text) + 1), label)
        texts.append(" ".join(text))
        labels.append(str(label))
    return Dataset(texts, labels, list(range(len(texts))), "colours")


@pytest.mark.parametrize(
    "options",
    [
        {"level": "word", "bidirectional": True, "pooling": "mean"},
        {"level": "word", "bidirectional": False, "pooling": "max", "num_layers": 2},
        {"level": "char", "bidirectional": True, "pooling": "last", "num_layers": 2},
    ],
    ids=str,
)
def test_a_trained_folder_becomes_a_file_that_is_enough(options, rng, tmp_path):
    data = generated(200, rng)
    settings = Settings(d_model=16, h=4, epochs=8, batch_size=16, lr=0.01, workers=1, **options)
    trained = train(split(data), settings)
    trained.save(tmp_path / "model")
    export_folder(tmp_path / "model", tmp_path / "model.onnx")

    # from here on with nothing but the file, and the way texts are cut
    told = onnx.load(tmp_path / "model.onnx").metadata_props
    told = {entry.key: entry.value for entry in told}
    labels, level, most = json.loads(told["labels"]), told["level"], int(told["max_len"])
    number = {token: k for k, token in enumerate(json.loads(told["vocabulary"])) if k > 1}
    texts = [*data.texts, "", "w3", "unheard of, red", "blue " * 400]
    cut = [tokenize(text, level)[:most] for text in texts]
    ids, lengths = pad_batch([np.array([number.get(t, 1) for t in tokens], int) for tokens in cut])
    logits, probabilities = session(tmp_path / "model.onnx").run(
        ["logits", "probabilities"], {"ids": ids.astype(np.int64), "lengths": lengths}
    )
    close(logits, trained.logits(trained.encode(texts)))
    close(probabilities, trained.predict_proba(texts))
    answers = [labels[k] for k in logits.argmax(axis=1)]
    assert answers == trained.predict(texts)
    right = np.mean([a == b for a, b in zip(answers, data.labels, strict=False)])
    assert right > 0.6  # it did learn something, so that the scores have some size


# ------------------------------------------------------------------------------------- layers


def run(write, ours, *arrays):
    """What a function of the exporter writes, run on arrays; the file is checked, shapes too."""
    g = Graph()
    inputs = [g.input(f"x{k}", a.dtype, a.shape) for k, a in enumerate(arrays)]
    g.output("y", np.float32, ours.shape, write(g, *inputs))
    return session(g.to_bytes()).run(None, {f"x{k}": a for k, a in enumerate(arrays)})[0]


def same(write, ours, *arrays):
    close(run(write, ours, *arrays), ours)


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("layer", "write"),
    [
        (lambda: nn.Linear(6, 3), onnx_export.linear),
        (lambda: nn.Linear(6, 3, bias=False), onnx_export.linear),
        (lambda: nn.LayerNorm(6), onnx_export.layer_norm),
        (lambda: nn.LayerNorm((5, 6), eps=0.1), onnx_export.layer_norm),
    ],
)
def test_linear_and_layer_norm(layer, write, rng):
    layer, x = drawn(layer(), rng), normal(rng, 4, 5, 6) * 3
    same(lambda g, x: write(g, layer, x), layer(x).numpy(), x)


def test_activations(rng):
    x = np.concatenate([np.linspace(-6, 6, 401), [-30, 30, 0, -0.0]]).astype(np.float32)
    ours = {
        "gelu": tg.gelu(x),
        "gelu_tanh": tg.gelu(x, approximate="tanh"),
        "relu": tg.relu(x),
    }
    assert set(ours) == set(onnx_export.ACTIVATIONS)
    for name, y in ours.items():
        off = np.abs(run(onnx_export.ACTIVATIONS[name], y, x) - y).max()
        assert off < 1e-6, name  # the two GELUs are 5e-4 from each other


@pytest.mark.parametrize("bias", [False, True])
def test_lstm_alone_with_other_widths(bias, rng):
    layer = drawn(nn.LSTM(3, 4, 2, bidirectional=True, bias=bias), rng, 3.0)
    x, lengths = normal(rng, 3, 7, 3), np.array([7, 1, 4])
    same(
        lambda g, x, lengths: onnx_export.lstm(g, layer, x, lengths),
        layer(x, lengths=lengths)[0].numpy().swapaxes(0, 1),
        np.ascontiguousarray(x.swapaxes(0, 1)),
        lengths,
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_attention_over_others_with_masks_and_odd_widths(norm_first, rng):
    layer = drawn(MultiHeadAttention(3, 6, 5, 2, norm_first=norm_first), rng)
    query, key, value = (normal(rng, 2, steps, 6) for steps in (4, 7, 7))
    mask = rng.random((2, 3, 4, 7)) < 0.5
    mask[1, :, 2] = False  # may attend to nothing

    def write(g, *inputs):
        *three, mask = inputs
        return onnx_export.attention(g, layer, *three, mask=mask)

    ours = layer(*map(Tensor, (query, key, value)), mask).numpy()
    same(write, ours, query, key, value, mask)
    same(lambda g, x: onnx_export.attention(g, layer, x), layer(Tensor(query)).numpy(), query)


# ------------------------------------------------------------------------------- transformers

FORMS = [
    dict(zip(("norm_first", "activation", "token_types"), values, strict=True))
    for values in itertools.product((False, True), ("gelu", "gelu_tanh", "relu"), (0, 2))
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_encoder(form, rng):
    encoder = drawn(TransformerEncoder(30, 12, h=3, num_layers=2, max_positions=9, **form), rng)
    ids = rng.integers(0, 30, (4, 9))
    real = np.arange(9) < np.array([9, 0, 1, 5])[:, None]
    ours = encoder(ids, mask=real).numpy()
    same(lambda g, *x: onnx_export.transformer_encoder(g, encoder, *x), ours, ids, real)


def test_a_block_is_no_other(rng):
    """Names that are the same in two layers do not mix up their weights."""
    blocks = [drawn(TransformerBlock(8, 2, 16), rng) for _ in range(2)]
    x, mask = normal(rng, 2, 5, 8), np.ones((2, 1, 1, 5), bool)

    def write(g, x, mask):
        for block in blocks:
            x = onnx_export.transformer_block(g, block, x, mask)
        return x

    same(write, blocks[1](blocks[0](Tensor(x))).numpy(), x, mask)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_encoder_classifier(pooling, norm_first, rank, rng, tmp_path):
    encoder = TransformerEncoder(30, 12, h=3, num_layers=2, max_positions=40, norm_first=norm_first)
    model = EncoderClassifier(encoder, 5, pooling=pooling)
    if rank:
        lora.adapt(encoder, rank, alpha=4.0)
    drawn(model, rng)
    before = model.state_dict()
    export(model, tmp_path / "model.onnx")
    assert list(model.state_dict()) == list(before)  # the adapters are still there
    compare(tmp_path / "model.onnx", model, rng, [(6, 40), (1, 1), (0, 4)])
    with pytest.raises(Exception, match="Add"):  # more tokens than positions, as in ours
        session(tmp_path / "model.onnx").run(
            None, {"ids": np.ones((1, 41), np.int64), "lengths": np.array([41])}
        )


def test_a_fine_tuned_one_brings_its_tokenizer(rng, tmp_path):
    pytest.importorskip("tokenizers", reason="needs the package tokenizers (extra hub)")
    from tinygrad_mha.models.wordpiece import WordPiece

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "##ly", "é"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    model = EncoderClassifier(TransformerEncoder(8, 12, h=3, num_layers=1, max_positions=6), 2)
    tokenizer = WordPiece.from_folder(tmp_path)
    trained = FineTunedClassifier(drawn(model, rng), tokenizer, ["no", "yes"], {"max_len": 6})
    export(trained, tmp_path / "model.onnx")
    told = {x.key: x.value for x in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert told.pop("tokenizer") == tokenizer.json
    assert told == {
        "format": "tinygrad_mha fine-tuned encoder",
        "labels": '["no", "yes"]',
        "max_len": "6",
    }
    texts = ["goodly bad", "", "good good good good good good"]
    ids, lengths = pad_batch(tokenizer.encode(texts, 6))
    [logits] = session(tmp_path / "model.onnx").run(
        ["logits"], {"ids": ids.astype(np.int64), "lengths": lengths}
    )
    close(logits, trained.logits(trained.encode(texts)))


# ------------------------------------------------------------------------------- the file


def small():
    return TextClassifier(12, 8, 3, h=2)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = small()
    for name in "ab":
        export(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_old_format_with_the_names_of_the_model(tmp_path):
    export(small(), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert [x.name for x in model.graph.input] == ["ids", "lengths"]
    assert [x.name for x in model.graph.output] == ["logits", "probabilities"]
    axes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
            for x in (*model.graph.input, *model.graph.output)]  # fmt: skip
    assert axes == [["batch", "steps"], ["batch"], ["batch", 3], ["batch", 3]]
    names = {a.name for a in model.graph.initializer}
    assert {"embedding.weight", "rnn.W_l0", "fc.weight.T", "fc.bias"} <= names
    assert not model.metadata_props


def test_what_tells_texts_and_labels_apart_is_plain_text(tmp_path):
    config = {"level": "char", "max_len": 7}
    trained = TrainedClassifier(TextClassifier(3, 8, 2), Vocabulary(["é\n"]), ["a", "ß"], config)
    export(trained, tmp_path / "model.onnx")
    told = {x.key: x.value for x in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert told == {
        "format": "tinygrad_mha text classifier",
        "labels": '["a", "\\u00df"]',
        "vocabulary": '["<pad>", "<unk>", "\\u00e9\\n"]',
        "level": "char",
        "max_len": "7",
        **onnx_export.cutting_of("char"),
    }


def test_the_example(tmp_path, monkeypatch):
    """It is skipped among the docstrings, as not everybody has onnx."""
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestFinder().find(export, "export", globs=vars(onnx_export).copy())[0]
    for example in test.examples:
        assert example.options.pop(doctest.SKIP, None) in (None, True)
    runner = doctest.DocTestRunner()
    assert runner.run(test) == (0, len(test.examples))


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "there" / "model.onnx")
    export(small(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert os.listdir(tmp_path / "there") == ["model.onnx"]


# ------------------------------------------------------------------------------------ errors


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = generated(40, np.random.default_rng(0))
    settings = Settings(d_model=8, h=2, epochs=1, batch_size=8, workers=1)
    train(split(data), settings).save("trained")
    assert cli.main(["export", "trained"]) == 0
    assert capsys.readouterr() == ("model.onnx: 0.0 MB\n", "")
    export_folder("trained", "other.onnx")
    whole = (tmp_path / "model.onnx").read_bytes()
    assert whole == (tmp_path / "other.onnx").read_bytes()
    assert cli.main(["export", "trained", "--out", "there.onnx"]) == 0
    assert whole == (tmp_path / "there.onnx").read_bytes()
    capsys.readouterr()
    assert cli.main(["export", "none"]) == 2
    assert cli.main(["export", "trained", "--out", "no/where.onnx"]) == 1
    assert [line.split(":")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["tinygrad-mha", " none"], ["tinygrad-mha", " no/where.onnx"]
    ]  # fmt: skip


@pytest.mark.parametrize("do", [export_folder, lambda *a: export(small(), a[1])])
def test_without_the_package(do, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    remedy = r"^writing ONNX files needs the package onnx: pip install 'tinygrad_mha\[onnx\]'$"
    with pytest.raises(InputError, match=remedy):
        do(tmp_path / "model", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        export_folder(tmp_path / "none", tmp_path / "model.onnx")


def test_too_large_for_one_file(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "LIMIT", 1000)
    with pytest.raises(
        InputError, match=r"model\.onnx: the weights take 0\.0 GB, and an ONNX file"
    ):
        export(small(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["a folder", "nowhere/model.onnx"])
def test_a_place_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "a folder").mkdir()
    with pytest.raises(OSError, match=r"\[Errno \d+\] ") as error:
        export(small(), tmp_path / place)
    assert error.value.filename == str(tmp_path / place)
    assert os.listdir(tmp_path) == ["a folder"]


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"^Linear cannot be exported to ONNX; TextClassifier"):
        export(nn.Linear(2, 3), tmp_path / "model.onnx")

    class Adapted(nn.Linear):
        """It computes something else."""

    model = small()
    model.fc = Adapted(8, 3)
    with pytest.raises(TypeError, match=r"^Adapted cannot be exported to ONNX; Linear can$"):
        export(model, tmp_path / "model.onnx")


def test_wrong_ids_and_lengths_are_errors_there_too(tmp_path):
    export(small(), tmp_path / "model.onnx")
    runner = session(tmp_path / "model.onnx")
    with pytest.raises(Exception, match="Gather"):
        runner.run(None, {"ids": np.array([[12]]), "lengths": np.array([1])})
    with pytest.raises(Exception, match="sequence_lens"):
        runner.run(None, {"ids": np.array([[1]]), "lengths": np.array([2])})
