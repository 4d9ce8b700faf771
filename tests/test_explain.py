"""Explanations: the shares and the weights are right, and no text breaks terminal or page."""

import base64
import hashlib
import json
import re
import unicodedata
from collections import namedtuple
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import InputError, cli, explain, explain_page, fine_tuned, wordpiece
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.explain import gradient_times_input, integrated_gradients
from tinygrad_mha.models.fine_tuned import FineTunedClassifier
from tinygrad_mha.models.text import Vocabulary
from tinygrad_mha.models.trained import TrainedClassifier, build_model
from tinygrad_mha.models.transformer import TransformerEncoder

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=\"document.title='ran'\">",
    "<!-- & &lt; \"quoted\" 'too'",
    "a\u202eb\u2066c\u200f",
    "x\ud800y\udcff",
    "a\x00\x1b[31mred\x07\x7f\r\n\tb",
    "e\u0301\u0301 \u0308 👩\u200d🚀 東京 שלום",
    "$data ${script} %s {0}",
]
LETTERS = "abcdefghij"
Found = namedtuple("Found", "tokens offsets special_tokens_mask ids")


class Pieces:
    """Stands in for the library's tokenizer: words are cut into letters, a, ##b, ##c."""

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{c}" for c in LETTERS))

    def __init__(self, json="{}", source=""):
        self.json, self.cut, self.tokenizer, self.most = json, 0, self, 10**6

    @classmethod
    def from_folder(cls, *_):
        return cls()

    def check_ids(self, rows):
        assert len(self.names) <= rows

    def token_to_id(self, name):
        return self.names.index(name) if name in self.names else None

    def encode(self, given, max_len=None):
        if isinstance(given, str):  # the library's
            return self.found(given)
        self.most = max_len
        found = [self.found(text) for text in given]
        self.cut += sum(len(f.ids) > max_len for f in map(self.whole, given))
        return [np.array(f.ids, np.int32) for f in found]

    def found(self, text):
        f = self.whole(text)
        if len(f.ids) <= self.most:
            return f
        return Found(*([*part[: self.most - 1], part[-1]] for part in f))

    def whole(self, text):
        letters = [(k, c) for k, c in enumerate(text) if not c.isspace()]
        names = [c if k == 0 or text[k - 1].isspace() else f"##{c}" for k, c in letters]
        names = [n if n in self.names else "[UNK]" for n in names]
        tokens = ["[CLS]", *names, "[SEP]"]
        offsets = [(0, 0), *((k, k + 1) for k, _ in letters), (0, 0)]
        special = [1, *(0 for _ in names), 1]
        return Found(tokens, offsets, special, [self.names.index(t) for t in tokens])


def scratch(level="char", pooling="mean", labels=("-", "+", "<i>&"), dtype=np.float32):
    """A classifier from nothing, with weights that make it decide."""
    tg.manual_seed(1)
    config = {"d_model": 8, "h": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.3}
    config |= {"pooling": pooling, "level": level, "max_len": 40, "training": {}}
    words = [*LETTERS] if level == "char" else [f"word{c}" for c in LETTERS]
    vocabulary = Vocabulary(words)
    model = build_model(config, len(vocabulary), len(labels)).astype(dtype)
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data[...] += rng.standard_normal(p.shape) * 0.5
    model.embedding.weight.data[0] = 0
    return TrainedClassifier(model.eval(), vocabulary, sorted(labels), config)


def tuned(dtype=np.float32):
    """A classifier on an encoder of two layers."""
    tg.manual_seed(1)
    encoder = TransformerEncoder(len(Pieces.names), 8, 2, 2, d_ff=12, max_positions=48)
    model = EncoderClassifier(encoder, 2).astype(dtype)
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data[...] += rng.standard_normal(p.shape) * 0.4
    config = {"base": "x", "digest": "x", "encoder": fine_tuned.arguments(encoder), "tune": "all"}
    config |= {"max_len": 40, "pooling": "mean", "dropout": 0.1, "lora": {}, "training": {}}
    return FineTunedClassifier(model.eval(), Pieces(), ["bad", "good"], config)


KINDS = {"scratch": scratch, "tuned": tuned}
both = pytest.mark.parametrize("kind", KINDS)


# -------------------------------------------------------------------------------- the shares


def test_shares_of_a_linear_score_are_exactly_w_times_x():
    rng = np.random.default_rng(0)
    w, x = (rng.integers(-5, 6, (7, 4)).astype(np.float64) for _ in range(2))
    score = lambda x: (x * w).sum(axis=(1, 2)) + 3.0
    np.testing.assert_array_equal(gradient_times_input(score, x), (w * x).sum(axis=1))
    shares, start, end = integrated_gradients(score, x, np.zeros_like(x))
    np.testing.assert_allclose(shares, (w * x).sum(axis=1), rtol=1e-12)
    assert (start, end) == (3.0, 3.0 + (w * x).sum())
    base = rng.integers(-5, 6, (7, 4)).astype(np.float64)
    shares, _, _ = integrated_gradients(score, x, base)
    np.testing.assert_allclose(shares, (w * (x - base)).sum(axis=1), rtol=1e-12, atol=1e-12)


