"""Hostile files: a few broken inputs for every reader, and attacks that have names.

The default run tries some dozens an input, drawn by Hypothesis; ``--long`` a hundred thousand, in a
process of their own; ``python -m tests.fuzz`` as many as one likes.
"""

import ast
import json
import os
import random
import re
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fuzz import engines, folders, places
from fuzz.mutations import mutated
from fuzz.verdict import Failure, Target, judge, limited
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import tinygrad_mha
import tinygrad_mha as tg
from tinygrad_mha.models import InputError, pretrained
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.trained import TrainedClassifier
from tinygrad_mha.models.transformer import TransformerEncoder
from tinygrad_mha.study import explorer, typeset

HUB = [
    "tuned/config.json", "tuned/tokenizer.json", "tuned/metrics.json", "tuned/model.safetensors",
    "lora/config.json", "lora/adapter.safetensors",
    "pretrained/vocab.txt", "pretrained/tokenizer_config.json", "pretrained/tokenizer.json",
]  # fmt: skip
needs_hub = pytest.mark.skipif(not folders.TOKENIZERS, reason="extra: hub")
NAMES = [
    "csv", "tsv", "jsonl", "fasttext", "unnamed", "tokenise",
    "trained/config.json", "trained/vocab.json", "trained/metrics.json",
    "trained/model.safetensors", "pretrained/config.json", "pretrained/model.safetensors",
    "checkpoint", "torch_weights", "explain page", "explorer page",
    *(pytest.param(name, marks=needs_hub) for name in HUB),
]  # fmt: skip
LONG = 100_000


@pytest.fixture(scope="module")
def targets():
    with places.all_targets() as found:
        yield found


def test_no_target_is_left_out(targets):
    names = {name for name in NAMES if isinstance(name, str)}
    assert {*targets} == (names | {*HUB} if folders.TOKENIZERS else names)


# -------------------------------------------------------------------------------- drawn at random


@pytest.mark.parametrize("name", NAMES)
def test_a_result_or_one_line(targets, name):
    target = targets[name]
    assert "result" in [judge(target, seed) for seed in target.seeds]

    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 2**64), st.binary(max_size=40))
    def tried(number, data):
        rng = random.Random(number)
        with limited():
            judge(target, data)
            judge(target, mutated(rng.choice(target.seeds), target.kind, rng, target.seeds))

    tried()


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand(name):
    report = engines.in_a_child("mutate_child", name, LONG, seed=random.randrange(2**32))
    print(report.line())
    assert not report.failure, (report.failure, report.data)
    assert report.inputs == LONG


def shouts(data):
    raise KeyError("what no user should see")


def prints_pages(data):
    raise InputError("x" * 10**6)


def takes_memory(data):
    np.ones(10**9)


def warns(data):
    np.float32(3e38) * np.float32(10)


def never_ends(data):
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("run", [shouts, takes_memory, warns])
def test_the_judge_sees(run):
    with pytest.raises(Failure, match=r"KeyError|MemoryError|RuntimeWarning"), limited(200):
        judge(Target("t", "text", run, [b""]), b"")
    assert judge(Target("t", "text", prints_pages, [b""]), b"") == "refusal"  # cut by InputError


def test_the_judge_waits_for_nobody(monkeypatch):
    monkeypatch.setattr("fuzz.verdict.SECONDS", 0.05)
    with pytest.raises(Failure, match="TimeoutError"):
        judge(Target("t", "text", never_ends, [b""]), b"")


def test_a_failure_keeps_its_input():
    def fails(data):
        assert b"\0" not in data

    report = engines.tried(Target("t", "lines", fails, [b"a,b\nc,d\n"]), 5000, seed=1)
    assert "AssertionError" in report.failure
    assert b"\0" in report.data
    assert report.inputs == report.results + 1
    again = engines.tried(Target("t", "lines", fails, [b"a,b\nc,d\n"]), 5000, seed=1)
    assert again.data == report.data


# --------------------------------------------------------------------------- attacks with a name


