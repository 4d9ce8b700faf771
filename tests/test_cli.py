"""The command line, run as a user runs it: in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
    assert "120 measure" in err


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


def test_bad_arguments(data, tmp_path):
    out = ["--out", tmp_path / "m"]
    refused("train", tmp_path / "none.csv", *out, says=["none.csv", "no such file", "names"])
    refused("train", data, *out, "--heads", "5", says=["d_model 128", "5 heads", "--heads"])
    refused("train", data, *out, "--epochs", "0", says=["epochs", "at least 1"])
    refused("train", data, *out, "--lr", "nan", says=["lr", "positive"])
    refused("train", data, *out, "--dropout", "1.5", says=["dropout", "[0, 1)"])
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
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_folders(trained, tmp_path, damage):
    folder = tmp_path / "copy"
    folder.mkdir()
    for p in trained[0].iterdir():
        (folder / p.name).write_bytes(p.read_bytes())
    action, says = DAMAGES[damage]
    action(folder)
    assert refused("predict", folder, text="fine\n", says=[folder, *says]) == ""


def test_training_again_replaces_the_model_and_leaves_nothing_behind(trained, data, tmp_path):
    folder = tmp_path / "model"
    for seed in (0, 1):
        status, _, err = run("train", data, "--out", folder, *FAST, "--epochs", 1, "--seed", seed)
        assert status == 0, err
    assert json.loads((folder / "config.json").read_text())["training"]["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


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
    for command in ("train", "evaluate", "predict", "doctor"):
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
