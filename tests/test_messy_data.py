"""Data as people have it, and what is said of it: nothing is lost or left out without a word."""

import contextlib
import gzip
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_finetune import Letters, pretrained_folder

from tests import kill
from tinygrad_mha.models import checkpoint, cli, fine_tuned, finetune, readers, stream
from tinygrad_mha.models import run as run_module
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.errors import InputError
from tinygrad_mha.models.metrics import class_table, confusion_table, in_table, scores, shortened
from tinygrad_mha.models.progress import bar
from tinygrad_mha.models.settings import Settings
from tinygrad_mha.models.trained import TrainedClassifier

QUICK = ["--d-model", "8", "--heads", "2", "--batch-size", "8", "--workers", "1", "--epochs", "1"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(capsys, monkeypatch):
    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as e:  # argparse
            status = e.code
        return status, *capsys.readouterr()

    return run


def texts(rows=40):
    """Texts that all differ, of two classes in turn."""
    for k in range(rows):
        yield f"{('red', 'blue')[k % 2]} {NUMBERS[k // 10]} {NUMBERS[k % 10]}", "rb"[k % 2]


def write(path, rows, header="text,label"):
    lines = [header, *(",".join([json.dumps(t), *more]) for t, *more in rows)]
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def write_folder(path, rows):
    for k, (text, label) in enumerate(rows):
        (Path(path) / label).mkdir(parents=True, exist_ok=True)
        (Path(path) / label / f"{k}.txt").write_text(text)
    return path


# --- A, N: folders ---------------------------------------------------------------------------


def test_a_bad_text_of_a_folder_is_counted_and_skipped(place, here):
    write_folder("d", texts())
    Path("d/r/bad.txt").write_bytes(b"caf\xe9")
    Path("d/b/link.txt").symlink_to("nowhere")
    status, _, err = here("train", "d", *QUICK)
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = here("train", "d", *QUICK, "--on-bad-row", "skip")
    assert status == 0
    assert "skipped: d/r/bad.txt, line 1: not valid UTF-8" in err
    assert "skipped: d/b/link.txt: cannot be read (no such file" in err
    assert "d: 2 bad rows were skipped\n" in err
    assert "d: 40 rows; " in err


def test_a_class_without_any_good_text_is_no_empty_class(place):
    write_folder("d", texts(4))
    Path("d/x").mkdir()
    with pytest.raises(InputError, match=r"^d/x: no text in this class"):
        readers.read_dataset("d", bad=readers.Skipped("d"))
    Path("d/x/bad.txt").write_bytes(b"\xff!")
    found = readers.Skipped("d")
    assert (len(readers.read_dataset("d", bad=found)), found.count) == (4, 1)


def test_the_cure_for_a_text_of_a_folder_leaves_one_text(place, here):
    write_folder("my d", texts())
    bad = Path("my d/r/it's.txt")
    bad.write_bytes("café".encode("windows-1252"))
    status, _, err = here("train", "my d", *QUICK)
    cure = err.strip().partition("or convert it: ")[2]
    new = "'my d/r/it'\"'\"'s.txt.new'"
    old = "'my d/r/it'\"'\"'s.txt'"
    assert (status, cure) == (
        2,
        f"iconv -f WINDOWS-1252 -t UTF-8 {old} > {new} && mv {new} {old}",
    )
    if shutil.which("iconv"):
        subprocess.run(cure, shell=True, check=True)
        assert bad.read_text() == "café"
        assert len(readers.read_dataset("my d")) == 41


def test_the_cure_for_a_compressed_file_unpacks_it(place):
    with gzip.open("d.csv.gz", "wb") as file:
        file.write(b"text,label\ncaf\xe9,x\n")
    with pytest.raises(InputError) as caught:
        readers.read_dataset("d.csv.gz")
    cure = str(caught.value).partition("or convert it: ")[2]
    assert cure == "gunzip -c d.csv.gz | iconv -f WINDOWS-1252 -t UTF-8 > d.utf8.csv"
    if shutil.which("iconv") and shutil.which("gunzip"):
        subprocess.run(cure, shell=True, check=True)
        assert readers.read_dataset("d.utf8.csv").texts == ["café"]


@pytest.mark.parametrize("streamed", [False, True])
def test_folders_in_a_class_are_told(place, here, streamed):
    write_folder("d", texts())
    more = [write("d.csv", texts()), "--valid", "d"] if streamed else ["d"]
    assert "not read" not in here("train", *more, *QUICK)[2]
    for name in ("d/r/more", "d/b/more", "d/b/others"):
        Path(name).mkdir()
    Path("d/r/more/a.txt").write_text("red")
    status, _, err = here("train", *more, *QUICK)
    told = "d: 3 folders inside classes are not read; put the files into the class's own folder\n"
    assert (status, err.count(told)) == (0, 1)
    assert here("evaluate", "model", "d")[2].count(told) == 1
    for name in ("d/b/more", "d/b/others"):
        Path(name).rmdir()
    assert "d: 1 folder inside a class is not read; " in here("evaluate", "model", "d")[2]


# --- B, C, Q: bad rows -----------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
def test_bad_rows_are_those_of_their_file(place, here, folder):
    """The streamed way, and the one in memory."""
    data = write_folder("d", texts()) if folder else write("d.csv", texts())
    write("v.csv", [("red", "r"), ("blue", "b"), *[("what", "")] * 3, ("green", "g")])
    status, _, err = here("train", data, "--valid", "v.csv", *QUICK, "--on-bad-row", "skip")
    assert status == 0, err
    assert "v.csv: 4 bad rows were skipped\n" in err
    assert "skipped: v.csv, line 7: unknown label 'g'" in err
    assert f"{data}: 40 rows; 36 train, 4 stop early; v.csv: 2 rows measure\n" in err
    assert len(re.findall("bad rows? w", err)) == 1


def test_bad_rows_of_both_files(place, here):
    write("d.csv", [*texts(), ("what", "")])
    write("v.csv", [("red", "r"), ("blue", "")])
    status, _, err = here("train", "d.csv", "--valid", "v.csv", *QUICK, "--on-bad-row", "skip")
    assert status == 0
    assert "d.csv: 1 bad row was skipped\nv.csv: 1 bad row was skipped\n" in err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_row_was_bad(place, here, command):
    write("d.csv", texts())
    assert here("train", "d.csv", *QUICK)[0] == 0
    write("e.csv", [("what", "")] * 7)
    which = ["train", "e.csv", *QUICK] if command == "train" else ["evaluate", "model", "e.csv"]
    status, _, err = here(*which, "--on-bad-row", "skip")
    lines = err.splitlines()
    assert (status, len(lines)) == (2, 6)
    assert lines[0].startswith("skipped: e.csv, line 2: no label")
    told = "tinygrad-mha: e.csv: all 7 rows were bad and skipped, so nothing is left; "
    assert lines[5] == told + "correct them, or give another file"


def test_evaluate_skips_bad_rows(place, here):
    write("d.csv", texts())
    assert here("train", "d.csv", *QUICK)[0] == 0
    write("e.csv", [("red", "r"), ("what", ""), ("blue", "b"), ("green", "g")])
    status, _, err = here("evaluate", "model", "e.csv")
    assert (status, "e.csv, line 3: no label" in err) == (2, True)
    status, out, err = here("evaluate", "model", "e.csv", "--on-bad-row", "skip")
    assert (status, "on 2 rows" in out) == (0, True)
    assert "skipped: e.csv, line 5: unknown label 'g'" in err
    assert err.endswith("e.csv: 2 bad rows were skipped\n")


# --- D, E, R: resuming -----------------------------------------------------------------------


@contextlib.contextmanager
def told_to_stop(step):
    """Inside, SIGTERM comes after this step."""
    after_step = checkpoint.Checkpoints.after_step

    def asked(self, run):
        if run.step >= step:
            self.stops(signal.SIGTERM)
        after_step(self, run)

    checkpoint.Checkpoints.after_step = asked
    try:
        yield
    finally:
        checkpoint.Checkpoints.after_step = after_step


@pytest.fixture
def torn(place, here):
    kill.write_data("data.csv", rows=90)
    with told_to_stop(3):
        assert here("train", "data.csv", "--out", "torn", *QUICK)[0] == 143
    return place / "torn"


def test_other_texts_are_refused_in_one_sentence(torn, here):
    kill.write_data("data.csv", rows=90, seed=2)
    status, _, err = here("train", "--resume", "torn")
    told = "the texts or labels are not those that this run began with; "
    assert err.endswith(f"{told}bring them back, or start again without --resume\n")
    assert (status, "or;" in err) == (2, False)


def test_what_a_new_run_replaces(torn, here):
    again = ["train", "data.csv", "--out", "torn", *QUICK]
    status, _, err = here(*again)
    told = "torn: replaces the run that was interrupted at step 3; to go on with it instead: "
    assert (status, err.count(told + "tinygrad-mha train --resume torn\n")) == (0, 1)
    assert "replaces" not in here(*again)[2]  # a model of the same data
    again[1] = write("other.csv", texts())
    status, _, err = here(*again)
    assert (status, err.count("torn: replaces the model that was trained on data.csv\n")) == (0, 1)


def test_a_run_that_goes_on_replaces_nothing(torn, here):
    status, _, err = here("train", "--resume", "torn")
    assert (status, "replaces" in err) == (0, False)


def test_what_cannot_be_read_is_replaced_without_a_word(torn, here):
    (torn / checkpoint.NAME).write_bytes(b"damaged")
    status, _, err = here("train", "data.csv", "--out", "torn", *QUICK)
    assert (status, "replaces" in err) == (0, False)


def test_resuming_from_another_folder(torn, here, monkeypatch):
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    status, _, err = here("train", "--resume", "../torn")
    assert (status, err.count("\n")) == (2, 1)
    assert "data.csv: this run's DATA is not here; go back to the folder it began in, or " in err
    assert err.endswith("tinygrad-mha train --resume ../torn PATH/data.csv\n")
    assert here("train", "--resume", "../torn", "../data.csv")[0] == 0


def test_resuming_without_the_file_to_measure_on(place, here):
    kill.write_data("data.csv", rows=90)
    write("v.csv", [("one", "red"), ("two", "blue")])
    with told_to_stop(3):
        assert here("train", "data.csv", "--valid", "v.csv", "--out", "torn", *QUICK)[0] == 143
    Path("v.csv").rename("w.csv")
    status, _, err = here("train", "--resume", "torn")
    assert status == 2
    assert err.startswith("tinygrad-mha: v.csv: this run's --valid is not here; ")
    assert err.endswith("tinygrad-mha train --resume torn --valid PATH/v.csv\n")
    assert here("train", "--resume", "torn", "--valid", "w.csv")[0] == 0


def test_the_command_that_goes_on_is_whole(torn, here):
    status, _, err = here("finetune", "--resume", "torn")
    assert status == 2
    assert err.endswith("this run is one of 'train': tinygrad-mha train --resume torn\n")


# --- F: predict ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder; its model tells red from blue."""
    path = tmp_path_factory.mktemp("model")
    data = write(path / "d.csv", texts())
    more = [*QUICK[:-1], "20", "--lr", "0.02", "--dropout", "0"]
    assert cli.main(["train", str(data), "--out", str(path / "m"), *more]) == 0
    return path / "m"


ROWS = ["red one", "blue two", "red, \n blue blue blue", "blue four"]
ANSWERS = "r\nb\nb\nb\n"


def content(suffix, key="text"):
    if suffix == ".jsonl":
        return "\n".join(json.dumps({key: t, "label": 1.5}) for t in ROWS) + "\n\n"
    separator = "\t" if suffix == ".tsv" else ","
    lines = [separator.join(["label", key, "label"])]
    lines += [separator.join(["x", f'"{t}"', ""]) for t in ROWS]
    return "\n".join(lines) + "\n\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".CSV"])
def test_predict_reads_tables(place, here, model, suffix, packed):
    """No label is looked at: not a wrong one, nor two columns of that name."""
    name = f"t{suffix}{'.gz' * packed}"
    data = content(suffix.lower()).encode()
    Path(name).write_bytes(gzip.compress(data) if packed else data)
    assert here("predict", model, name) == (0, ANSWERS, "")
    data = content(suffix.lower(), "body").encode()
    Path(name).write_bytes(gzip.compress(data) if packed else data)
    status, out, err = here("predict", model, name)
    assert (status, out, "'body'" in err) == (2, "", True)
    assert here("predict", model, name, "--text-column", "body") == (0, ANSWERS, "")


@pytest.mark.parametrize("name", ["t.txt", "t", "t.ft", "t.txt.gz", "t.gz", "-"])
def test_predict_reads_lines_of_anything_else(place, here, model, name):
    data = b"red one\r\n\nblue blue,red\nblue"
    if name != "-":
        Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    status, out, err = here("predict", model, name, stdin=data)
    assert (status, [out.split("\n")[k] for k in (0, 2, 3, 4)], err) == (0, [*"rbb", ""], "")
    status, out, err = here("predict", model, name, "--text-column", "text", stdin=data)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--text-column: " in err


def test_predict_answers_a_table_as_it_reads_it(place, here, model):
    """In groups, and what came before a bad row is answered."""
    rows = [(f"{('red', 'blue')[k % 2]} {k}", "x") for k in range(2500)]
    write("t.csv", rows)
    want = "r\nb\n" * 1250
    assert here("predict", model, "t.csv") == (0, want, "")
    with open("t.csv", "a") as file:
        file.write("one,two,three\n")
    status, out, err = here("predict", model, "t.csv")
    assert (status, out, "t.csv, line 2502: 3 fields" in err) == (2, want, True)
    groups = cli.row_groups("t.csv", "text")
    assert [len(next(groups)) for _ in range(3)] == [1024, 1024, 452]
    Path("e.csv").write_text("text\n")
    assert here("predict", model, "e.csv") == (0, "", "")
    status, _, err = here("predict", model, "none.csv")
    assert (status, "none.csv: cannot be read (no such file" in err) == (2, True)


def test_predict_on_a_damaged_archive(place, here, model):
    Path("t.txt.gz").write_bytes(gzip.compress(b"red one\n" * 9)[:-9])
    status, _, err = here("predict", model, "t.txt.gz")
    assert (status, "t.txt.gz: cannot be unpacked (" in err) == (2, True)
    Path("t.txt.gz").write_bytes(b"red one\n")
    status, _, err = here("predict", model, "t.txt.gz")
    assert (status, "t.txt.gz: cannot be unpacked (" in err) == (2, True)


# --- G: a model that guesses -----------------------------------------------------------------


class OfRun(run_module.Run):
    """Only what the advice looks at."""

    def __init__(self, losses, best_loss, step, waited=0, max_steps=0):
        self.settings = Settings(lr=0.003, epochs=9, max_steps=max_steps)
        self.batches = range(100)
        self.guess, self.best_loss, self.step, self.waited = 6.21, best_loss, step, waited
        self.history = [{"train_loss": loss} for loss in losses]
        self.last_step = max_steps or 900


@pytest.mark.parametrize(
    ("run", "advice"),
    [
        (OfRun([6.3, 6.25, 6.2], 6.22, 900), "after 900 steps; try more --epochs than 9, or anot"),
        (OfRun([6.2, 6.21], 6.22, 900), "a guess has 6.21; try a smaller --lr than 0.003"),
        (OfRun([6.25], 6.22, 199), "after 199 steps; try more --epochs than 9, or another --lr"),
        (OfRun([6.25], 6.22, 900), "a guess has 6.21; try a smaller --lr than 0.003"),
        (OfRun([6.25], 6.22, 7, max_steps=7), "after 7 steps; try more --max-steps than 7, or"),
        (OfRun([6.3, 6.2], 13.0, 20), "a guess has 6.21; try a smaller --lr than 0.003"),
        (OfRun([6.3, 6.2], 6.22, 20, waited=6), "a guess has 6.21; try a smaller --lr than 0.003"),
    ],
)
def test_what_helps_a_model_that_guesses(run, advice):
    assert advice in run.advice(run.was_short())


# --- H, K, L, T: tables ----------------------------------------------------------------------


def test_the_most_frequent_class_is_that_of_the_training(place, here):
    confusion = np.array([[3, 1], [0, 16]])
    assert scores(confusion)["majority"] == 0.8
    assert scores(confusion, np.array([9, 5]))["majority"] == 0.2
    assert scores(confusion, np.array([5, 9]))["majority"] == 0.8
    for data in (
        write("d.csv", [*texts(), ("red", "r")]),
        write_folder("d", [*texts(), ("r", "r")]),
    ):
        write("v.csv", [("red", "r"), *[("blue", "b")] * 9])
        status, out, _ = here("train", data, "--valid", "v.csv", *QUICK)
        assert (status, "(always the most frequent class: 0.1000)" in out) == (0, True)
        assert json.loads(Path("model/metrics.json").read_text())["test"]["majority"] == 0.1


def test_what_cannot_be_computed_is_no_zero():
    confusion = np.array([[2, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = {**scores(confusion), "confusion": confusion.tolist()}
    lines = class_table(["a", "never answered", "never there", "neither"], found).split("\n")
    assert [line.split()[-4:] for line in lines[1:5]] == [
        ["0.667", "0.667", "0.667", "3"],
        ["–", "0.000", "0.000", "1"],
        ["0.000", "–", "0.000", "0"],
        ["–", "–", "–", "0"],
    ]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5:] == ["macro F1 leaves out 1 class that was neither measured nor answered"]
    assert found["macro_f1"] == pytest.approx(2 / 9)
    whole = {**scores(np.eye(2, dtype=int)), "confusion": np.eye(2).tolist()}
    assert "macro F1" not in class_table(["a", "b"], whole)


def test_long_labels_are_told_apart():
    labels = [f"customer_support/escalation/{end}" for end in ("billing", "delivery", "refund")]
    short = in_table(labels)
    assert [x[-4:] for x in short] == ["ling", "very", "fund"]
    assert all(x.startswith("customer") and len(x) == 24 for x in short)
    labels = [f"customer_support/{k}/escalation" for k in "abc"] + ["x"]
    assert in_table(labels) == [f"customer_s…scalation ({k})" for k in (1, 2, 3)] + ["x"]
    found = {**scores(np.eye(4, dtype=int)), "confusion": np.eye(4).tolist()}
    assert "scalation (2)  " in class_table(labels, found)
    assert "scalation (3)" in confusion_table(labels, np.eye(4, dtype=int), most=4)
    assert shortened("好评" * 20) == "好评好评好评…评好评好评"


def test_once_is_no_times():
    confusion = np.diag([5] * 9)
    confusion[0, 1], confusion[2, 3] = 1, 2
    table = confusion_table(list("abcdefghi"), confusion)
    assert "a taken for b: once (17% of a)" in table
    assert "c taken for d: 2 times (29% of c)" in table


def test_a_log_has_no_bars(place, here):
    """Standard error is no terminal here: whole lines, and no carriage return."""
    write("d.csv", texts())
    status, _, err = here("train", "d.csv", *QUICK)
    assert (status, "\r" in err, "epoch  1  loss" in err) == (0, False, True)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_bars(monkeypatch, terminal):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", Screen())
    assert list(bar(range(3), mininterval=0)) == [0, 1, 2]
    assert ("3" in sys.stderr.getvalue()) == terminal
    sys.stderr.seek(0)
    sys.stderr.truncate()
    assert list(bar(range(3), disable=True)) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


# --- I, J: duplicates and copies -------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
def test_duplicates_empty_texts_and_torn_ones_are_told(place, here, folder):
    rows = [*texts(), *texts(6), (" ", "r"), ("red zero zero", "b"), ("red zero two", "b")]
    data = write_folder("d", rows) if folder else write("d.csv", rows)
    status, _, err = here("train", data, *QUICK)
    assert status == 0
    [line] = [line for line in err.splitlines() if " rows; " in line]
    found = re.fullmatch(
        rf"{data}: 49 rows; (\d+) train, (\d+) stop early, (\d+) measure, "
        r"6 duplicates are left out; 1 text is empty",
        line,
    )
    assert sum(map(int, found.groups())) == 43
    assert f"{data}: 2 texts have more than one label: no answer is right for all of them\n" in err


def test_clean_data_has_a_short_line(place, here):
    err = here("train", write("d.csv", texts()), *QUICK)[2]
    assert err.startswith("d.csv: 40 rows; 28 train, 4 stop early, 8 measure\nepoch ")


def near(rows):
    """The same texts, as people type them again."""
    return [(f" {text.upper()}  ", label) for text, label in rows]


@pytest.mark.parametrize("folder", [False, True])
def test_copies_on_both_sides_of_the_split_are_told(place, here, folder):
    rows = [*texts(), *near(texts())]
    data = write_folder("d", rows) if folder else write("d.csv", rows)
    parts = training.split(readers.read_dataset(data))
    there = {text.casefold().strip() for text in parts.fit.texts}
    want = sum(text.casefold().strip() in there for text in parts.test.texts)
    assert 0 < want < len(parts.test.texts)
    told = f"{want} of the 16 texts to measure on have the same tokens as texts that train"
    assert f"{data}: {told}: it will look too good\n" in here("train", data, *QUICK)[2]
    assert "too good" not in here("train", write("c.csv", texts()), *QUICK)[2]


@pytest.mark.parametrize("folder", [False, True])
def test_copies_in_the_file_to_measure_on_are_told(place, here, folder):
    rows = list(texts())
    data = write_folder("d", rows) if folder else write("d.csv", rows)
    write("v.csv", [*rows[:3], *near(rows[:7]), ("other red", "r")])
    err = here("train", data, "--valid", "v.csv", *QUICK)[2]
    both = f"3 of the 11 texts to measure on are in {data} too"
    assert f"v.csv: {both}, and 7 more have the same tokens as texts there: it will" in err
    write("v.csv", [*near(rows[:7]), ("other red", "r")])
    err = here("train", data, "--valid", "v.csv", *QUICK)[2]
    assert f"v.csv: 7 of the 8 texts to measure on have the same tokens as texts of {data}: " in err
    write("v.csv", rows[:2])
    err = here("train", data, "--valid", "v.csv", *QUICK)[2]
    assert f"v.csv: 2 of the 2 texts to measure on are in {data} too: it will look too good" in err


def test_characters_tell_capitals_apart(place, here):
    write("d.csv", [*texts(), *near(texts())])
    assert "too good" not in here("train", "d.csv", *QUICK, "--level", "char")[2]


def test_hashes_of_several_ranks_are_in_the_order_of_the_rows(tmp_path):
    """Each rank has cut its own stretches of rows into tokens."""
    rows = [f"text {k}" for k in range(3 * stream.STRETCH + 5)]

    class Two(stream.Ranks):
        """One of two; what the other has to say is known beforehand."""

        def __init__(self, rank, other=None):
            super().__init__()
            self.rank, self.size, self.other = rank, 2, other

        def gathered_rows(self, parts):
            return [*parts, self.other]

    def tokens(ranks):
        found = stream.Tokens(stream.TokenStore(tmp_path), "word", ranks)
        for row in rows:
            found.append(row)
        found.store.file.close()
        return found

    other = np.frombuffer(tokens(Two(1)).hashes, np.uint64)
    found = tokens(Two(0, other)).taken_hashes()
    np.testing.assert_array_equal(found, tokens(stream.Ranks()).taken_hashes())
    assert len(set(found.tolist())) == len(rows)


# --- M: bytes of another kind ----------------------------------------------------------------

COMMANDS = [["train", "FILE", *QUICK], ["evaluate", "MODEL", "FILE"], ["predict", "MODEL", "FILE"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["d.csv", "-"])
def test_what_is_compressed_is_told(place, here, model, command, name):
    data = gzip.compress(b"text,label\nred,r\n")
    Path("d.csv").write_bytes(data)
    command = [{"FILE": name, "MODEL": model}.get(word, word) for word in command]
    status, out, err = here(*command, stdin=data)
    assert (status, out) == (2, "")
    remedy = "give it a name that ends with .gz: mv d.csv d.csv.gz"
    if name == "-":
        name, remedy = "standard input", "pipe it through gunzip -c"
    assert err == f"tinygrad-mha: {name}: is compressed (gzip); {remedy}\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["UTF-16LE", "UTF-16BE"])
def test_utf16_without_a_mark_is_told(place, here, model, command, kind):
    Path("d.csv").write_bytes("text,label\nred,r\nblue,b\n".encode(kind))
    command = [{"FILE": "d.csv", "MODEL": model}.get(word, word) for word in command]
    status, out, err = here(*command)
    assert (status, out) == (2, "")
    cure = f"iconv -f {kind} -t UTF-8 d.csv > d.utf8.csv"
    told = f"the file looks like {kind}; save it as UTF-8, or convert it: {cure}"
    assert err == f"tinygrad-mha: d.csv, line 1: {told}\n"


def test_a_nul_byte_or_two_are_no_utf16(place):
    write("d.csv", [("red", "r")], header="te\0xt\0,label")
    with pytest.raises(InputError, match=r"a NUL byte \(byte 3 of the line\)"):
        readers.read_dataset("d.csv")


# --- O, P, S, U ------------------------------------------------------------------------------


def test_the_lines_of_the_epochs_do_not_speak_of_validation(place, here):
    write("d.csv", texts())
    write("v.csv", [("red", "r"), ("blue", "b")])
    err = here("train", "d.csv", "--valid", "v.csv", *QUICK)[2]
    assert re.search(r"  early-stopping part: loss \d\.\d{3}  accuracy \d\.\d{3}  ", err)
    assert "validation" not in err


@pytest.fixture
def base(place, monkeypatch):
    monkeypatch.setattr(finetune, "WordPiece", Letters)
    monkeypatch.setattr(fine_tuned, "WordPiece", Letters)
    write("d.csv", texts())
    return ["--base", pretrained_folder(place / "base"), "--workers", 1, "--epochs", 1]


@pytest.mark.parametrize(
    ("more", "mode"),
    [
        (["--merge"], "attention"),
        (["--merge", "--tune", "head"], "head"),
        (["--lora-rank", 4], "attention"),
        (["--lora-rank", 4, "--tune", "all"], "all"),
    ],
)
def test_an_adapter_that_nobody_trains(base, here, more, mode):
    status, out, err = here("finetune", "d.csv", *base, *more)
    told = f"goes with --tune lora, but this is --tune {mode}; leave it out, or add --tune lora"
    assert (status, out, err) == (2, "", f"tinygrad-mha: {more[0]}: {told}\n")
    assert not Path("model").exists()


def test_an_adapter_is_trained_and_merged(base, here):
    status, out, err = here("finetune", "d.csv", *base, "--tune", "lora", "--merge", "--max-len", 9)
    assert (status, "MB of memory at most in the training's steps\n" in out) == (0, True), err
    assert TrainedClassifier.load("model").config["lora"] == {}


def test_copies_are_those_of_the_encoders_tokens(base, here):
    """Here a token is a letter; of six, only the first letters are left."""
    write("v.csv", [("red zero zero", "r"), ("red zero zero!", "r"), ("other", "b")])
    err = here("finetune", "d.csv", *base, "--valid", "v.csv", "--max-len", 16)[2]
    assert "v.csv: 1 of the 3 texts to measure on are in d.csv too: it will look too good\n" in err
    err = here("finetune", "d.csv", *base, "--valid", "v.csv", "--max-len", 6)[2]
    assert "are in d.csv too, and 1 more have the same tokens as texts there: it will" in err


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "finetune"])
def test_an_unknown_option_names_the_help_of_its_command(here, command):
    more = ["m", "d.csv"] if command in ("evaluate", "predict") else ["d.csv"]
    status, _, err = here(command, *more, "--frobnicate")
    told = f"unrecognized arguments: --frobnicate; see tinygrad-mha {command} --help\n"
    assert (status, err) == (2, f"tinygrad-mha {command}: {told}")


def test_a_dataset_of_known_labels_only():
    data = Dataset(["a", "b", "c"], ["x", "z", "y"], [1, 2, 3], "d.csv")
    labels = training.LabelSet(["x", "y"])
    with pytest.raises(InputError, match=r"^d\.csv, line 2: unknown label 'z'"):
        training.with_known_labels(data, labels, readers.fatal)
    found = readers.Skipped("d.csv")
    assert training.with_known_labels(data, labels, found).lines == [1, 3]
    assert found.count == 1