def refused(load, *words):
    """One line, quickly, and without much memory."""
    start = time.perf_counter()
    with limited(300), pytest.raises(InputError) as e:
        load()
    assert time.perf_counter() - start < 5
    message = str(e.value)
    assert all(word in message for word in words), message
    assert message.isprintable()
    assert len(message) <= 2000


LOADERS = {"trained": TrainedClassifier.load, "pretrained": TransformerEncoder.from_pretrained}
MAKERS = {"trained": folders.trained, "pretrained": folders.pretrained}


def safetensors(header, data=b""):
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


TERABYTES = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
NOTHING = {"a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}}
OVERLAP = {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}
HEADERS = {
    "terabytes": safetensors(TERABYTES),
    "a size that overflows": safetensors(NOTHING),
    "overlapping": safetensors(OVERLAP, b"\0" * 8),
    "a long header": struct.pack("<Q", 2**63) + b"{}",
    "a header of the file's length": struct.pack("<Q", 100) + b"{}",
    "a type of no NumPy": safetensors(
        {"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"\0"
    ),
    "nested": struct.pack("<Q", 10**5) + b"[" * 10**5,
}


@pytest.mark.parametrize("what", HEADERS)
@pytest.mark.parametrize("kind", LOADERS)
def test_headers_that_lie(kind, what, tmp_path):
    folder = MAKERS[kind](tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(HEADERS[what])
    refused(lambda: LOADERS[kind](folder), "model.safetensors")


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_narrow_file_and_a_wide_configuration(tmp_path):
    """The embedding is of the width that config.json says; what else is that wide is not there."""
    folder = folders.trained(tmp_path / "m")
    change(folder, d_model=10**6, num_layers=1)
    (folder / "vocab.json").write_text(json.dumps({"tokens": ["<pad>", "<unk>"]}))
    weights = {"embedding.weight": np.zeros((2, 10**6), np.float32)}
    weights |= {f"rnn.weight_ih_l0{end}": np.zeros(1, np.float32) for end in ("", "_reverse")}
    save_file(weights, folder / "model.safetensors")
    refused(lambda: TrainedClassifier.load(folder), "model.safetensors", "2,000,002 numbers")


@pytest.mark.parametrize("key", ["intermediate_size", "max_position_embeddings", "type_vocab_size"])
def test_every_size_of_a_published_model_is_compared_with_its_file(tmp_path, key):
    folder = folders.pretrained(tmp_path / "m")
    change(folder, **{key: 10**7})
    refused(lambda: TransformerEncoder.from_pretrained(folder), "config.json", "MB of weights")


def test_ten_million_tiny_layers(tmp_path):
    """Each takes a millisecond to build, and none is in the file, however long that is."""
    folder = folders.pretrained(tmp_path / "m")
    os.truncate(folder / "model.safetensors", 10**9)
    change(folder, num_hidden_layers=10**7, hidden_size=1, num_attention_heads=1,
           intermediate_size=1)  # fmt: skip
    refused(lambda: TransformerEncoder.from_pretrained(folder), "MB of weights")


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "metrics.json", "model.safetensors"])
def test_a_file_of_a_terabyte_that_takes_no_room(tmp_path, name):
    folder = folders.trained(tmp_path / "m")
    os.truncate(folder / name, 10**12)
    refused(lambda: TrainedClassifier.load(folder), name, "1,000,000,000,000 bytes")


def test_json_that_is_nested_nearly_too_deeply(tmp_path):
    """It can be read, and what is deeper in the program cannot be shown."""
    folder = folders.trained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for depth in (30, 200, *range(800, 1000, 9), 10**5):
        text = json.dumps({**config, "d_model": "@"}).replace('"@"', "[" * depth + "]" * depth)
        (folder / "config.json").write_text(text)
        refused(lambda: TrainedClassifier.load(folder), "config.json")


def test_links_that_lead_nowhere(tmp_path):
    folder = folders.trained(tmp_path / "m")
    path = folder / "vocab.json"
    for target in ("vocab.json", "/nowhere/vocab.json", "/dev/zero", "/proc/self/mem"):
        path.unlink()
        path.symlink_to(target)
        refused(lambda: TrainedClassifier.load(folder), "vocab.json")


@needs_hub
@pytest.mark.parametrize(
    "base", ["", ".", "\0", "../../../../etc", "/dev", "~root", "a" * 5000, "\ud800", "..", "a\nb"]
)
def test_an_adapter_s_base_is_a_model_or_nothing(tmp_path, monkeypatch, base):
    folder = folders.adapted(tmp_path / "m")
    change(folder, base=base)
    monkeypatch.chdir(tmp_path)
    refused(lambda: TrainedClassifier.load(folder))


@needs_hub
def test_an_adapter_s_base_is_no_pipe(tmp_path):
    folder = folders.adapted(tmp_path / "m")
    pipe = tmp_path / "m-base" / "model.safetensors"
    pipe.unlink()
    os.mkfifo(pipe)
    refused(lambda: TrainedClassifier.load(folder), "no regular file")
    refused(lambda: TransformerEncoder.from_pretrained(tmp_path / "m-base"), "no regular file")


@needs_hub
def test_a_model_takes_no_more_tokens_than_it_has_positions(tmp_path):
    folder = folders.fine_tuned(tmp_path / "m")
    change(folder, max_len=17)
    refused(lambda: TrainedClassifier.load(folder), "'max_len' is '17'")
    change(folder, max_len=16)
    assert TrainedClassifier.load(folder).predict_proba(["word " * 50]).shape == (1, 2)


def test_numbers_that_no_float32_holds(tmp_path):
    """They are taken over without a warning; who uses the model is told of its scores."""
    folder = folders.pretrained(tmp_path / "m")
    weights = {k: a.astype(np.float64) for k, a in load_file(folder / "model.safetensors").items()}
    weights["embeddings.word_embeddings.weight"][:] = 1e300
    save_file(weights, folder / "model.safetensors")
    encoder = TransformerEncoder.from_pretrained(folder)
    assert np.isinf(encoder.word_embeddings.weight.numpy()).all()
    assert pretrained.config_of(encoder)["hidden_size"] == 4


SIGNALLING = {
    "F32": (np.uint32, 0x7FA00000),
    "F64": (np.uint64, 0x7FF4 << 48),
    "F16": (np.uint16, 0x7D00),
}


@pytest.mark.parametrize("dtype", SIGNALLING)
def test_a_signalling_nan_is_one_too(tmp_path, dtype):
    """The bits of a NaN that raises a flag when it is converted, and NumPy a warning."""
    kind, bits = SIGNALLING[dtype]
    names = {"trained": "rnn.bias_ih_l0", "pretrained": "embeddings.LayerNorm.bias"}
    for name, made in MAKERS.items():
        path = made(tmp_path / name) / "model.safetensors"
        number = np.dtype(kind).str.replace("u", "f")
        weights = {k: a.astype(number) for k, a in load_file(path).items()}
        weights[names[name]].view(kind)[...] = bits
        save_file(weights, path)
    refused(lambda: TrainedClassifier.load(tmp_path / "trained"), "not finite")
    encoder = TransformerEncoder.from_pretrained(tmp_path / "pretrained")
    assert np.isnan(encoder.layer_norm.bias.numpy()).all()


# ------------------------------------------------------------------------------------- tokenizers

DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
ANYWHERE = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 20}
LAUGHS = {"type": "Sequence", "normalizers": [DOUBLE] * 8}
SEARCH = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZERS = {
    "a billion laughs": ({"normalizer": LAUGHS}, "256 times as long"),
    "more steps than anybody needs": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 30}},
        "30 steps of the type 'ByteLevel'",
    ),
    "something everywhere": ({"normalizer": ANYWHERE}, "21 times as long"),
    "a search without end": ({"pre_tokenizer": SEARCH}, "regular expression"),
    "a template without the text": ({"single": []}, "does not hold the text once"),
    "the text ten times": (
        {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 10},
        "does not hold the text once",
    ),
    "a token that is not described": ({"special_tokens": {}}, "does not describe"),
    "an id without a row": ({"vocab": {"hello": 12}}, "the id 12, and the model has 12"),
    "an id of four billion": ({"vocab": {"hello": 2**32 - 1}}, "the model has 12"),
    "no unknown": ({"unk_token": "?"}, "is no tokenizer"),
    "words without end": ({"max_input_chars_per_word": 10**9}, "more than 1000"),
}


