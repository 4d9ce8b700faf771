"""The command line, run as a user runs it: in a process of its own where that matters."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinygrad_mha.models import checkpoint, cli, files
from tinygrad_mha.models import train as training
from tinygrad_mha.models import trained as trained_module

WORDS = {"good": "fine lovely great sunny warm", "bad": "awful nasty poor rainy cold"}
FAST = [
    "--epochs",
    "12",
    "--lr",
    "0.02",
    "--d-model",
    "16",
    "--heads",
    "2",
    "--workers",
    "1",
    "--dropout",
    "0",
]


def run(*arguments, text="", cwd=None, env=None):
    """Standard input is bytes or text; the result's outputs are text."""
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_mha", *map(str, arguments)],
        input=data,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error", **(env or {})},
        timeout=300,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def here(capsys):
    """`run` without a process of its own."""

    def run(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as e:  # argparse
            status = e.code
        return status, *capsys.readouterr()

    return run


def sentences(n=120, seed=0):
    rng = np.random.default_rng(seed)
    for k in range(n):
        label = ("good", "bad")[k % 2]
        own = rng.choice(WORDS[label].split(), 2)
        yield (
            " ".join([*own, *rng.choice(["the", "a", "day", "was", "it", "so"], 3), str(k)]),
            label,
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "days.csv"
    path.write_text("text,label\n" + "".join(f"{t},{x}\n" for t, x in sentences()))
    return path


@pytest.fixture(scope="module")
def trained(data):
    """A model folder, and what training it printed."""
    folder = data.parent / "model"
    status, out, err = run("train", data, "--out", folder, "--json", *FAST)
    assert status == 0, err
    return folder, out, err


def test_train_tells_and_saves(trained):
    folder, out, err = trained
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "config.json", "vocab.json", "metrics.json"}  # fmt: skip
    said = json.loads(out.splitlines()[-1])
    assert said.keys() == {"accuracy", "macro_f1", "loss", "epochs", "seconds", "model"}
    assert said["accuracy"] > 0.9
    assert said["model"] == str(folder)
    assert "precision" in out
    assert "true / answered" in out
    assert "always the most frequent class: 0.5" in out
    assert f"the model is in {folder}" in out
    assert "120 rows; " in err
    assert "tokens/s" in err
    assert "tokens/s" not in out
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["workers"] == 1
    assert config["training"]["seed"] == 0


def test_one_seed_and_one_number_of_workers_give_the_same_bytes(trained, data, tmp_path):
    folder, _, _ = trained
    for name, more in (("again", []), ("other", ["--seed", "1"])):
        status, _, err = run("train", data, "--out", tmp_path / name, *FAST, *more)
        assert status == 0, err
    first = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_two_workers_repeat_themselves_too(data, tmp_path):
    weights = []
    for name in "ab":
        more = ["--workers", "2", "--epochs", "2", "--dropout", "0.3"]
        status, _, err = run("train", data, "--out", tmp_path / name, *FAST, *more)
        assert status == 0, err
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_evaluate_measures(trained, data):
    folder, _, _ = trained
    status, out, err = run("evaluate", folder, data, "--json")
    assert status == 0, err
    said = json.loads(out.splitlines()[-1])
    assert said["accuracy"] > 0.95
    assert said["rows"] == 120
    assert sum(map(sum, said["confusion"])) == 120
    assert said["labels"] == ["bad", "good"]


def test_predict_answers_every_line_in_order(trained, tmp_path):
    folder, _, _ = trained
    lines = ["a fine lovely day", "", "awful nasty rainy", "zzz qqq", "great warm\r", "cold poor"]
    status, out, err = run("predict", folder, text="\n".join(lines) + "\n")
    assert status == 0, err
    answers = out.splitlines()
    assert len(answers) == 6
    assert answers[0] == answers[4] == "good"
    assert answers[2] == answers[5] == "bad"
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(lines))  # no line end after the last line
    assert run("predict", folder, file)[1] == out
    status, proba, _ = run("predict", folder, "-", "--proba", text="\n".join(lines))
    assert status == 0
    for line, answer in zip(proba.splitlines(), answers, strict=True):
        p = json.loads(line)
        assert p.keys() == {"bad", "good"}
        assert sum(p.values()) == pytest.approx(1, abs=1e-5)
        assert max(p, key=p.get) == answer


