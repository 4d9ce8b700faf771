"""Fine-tuning: each mode trains what it says, and what is saved answers as what was trained."""

import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import InputError, cli, fine_tuned, finetune, lora, pretrained
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.fine_tuned import FineTunedClassifier
from tinygrad_mha.models.finetune import FinetuneRun, FinetuneSettings
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.text import BucketedBatches, pad_batch
from tinygrad_mha.models.train import Split, split
from tinygrad_mha.models.trained import TrainedClassifier
from tinygrad_mha.models.transformer import TransformerEncoder
from tinygrad_mha.models.wordpiece import WordPiece

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop"]
SIZES = {"vocab_size": 20, "d_model": 8, "h": 2, "num_layers": 2, "d_ff": 12, "max_positions": 16}


class Letters:
    """Stands in for the library's tokenizer, which not every machine has: a letter is a token."""

    def __init__(self, json="{}", source=""):
        self.json, self.cut = json, 0

    @classmethod
    def from_folder(cls, folder, kind=None):
        return cls()

    def __len__(self):
        return len(WORDS)

    def check_ids(self, rows):
        assert len(WORDS) <= rows

    def encode(self, texts, max_len):
        ids = [[2, *(WORDS.index(c) if c in WORDS else 1 for c in t), 3] for t in texts]
        self.cut += sum(len(i) > max_len for i in ids)
        return [np.array(i if len(i) <= max_len else [*i[: max_len - 1], 3], np.int32) for i in ids]


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.setattr(finetune, "WordPiece", Letters)
    monkeypatch.setattr(fine_tuned, "WordPiece", Letters)


def pretrained_folder(folder, seed=0):
    tg.manual_seed(seed)
    encoder = TransformerEncoder(**SIZES)
    rng = np.random.default_rng(seed)
    for p in encoder.parameters():
        p.data[...] += rng.standard_normal(p.shape) * 0.2
    encoder.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def base(tmp_path):
    return pretrained_folder(tmp_path / "base")


def texts(count=60, seed=0):
    """Which of two letters comes first decides."""
    rng = np.random.default_rng(seed)
    rows = ["".join(rng.permutation(list("abcdef"))[: rng.integers(3, 7)]) for _ in range(count)]
    rows = [t if {"a", "b"} & set(t) else t + "a" for t in rows]
    first = lambda t: min(t.find(c) for c in "ab" if c in t)
    return Dataset(rows, [t[first(t)] for t in rows], list(range(count)), "letters")


FAST = {"epochs": 2, "batch_size": 8, "workers": 1, "max_len": 12}


def settings(base, tune, **given):
    return FinetuneSettings(base=base, tune=tune, **{**FAST, **given})


# -------------------------------------------------------------------------- what is trained

TRAINED = {
    "attention": r"fc\.|\.multihead_attn\.(w_q|w_k|w_v|fc_out)\.",
    "all": r"",
    "head": r"fc\.",
    "lora": r"fc\.|\.(w_q|w_v)\.lora_[ab]$",
}


@pytest.mark.parametrize("tune", finetune.MODES)
def test_a_mode_changes_what_it_says_and_nothing_else(base, letters, tune):
    trained = finetune.finetune(split(texts()), settings(base, tune, epochs=3))
    start = TransformerEncoder.from_pretrained(base)
    before = {f"encoder.{name}": p.numpy() for name, p in start.named_parameters()}
    count = 0
    for name, p in trained.model.named_parameters():
        wanted = bool(re.search(TRAINED[tune], name))
        count += p.size if wanted else 0
        assert p.requires_grad == wanted, name
        if name in before:
            changed = not np.array_equal(p.numpy(), before[name])
            # positions of texts longer than any, words that do not occur: still moved by decay
            assert changed == wanted, name
    assert trained.metrics["trained_parameters"] == count
    assert trained.metrics["parameters"] == sum(p.size for p in trained.model.parameters())
    if tune == "lora":
        assert trained.model.encoder.layers[1].multihead_attn.w_v.lora_b.numpy().any()