def with_parts(file, parts):
    """The parts where they belong: in the file, its model, or its template."""
    for key, value in parts.items():
        for box in (file, file["model"], file["post_processor"]):
            if key in box:
                box[key] = {**box[key], **value} if key == "vocab" else value
                break
    return file


@needs_hub
@pytest.mark.parametrize("what", TOKENIZERS)
def test_tokenizers_that_do_harm(tmp_path, what, capfd):
    parts, says = TOKENIZERS[what]
    folder = folders.fine_tuned(tmp_path / "m")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(with_parts(json.loads(path.read_text()), parts)))
    refused(lambda: TrainedClassifier.load(folder).predict(["a" * 30 + "b ?"]), str(path), says)
    assert capfd.readouterr() == ("", ""), "the library has panicked"


@needs_hub
def test_a_key_that_stands_twice_is_looked_at_as_it_is_used(tmp_path):
    folder = folders.fine_tuned(tmp_path / "m")
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text())
    harmless, laughs = json.dumps(file["normalizer"]), json.dumps(LAUGHS)
    text = json.dumps({**file, "normalizer": "@"})
    for first, second, fine in ((laughs, harmless, True), (harmless, laughs, False)):
        path.write_text(
            text.replace('"normalizer": "@"', f'"normalizer": {first}, "normalizer": {second}')
        )
        if fine:
            assert len(TrainedClassifier.load(folder).predict(["a" * 100])) == 1
        else:
            refused(lambda: TrainedClassifier.load(folder), "256 times as long")