def test_predict_streams(trained):
    """A line typed is answered before the next one is."""
    folder, _, _ = trained
    command = [sys.executable, "-m", "tinygrad_mha", "predict", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for text, label in (("fine lovely great", "good"), ("awful nasty", "bad")):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline().decode().strip() == label
        process.stdin.close()
        assert process.wait(30) == 0


def test_training_on_every_format(data, tmp_path):
    rows = list(sentences(40))
    (tmp_path / "d.tsv").write_text("t\tl\n" + "".join(f"{t}\t{x}\n" for t, x in rows))
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in rows)
    )
    (tmp_path / "d.txt").write_text("".join(f"__label__{x} {t}\n" for t, x in rows))
    for k, (t, x) in enumerate(rows):
        (tmp_path / "folder" / x).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / x / f"{k}.txt").write_text(t)
    weights = set()
    for source, more in (
        ("d.tsv", ["--text-column", "t", "--label-column", "l"]),
        ("d.jsonl", []),
        ("d.txt", []),
        ("folder", []),
    ):
        out = tmp_path / f"model-{source}"
        status, _, err = run("train", tmp_path / source, "--out", out, *FAST, "--epochs", 1, *more)
        assert status == 0, err
        if source != "folder":  # sorted by file name there, so another order
            weights.add((out / "model.safetensors").read_bytes())
    assert len(weights) == 1


def test_a_file_to_measure_on(data, tmp_path):
    status, _, err = run(
        "train", data, "--valid", data, "--out", tmp_path / "m", *FAST, "--epochs", 1, "--json"
    )
    assert status == 0, err
    assert f"{data}: 120 rows; 108 train, 12 stop early; {data}: 120 rows measure\n" in err
    assert "120 of the 120 texts to measure on are in" in err


def test_the_file_to_measure_on_has_no_say_in_the_training(here, data, tmp_path):
    folders, said = [], []
    for name, lines in (("one", "lovely day,good\n"), ("other", "lovely day,bad\nnasty,bad\n")):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + lines)
        folders.append(tmp_path / name)
        more = ["--valid", tmp_path / f"{name}.csv", "--out", folders[-1], "--json"]
        status, out, err = here("train", data, *FAST, *more)
        assert status == 0, err
        said.append(json.loads(out.splitlines()[-1]))
    a, b = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert a == b
    assert said[0]["accuracy"] != said[1]["accuracy"]
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert [h["valid_loss"] for h in a["history"]] == [h["valid_loss"] for h in b["history"]]
    assert (a["test"]["rows"], b["test"]["rows"]) == (1, 2)


def test_a_table_cuts_long_labels_and_spells_out_what_the_terminal_cannot_show(data, tmp_path):
    text = data.read_text().replace(",good", ",größe").replace(",bad", "," + "悪" * 500)
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    status, out, err = run("train", "d.csv", "--out", "m", *FAST, cwd=tmp_path, env=ascii_only)
    assert status == 0, err
    assert "gr\\xf6\\xdfe" in out
    assert max(map(len, out.splitlines())) < 1000
    status, out, err = run("predict", "m", text="fine lovely\n", cwd=tmp_path, env=ascii_only)
    assert (status, out) == (0, "gr\\xf6\\xdfe\n"), err


# ----------------------------------------------------------------------------------- mistakes


def refused(*arguments, text="", says=(), cwd=None):
    """Exit 2, one line on standard error with all of ``says``, nothing on standard output."""
    status, out, err = run(*arguments, text=text, cwd=cwd)
    last = err.rstrip("\n")
    assert status == 2, (status, err)
    assert "\n" not in last, err
    assert "Traceback" not in err
    for word in says:
        assert str(word) in last, (word, last)
    return out