@pytest.mark.parametrize("tune", finetune.MODES)
def test_it_learns(base, letters, tune):
    """More than the most frequent answer, on texts it has not seen."""
    data = texts(300)
    trained = finetune.finetune(
        split(data), settings(base, tune, epochs=12, lr=2e-2 if tune in ("head", "lora") else 5e-3)
    )
    history = trained.metrics["history"]
    assert history[-1]["train_loss"] < 0.97 * history[0]["train_loss"]
    if tune in ("all", "attention"):
        assert max(h["valid_accuracy"] for h in history) > 0.7


def test_the_same_seed_gives_the_same_weights(base, letters):
    parts = split(texts())
    states = [
        finetune.finetune(parts, settings(base, "attention", seed=seed)).model.state_dict()
        for seed in (1, 1, 2)
    ]
    for name, x in states[0].items():
        np.testing.assert_array_equal(x, states[1][name])
    assert not np.array_equal(states[0]["fc.weight"], states[2]["fc.weight"])


def test_workers_give_the_gradients_of_one(base, letters):
    parts = split(texts())
    one, two = (
        finetune.finetune(parts, settings(base, "all", workers=n, batch_size=128)).model
        for n in (1, 2)
    )
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-5)


# ------------------------------------------------------------------------- rates and groups


def run_of(base, **given):
    parts = split(texts())
    s = settings(base, **{"tune": "all", **given}).settled()
    labels = finetune.LabelSet.from_labels(parts.fit.labels, "x")
    trained = finetune.untrained(labels, s)
    ids = trained.encode(parts.fit.texts)
    rows = BucketedBatches(ids, labels.encode(parts.fit), s.batch_size * s.accumulate, seed=0)
    return FinetuneRun(trained, s, rows, None)


def test_each_layer_has_its_rate_and_vectors_do_not_decay(base, letters):
    run = run_of(base, lr=1.0, layer_decay=0.5, weight_decay=0.25, warmup=0.0)
    level = {}
    for group in run.optimizer.param_groups:
        for p in group["params"]:
            level[id(p)] = group["lr"], group["weight_decay"]
    for name, p in run.model.named_parameters():
        rate, decay = level[id(p)]
        want = 0.5**3  # the embeddings, below two layers and what is new
        if name.startswith("fc."):
            want = 1.0
        elif found := re.match(r"encoder\.layers\.(\d)", name):
            want = 0.5 ** (2 - int(found[1]))
        assert rate == want, name
        assert decay == (0.25 if p.ndim > 1 else 0.0), name


def test_an_adapter_is_as_new_as_the_last_layer(base, letters):
    run = run_of(base, tune="lora", lr=1.0, layer_decay=0.5, warmup=0.0)
    assert {group["lr"] for group in run.optimizer.param_groups} == {1.0}