def test_a_score_of_two_tokens_together_is_shared_as_in_the_paper():
    """x·y from (0, 0) to (2, 3): each gets half of 6, by the integral of 2t · 3 dt."""
    shares, _, end = integrated_gradients(
        lambda x: x[:, 0, 0] * x[:, 1, 0], np.array([[2.0], [3.0]]), np.zeros((2, 1))
    )
    np.testing.assert_allclose(shares, [3.0, 3.0], rtol=1e-12)
    assert end == 6.0


@both
def test_integrated_gradients_are_complete_and_the_gap_shrinks(kind, float64):
    trained = KINDS[kind](dtype=np.float64)
    logits = trained.logits(trained.encode(["abcj dabe"]))[0]
    for target, logit in zip(trained.labels, logits, strict=True):
        e = explain.explain(trained, "abcj dabe", target)
        assert e.score == pytest.approx(logit, rel=1e-6)
        assert abs(e.score - e.base_score) > 0.01
        assert abs(e.gap) < 1e-3
        assert e.gap == pytest.approx(e.integrated.sum() - (e.score - e.base_score), abs=1e-15)
        gaps = [abs(explain.explain(trained, "abcj dabe", target, n).gap) for n in (4, 16, 64)]
        assert gaps[0] > 4 * gaps[1] > 16 * gaps[2]  # the midpoint rule: 16 times each


@both
@pytest.mark.parametrize("target", [0, 1])
def test_gradient_times_input_is_the_slope_of_making_a_token_larger(kind, target, float64):
    """Central differences on the embedding's rows, through the model as everybody uses it."""
    trained = KINDS[kind](dtype=np.float64)
    text, h = "abcjdhe", 1e-6  # every token once, so a row is a token
    e = explain.explain(trained, text, trained.labels[target])
    [ids] = trained.encode([text])
    model = trained.model.eval()
    table = (model.encoder.word_embeddings if kind == "tuned" else model.embedding).weight
    slopes = []
    for i in ids:
        row = table.data[i].copy()
        ends = []
        for sign in (1, -1):
            table.data[i] = row * (1 + sign * h)
            ends.append(model(ids[None], [len(ids)]).numpy()[0, target])
        table.data[i] = row
        slopes.append((ends[0] - ends[1]) / (2 * h))
    np.testing.assert_allclose(e.gradient_input, slopes, rtol=1e-5, atol=1e-8)
    assert abs(e.gradient_input).max() > 0.01


@both
def test_pads_do_not_matter(kind, float64):
    trained = KINDS[kind](dtype=np.float64)
    [ids] = trained.encode(["abcd"])
    n = len(ids)
    x = explain.embedded(trained.model, ids)
    plain = tg.Tensor(x[None], requires_grad=True)
    padded = tg.Tensor(np.concatenate([x, np.ones((3, 8))])[None], requires_grad=True)
    seen, seen_padded = [], []
    y = explain.opened(trained.model.eval(), plain, seen)(ids[None], [n])
    longer = np.concatenate([ids, np.zeros(3, ids.dtype)])
    z = explain.opened(trained.model, padded, seen_padded)(longer[None], [n])
    np.testing.assert_allclose(y.numpy(), z.numpy(), atol=1e-12)
    [dy], [dz] = tg.grad(y[0, 0], [plain]), tg.grad(z[0, 0], [padded])
    np.testing.assert_allclose(dz.numpy()[:, :n], dy.numpy(), atol=1e-12)
    assert not dz.numpy()[:, n:].any()
    for a, b in zip(seen, seen_padded, strict=True):
        np.testing.assert_allclose(b.numpy()[..., :n, :n], a.numpy(), atol=1e-12)
        assert not b.numpy()[..., n:].any()


# ----------------------------------------------------------------------------- the attention


def by_hand(attend, x):
    """(h, T, T) of one attention, in NumPy, from what goes in (T, d)."""
    q, k = (x @ w.weight.numpy().T + w.bias.numpy() for w in (attend.w_q, attend.w_k))
    wide = q.shape[1] // attend.h
    parts = [slice(i * wide, (i + 1) * wide) for i in range(attend.h)]
    s = np.exp([q[:, p] @ k[:, p].T / np.sqrt(wide) for p in parts])
    return s / s.sum(axis=-1, keepdims=True)


