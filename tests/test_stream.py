"""A file that is streamed gives what the same texts in memory give, and is told what is wrong."""

import gzip
import io
import json
import os
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mha.models import InputError, cli, readers, stream, token_store
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.ranks import Ranks
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.train import Settings

SMALL = ["--d-model", "8", "--heads", "2", "--epochs", "2", "--batch-size", "8", "--workers", "1"]
COLORS = ("red", "green", "blue")


def table(rows):
    return "text,label\n" + "".join(f"{json.dumps(t)},{y}\n" for t, y in rows)


def some(rows=90, seed=0):
    rng = np.random.default_rng(seed)
    for k in range(rows):
        words = rng.choice(["one", "two", "three", COLORS[k % 3]], 4)
        yield f"{' '.join(words)} {k % 40}", COLORS[k % 3]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text(table(some()))
    return tmp_path


@pytest.fixture
def here(capsys, monkeypatch):
    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


def same(a, b):
    """Two ways of preparing gave the same to the last bit."""
    assert a.vocabulary.tokens == b.vocabulary.tokens
    assert a.labels.names == b.labels.names
    for part in ("fit", "stop", "test"):
        x, y = getattr(a, part), getattr(b, part)
        assert [i.tolist() for i in x.ids] == [i.tolist() for i in y.ids], part
        np.testing.assert_array_equal(x.targets, y.targets)
        assert x.source == y.source


def in_memory(data, valid, settings):
    training.LabelSet(data.labels)
    parts = training.split(data, valid)
    found = training.prepared(parts, settings)
    found.test = training.Encoded(
        [found.vocabulary.encode(t, settings.max_len)
         for t in (training.tokenize(x, settings.level) for x in parts.test.texts)],
        found.labels.encode(parts.test), parts.test.source,
    )  # fmt: skip
    return found


text = st.lists(st.sampled_from(["a", "b", "A", "c d", "é", "!", "x" * 9, "東"]), max_size=5)
rows = st.lists(st.tuples(text.map(" ".join), st.sampled_from("uvw")), min_size=12, max_size=60)


@given(rows, st.booleans(), st.sampled_from(["word", "char"]), st.integers(1, 3),
       st.integers(1, 6), st.integers(1, 9))  # fmt: skip
def test_what_is_streamed_is_what_memory_gives(tmp_path_factory, found, valid, level, least,
                                               longest, piece):  # fmt: skip
    folder = tmp_path_factory.mktemp("s")
    path, other = str(folder / "d.csv"), str(folder / "v.csv")
    for name, part in ((path, found[3:]), (other, found[:3])):
        with open(name, "w") as file:
            file.write(table(part))
    settings = Settings(level=level, min_count=least, max_len=longest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "PIECE", piece)
        answers = []
        for way in (
            lambda: in_memory(read_dataset(path), read_dataset(other) if valid else None, settings),
            lambda: stream.prepare(path, settings, folder, other if valid else None),
        ):
            try:
                answers.append(way())
            except InputError as error:
                answers.append(str(error))
    if any(isinstance(a, str) for a in answers):
        assert all(isinstance(a, str) for a in answers), answers
    else:
        same(*answers)


def test_the_same_model_as_from_memory(place, here):
    assert here("train", "data.csv", "--out", "model", *SMALL)[0] == 0
    parts = training.split(read_dataset("data.csv"))
    settings = Settings.for_level("word", d_model=8, h=2, epochs=2, batch_size=8, workers=1)
    training.train(parts, settings).save("other")
    weights = [(place / name / "model.safetensors").read_bytes() for name in ("model", "other")]
    assert weights[0] == weights[1]
    assert {p.name for p in place.iterdir()} == {"data.csv", "model", "other"}


# ---------------------------------------------------------------------- packed, and from a pipe


def as_format(suffix):
    if suffix == ".jsonl":
        return "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in some())
    if suffix == ".ft":
        return "".join(f"__label__{y} {t}\n" for t, y in some())
    if suffix == ".tsv":
        return "text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in some())
    return table(some())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ft"])
def test_every_format_packed_and_piped(place, here, suffix):
    want = stream.prepare("data.csv", Settings(), place)
    data = as_format(suffix).encode()
    path = place / f"data{suffix}.gz"
    path.write_bytes(gzip.compress(data))
    found = stream.prepare(str(path), Settings(), place)
    assert found.vocabulary.tokens == want.vocabulary.tokens
    np.testing.assert_array_equal(found.test.targets, want.test.targets)
    assert here("train", "data.csv", "--out", "a", *SMALL)[0] == 0
    status, _, err = here("train", "-", "--out", "b", *SMALL, stdin=data)
    assert status == 0
    assert "standard input: 90 rows; " in err
    assert (place / "a/model.safetensors").read_bytes() == (
        place / "b/model.safetensors"
    ).read_bytes()
    status, out, _ = here("evaluate", "b", "-", "--json", stdin=data)
    assert (status, json.loads(out.splitlines()[-1])["rows"]) == (0, 90)