def test_accumulated_batches_are_one_large_batch(base, letters):
    """Same rows, same dropout masks: the gradients of one step agree to rounding."""
    large, small = run_of(base, batch_size=24), run_of(base, batch_size=8, accumulate=3)
    for run in (large, small):
        for layer in run.model.encoder.layers:  # a mask of (T, T) weights depends on the padding
            layer.multihead_attn.attention_dropout = 0.0
        batch = next(iter(run.batches.epoch(0)))
        with Workers(1, parameters=run.parameters) as workers:
            scale = np.linspace(0.1, 2, len(batch.rows)) / len(batch.rows)
            said = run.gradients(workers, batch.ids, batch.lengths, batch.targets, scale)
            run.said = sum(loss for loss, _ in said), sum(right for _, right in said)
    assert large.said == pytest.approx(small.said, rel=1e-6)
    for a, b in zip(large.parameters, small.parameters, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_weights_of_rows_count(base, letters):
    """A row of weight 0 is as if it were not there."""
    data = texts(40)
    fit = Dataset(data.texts + ["fed", "cde"], [*data.labels, "a", "b"], list(range(42)), "x")
    nothing = Dataset([], [], [], "x")
    weights = np.array([1.0] * 40 + [0.0] * 2)
    s = settings(base, "head", epochs=5, batch_size=64, dropout=0.0)
    a = finetune.finetune(Split(data, nothing, nothing), s)
    b = finetune.finetune(Split(fit, nothing, nothing), s, row_weights=weights)
    np.testing.assert_allclose(a.model.fc.weight.numpy(), b.model.fc.weight.numpy(), atol=1e-5)


# ----------------------------------------------------------------------------- head and lora


def test_kept_features_are_what_the_encoder_says(base, letters):
    """Training on a table gives the last layer that training on texts would."""
    parts = split(texts())
    s = settings(base, "head", dropout=0.0).settled()
    quick = finetune.finetune(parts, s)
    labels = finetune.LabelSet.from_labels(parts.fit.labels, "x")
    slow = finetune.untrained(labels, s)
    ids = slow.encode(parts.fit.texts)
    # both go through the rows in the order of a table: all of one length
    rows = BucketedBatches([np.array([k]) for k in range(len(ids))], labels.encode(parts.fit), 8, 0)
    table = dict(enumerate(ids))

    class Slow(FinetuneRun):
        def loss_of(self, part, rows, lengths, targets, scale, step, first):
            padded, lengths = pad_batch([table[int(k)] for k in rows[part, 0]])
            self.model.eval()
            logits = self.model(padded, lengths)
            loss = tg.cross_entropy(logits, targets[part], reduction="sum") * scale
            return loss, (loss.item(), 0)

    run = Slow(slow, s, rows, None)
    with Workers(1, parameters=run.parameters) as workers:
        for epoch in range(s.epochs):
            run.position = 0
            run.epoch(epoch, workers, progress=False)
    np.testing.assert_allclose(
        quick.model.fc.weight.numpy(), slow.model.fc.weight.numpy(), rtol=1e-3, atol=1e-5
    )


def test_an_adapter_is_the_papers_formula():
    rng = np.random.default_rng(0)
    plain = tg.nn.Linear(5, 4)
    before = plain.weight.numpy().copy()
    layer = lora.LoraLinear(plain, rank=2, alpha=6.0)
    x = rng.standard_normal((3, 5)).astype("f4")
    want = x @ before.T + plain.bias.numpy()
    np.testing.assert_allclose(layer(tg.Tensor(x)).numpy(), want, rtol=1e-6)  # B is zeros at first
    layer.lora_b.data = rng.standard_normal((4, 2)).astype("f4")
    a, b = layer.lora_a.numpy(), layer.lora_b.numpy()
    want = want + 3.0 * x @ (b @ a).T
    np.testing.assert_allclose(layer(tg.Tensor(x)).numpy(), want, rtol=1e-5)
    np.testing.assert_allclose(layer.merged()(tg.Tensor(x)).numpy(), want, rtol=1e-5)
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    assert isinstance(layer.merged(), tg.nn.Linear)
    assert not isinstance(layer.merged(), lora.LoraLinear)


# ---------------------------------------------------------------------------------- on disk


@pytest.mark.parametrize("tune", finetune.MODES)
def test_a_saved_model_answers_as_before(base, letters, tmp_path, tune):
    trained = finetune.finetune(split(texts()), settings(base, tune))
    trained.save(tmp_path / "m")
    names = {p.name for p in (tmp_path / "m").iterdir()}
    weights = "adapter.safetensors" if tune == "lora" else "model.safetensors"
    assert names == {weights, "config.json", "tokenizer.json", "metrics.json"}
    again = TrainedClassifier.load(tmp_path / "m")
    assert isinstance(again, FineTunedClassifier)
    rows = ["abc", "", "fedcba" * 5, "zzz"]
    np.testing.assert_array_equal(again.predict_proba(rows), trained.predict_proba(rows))
    assert again.labels == ["a", "b"]
    trained.save(tmp_path / "m")  # over one of its own
    if tune == "lora":
        size = (tmp_path / "m" / weights).stat().st_size
        assert size < (tmp_path / "base" / "model.safetensors").stat().st_size / 2


def test_a_merged_adapter_needs_no_base(base, letters, tmp_path):
    trained = finetune.finetune(split(texts()), settings(base, "lora", lr=3e-2))
    rows = ["abc", "bca", "fab"]
    want = trained.predict_proba(rows)
    trained.merged().save(tmp_path / "m")
    (tmp_path / "base").rename(tmp_path / "gone")
    again = TrainedClassifier.load(tmp_path / "m")
    np.testing.assert_allclose(again.predict_proba(rows), want, atol=1e-6)


def test_an_adapter_for_another_base_is_refused(base, letters, tmp_path):
    finetune.finetune(split(texts()), settings(base, "lora")).save(tmp_path / "m")
    pretrained_folder(base, seed=1)
    with pytest.raises(InputError, match=r"adapter was trained on another model than .*base"):
        TrainedClassifier.load(tmp_path / "m")
    (tmp_path / "base").rename(tmp_path / "gone")
    with pytest.raises(InputError, match=r"base: no such folder"):
        TrainedClassifier.load(tmp_path / "m")


DAMAGE = {
    "labels": ({"labels": ["a", "b", "c"]}, r"the weights do not fit config.json .*fc\.weight"),
    "pooling": ({"pooling": "sum"}, r"'pooling' is 'sum', which does not fit"),
    "dropout": ({"dropout": 2.0}, r"'dropout' is '2.0'"),
    "key": ({"speed": 1}, r"unknown key 'speed'"),
    "no base": ({"base": None}, r"'base' is 'None', which is no proper str"),
    "version": ({"version": 9}, r"format version 9"),
    "encoder": ({"encoder": {}}, r"'encoder' is "),
    "lora": ({"lora": {"rank": 10**9, "alpha": 1.0}}, r"'lora' is "),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_folders(base, letters, tmp_path, what):
    finetune.finetune(split(texts()), settings(base, "head", epochs=1)).save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | DAMAGE[what][0]))
    with pytest.raises(InputError, match=DAMAGE[what][1]):
        TrainedClassifier.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("key", "value"), [("d_model", 10**6), ("vocab_size", "x"), ("eps", -1), ("activation", "no")]
)
def test_damaged_sizes(base, letters, tmp_path, key, value):
    finetune.finetune(split(texts()), settings(base, "head", epochs=1)).save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["encoder"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{key}|asks for .* MB|do not fit"):
        TrainedClassifier.load(tmp_path / "m")


# ------------------------------------------------------------------------------ command line


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def csv(tmp_path):
    data = texts(80)
    lines = [f"{t},{y}" for t, y in zip(data.texts, data.labels, strict=True)]
    (tmp_path / "d.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return "d.csv"


def test_the_command(base, letters, here, csv):
    quick = ["--base", base, "--epochs", 2, "--workers", 1, "--max-len", 6]
    status, out, err = here("finetune", csv, *quick, "--tune", "lora", "--lora-rank", 2, "--json")
    assert status == 0, err
    said = json.loads(out.splitlines()[-1])
    assert said.keys() == {"accuracy", "macro_f1", "loss", "epochs", "seconds", "model"}
    assert "146 of 1,530 weights trained; " in out
    assert "MB of memory at most" in out
    assert "texts are longer than 6 tokens and lose their end; --max-len takes more" in err
    assert "lora: trains 146 of 1,530 weights" in err
    config = json.loads(Path("model/config.json").read_text())
    assert config["lora"] == {"rank": 2, "alpha": 16.0}
    Path("t.txt").write_text("abc\n\nfedcba\n")
    status, labels, err = here("predict", "model", "t.txt")
    assert (status, len(labels.splitlines()), err) == (0, 3, "")
    status, out, err = here("evaluate", "model", csv)
    assert status == 0
    status, out, err = here("finetune", csv, *quick, "--tune", "lora", "--merge", "--out", "m2")
    assert status == 0
    assert not Path("m2/adapter.safetensors").exists()
    assert here("predict", "m2", "t.txt")[0] == 0


def test_what_the_command_refuses(base, letters, here, csv, capsys):
    def refuses(*arguments, words):
        try:
            status, out, err = here("finetune", *arguments)
        except SystemExit as e:  # argparse's
            status, (out, err) = e.code, capsys.readouterr()
        assert (status, out, len(err.splitlines())) == (2, "", 1), err
        assert all(word in err for word in words), err

    refuses(csv, "--base", "none", words=["none: no such folder", "minilm"])
    refuses(csv, "--base", base, "--max-len", 17, words=["positions for 16 tokens", "--max-len"])
    refuses(csv, "--base", base, "--max-len", 2, words=["max_len is 2", "at least 3"])
    refuses(csv, "--base", base, "--tune", "half", words=["invalid choice", "attention"])
    refuses(csv, "--base", base, "--layer-decay", 0, words=["layer_decay is 0.0"])
    refuses(csv, "--base", base, "--lr", "nan", words=["lr is nan"])
    refuses("nothing.csv", "--base", base, words=["nothing.csv"])


def test_without_the_library(base, here, csv, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    Path(base, "tokenizer.json").write_text("{}")
    status, _, err = here("finetune", csv, "--base", base, "--max-len", 9)
    assert (status, err.count("\n")) == (2, 1)
    assert "needs the package tokenizers: pip install 'tinygrad_mha[hub]'" in err


# --------------------------------------------------------------------------------- the rest


def test_a_fine_tuned_model_in_several_threads(base, letters):
    trained = finetune.finetune(split(texts()), settings(base, "head"))
    rows = texts(30, seed=3).texts
    want, got = trained.predict_proba(rows), []
    threads = [
        threading.Thread(target=lambda: got.append(trained.predict_proba(rows))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 4
    for answer in got:
        np.testing.assert_array_equal(answer, want)


@pytest.mark.parametrize("tune", finetune.MODES)
def test_on_the_device(base, letters, cupy, float64, tune):
    parts = split(texts())
    s = settings(base, tune)
    here = finetune.finetune(parts, s)
    tg.set_default_device("cuda")
    try:
        there = finetune.finetune(parts, replace(s, device="cuda"))
    finally:
        tg.set_default_device("cpu")
    assert all(isinstance(p.data, cupy.ndarray) for p in there.model.parameters())
    for name, x in here.model.state_dict().items():
        np.testing.assert_allclose(there.model.state_dict()[name], x, rtol=1e-8, atol=1e-10)
    rows = parts.test.texts
    np.testing.assert_allclose(there.predict_proba(rows), here.predict_proba(rows), atol=1e-6)


def test_scores_of_a_longer_text_are_those_of_its_beginning(base, letters):
    model = EncoderClassifier(TransformerEncoder.from_pretrained(base), 2)
    trained = FineTunedClassifier(model, Letters(), ["a", "b"], {"max_len": 6, "lora": {}})
    np.testing.assert_array_equal(
        trained.predict_proba(["abcdefabc"]), trained.predict_proba(["abcd"])
    )
    assert pretrained.config_of(model.encoder)["hidden_size"] == 8


@pytest.mark.filterwarnings("ignore")
def test_minilm_for_real(here):
    """The published model, its own tokenizer: a few texts of two kinds are told apart."""
    pytest.importorskip("tokenizers", reason="extra: hub")
    try:
        pretrained.find("minilm")
    except InputError as e:
        pytest.skip(str(e))
    good = ["I love this", "what a wonderful day", "great, thank you", "so happy about it"]
    good += ["the best film ever", "brilliant work", "she smiled with joy", "delicious food"]
    bad = ["I hate this", "what an awful day", "terrible, go away", "so sad about it"]
    bad += ["the worst film ever", "useless work", "she cried in pain", "disgusting food"]
    data = Dataset(good + bad, ["good"] * 8 + ["bad"] * 8, list(range(16)), "x")
    nothing = Dataset([], [], [], "x")
    s = FinetuneSettings(tune="head", epochs=40, workers=1)
    trained = finetune.finetune(Split(data, nothing, nothing), s)
    assert trained.predict(["a lovely evening", "a dreadful evening"]) == ["good", "bad"]
    assert isinstance(trained.vocabulary, WordPiece)