def test_weights_of_a_classifier_are_those_computed_by_hand(float64):
    trained = scratch(dtype=np.float64)
    e = explain.explain(trained, "abcjd")
    [ids] = trained.encode(["abcjd"])
    model = trained.model
    x = model.rnn(model.embedding(ids[None]))[0].numpy()[0]
    assert e.attention.shape == (1, 2, 5, 5)
    np.testing.assert_allclose(e.attention[0], by_hand(model.multihead_attn, x), atol=1e-12)
    np.testing.assert_allclose(e.received, e.attention.mean(axis=(0, 1, 2)), atol=1e-12)
    assert e.received.sum() == pytest.approx(1)


def test_weights_of_an_encoder_are_those_computed_by_hand(float64):
    trained = tuned(dtype=np.float64)
    e = explain.explain(trained, "abc j")
    [ids] = trained.encode(["abc j"])
    encoder = trained.model.encoder
    x = encoder.word_embeddings(ids) + encoder.position_embeddings.weight[: len(ids)]
    x = encoder.layer_norm(x + encoder.token_type_embeddings.weight[0])[None]
    assert e.attention.shape == (2, 2, 6, 6)
    for layer, weights in zip(encoder.layers, e.attention, strict=True):
        want = by_hand(layer.multihead_attn, x.numpy()[0])
        np.testing.assert_allclose(weights, want, atol=1e-12)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-12)
        x = layer(x)


@both
@pytest.mark.parametrize("target", [0, 1])
def test_leaving_a_word_out_is_asking_for_the_text_without_it(kind, target, float64):
    trained = KINDS[kind](dtype=np.float64)
    level = [["abc", "d", "jh"], ["a", "b", "c", " ", "d", " ", "j", "h"]][kind == "scratch"]
    e = explain.explain(trained, "abc d jh", trained.labels[target])
    assert ["".join(e.tokens[k].text for k in word) for word in e.words] == level
    join = (" " if kind == "tuned" else "").join
    texts = [join(level[:k] + level[k + 1 :]) for k in range(len(level))]
    logits = trained.logits(trained.encode(texts))
    np.testing.assert_allclose(e.without, logits, atol=1e-12)
    whole = trained.logits(trained.encode(["abc d jh"]))[0]
    falls = whole[target] - logits[:, target]
    assert np.ptp(falls) > 0.01
    for word, fall in zip(e.words, falls, strict=True):
        np.testing.assert_allclose(e.left_out[word], fall, atol=1e-12)
    own = sorted(k for word in e.words for k in word)
    assert own == [k for k, t in enumerate(e.tokens) if not t.special]
    assert np.isnan(np.delete(e.left_out, own)).all()
    answers = trained.predict(texts)
    plain = trained.predict(["abc d jh"])[0]
    other = [(w, a) for w, a in zip(e.words, answers, strict=True) if a != plain]
    assert [(word, e.labels[k]) for word, k in e.turns] == other


def test_words_of_an_encoder():
    tokens = [explain.Token("[CLS]", "[CLS]", special=True)]
    for part in ["don ' t stop . . . 東京", "re ##read ##ing - it , now !", "I ’ m"]:
        for k, piece in enumerate(part.split()):
            text = piece.removeprefix("##")
            tokens.append(explain.Token(text, piece, glued=k > 0 and text not in ("stop", "now")))
    words = explain.words_of(tokens, pieces=True)
    said = ["".join(tokens[k].text for k in word) for word in words]
    assert said == ["don't", "stop", *"...", "東京", "rereading", "-", "it", ",", "now", "!", "I’m"]
    alone = explain.words_of(tokens, pieces=False)
    assert alone == [[k] for k in range(1, len(tokens))]


def test_a_word_that_decides_is_named():
    e = explain.explain(scratch(), "abcj")
    falls = np.array([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0], [0, 5.0, 0]])
    e = replace(e, without=falls)
    others = [(w, e.labels[k]) for w, k in zip(e.words, (0, 1, 2, 1), strict=True)]
    others = [(w[0], label) for w, label in others if label != e.labels[e.predicted]]
    assert len(others) >= 2
    said = explain.table(e)
    for k, label in others:
        assert f"without {e.tokens[k].name} the answer is {label}" in said
    page = explain_page.page(e)
    assert f"<bdi>{e.tokens[others[0][0]].name}</bdi> (<bdi>" in page
    many = of_one_token_each(e, "abcdefghij")
    count = len(many.turns)
    assert count > 6
    assert f"and without {count - 4} other words, another answer" in explain.table(many)
    assert f"or one of {count - 6} more" in explain_page.page(many)
    same = replace(e, without=np.eye(3)[[e.predicted] * 4])
    assert "No single token decides the answer." in explain_page.page(same)


