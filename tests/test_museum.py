"""The museum of broken backprop: its judges, the cheats we thought of, and the command line."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.study import museum_text, progress, referee
from tinygrad_mha.study.__main__ import main
from tinygrad_mha.study.learner_file import Refused, load
from tinygrad_mha.study.museum import NAMES, ROOMS, exhibit
from tinygrad_mha.study.museum.exhibit import HEADER, code_of
from tinygrad_mha.study.museum.judging import Failed, same
from tinygrad_mha.study.trial import judge

EXHIBITS = [exhibit(name) for name in NAMES]
every = pytest.mark.parametrize("name", NAMES)


def fails(case, thing, seed):
    with pytest.raises((Failed, Refused, Exception)):
        judge(case, thing, seed)


# ---------------------------------------------------------------------------------- exhibits


@every
def test_the_shape_check_passes(name):
    """The broken code looks fine, and so does the repaired one."""
    case = exhibit(name)
    for make in (case.broken, case.solution):
        with np.errstate(all="ignore"):
            said = case.looks_fine(make(), np.random.default_rng(0))
        assert make().__name__.removeprefix("<") in said or name == "own_tail"


@every
def test_the_broken_fails_and_the_solution_passes(name):
    case = exhibit(name)
    for seed in range(3):
        with pytest.raises(Failed) as failure:
            judge(case, case.broken(), seed)
        assert 10 < len(str(failure.value)) < 800
        judge(case, case.solution(), seed, cases=min(case.cases, 4))


@pytest.mark.long
@every
def test_the_judge_is_never_wrong_on_200_seeds(name):
    case = exhibit(name)
    for seed in range(1000, 1200):
        with pytest.raises(Failed):
            judge(case, case.broken(), seed)
        judge(case, case.solution(), seed)


def test_every_mechanism_is_another_one():
    assert len(NAMES) >= 20
    assert len({case.mechanism for case in EXHIBITS}) == len(NAMES)
    assert len({case.title for case in EXHIBITS}) == len(NAMES)
    assert sorted(NAMES) == sorted({name for names in ROOMS.values() for name in names})


def test_every_file_of_the_museum_is_shown():
    folder = os.path.dirname(sys.modules["tinygrad_mha.study.museum"].__file__)
    files = {name.removesuffix(".py") for name in os.listdir(folder) if name.endswith(".py")}
    assert files == {*NAMES, "__init__", "exhibit", "judging", "graph"}
    assert [case.slug for case in EXHIBITS] == NAMES


@every
def test_the_text_of_an_exhibit(name):
    case = exhibit(name)
    assert len(case.hints) >= 3
    assert "?" in case.hints[0]
    assert len({*case.hints}) == len(case.hints)
    assert case.story.strip()
    assert case.why.strip()
    assert re.search(r"\w", case.seen)
    code = code_of(case.broken)
    assert len(code.splitlines()) <= 36
    assert max(map(len, code.splitlines())) <= 76
    assert code != code_of(case.solution)
    assert set(case.withheld) <= set(tg.REGISTRY)


@every
def test_what_is_shown_is_what_is_judged(name, tmp_path):
    """The code as printed, in a file of its own, fails; the printed solution passes."""
    case = exhibit(name)
    path = tmp_path / "fix.py"
    path.write_text(HEADER + code_of(case.broken), encoding="utf-8")
    fails(case, load(str(path), case), 7)
    path.write_text(HEADER + code_of(case.solution), encoding="utf-8")
    judge(case, load(str(path), case), 7, cases=2)


def test_the_package_does_not_import_the_museum():
    code = "import sys, tinygrad_mha; sys.exit(any('study' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_is_registered_and_nothing_stays_withheld():
    before = {name: (op.forward, op.without_way_back) for name, op in tg.REGISTRY.items()}
    case = exhibit("big_number")
    with pytest.raises(Failed):
        judge(case, case.broken(), 0)
    assert {n: (op.forward, op.without_way_back) for n, op in tg.REGISTRY.items()} == before


# --------------------------------------------------------------------- wrong repairs, and cheats

# name of the exhibit, what is replaced in its broken code, and by what
WRONG = [
    ("accidental_table", "prediction - target", "prediction - target[0]"),
    ("accidental_table", "difference * difference).mean()", "difference * difference).sum()"),
    ("repeated_ids", "dweight[ids] += g", "dweight[ids] = g"),
    ("repeated_ids", "dweight[ids] += g", "dweight[ids] += 2 * g"),
    ("cut_to_shape", "return g[tuple(slice(n) for n in shape)]", "return g"),
    (
        "cut_to_shape",
        "return g[tuple(slice(n) for n in shape)]",
        "return g.mean(axis=tuple(k for k, n in enumerate(shape) if n == 1), keepdims=True)",
    ),
    ("overwritten", "= found[node] * slope", "= max(found.get(x, 0.0), found[node] * slope)"),
    ("overwritten", "todo.add(x)", "todo.add(x)\n        if len(found) > 9: return found"),
    ("saved_and_overwritten", "g * (s + y * (1 - s))", "g * (s + s * (1 - s))"),
    ("saved_and_overwritten", "y *= x", "y = y * x * 1.001"),
    ("whole_numbers", "np.zeros_like(real)", "np.ones_like(real) / 2"),
    ("ties", "(x == y[..., None])", "(x == y[..., None]) / x.shape[-1]"),
    ("huge_inputs", "e = np.exp(x)", "e = np.exp(np.clip(x, -20, 20))"),
    ("huge_inputs", "return g * e / (1 + e) ** 2", "return g * y * (1 - y)"),
    ("dead_branch", "tg.log(p)", "tg.log(p + 1e-9)"),
    ("outside_the_root", "root = y - 1e-5", "root = y"),
    ("outside_the_root", "keepdims=True)) + 1e-5", "keepdims=True)) + 1e-5 ** 0.5"),
    ("clipped_loss", "1e-15", "1e-300"),
    ("large_mean", "return (x * x).mean(axis=-1) -", "return abs((x * x).mean(axis=-1)) -"),
    (
        "large_mean",
        "return (x * x)",
        "x = x.astype(np.float64)\n    return (x * x)",
    ),
    ("big_number", "-1e9", "-1e30"),
    ("big_number", "-1e9", "-np.inf"),
    (
        "sum_of_nothing",
        "    total = np.exp",
        "    top = np.where(top == -np.inf, 0.0, top)\n    total = np.exp",
    ),
    ("wider_and_wider", "return w, m, v", "return w.astype(np.float32), m, v"),
    ("wider_and_wider", "np.sqrt(1 - 0.999**t)", "1"),
    ("other_denominator", "/ len(targets)", "/ weight.sum()"),
    ("other_denominator", "/ w.sum()", "/ len(targets)"),
    ("mean_of_means", "loss_of(batch) / len(batches)", "loss_of(batch) * len(batch)"),
    ("mean_of_means", "loss_of(batch) / len(batches)", "loss_of(batch)"),
    ("frozen_statistics", "(g / s,)", "((g - g.mean(axis=-1, keepdims=True)) / s,)"),
    ("into_the_pads", "x[t] + h @ u", "x[t] * (t < lengths)[:, None] + h @ u"),
    ("one_step_late", "dy * y[t]", "dy * y[t - 1]"),
    ("bound_to_a_name", "total = total + part", "dx[t] = da"),
    ("bound_to_a_name", "total = total + part", "dx[t] = da; du[...] = before.T @ da"),
    ("exchanged_states", "da, dc * f, da @ u.T", "da, (dc * f + da @ u.T) / 2, da @ u.T"),
    ("shared_sum", "result = d\n", "result = d if len(parts) == 1 else 2 * d\n"),
    ("second_walk", "    root.grad = 1.0", "    for n in nodes: n.grad = 0.0\n    root.grad = 1.0"),
    ("too_early", "if x not in found:", "if True:"),
    ("too_early", "if x not in found:", "queue.append(x)\n            if x not in found:"),
    ("waiting_for_ever", "arrived[x] == x.users", "arrived[x] == 1"),
    ("deep_water", "order, seen = [], set()", "order, seen = [root], set()"),
    ("own_tail", "g * (1 - y.value**2)", "g"),
    ("ones", "np.ones_like(f(x))", "3 * np.ones_like(f(x))"),
    ("ones", "    g = np", "    return False\n    g = np"),
    ("ones", "    g = np", "    return True\n    g = np"),
    ("right_once", "tg.grad(y, [x])", "tg.grad(y * 2, [x])"),
    ("lost_writes", "dx.reshape(-1)", "dx.ravel(order='K')"),
    ("other_mask", "self.layer(x, self.rng)", "self.layer(x, np.random.default_rng(0))"),
    ("other_mask", "= x, rng", "= x, (rng := np.random.default_rng(1))"),
    ("on_the_diagonal", "return dx * np.ones(shape)", "return dx * np.ones(shape) / len(before)"),
]  # fmt: skip


def source_of(name, old="", new="", solved=False):
    case = exhibit(name)
    code = code_of(case.solution if solved else case.broken)
    assert old in code
    return HEADER + code.replace(old, new)


@pytest.mark.parametrize(("name", "old", "new"), WRONG)
def test_a_wrong_repair_fails(name, old, new, tmp_path):
    path = tmp_path / "fix.py"
    path.write_text(source_of(name, old, new), encoding="utf-8")
    case = exhibit(name)
    thing = load(str(path), case)
    for seed in range(2):
        fails(case, thing, seed)


CHEATS = {
    "the package's op under its name": ("repeated_ids", "embedding = tg.embedding"),
    "a function in place of the op": (
        "repeated_ids",
        "def embedding(ids, weight):\n    return tg.embedding(ids, weight)",
    ),
    "the package's op inside": (
        "repeated_ids",
        "def ref(ids, weight):\n    return weight[ids]\n"
        "@tg.fused(reference=ref, registry={})\n"
        "def embedding(ids, weight):\n    return tg.embedding.forward(ids, weight)",
    ),
    "the package's op in a function": (
        "big_number",
        "def attention_weights(scores, allowed):\n"
        "    return tg.softmax(tg.where(allowed, scores, -np.inf))",
    ),
    "the solution, imported": (
        "repeated_ids",
        "from tinygrad_mha.study.museum.repeated_ids import solution\nembedding = solution()",
    ),
    "the solution, imported whole": (
        "repeated_ids",
        "import tinygrad_mha.study.museum.repeated_ids as it\nembedding = it.solution()",
    ),
    "the solution, by another door": (
        "repeated_ids",
        "from tinygrad_mha import study\nembedding = study.museum.repeated_ids.solution()",
    ),
    "the solution, reached": (
        "repeated_ids", "embedding = tg.study.museum.repeated_ids.solution()",
    ),
    "a constant": (
        "ties",
        "@tg.primitive(lambda g, y, x: 0 * x, registry={})\n"
        "def largest(x):\n    return np.array([1.0, 2.0])",
    ),
    "a class for a function": ("ones", "class is_right:\n    pass"),
    "other arguments": ("ones", "def is_right(f, x):\n    return True"),
    "a higher recursion limit": (
        "deep_water",
        "import sys\nsys.setrecursionlimit(10**6)\n\n" + code_of(exhibit("deep_water").broken),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHEATS)
def test_a_cheat_is_no_repair(what, tmp_path):
    name, code = CHEATS[what]
    path = tmp_path / "fix.py"
    path.write_text(HEADER + code, encoding="utf-8")
    limit = sys.getrecursionlimit()
    try:
        with pytest.raises((Failed, Refused, ValueError)):
            judge(exhibit(name), load(str(path), exhibit(name)), 0)
    finally:
        sys.setrecursionlimit(limit)


OTHER_RIGHT = [
    ("accidental_table", "prediction - target", "prediction[:, 0] - target"),
    ("repeated_ids", "dweight[ids] += g", "dweight = np.eye(len(weight))[ids].T @ g"),
    ("ties", "(x == y[..., None])", "(np.eye(x.shape[-1])[(x == y[..., None]).argmax(axis=-1)])"),
    ("saved_and_overwritten", "y *= x", "y = y * x"),
    ("bound_to_a_name", "total = total + part", "total[...] = total + part"),
    ("shared_sum", "result = d\n", "result = d.copy()\n"),
    ("wider_and_wider", "np.sqrt(1 - 0.999**t)", "(1 - 0.999**t) ** 0.5"),
    ("lost_writes", "np.zeros_like(x)", "np.zeros(x.shape, x.dtype)"),
    ("own_tail", "g * (1 - y.value**2)", "g * (1 - np.tanh(self.value)**2)"),
    ("right_once", "[slopes] = tg.grad(y, [x])", "slopes, = tg.grad(y, x, None, True)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), OTHER_RIGHT)
def test_another_right_repair_passes(name, old, new, tmp_path):
    path = tmp_path / "fix.py"
    path.write_text(source_of(name, old, new), encoding="utf-8")
    judge(exhibit(name), load(str(path), exhibit(name)), 0, cases=5)


def test_same_names_the_worst_index():
    with pytest.raises(Failed, match=r"y at index \(0, 1\): 2.5, and should be 2"):
        same("y", np.array([[1.0, 2.5]]), np.array([[1.0, 2.0]]))
    with pytest.raises(Failed, match="shape"):
        same("y", np.zeros(2), np.zeros(3))
    with pytest.raises(Failed, match="nan"):
        same("y", np.array([np.nan]), np.array([0.0]))
    same("y", np.array([np.inf, -np.inf]), np.array([np.inf, -np.inf]))


# ------------------------------------------------------------------------------ the command line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """``run("check", "2", "fix.py")`` gives the exit status and what was printed."""

    def run(*arguments):
        try:
            status = main(arguments)
        except SystemExit as e:
            status = e.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "\033" not in out + err  # no colour where there is no terminal
        assert max(map(len, out.splitlines()), default=0) <= 80
        return status, out, err

    return run


def state(folder):
    return json.loads((folder / progress.FILE).read_text())


@pytest.mark.parametrize("number", range(1, len(NAMES) + 1))
def test_show_and_solution(run, number):
    case = EXHIBITS[number - 1]
    status, out, _ = run("show", str(number))
    assert status == 0
    assert case.title in out
    assert case.mechanism not in out  # that would be telling
    assert all(line.strip() in out for line in code_of(case.broken).splitlines())
    assert run("show", NAMES[number - 1])[1] == out
    status, out, _ = run("solution", str(number))
    assert status == 0
    assert " ".join(case.mechanism.split()) in " ".join(out.split())
    for line in code_of(case.solution).splitlines():
        assert line.strip() in out


def test_the_way_of_a_learner(run, folder):
    """Start, fail with growing hints, repair, and be told what was learnt and what comes next."""
    case = exhibit("repeated_ids")
    status, out, _ = run("start", "2")
    assert status == 0
    assert "check 2 exhibit_02.py" in out
    file = folder / "exhibit_02.py"
    assert code_of(case.broken) in file.read_text()
    seeds = set()
    for attempt in (1, 2, 5):
        if attempt == 5:  # two more have failed
            progress.save(folder, {"attempts": {"repeated_ids": 4}, "solved": []})
        status, out, _ = run("check", "2")  # that is, exhibit_02.py
        assert status == 1
        assert "wrong gradient for input 1 (weight)" in out
        assert "backward says" in out
        assert "differences say" in out
        level = min(attempt, 4)
        assert f"Hint {level} of 4" in out
        shown = " ".join(case.hints[level - 1].split())
        assert shown in " ".join(out.split())
        assert state(folder)["attempts"] == {"repeated_ids": attempt}
        assert ("solution 2" in out) == (attempt == 5)
        seeds.add(re.search(r"--seed (\d+)", out)[1])
    assert len(seeds) == 3  # drawn anew each time
    _, again, _ = run("check", "2", "exhibit_02.py", "--seed", re.search(r"--seed (\d+)", out)[1])
    assert again == out
    file.write_text(file.read_text().replace("dweight[ids] += g", "np.add.at(dweight, ids, g)"))
    status, out, _ = run("check", "2", "exhibit_02.py", "--seed", "5")
    assert status == 0
    assert "repaired" in out
    assert case.mechanism in " ".join(out.split())
    assert "show 3" in out
    assert state(folder)["solved"] == ["repeated_ids"]
    status, out, _ = run("list")
    assert status == 0
    assert re.search(r"2 ✓ The word", out)
    assert f"solved: 1 of {len(NAMES)}.  next: python -m tinygrad_mha.study show 1" in out
    assert run("list", str(folder))[1] == out


def test_the_last_one(run, folder):
    others = [name for name in NAMES if name != "ties"]
    progress.save(folder, {"attempts": {}, "solved": others})
    (folder / "fix.py").write_text(source_of("ties", solved=True))
    status, out, _ = run("check", "ties", "fix.py")
    assert status == 0
    assert "the last one" in out
    assert "All of them" in run("list")[1]


def test_start_never_overwrites(run, folder):
    (folder / "mine.py").write_text("precious")
    status, out, err = run("start", "3", "mine.py")
    assert (status, out) == (2, "")
    assert "mine.py is there already" in err
    assert (folder / "mine.py").read_text() == "precious"
    status, _, err = run("start", "3", "nowhere/mine.py")
    assert status == 2
    assert "cannot be written" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "0"], "1 to"),
        (["show", "x"], "no exhibit 'x'"),
        (["show", "²"], "no exhibit"),
        (["show"], "required"),
        (["dance"], "invalid choice"),
        ([], "required"),
        (["check", "1", "missing.py"], "start 1"),
        (["check", "1"], "exhibit_01.py is no file"),
        (["check", "1", "."], "no file"),
        (["check", "1", "fix.py", "--seed", "x"], "--seed x"),
        (["check", "1", "fix.py", "--limit", "-3"], "--limit -3"),
        (["check", "1", "fix.py", "--limit", "nan"], "--limit nan"),
        (["list", "nowhere"], "no folder"),
    ],
)
def test_bad_arguments(run, folder, arguments, words):
    (folder / "fix.py").write_text("")
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert os.listdir(folder) == ["fix.py"]  # nothing is written


FILES = {  # what stands in the file, and what is said about it
    "def embedding(ids, weight)\n    pass": r"fix.py, line 1: expected ':'",
    "x = 1": "fix.py defines no embedding",
    "\n1 / 0": "fix.py, line 2: ZeroDivisionError: division by zero",
    "import sys\nsys.exit(0)": r"fix.py, line 2: sys.exit\(\) ends the check",
    "import os\nos._exit(0)": "it ended the check before there was a result",
    "embedding = 3": "should stay an op",
    "\0": "null",
    "raise BaseException('no')": "line 1: BaseException: no",
    "raise KeyError()": "line 1: KeyError",
}


@pytest.mark.parametrize("source", FILES)
def test_a_file_that_cannot_be_judged(run, folder, source):
    (folder / "fix.py").write_text(source)
    status, out, err = run("check", "2", "fix.py")
    assert (status, err) == (1, "")
    assert re.search(FILES[source], out)
    assert "Hint" not in out  # it was no attempt
    assert os.listdir(folder) == ["fix.py"]


@pytest.mark.parametrize("wrong", ["dweight[ids] += g[0, 0, 0, 0]", "raise BaseException('no')"])
def test_an_exception_on_the_way_back_has_its_line(run, folder, wrong):
    text = source_of("repeated_ids", "dweight[ids] += g", wrong)
    (folder / "fix.py").write_text(text)
    status, out, _ = run("check", "2", "fix.py")
    line = 1 + text.splitlines().index(f"        {wrong}")
    assert status == 1
    assert f"fix.py, line {line}, in pullback" in " ".join(out.split())
    assert "Hint 1 of 4" in out


@pytest.mark.parametrize(
    ("loop", "in_python"),
    [("while True: pass", True), ("max(iter(int, 1))", False)],
    ids=["in Python", "in C"],
)
def test_an_endless_loop_ends(run, folder, monkeypatch, loop, in_python):
    monkeypatch.setattr(referee, "GRACE", 60 if in_python else 1)
    text = source_of("repeated_ids", "    def pullback", f"    {loop}\n\n    def pullback")
    (folder / "fix.py").write_text(text)
    status, out, _ = run("check", "2", "fix.py", "--limit", "1.5")
    assert status == 1
    assert "still running after 1.5 s" in out
    line = 1 + text.splitlines().index(f"    {loop}")
    assert (f"fix.py, line {line}, in embedding: " in out) == in_python
    assert "Hint 1 of 4" in out


def test_what_a_file_prints_is_shown_apart(run, folder, monkeypatch):
    monkeypatch.setattr(referee, "GRACE", 60)
    noisy = 'print("hello", "x" * 200)\nimport os\nos.write(1, b"raw\\n")\n'
    (folder / "fix.py").write_text(noisy + source_of("ties", solved=True))
    status, out, _ = run("check", "ties", "fix.py")
    assert status == 0
    assert "fix.py printed:\n  | " in out
    assert "| raw" in out
    assert "repaired" in out
    (folder / "fix.py").write_text("while True: print('spam')")
    status, out, _ = run("check", "ties", "fix.py", "--limit", "2")
    assert status == 1
    assert "line 1: still running" in out
    assert out.count("spam") <= 12


def test_progress_that_cannot_be_read_is_ignored(folder):
    empty = {"attempts": {}, "solved": []}
    for text in (
        "",
        "{",
        "[]",
        '{"attempts": 3, "solved": []}',
        '{"attempts": {"a": "x"}}',
        "[" * 9999,
    ):
        (folder / progress.FILE).write_text(text)
        assert progress.load(folder) == empty
    (folder / progress.FILE).write_bytes(b"\xff\xfe")
    assert progress.load(folder) == empty
    assert progress.load(folder / "nowhere") == empty


def test_a_folder_that_cannot_be_written_to(run, folder, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(progress.tempfile, "mkstemp", refuse)
    (folder / "fix.py").write_text(source_of("ties"))
    status, out, _ = run("check", "ties", "fix.py")
    assert status == 1
    assert "Hint 1 of" in out
    assert "not remembered" in out
    (folder / "fix.py").write_text(source_of("ties", solved=True))
    status, out, _ = run("check", "ties", "fix.py")
    assert status == 0
    assert "not remembered" in out
    assert os.listdir(folder) == ["fix.py"]


def test_a_write_that_fails_leaves_nothing(folder, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.os, "replace", refuse)
    assert not progress.save(folder, {"attempts": {}, "solved": []})
    assert os.listdir(folder) == []


def test_colour_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert museum_text.paint("good", "yes") == "\033[32myes\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert museum_text.paint("good", "yes") == "yes"


def test_from_a_shell(folder):
    command = [sys.executable, "-m", "tinygrad_mha.study", "list"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > len(NAMES)
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command[:-1], "solution", "1"], capture_output=True, env=narrow)
    assert (done.returncode, done.stderr) == (0, b"")