BAD_FILES = {
    "empty.csv": (b"", ["empty.csv", "empty"]),
    "column.csv": (b"txt,label\na,b\n", ["column.csv", "line 1", "--text-column", "txt"]),
    "one.csv": (b"text,label\na,x\nb,x\n", ["one.csv", "'x'", "another class"]),
    "nolabel.csv": (b"text,label\na,x\nb,\n", ["nolabel.csv", "line 3"]),
    "nul.csv": (b"text,label\na,x\nb\0,y\n", ["nul.csv", "line 3", "NUL"]),
    "latin.csv": (b"text,label\na,x\ncaf\xe9,y\n", ["latin.csv", "line 3", "UTF-8", "iconv"]),
    "broken.jsonl": (b'{"text": "a", "label": "x"}\n{"text": \n', ["broken.jsonl", "line 2"]),
    "what.xyz": (b"hello", ["what.xyz", ".csv"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_data(name, tmp_path):
    content, says = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    refused("train", tmp_path / name, "--out", tmp_path / "m", *FAST, says=says)
    assert {p.name for p in tmp_path.iterdir()} == {name}, "something was written"


def test_bad_arguments(here, data, tmp_path):
    def refused(*arguments, says):
        status, out, err = here(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert all(word in err for word in says), err

    out = ["--out", tmp_path / "m"]
    refused("train", tmp_path / "none.csv", *out, says=["none.csv", "no such file", "names"])
    refused("train", data, *out, "--heads", "5", says=["d_model 128", "5 heads", "--heads"])
    refused("train", data, *out, "--epochs", "0", says=["epochs", "at least 1"])
    refused("train", data, *out, "--seed", "-1", says=["--seed", "at least 0"])
    refused("train", data, *out, "--early-stopping", "-1", says=["--early-stopping", "at least 0"])
    refused(
        "train", data, *out, "--d-model", "800000", says=["d_model 800000", "smaller --d-model"]
    )
    refused("train", data, *out, "--lr", "nan", says=["lr", "positive"])
    refused("train", data, *out, "--dropout", "1.5", says=["dropout", "[0, 1)"])
    refused("train", data, *out, "--word-dropout", "1", says=["word_dropout", "[0, 1)"])
    refused("train", data, *out, "--attention-dropout", "-1", says=["attention_dropout", "[0, 1)"])
    refused("train", data, *out, "--label-smoothing", "2", says=["label_smoothing", "[0, 1)"])
    refused("train", data, *out, "--weight-decay", "-1", says=["weight_decay", "from 0 on"])
    refused("train", data, *out, "--weight-decay", "nan", says=["weight_decay", "from 0 on"])
    refused("train", data, *out, "--pooling", "sum", says=["--pooling", "mean"])
    refused("train", data, *out, "--speed", "9", says=["--speed", "--help"])
    refused("train", data, *out, "--device", "gpu", says=["'gpu'", "cuda"])
    refused("train", data, "--out", data.parent, says=["days.csv", "--out"])
    refused("train", data, "--out", data, says=["no folder", "--out"])
    assert not list(tmp_path.iterdir())


def test_a_label_unseen_in_training(trained, tmp_path):
    folder, _, _ = trained
    file = tmp_path / "new.csv"
    file.write_text("text,label\nfine,good\nso so,medium\n")
    refused("evaluate", folder, file, says=["new.csv", "line 3", "'medium'", "train"])


def test_predict_answers_up_to_the_bad_line(trained):
    folder, _, _ = trained
    out = refused("predict", folder, text=b"fine lovely\ncaf\xe9\n", says=["line 2", "UTF-8"])
    assert out == "good\n"
    refused("predict", folder, text=b"a\0b\n", says=["standard input, line 1", "NUL"])
    command = "iconv -f UTF-16 -t UTF-8"
    assert refused("predict", folder, text="a".encode("utf-16"), says=[command]) == ""
    refused("predict", folder, "no-such-file", says=["no-such-file"])


def test_a_megabyte_in_one_line(trained):
    folder, _, _ = trained
    status, out, err = run("predict", folder, text="fine lovely " * 90_000 + "\nawful nasty\n")
    assert status == 0, err
    assert out == "good\nbad\n"


def damage_config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def damage_weights(keep):
    def damage(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return damage


def damage_arrays(change):
    def damage(folder):
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors")

    return damage


def replaced_by_folder(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def replaced_by_pipe(name):
    def damage(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


DAMAGES = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir(), ["train"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "train again"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "missing"]),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), ["vocab.json", "train again"]),
    "config cut": (lambda f: (f / "config.json").write_text('{"a'), ["config.json", "JSON"]),
    "foreign": (lambda f: (f / "config.json").write_text("{}"), ["config.json", "no model"]),
    "version": (damage_config(version=99), ["config.json", "version 99"]),
    "unknown key": (damage_config(speed=1), ["config.json", "'speed'"]),
    "huge": (damage_config(d_model=10**15), ["config.json", "'d_model'"]),
    "heads": (damage_config(h=3), ["config.json", "3 heads"]),
    "wrong type": (damage_config(pooling=7), ["config.json", "'pooling'"]),
    "other shape": (damage_config(d_model=32), ["model.safetensors", "do not fit"]),
    "weights cut": (damage_weights(1000), ["model.safetensors", "damaged"]),
    "weights empty": (damage_weights(0), ["model.safetensors", "damaged"]),
    "vocabulary": (
        lambda f: (f / "vocab.json").write_text('{"tokens": [1]}'),
        ["vocab.json", "not a string"],
    ),
    "no metrics": (lambda f: (f / "metrics.json").unlink(), ["metrics.json", "missing"]),
    "metrics": (lambda f: (f / "metrics.json").write_text("[]"), ["metrics.json", "damaged"]),
    "nested": (lambda f: (f / "vocab.json").write_text("[" * 10**5), ["vocab.json", "JSON"]),
    "folder": (replaced_by_folder("model.safetensors"), ["model.safetensors", "no regular file"]),
    "pipe": (replaced_by_pipe("model.safetensors"), ["model.safetensors", "no regular file"]),
    "a truth for a version": (damage_config(version=True), ["config.json", "'True'"]),
    "wide": (damage_config(d_model=10**6), ["model.safetensors", "embedding"]),
    "deep": (damage_config(num_layers=10**6), ["model.safetensors", "1 LSTM layers"]),
    "NaN": (damage_config(dropout=float("nan")), ["config.json", "'dropout'"]),
    "infinite": (damage_config(max_len=float("inf")), ["config.json", "'max_len'"]),
    "wordy": (damage_config(level="x" * 10**5), ["config.json", "'level'"]),
    "labels in disorder": (damage_config(labels=["good", "bad"]), ["config.json", "in order"]),
    "a label of two lines": (damage_config(labels=["a\nb", "c"]), ["config.json", "line breaks"]),
    "weights NaN": (
        damage_arrays(lambda w: {**w, "fc.bias": w["fc.bias"] * np.nan}),
        ["model.safetensors", "'fc.bias'", "finite"],
    ),
    "weights too large": (
        damage_arrays(lambda w: {**w, "fc.bias": w["fc.bias"].astype(np.float64) + 1e300}),
        ["model.safetensors", "'fc.bias'", "finite"],
    ),
    "integer weights": (
        damage_arrays(lambda w: {**w, "fc.bias": w["fc.bias"].astype(np.int32)}),
        ["model.safetensors", "'fc.bias'", "int32"],
    ),
    "one array more": (
        damage_arrays(lambda w: {**w, "more": w["fc.bias"]}),
        ["model.safetensors", "do not fit", "more"],
    ),
    "one array less": (
        damage_arrays(lambda w: {k: v for k, v in w.items() if k != "fc.bias"}),
        ["model.safetensors", "do not fit", "fc.bias"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_folders(here, trained, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    action, says = DAMAGES[damage]
    action(folder)
    status, out, err = here("predict", folder, "/dev/null")
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert all(str(word) in err for word in [folder, *says]), err
    assert len(err) < 500
    assert err.count(str(folder)) == 1, "one file is named, once"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_weights_in_another_precision_are_read(here, trained, tmp_path, dtype):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    damage_arrays(lambda w: {k: v.astype(dtype) for k, v in w.items()})(folder)
    (tmp_path / "texts").write_text("fine lovely\nawful nasty\n")
    assert here("predict", folder, tmp_path / "texts") == (0, "good\nbad\n", "")


def test_training_again_replaces_the_model_and_leaves_nothing_behind(trained, data, tmp_path):
    folder = tmp_path / "model"
    for seed in (0, 1):
        status, _, err = run("train", data, "--out", folder, *FAST, "--epochs", 1, "--seed", seed)
        assert status == 0, err
    assert json.loads((folder / "config.json").read_text())["training"]["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------------------ where models go


def test_a_link_to_a_model_stays_a_link_and_files_can_be_shared(here, data, tmp_path):
    (tmp_path / "model-1").mkdir()
    (tmp_path / "link").symlink_to("model-1")
    status, _, err = here("train", data, "--out", tmp_path / "link", *FAST, "--epochs", 1)
    assert status == 0, err
    assert (tmp_path / "link").is_symlink()
    assert len(list((tmp_path / "model-1").iterdir())) == 4
    assert len({p.stat().st_mode for p in (tmp_path / "model-1").iterdir()}) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model-1"]


def test_places_that_cannot_hold_a_model(here, data, tmp_path, monkeypatch):
    def refuses(out, *says):
        monkeypatch.setattr(training, "train", None)  # it is known before training
        before = sorted(tmp_path.rglob("*"))
        status, _, err = here("train", data, "--out", out, *FAST)
        assert (status, err.count("\n")) == (2, 1), err
        assert all(word in err for word in (f"{out}: it ", "--out", *says)), err
        assert sorted(tmp_path.rglob("*")) == before

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    refuses(foreign, "no config.json of ours")
    (tmp_path / "link").symlink_to("nowhere")
    refuses(tmp_path / "link", "is no folder")
    refuses(foreign / "config.json" / "m", "cannot be written", "not a directory")
    refuses(tmp_path / ("x" * 300), "cannot be written", "too long")
    monkeypatch.chdir(tmp_path / "foreign")
    (foreign / "config.json").unlink()
    refuses(".", "current folder", "inside it")
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: os.mkdir("/proc/none/x"))
    refuses(tmp_path / "m", "cannot be written")


@pytest.mark.parametrize("at", ["write_parts", "put_folder", "rename"])
def test_a_save_that_fails_leaves_the_old_model(here, data, tmp_path, monkeypatch, at):
    folder = tmp_path / "model"
    assert here("train", data, "--out", folder, *FAST, "--epochs", 1)[0] == 0
    before = (folder / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    if at == "rename":  # the old one is out of the way when the new one cannot be moved
        rename = Path.rename
        allowed = iter([rename, full, rename])
        monkeypatch.setattr(Path, "rename", lambda self, to: next(allowed)(self, to))
        monkeypatch.setattr(files, "exchanged", lambda *_: False)
    else:
        monkeypatch.setattr(trained_module, at, full)
    more = ["--epochs", 1, "--seed", 1]
    status, out, err = here("train", data, "--out", folder, *FAST, *more)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"tinygrad-mha: {folder}: no space left on device; ")
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ------------------------------------------------------------------------- streams and signals


def test_nobody_listens_to_the_progress(data, tmp_path):
    """Standard error at a closed pipe, or closed: the training goes on."""
    command = [sys.executable, "-m", "tinygrad_mha", "train", data, *FAST, "--epochs", "1"]
    read, write = os.pipe()
    os.close(read)
    out = tmp_path / "a"
    done = subprocess.run([*command, "--out", out], stderr=write, stdout=write, check=False)
    os.close(write)
    assert done.returncode == 0
    shell = 'exec "$@" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", shell, "sh", *command, "--out", tmp_path / "b"], check=True)
    assert len(list(out.iterdir())) == len(list((tmp_path / "b").iterdir())) == 4


def test_closed_standard_input(here, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, out, err = here("predict", trained[0])
    assert (status, out) == (2, "")
    assert err.startswith("tinygrad-mha: standard input: closed; ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device /dev/full")
def test_a_full_disk_behind_standard_output(trained):
    command = [
        sys.executable,
        "-m",
        "tinygrad_mha",
        "predict",
        trained[0],
        trained[0] / "vocab.json",
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("tinygrad-mha: standard output: no space left on device; ")
    assert done.stderr.count("\n") == 1


def test_interrupting_a_training(trained, data, tmp_path):
    """However often the keys are pressed: one line, a checkpoint, the old model kept."""
    folder = tmp_path / "model"
    shutil.copytree(trained[0], folder)
    command = [sys.executable, "-m", "tinygrad_mha", "train", data, "--out", folder, *FAST]
    command += ["--workers", "2", "--epochs", "1000000", "--early-stopping", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while b"epoch  1" not in process.stderr.readline():
            pass
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        err = process.stderr.read().decode()
    assert process.returncode == 130
    assert "Traceback" not in err
    last = err.rstrip().split("\n")[-1]
    assert last.startswith("tinygrad-mha: interrupted after step ")
    assert last.endswith(f"; to go on: tinygrad-mha train --resume {folder}")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    for p in folder.iterdir():
        if p.name != checkpoint.NAME:
            assert p.read_bytes() == (trained[0] / p.name).read_bytes()
    assert checkpoint.read(folder).words["run"]["step"] > 0


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_the_device_of_the_option_wins_over_the_environment(
    here, trained, data, command, monkeypatch
):
    monkeypatch.setattr(cli.tg.backend, "_default_device", None)
    monkeypatch.setenv("TINYGRAD_MHA_DEVICE", "nonsense")
    arguments = [command, trained[0], data]
    status, out, err = here(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("tinygrad-mha: $TINYGRAD_MHA_DEVICE: unknown device 'nonsense'")
    assert here(*arguments, "--device", "cpu")[0] == 0


def test_a_learning_rate_that_blows_up(data, tmp_path):
    status, _, err = run(
        "train", data, "--out", tmp_path / "m", *FAST, "--optimizer", "sgd", "--lr", "1e30"
    )
    assert status == 1
    assert "smaller --lr" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_help_and_version():
    assert run("--version")[1].startswith("tinygrad_mha 0.")
    for command in ("train", "evaluate", "predict", "explain", "export", "doctor"):
        status, out, _ = run(command, "--help")
        assert status == 0
        assert "usage" in out
    assert "matrix product is right" in run("doctor")[1]
    assert run()[0] == 2


def test_importing_the_package_imports_numpy_and_nothing_else():
    code = (
        "import numpy.random, sys; before = set(sys.modules); "
        "import tinygrad_mha, tinygrad_mha.models; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names) - {'tinygrad_mha', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # what is left over is how an editable installation finds its files
    assert [m for m in done.stdout.split() if not m.startswith("__editable__")] == []


def test_models_is_never_imported_under_a_second_name():
    root = Path(__file__).parents[1]
    for folder in ("tinygrad_mha", "models", "tests", "bench"):
        for path in (root / folder).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                wrong = line.lstrip().startswith(("import models", "from models"))
                assert not wrong, f"{path.name}, line {number}: write tinygrad_mha.models"