@both
def test_the_model_is_not_changed_and_answers_the_same(kind):
    trained = KINDS[kind]()
    trained.model.eval()
    layers = lambda: [(name, id(m), sorted(vars(m))) for name, m in trained.model.named_modules()]
    before, weights = layers(), {k: a.copy() for k, a in trained.model.state_dict().items()}
    for text in ("abcdj", ""):
        e = explain.explain(trained, text)
        np.testing.assert_array_equal(e.probabilities, trained.predict_proba([text])[0])
        assert e.labels[e.predicted] == trained.predict([text])[0]
    assert layers() == before
    for name, a in trained.model.state_dict().items():
        np.testing.assert_array_equal(a, weights[name])
    assert all(p.grad is None for p in trained.model.parameters())


@both
@pytest.mark.parametrize("text", ["abc jd", "a", ""])
def test_on_the_device(kind, text, cupy, float64):
    trained = KINDS[kind](dtype=np.float64)
    here = explain.explain(trained, text)
    trained.model.to("cuda")
    there = explain.explain(trained, text)
    for name in ("gradient_input", "integrated", "attention", "probabilities"):
        a, b = getattr(here, name), getattr(there, name)
        assert isinstance(b, np.ndarray)
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-9)
    assert explain.table(there) == explain.table(here)


# -------------------------------------------------------------------------------- the tokens


def test_tokens_of_a_classifier():
    e = explain.explain(scratch(), "aß b")
    assert [t.name for t in e.tokens] == ["a", "ß <unk>", "  <unk>", "b"]
    assert [(t.text, t.piece, t.known) for t in e.tokens][1] == ("ß", "<unk>", False)
    assert e.integrated[1] == 0  # nothing is told from the unknown tokens that it is compared with
    assert e.gradient_input[1] != 0
    e = explain.explain(scratch("word"), "WordA, worda nothing " + "wordb " * 50)
    assert [t.name for t in e.tokens[:4]] == ["worda", ", <unk>", "worda", "nothing <unk>"]
    assert e.cut
    assert len(e.tokens) == 40
    assert "only the first 40 tokens are read" in "\n".join(explain.table(e))


def test_tokens_of_an_encoder():
    trained = tuned()
    e = explain.explain(trained, "ab éj")
    assert [t.name for t in e.tokens] == ["[CLS]", "a", "##b", "é [UNK]", "##j", "[SEP]"]
    assert [t.text for t in e.tokens] == ["[CLS]", "a", "b", "é", "j", "[SEP]"]
    assert [t.special for t in e.tokens] == [True, False, False, False, False, True]
    assert [t.glued for t in e.tokens] == [False, False, True, False, True, False]
    assert [t.known for t in e.tokens] == [True, True, True, False, True, True]
    assert e.integrated[[0, 3, 5]].tolist() == [0, 0, 0]
    assert not e.cut
    e = explain.explain(trained, "ab " * 40)
    assert e.cut
    assert len(e.tokens) == 40


def test_tokens_of_the_real_library(tmp_path):
    pytest.importorskip("tokenizers", reason="extra: hub")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##ness", "!", "my", "cafe"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    trained = tuned()
    trained.vocabulary = wordpiece.WordPiece.from_folder(tmp_path)
    e = explain.explain(trained, "My Goodness!  Café \ud800東")
    assert [t.text for t in e.tokens] == [
        "[CLS]", "My", "Good", "ness", "!", "Café", "?", "東", "[SEP]"]  # fmt: skip
    assert [t.name for t in e.tokens][5:] == ["cafe", "? [UNK]", "東 [UNK]", "[SEP]"]
    assert [t.glued for t in e.tokens[:6]] == [False, False, False, True, True, False]
    assert len(explain.explain(trained, "good " * 300).tokens) == 40


def test_an_encoder_without_an_unknown_token_is_compared_with_zeros(float64, monkeypatch):
    trained = tuned(dtype=np.float64)
    monkeypatch.setattr(Pieces, "token_to_id", lambda self, name: None)
    e = explain.explain(trained, "ab")
    model = trained.model
    model.encoder.word_embeddings.weight.data[...] = 0
    want = model(trained.encode(["ab"])[0][None], [4]).numpy()[0, e.target]
    assert e.base_score == pytest.approx(want)
    assert e.baseline == "zeros"


