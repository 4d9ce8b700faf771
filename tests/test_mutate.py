"""The mutation tool itself: does it make the mistakes it claims to make, and report them?"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.skip("needs the columns of code objects (Python 3.11)", allow_module_level=True)

import mutate
import mutate_trial
from mutate import by_kind, by_op, count, faults_of, notes_of, totals
from mutate_mutants import all_mutants, capped, mutants_of, sample
from mutate_places import ENGINE, Place, find_places
from mutate_trial import Verdict, difference, same_forward

import tinygrad_mha as tg


def place_of(source, label="da", params=(), is_rule=True):
    """A place that the registry does not know."""
    tree = ast.parse(source).body[0]
    tree = tree.value if isinstance(tree, ast.Expr) else tree
    namespace = {"tg": tg}
    exec(source if isinstance(tree, ast.FunctionDef) else f"rule = {source}", namespace)
    function = namespace[getattr(tree, "name", "rule")]
    return Place(("mul",), label, function, tree, tree, frozenset(params), is_rule)


def edits(source, kind, **options):
    """What this kind of mistake makes of a function: the lines that differ."""
    made = mutants_of(place_of(source, **options), Counter())
    return {m.after.removeprefix("lambda g, y, a, b: ") for m in made if m.kind == kind}


RULES = {
    ("g * b + y", "drop-term"): {"g * b", "y"},
    ("g - b", "drop-term"): {"g", "-b"},
    ("g * b / y", "drop-factor"): {"g / y", "b / y", "g * b"},
    ("g - b", "sign"): {"g + b", "-(g - b)"},
    ("-g", "sign"): {"g", "--g"},
    ("g - b", "swap"): {"b - g"},
    ("where(a, g, 0.5)", "swap"): {"where(a, 0.5, g)"},
    ("g * b", "wrong-name"): {"g * y"},
    ("g * b", "lost"): {"None"},
    ("g.sum_to(b)", "unbroadcast"): {"g"},
    ("mT(g)", "unwrap"): {"g"},
    ("g[1:b]", "off-by-one"): {"g[2:b]", "g[1:b + 1]"},
    ("f(g, axis=-1)", "axis"): {"f(g, axis=0)", "f(g, axis=None)"},
    ("g * (a > b)", "comparison"): {"g * (a < b)", "g * (a >= b)"},
    ("g if y else b", "branch"): {"g", "b"},
    ("g * b", "detach"): {"__value__(g) * b", "g * __value__(b)"},
    ("g * value(b)", "detach"): {"__value__(g) * value(b)"},
}


@pytest.mark.parametrize(("rule", "kind"), RULES)
def test_mistakes_in_a_rule(rule, kind):
    assert edits(f"lambda g, y, a, b: {rule}", kind) == RULES[rule, kind]


PULLBACK = '''
def pullback(g):
    """dx = g"""
    i, f = saved
    dx = g * i
    dx += f
    dx[0] = i
    if f is None:
        raise ValueError("a - b")
    for t in reversed(steps):
        dx -= g.copy()
    return dx, i * g
'''


def test_mistakes_in_a_pullback():
    made = {
        kind: edits(PULLBACK, kind, label="pullback", is_rule=False)
        for kind in ("assign", "stale", "alias", "wrong-name", "exchange", "off-by-one", "lost")
    }
    assert made["assign"] == {"dx = f", "dx = -g.copy()"}
    assert made["stale"] == {"pass"}
    assert made["alias"] == {"g *= i; dx = g", "dx -= g"}
    assert {"dx = g * f", "dx += i"} <= made["wrong-name"]
    assert made["exchange"] == {"return (i * g, dx)"}
    assert "for t in steps:" in made["off-by-one"]
    assert made["lost"] == {"return (None, i * g)", "return (dx, None)"}


def test_messages_and_docstrings_are_left_alone():
    made = mutants_of(place_of(PULLBACK, label="pullback", is_rule=False), Counter())
    assert not any("ValueError" in m.before or 'dx = g"' in m.before for m in made)


# ---------------------------------------------------------------------------------- the registry


def test_no_op_escapes():
    """Two mutants of each at least, found without being told of any op."""
    made = capped(all_mutants())
    of_op = Counter(m.op for m in made)
    assert {op for op in [*tg.REGISTRY, ENGINE] if of_op[op] < mutate.FEWEST} == set()
    assert len(made) >= 200
    assert len(of_op) >= 60
    assert len({m.id for m in all_mutants()}) == len(all_mutants())


def test_helpers_belong_to_all_who_use_them():
    places = {p.label: p for p in find_places()}
    assert {"sum", "mean"} <= set(places["spread"].ops)
    assert "before" in places  # a method, of the LSTM's plan
    assert "mT" not in places  # used by forward passes too


def test_a_sample_is_fixed_and_has_some_of_everything():
    made = capped(all_mutants())
    few = sample(made, 100)
    assert few == sample(made, 100)
    assert len({m.id for m in few}) == 100
    assert {m.op for m in few} == {m.op for m in made}


def mutant(before, after):
    return next(m for m in all_mutants() if (m.before, m.after) == (before, after))


def slope_of_exp():
    x = tg.Tensor(np.zeros(1), requires_grad=True)
    return tg.grad(tg.exp(x), [x], np.ones(1))[0].item()


def test_a_mutant_is_installed_and_taken_away_again():
    m = next(m for m in all_mutants() if m.op == "exp" and m.kind == "sign")
    assert slope_of_exp() == 1
    with m.installed():
        assert slope_of_exp() == -1
        assert same_forward(m)
    assert slope_of_exp() == 1


def test_a_difference_is_found_and_no_difference_is_none(monkeypatch):
    monkeypatch.setattr(mutate_trial, "INPUTS", 30)
    relu = [m for m in all_mutants() if m.op == "relu"]
    wrong = next(m for m in relu if m.kind == "sign")
    same = next(m for m in relu if "value(y) > 0" in m.after)
    for m, differs in ((wrong, True), (same, False)):
        with m.installed() as original:
            assert bool(difference(m, original)) == differs


# ------------------------------------------------------------------------------------ the report


def test_the_report():
    made = [m for m in all_mutants() if m.op in ("exp", "relu")]
    outcomes = ["killed"] * len(made)
    outcomes[0], outcomes[1], outcomes[2] = "survived", "equivalent", "invalid"
    verdicts = {
        m.id: Verdict(m.id, outcome, "a test", "why", 0.1)
        for m, outcome in zip(made, outcomes, strict=True)
    }
    assert count(list(verdicts.values())) == [len(made) - 1, len(made) - 3, 1, 1]
    assert "1 survived" in totals(verdicts)
    assert "exp" in by_op(made, verdicts)
    assert by_kind(made, verdicts).splitlines()[-1].startswith("| **2 ops and the engine** |")
    assert "survived: exp:" in mutate.details(made, verdicts)
    faults = list(faults_of(made, verdicts, complete=True))
    assert faults[0] == "mutants that survive: 1"
    assert "more than 3%" in faults[1]
    assert "fewer than 2 mutants" in faults[2]
    notes = list(notes_of(verdicts, {"a test": "it fails"}, gone=False))
    assert [n.split(",")[0].split(" ", 1)[1] for n in notes[:2]] == [
        "is equivalent",
        "changes values",
    ]
    assert notes[-1] == "a test fails on the original too and was left out: it fails"
    few = {v.id: v for v in verdicts.values() if v.outcome == "killed"}
    assert list(faults_of(made, few, complete=False)) == []


def test_from_the_command_line():
    """A whole trial, of one mutant."""
    command = [sys.executable, "-m", "tests.mutate", "--only", "neg:dx:0:lost", "--workers", "1"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 mutants: 1 killed, 0 survived" in done.stdout
    assert "test_every_op_explains_itself[neg]" in done.stderr