def test_a_packed_file_that_is_damaged(place, here):
    good = gzip.compress(table(some()).encode())
    for bad in (good[:50], b"text,label\n", good[:-4] + b"abcd", good[:20] + b"\0" * 9 + good[29:]):
        (place / "d.csv.gz").write_bytes(bad)
        status, _, err = here("train", "d.csv.gz", "--out", "m", *SMALL)
        assert (status, err.count("\n")) == (2, 1), err
        assert err.startswith("tinygrad-mha: d.csv.gz: cannot be unpacked ("), err


def test_nothing_comes_through_the_pipe(place, here, monkeypatch):
    assert "standard input: the file is empty; " in here("train", "-", "--out", "m")[2]
    status, _, err = here("train", "-", "--out", "m", stdin=b"text,label\n")
    assert (status, "standard input" in err) == (2, True)


def test_a_line_without_an_end(place, here, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST", 1000)
    (place / "d.csv").write_text("text,label\n" + "x" * 1001)
    status, _, err = here("train", "d.csv", "--out", "m", *SMALL)
    assert (status, err.count("\n")) == (2, 1)
    assert "d.csv, line 2: more than 1,000 bytes without a line end; " in err


# ------------------------------------------------------------------------------------- bad rows

BROKEN = {
    ".csv": ["no label", '"open",x,y', "a,b,c", "text,"],
    ".tsv": ["no label", "a\tb\tc", "text\t"],
    ".jsonl": ["{", "[1]", '{"text": 1, "label": "red"}', '{"text": "a"}',
               '{"text": "a", "label": []}'],
    ".ft": ["no label", "__label__", "__label__a __label__b text"],
}  # fmt: skip


@pytest.mark.parametrize("suffix", BROKEN)
def test_bad_rows_are_counted_shown_and_skipped(place, here, suffix):
    good = as_format(suffix).splitlines(keepends=True)
    bad = [line.encode() + b"\n" for line in BROKEN[suffix]] + [b"caf\xe9,red\n", b"nul\0,red\n"]
    lines = [line.encode() for line in good]
    where = []
    for k, line in enumerate(bad):
        where.append(3 + 4 * k + k)
        lines.insert(where[-1] - 1, line)
    (place / f"d{suffix}").write_bytes(b"".join(lines))
    (place / f"good{suffix}").write_text("".join(good))
    status, _, err = here("train", f"d{suffix}", "--out", "m", *SMALL)
    assert status == 2
    assert err.startswith(f"tinygrad-mha: d{suffix}, line 3: ")
    status, _, err = here("train", f"d{suffix}", "--out", "m", *SMALL, "--on-bad-row", "skip")
    assert status == 0, err
    shown = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert [line.split(": ")[1] for line in shown] == [f"d{suffix}, line {n}" for n in where[:5]]
    assert f"d{suffix}: {len(bad)} bad rows were skipped" in err
    assert here("train", f"good{suffix}", "--out", "n", *SMALL)[0] == 0
    weights = [(place / name / "model.safetensors").read_bytes() for name in "mn"]
    assert weights[0] == weights[1]


def test_an_open_quote_costs_its_own_line_only(place, here, monkeypatch):
    """The csv module reads on to the next quote, or to the end of the file."""
    lines = [f"{t},{y}\n" for t, y in some()]
    for k in (70, 31, 30):
        lines.insert(k, '"open,red\n')
    (place / "d.csv").write_text("text,label\n" + "".join(lines))
    found = readers.Skipped("d.csv")
    data = read_dataset("d.csv", bad=found)
    assert (len(data), found.count) == (90, 3)
    assert data.lines == [k for k in range(2, 95) if k not in (32, 34, 74)]
    monkeypatch.setattr(readers, "LONGEST", 60)  # as a quote in a file larger than memory
    limit = readers.csv.field_size_limit(60)
    try:
        assert read_dataset("d.csv", bad=readers.Skipped("d.csv")).texts == data.texts
    finally:
        readers.csv.field_size_limit(limit)


def test_nothing_is_left(place, here):
    skip = ["--out", "m", *SMALL, "--on-bad-row", "skip"]
    (place / "e.csv").write_text("text,label\nno label\n")
    status, _, err = here("train", "e.csv", *skip)
    assert (status, "e.csv: its only row was bad and skipped, so nothing is left" in err) == (
        2,
        True,
    )


def test_a_label_that_only_the_other_file_has(place, here):
    (place / "v.csv").write_text(table([("one", "red"), ("two", "pink"), ("two", "blue")]))
    with_valid = ["train", "data.csv", "--valid", "v.csv", "--out", "m", *SMALL]
    status, _, err = here(*with_valid)
    assert status == 2
    assert "v.csv, line 3: unknown label 'pink'" in err
    status, _, err = here(*with_valid, "--on-bad-row", "skip")
    assert (status, "; 81 train, 9 stop early; v.csv: 2 rows measure\n" in err) == (0, True)


# ---------------------------------------------------------------------------------------- limits


def test_rare_tokens_are_forgotten_when_there_are_too_many(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stream, "MOST_TOKENS", 50)
    rows = [(f"common often word{k} other{k}", "uv"[k % 2]) for k in range(200)]
    (tmp_path / "d.csv").write_text(table(rows))
    found = stream.prepare(str(tmp_path / "d.csv"), Settings(min_count=2), tmp_path)
    assert found.vocabulary.tokens == ["<pad>", "<unk>", "common", "often"]
    assert all(ids.tolist() == [2, 3, 1, 1] for ids in found.fit.ids)
    assert (
        "more than 50 different tokens; rare ones may be counted too low" in capsys.readouterr().err
    )


def test_the_store_has_no_name_and_outlives_its_file(tmp_path):
    with token_store.TokenStore(tmp_path) as store:
        for k in range(10):
            store.append(range(k))
        assert os.listdir(tmp_path) == []
        with tempfile.TemporaryFile(dir=tmp_path) as file:
            rows = store.renumbered(np.arange(10) + 5, 7, file)
    assert os.listdir(tmp_path) == []
    assert store.file.closed
    assert [r.tolist() for r in rows] == [list(range(5, 5 + min(k, 7))) for k in range(10)]
    assert [r.tolist() for r in rows.of(np.array([3, 9]))[1:]] == [list(range(5, 12))]
    assert not rows.flat.flags.writeable


def test_a_store_of_nothing(tmp_path):
    with token_store.TokenStore(tmp_path) as store:
        store.append([])
        assert store.renumbered(np.zeros(0, int), 3, io.BytesIO())[0].tolist() == []


def test_a_split_by_numbers_is_the_split_by_strings():
    data = Dataset(*map(list, zip(*some(), strict=True)), list(range(90)), "x")
    keep, out = training.stratified_split(data.texts, data.labels, 0.2, 3)
    assert sorted([*keep, *out]) == list(range(90))


class Talk:
    """Ranks that are threads of this process."""

    def __init__(self, size):
        self.size, self.met, self.said = size, threading.Barrier(size), [None] * size

    def rank(self, k):
        talk = self

        class Rank(Ranks):
            def __init__(self):
                super().__init__()
                self.rank, self.size = k, talk.size

            def gathered(self, words):
                talk.met.wait()
                talk.said[k] = json.dumps(words)
                talk.met.wait()
                return [json.loads(x) for x in talk.said]

            def gathered_rows(self, parts):
                return [np.array(x) for x in self.gathered(parts[0].tolist())]

            def wait(self, seconds=0.0):
                talk.met.wait()
                return True

        return Rank()


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_reading(place, monkeypatch, size):
    """Each cuts a part of the rows into tokens; together they have what one process has."""
    monkeypatch.setattr(stream, "STRETCH", 4)
    (place / "v.csv").write_text(table(some(30, seed=5)))
    cut = []
    monkeypatch.setattr(stream, "tokenize", lambda *a: cut.append(a[0]) or training.tokenize(*a))
    how = "data.csv", Settings(min_count=2, max_len=4), place, "v.csv"
    want = stream.prepare(*how)
    alone, cut[:] = list(cut), []
    talk = Talk(size)
    with ThreadPoolExecutor(size) as pool:
        jobs = [pool.submit(stream.prepare, *how, ranks=talk.rank(k)) for k in range(size)]
        found = [job.result(60) for job in jobs]
    assert sorted(cut) == sorted(alone)  # no text twice
    for prepared in found:
        same(prepared, want)
        assert [x.tolist() for x in prepared.fit.ids[3:6]] == [
            x.tolist() for x in want.fit.ids[3:6]
        ]
    assert {p.name for p in place.iterdir()} == {"data.csv", "v.csv"}


@pytest.mark.long
def test_five_million_rows(tmp_path):
    """The whole preparation and 200 steps in less than 1 GB."""
    import subprocess
    from pathlib import Path

    bench = Path(__file__).parents[1] / "bench" / "large_data.py"
    done = subprocess.run(
        [sys.executable, bench, "--folder", tmp_path], capture_output=True, text=True, check=True
    )
    [line] = [x for x in done.stdout.splitlines() if x.startswith("largest memory")]
    assert float(line.split(": ")[1].split(" MB")[0].replace(",", "")) < 1000