# ------------------------------------------------------------------------------ command line


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder of each kind."""
    monkeypatch.setattr(fine_tuned, "WordPiece", Pieces)
    for kind, make in KINDS.items():
        make().save(tmp_path / kind)
    return {kind: tmp_path / kind for kind in KINDS}


@pytest.fixture
def here(capsys):
    def run(*arguments):
        try:
            status = cli.main(["explain", *map(str, arguments)])
        except SystemExit as e:  # argparse's
            status = e.code
        return status, *capsys.readouterr()

    return run


@both
def test_the_command(kind, folders, here, tmp_path):
    place = tmp_path / "page.html"
    status, out, err = here(folders[kind], "abc jda", "--out", place, "--json")
    assert (status, err) == (0, "")
    trained = TrainedClassifier.load(folders[kind])
    e = explain.explain(trained, "abc jda")
    *lines, last = out.splitlines()
    assert lines[: len(explain.table(e))] == explain.table(e)
    assert lines[-1] == f"the page is in {place}"
    assert place.read_text() == explain_page.page(e)
    said = json.loads(last)
    assert said["label"] == said["target"] == trained.predict(["abc jda"])[0]
    assert said["probabilities"].keys() == set(trained.labels)
    assert [t["text"] for t in said["tokens"]] == [t.text for t in e.tokens]
    for name, mine in (("integrated_gradients", e.integrated), ("attention", e.received)):
        np.testing.assert_allclose([t[name] for t in said["tokens"]], mine, atol=1e-6)
    np.testing.assert_allclose(said["attention"], e.attention, atol=1e-6)
    falls = {k: x["effect"] for x in said["left_out"] for k in x["tokens"]}
    mine = [falls.get(k, np.nan) for k in range(len(e.tokens))]
    np.testing.assert_allclose(mine, e.left_out, atol=1e-6)
    assert "".join(x["word"] for x in said["left_out"]) in ("abcjda", "abc jda")
    assert said["gap"] == pytest.approx(e.gap, abs=1e-6)
    status, out, _ = here(folders[kind], "abc jda", "--target", trained.labels[0], "--json")
    assert json.loads(out.splitlines()[-1])["target"] == trained.labels[0]
    assert "the page is in" not in out


@both
@pytest.mark.parametrize("text", ["", "a", "ab c " * 75, *HOSTILE])
def test_any_text_is_shown_harmlessly_in_80_columns(kind, text, folders, here, tmp_path):
    place = tmp_path / "page.html"
    status, out, err = here(folders[kind], text, "--out", place, "--json")
    assert (status, err) == (0, "")
    *lines, last = out.splitlines()
    json.loads(last)
    for line in lines:
        if str(place) not in line:
            assert explain.columns(line) <= 80, line
        assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn")]
        assert not set(line) & {*"\u200b\u200e\u200f\u202a\u202b\u202e\u2066\ufeff"}
    place.read_bytes().decode()
    if text == "":
        assert ("no tokens" in out) == (kind == "scratch")


def test_what_the_table_says():
    tokens = [explain.Token(t, t) for t in ("not", "bad")]
    weights = np.array([[[[0.25, 0.75], [0.5, 0.5]], [[0.1, 0.9], [1.0, 0.0]]]])
    e = explain.Explanation(
        "not bad", tokens, False, ["down", "flat", "up"], np.array([0.2, 0.1, 0.7]), 2,
        np.array([0.5, -0.25]), np.array([-1.0, 3.0]), 2.5, 0.5, 32, "zeros", weights,
        [[0], [1]], np.array([[0.0, 1.0, 3.0], [2.0, 1.0, -3.5]]),
    )  # fmt: skip
    assert explain.table(e) == [
        "up 0.700   down 0.200   flat 0.100",
        "",
        "what speaks for up:",
        "token             gradient × input   integrated gradients attention  left out",
        "not                  │█        +0.500     ██│         -1.000      0.46    -0.500",
        "bad                 ▐│         -0.250       │██████   +3.000      0.54    +6.000",
        "sum                            +0.250                 +2.000",
        "",
        "score +2.500; of zeros +0.500; difference +2.000",
        "integrated gradients add up to it, but for +0.0000 (32 steps);",
        "gradient × input is the slope at this very text, and need not add up",
        "left out: by how much the score falls without the word",
        "without bad the answer is down",
        "",
        "what each head looks at most",
        "head  1   0.75   not → bad",
        "head  2   1.00   bad → not",
    ]
    coloured = "\n".join(explain.table(e, colour=True))
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == "\n".join(explain.table(e))
    assert coloured != "\n".join(explain.table(e))


def test_many_tokens_heads_and_labels_are_told_by_the_strongest():
    count, rng = 100, np.random.default_rng(0)
    tokens = [explain.Token(c, c, special=k == 0) for k, c in enumerate("x" * count)]
    weights = rng.random((3, 8, count, count)) ** 9
    weights[..., 0] = 50  # all rest on the special token
    weights /= weights.sum(axis=-1, keepdims=True)
    weights[1, 5] = np.eye(count)[[*range(1, count), 0]]
    shares = rng.standard_normal(count)
    labels = [f"label {k:02} {'long ' * 9}" for k in range(50)]
    e = explain.Explanation(
        "", tokens, False, labels, np.full(50, 0.02), 49, shares * 0.1, shares, 1.0, 0.0, 32,
        "zeros", weights,
    )  # fmt: skip
    lines = explain.table(e)
    assert max(map(explain.columns, lines)) <= 80
    assert "and 48 more" in lines[0]
    assert "label 49" in lines[0]
    assert "… and 40 weaker tokens; --out and --json have all" in lines
    kept = [float(x.split()[-2]) for x in lines if x.startswith("x ")]
    np.testing.assert_allclose(
        kept, shares[np.sort(np.argsort(-abs(shares))[:60])], atol=1e-3
    )  # in the order of the text
    assert sum(x.startswith("layer") for x in lines) == 12
    assert "layer  2 head  6   1.00   x → x" in lines
    assert explain.peaked(e)[0] == (1, 5)


def test_mistakes(folders, here, tmp_path, monkeypatch):
    model, page = folders["scratch"], tmp_path / "p.html"

    def refuses(*arguments, words, status=2):
        got, out, err = here(*arguments)
        assert (got, out, err.count("\n")) == (status, "", 1), err
        assert all(str(word) in err for word in words), err

    refuses(model, "a", "--target", "x\n", words=["--target: no label 'x\\n'", "+, -, <i>&"])
    refuses(tmp_path / "none", "a", words=["none: no such model folder"])
    refuses(model, words=["TEXT", "--help"])
    refuses(model, "a", "--out", tmp_path, words=[f"{tmp_path}: it is no regular file", "--out"])
    refuses(model, "a", "--out", tmp_path / "no" / "p", words=["is in no folder", "--out"])
    refuses(model, "a", "--device", "gpu", words=["--device", "'gpu'"])
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_len": 2000}))
    refuses(model, "a" * 1100, words=["1,100 tokens", "at most 1,024"])
    labels = [f"{k:03}" for k in range(200)]
    with pytest.raises(InputError, match=r"028, 029 and 170 more, in config\.json$"):
        explain.explain(scratch(labels=labels), "a", target="no")
    page.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    status, _, err = here(model, "a", "--out", page)
    assert status == 1
    assert f"{page}: no space left on device" in err
    assert page.read_text() == "old"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_terminal_with_ascii_only(folders, here, monkeypatch):
    monkeypatch.setattr(explain, "drawable", lambda: False)
    out = here(folders["scratch"], "abc")[1]
    assert out.isascii()
    assert "|##" in out
    assert " > " in out


# -------------------------------------------------------------------------------- the page


class Reader(HTMLParser):
    """What a browser would find: tags that are open, texts, scripts."""

    EMPTY = ("meta", "input", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.scripts, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] == "span" and "token" in self.tags[-1][1].get("class", ""):
            self.words.append(data)


def of_one_token_each(e, texts):
    """What a model with other tokens would give: each text is one."""
    tokens = [explain.Token(text, text) for text in texts]
    shares = np.linspace(-1, 1, len(texts))
    weights = np.full((1, 2, len(texts), len(texts)), 1 / len(texts))
    shares = {"gradient_input": shares, "integrated": shares, "attention": weights}
    words = [[k] for k in range(len(texts))]
    without = np.random.default_rng(0).standard_normal((len(texts), len(e.labels)))
    return replace(e, tokens=tokens, **shares, words=words, without=without)


@pytest.mark.parametrize("kind", [*KINDS, "other"])
@pytest.mark.parametrize("text", ["", "ab c" * 9, *HOSTILE])
def test_the_page_parses_and_its_data_survive(kind, text):
    e = explain.explain(KINDS.get(kind, scratch)(), text)
    if kind == "other":
        e = of_one_token_each(e, [f"{text}.", "a", f"b{text}"])
    page = explain_page.page(e)
    found = Reader(page)
    assert found.open == []
    data, script = found.scripts
    data = json.loads(data)
    assert data["tokens"] == [explain.shown(t.name) for t in e.tokens]
    assert found.words == [explain.shown(t.text) for t in e.tokens]
    assert data["shares"]["integrated"] == e.integrated.tolist()
    assert data["shares"]["gradient_input"] == e.gradient_input.tolist()
    told = [np.nan if x is None else x for x in data["shares"]["left_out"]]
    np.testing.assert_array_equal(told, e.left_out)
    bits = np.frombuffer(base64.b64decode(data["attention"]), "<u2")
    where = [(layer - 1, head - 1) for layer, head in data["heads"]]
    weights = bits.reshape(len(where), len(e.tokens), len(e.tokens)) / 65535
    assert where == [*np.ndindex(e.attention.shape[:2])]
    np.testing.assert_allclose(weights, [e.attention[at] for at in where], atol=1e-5)
    assert {tag for tag, _ in found.tags}.isdisjoint({"img", "link", "iframe", "i"})
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href")]
    policy = next(a["content"] for _, a in found.tags if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "default-src 'none'" in policy
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff\x00\x1b]", page)


def test_what_the_page_says_without_a_script():
    e = explain.explain(scratch(), "abcj", target="-")
    text = explain_page.page(e)
    style = r'style="--ig:([\d.]+);--gi:([\d.]+);--lo:([\d.]+)"'
    rows = re.findall(rf'<span class="(token.*?)" {style}', text)
    assert len(rows) == 4
    shares = zip(e.integrated, e.gradient_input, e.left_out, strict=True)
    for (kinds, ig, gi, lo), (s, g, out) in zip(rows, shares, strict=True):
        assert float(lo) == pytest.approx(abs(out) / abs(e.left_out).max(), abs=1e-3)
        assert ("lo-against" in kinds) == (out < 0)
        assert float(ig) == pytest.approx(abs(s) / abs(e.integrated).max(), abs=1e-3)
        assert float(gi) == pytest.approx(abs(g) / abs(e.gradient_input).max(), abs=1e-3)
        assert ("ig-against" in kinds, "gi-against" in kinds) == (s < 0, g < 0)
    for s, out, a in zip(e.integrated, e.left_out, e.received, strict=True):
        assert f"<td>{s:+.4f}</td>".replace("-", "−") in text
        assert f"<td>{out:+.4f}</td>".replace("-", "−") in text
        assert f"<td>{a:.3f}</td>" in text
    for p in e.probabilities:
        assert f"width:{100 * p:.2f}%" in text
    if e.predicted != e.target:
        assert "Explained is <bdi>-</bdi>" in text


def test_a_page_of_many_heads_keeps_the_most_peaked(monkeypatch):
    e = explain.explain(tuned(), "abc dj")
    monkeypatch.setattr(explain_page, "MOST", 2 * len(e.tokens) ** 2)
    data = explain_page.data_of(e)
    assert data["heads"] == sorted([a + 1, b + 1] for a, b in explain.peaked(e)[:2])
    assert "of which the 2 most peaked are drawn" in explain_page.page(e)


def test_percentages():
    said = [explain_page.percent(p) for p in (0.0, 0.5, 0.994, 0.996, 0.99999999, 1.0)]
    assert said == [f"{x}\u2009%" for x in ("0", "50", "99", "99.60", "99.99", "100")]


# -------------------------------------------------------------------------- in a real browser


def written(e, folder, name="page.html"):
    explain_page.write(e, folder / name)
    return folder / name


CHOSEN = "[...document.querySelectorAll('.token')].findIndex(t => t.matches('.chosen'))"
STRIP = "document.querySelectorAll('.strip')[1].toDataURL()"


def test_a_walk_through_the_page(browser, tmp_path):
    e = explain.explain(tuned(), "abc jd")
    browser.open(written(e, tmp_path))
    js = browser.js
    assert js("document.querySelectorAll('.head').length") == 4
    assert js(CHOSEN) == abs(e.integrated).argmax()
    # a token under the mouse: its row in each head
    browser.mouse(".token:nth-of-type(2)")
    assert js(CHOSEN) == 1
    before = js(STRIP)
    browser.mouse(".token:nth-of-type(4)")
    assert js(CHOSEN) == 3
    assert js(STRIP) != before
    weight = e.attention[0, 1, 3]
    said = f"Layer 1, head 2: ##c looks at {e.tokens[weight.argmax()].name}, {weight.max():.2f}"
    label = js("document.querySelectorAll('.head')[1].getAttribute('aria-label')")
    assert label.replace(", .", ", 0.") == f"{said}. Enlarge"
    assert js("document.querySelectorAll('.head i')[1].style.top").startswith(f"{300 / 7:.2f}"[:4])
    # by keys
    browser.click(".token:nth-of-type(4)")
    js("document.querySelector('.chosen').focus()")
    browser.key("ArrowRight")
    assert (js(CHOSEN), js("document.activeElement.textContent")) == (4, "j")
    browser.key("End")
    assert js(CHOSEN) == 6
    assert "integrated " in js("document.activeElement.getAttribute('aria-label')")
    # the switch
    color = "getComputedStyle(document.querySelectorAll('.token')[2]).backgroundColor"
    one = js(color)
    browser.click("label[for=gi]")
    assert js("document.getElementById('gi').checked")
    assert js(color) != one
    kinds = "document.querySelectorAll('.ig-only, .gi-only, .lo-only')"
    shown = f"[...{kinds}].map(x => x.offsetHeight > 0)"
    assert js(shown) == [False, False, True, True, False, False]
    two = js(color)
    browser.click("label[for=lo]")
    assert js(color) not in (one, two)
    assert js(shown) == [False, False, False, False, True, True]
    pieces = (
        "[...document.querySelectorAll('.token')].map(t => getComputedStyle(t).backgroundColor)"
    )
    of_piece = js(pieces)
    assert len(set(of_piece[1:4])) == len(set(of_piece[4:6])) == 1  # a word has one colour
    assert len({of_piece[k] for k in (0, 1, 4)}) == 3
    browser.mouse(".token:nth-of-type(3)")
    fall = f"left out {e.left_out[2]:+.3f}".replace("-", "−")
    assert fall in js("document.getElementById('chosen').textContent")
    browser.mouse(".token:nth-of-type(1)")
    assert "left out" not in js("document.getElementById('chosen').textContent")
    browser.click(".token:nth-of-type(7)")
    # a head, enlarged
    browser.click(".layer:nth-of-type(2) .head")
    assert js("document.getElementById('big').open")
    assert js("document.getElementById('name').textContent") == "Layer 2, head 1"
    row = e.attention[1, 0]
    cell = js("document.getElementById('cell').textContent")
    assert cell == f"[SEP] → {e.tokens[row[6].argmax()].name}: {row[6].max():.3f}"
    js("document.getElementById('map').focus()")
    js("document.getElementById('map').onpointermove({offsetX: 1e9, offsetY: 0})")  # outside
    for key in ("ArrowDown", "ArrowRight") * 7:
        browser.key(key)
    cell = js("document.getElementById('cell').textContent")
    assert cell == f"[SEP] → [SEP]: {row[6, 6]:.3f}"
    browser.click("#next")
    assert js("document.getElementById('name').textContent") == "Layer 2, head 2"
    browser.key("Escape")
    assert not js("document.getElementById('big').open")
    assert browser.soon("document.activeElement === document.querySelectorAll('.head')[3]")
    browser.key("Enter")
    assert js("document.getElementById('big').open")
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Log.entryAdded")
    asked = [r["request"]["url"] for r in browser.seen("Network.requestWillBeSent")]
    assert asked == [(tmp_path / "page.html").as_uri()]


def test_it_fits_a_phone_follows_the_dark_and_needs_no_script(browser, tmp_path):
    page = written(explain.explain(tuned(), "abcdefghij" * 3 + " ab" * 8), tmp_path)
    paper = "getComputedStyle(document.body).backgroundColor"
    looks = set()
    for dark in (False, True):
        for width, height in ((360, 740), (1280, 800)):
            browser.open(page, width, height, dark)
            assert browser.js("document.documentElement.scrollWidth") <= width
            looks.add(browser.js(paper))
    assert len(looks) == 2
    browser.open(page, 360, 740)
    browser.click("#on")
    browser.js("document.querySelector('.head').click()")
    assert browser.js("document.getElementById('big').getBoundingClientRect().width") <= 360
    browser.open(page, script=False)
    browser("Emulation.setScriptExecutionDisabled", value=False)  # only we may, now
    assert browser.js("document.querySelectorAll('.head, .chosen').length") == 0
    assert browser.js("document.querySelector('noscript') !== null")
    assert browser.js("[...document.querySelectorAll('td')].every(x => x.offsetHeight > 0)")
    assert "abcdefghij" in browser.js("document.getElementById('words').textContent")
    color = "getComputedStyle(document.querySelectorAll('.token')[2]).backgroundColor"
    one = browser.js(color)
    browser.click("label[for=gi]")  # the switch is plain CSS
    assert browser.js(color) != one


@pytest.mark.parametrize("guarded", [True, False])
def test_no_text_runs(browser, tmp_path, guarded):
    """Neither with the page's policy nor without it, when the quotation has to do alone."""
    hostile = "".join(HOSTILE) + "<svg onload=\"document.title='ran'\">"
    trained = scratch("word", labels=("-", "+", hostile[:60].replace("\n", "")))
    e = explain.explain(trained, f"worda {hostile} wordb")
    for k, explanation in enumerate((e, of_one_token_each(e, [hostile, *HOSTILE]))):
        path = written(explanation, tmp_path, f"{k}.html")
        if not guarded:
            content = re.sub("<meta http-equiv[^>]*>", "", path.read_text())
            path.write_text(content)
        browser.open(path)
        assert browser.js("document.title").endswith(", explained")
        assert browser.js("document.querySelectorAll('img, svg, .token script').length") == 0
        assert browser.js("document.scripts.length") == 2
        assert not browser.seen("Page.javascriptDialogOpening")
        assert not browser.seen("Runtime.exceptionThrown")
        assert browser.js("document.querySelectorAll('.chosen').length") == 1


def test_long_and_empty_texts_in_the_browser(browser, tmp_path):
    trained = scratch()
    trained.config["max_len"] = 300
    for text, count in (("abcdefghi " * 30, 300), ("a", 1), ("", 0)):
        browser.open(written(explain.explain(trained, text), tmp_path))
        assert browser.js("document.querySelectorAll('.token').length") == count
        assert browser.js("document.querySelectorAll('.head').length") == (2 if count else 0)
        if count:
            browser.js("document.querySelectorAll('.head')[1].click()")
            assert browser.js("document.getElementById('map').width") < 4096
        assert not browser.seen("Runtime.exceptionThrown")