# ------------------------------------------------------------------------------------ data files


@pytest.mark.long
@pytest.mark.parametrize("end", ['",x\n', ""])
def test_a_line_of_a_hundred_megabytes(tmp_path, end):
    path = tmp_path / "d.csv"
    path.write_text('text,label\n"' + "word " * 20_000_000 + end)
    start = time.perf_counter()
    if end:
        assert len(read_dataset(path).texts[0]) == 10**8
    else:
        with pytest.raises(InputError, match="line 2: a quoted field"):
            read_dataset(path)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("bad", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\0", "\u2028", "a\rb"])
def test_a_label_says_nothing_to_the_terminal(tmp_path, bad):
    rows = {
        "d.jsonl": json.dumps({"text": "a", "label": f"x{bad}y"}),
        "d.csv": f'text,label\na,"x{bad}y"\n',
        "d.txt": f"__label__x{bad}y a\n",
    }
    for name, content in rows.items():
        (tmp_path / name).write_bytes(content.encode())
        refused(lambda name=name: read_dataset(tmp_path / name), name)


# ------------------------------------------------------------------------------------------ pages


def test_titles_that_are_marks_of_the_page(tmp_path):
    x = tg.Tensor(np.array([1.0]), requires_grad=True)
    with tg.trace() as t:
        (x * x).sum().backward()
    for title in ("@data@", "@script@", "@title@@style@", "a\ud800\0\u202eb", "<script>"):
        page = t.html(title)
        assert explorer.escape(explorer.printable(title)) in page
        assert page.count("<script") == 2
        t.to_html(tmp_path / "page.html", title)
        assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_a_quotation_mark_that_is_not_closed():
    """A docstring is anybody's, and not all of them are right."""
    assert typeset.html("    y = `a") == '<div class="formula"><i>y</i> = `<i>a</i></div>'


def test_what_is_not_seen_is_shown_and_all_else_is_kept():
    kept = 'é 東京 👩\u200d🚀 "quoted" \\u202e \\\\ </b>\n\t'
    assert json.loads(explorer.embedded(kept)) == kept
    for hostile in ("\0", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\ud800", "\udfff"):
        shown = json.loads(explorer.embedded(f"a{hostile}\\{hostile}"))
        assert shown.isprintable()
        assert shown == f"a\\u{ord(hostile):04x}\\\\u{ord(hostile):04x}"


# --------------------------------------------------------------------------- loading runs nothing

ROOMS = (Path(tinygrad_mha.__file__).parent, Path(tinygrad_mha.models.__file__).parent)
CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "dbm", "imp"}
RUNS = {"eval", "exec", "compile", "__import__"}
# Python files that the user names, to be run: `trace SCRIPT.py`, an exercise's file
THEIR_OWN = {"trace_script.py": {"compile", "exec"}, "learner_file.py": {"compile", "exec"}}


def what_runs_code(tree):
    """The names of what turns data into code. (Workers of ours send arrays through pipes, which
    multiprocessing pickles; no file comes that way.)"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            yield from CODE & {n.name.split(".")[0] for n in node.names} | CODE & {module}
        elif isinstance(node, ast.Call):
            f = node.func
            if isinstance(f, ast.Name) and f.id in RUNS:
                yield f.id
            if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name):
                whose = f.value.id
                if (whose, f.attr) in {("np", "load"), ("numpy", "load"), ("torch", "load")}:
                    yield f"{whose}.load"
            yield from (k.arg for k in node.keywords if k.arg in ("allow_pickle", "weights_only"))


def test_no_file_becomes_code():
    seen = 0
    for path in {path for room in ROOMS for path in room.rglob("*.py")}:
        found = {*what_runs_code(ast.parse(path.read_text(encoding="utf-8")))}
        assert found <= THEIR_OWN.get(path.name, set()), path
        seen += 1
    assert seen > 90


def test_code_from_files_would_be_found():
    for line in ("import pickle", "from marshal import loads", "np.load(f)", "eval(x)",
                 "np.lib.format.read_array(f, allow_pickle=True)", "import yaml as y"):  # fmt: skip
        assert [*what_runs_code(ast.parse(line))], line


WATCHED = """
    import os, sys
    from pathlib import Path
    os.environ["HF_HUB_OFFLINE"] = "1"
    from tinygrad_mha.models.trained import TrainedClassifier
    from tinygrad_mha.models.transformer import TransformerEncoder
    from tinygrad_mha.models.wordpiece import WordPiece

    def use(place):
        for folder in sorted(place.iterdir()):
            if folder.name == "pretrained":
                TransformerEncoder.from_pretrained(folder)
                if (folder / "tokenizer.json").exists():
                    WordPiece.from_folder(folder).encode(["hello"], 9)
            elif not folder.name.endswith("-base"):
                TrainedClassifier.load(folder).predict(["hello world"])

    warm, watched = map(Path, sys.argv[1:])
    use(warm)  # what is imported, and when, is no business of a folder's
    seen = []
    sys.addaudithook(lambda event, args: seen.append((event, str(args[0]) if args else "")))
    use(watched)
    modules = {*sys.modules}
    for event, what in [*seen]:
        if event == "import" and what in modules:
            continue
        print(event, what)
"""
# what tells nothing of a file: names looked up, folders listed, pages mapped
QUIET = re.compile(r"(object|sys|cpython|os\.(listdir|scandir)|mmap|array|builtins|time)\b")


def test_loading_opens_its_own_files_only_and_starts_nothing(tmp_path):
    kinds = ["trained", "pretrained", *(["fine_tuned", "adapted"] if folders.TOKENIZERS else [])]
    for place in ("warm", "watched"):
        for kind in kinds:
            getattr(folders, kind)(tmp_path / place / kind)
    command = [sys.executable, "-c", textwrap.dedent(WATCHED)]
    run = subprocess.run(
        [*command, tmp_path / "warm", tmp_path / "watched"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines, mine = run.stdout.splitlines(), f"open {tmp_path / 'watched'}{os.sep}"
    for kind in kinds:
        assert f"{mine}{kind}{os.sep}config.json" in lines
    assert [line for line in lines if not line.startswith(mine) and not QUIET.match(line)] == []
