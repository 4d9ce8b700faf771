"""``bench/compare_gradients.py``: nothing is wrong here, and what is broken is found."""

import re
import sys

import compare_gradients as compared
import numpy as np
import pytest
from compare_gradients import Ours, compare, deep_stages, failure_lines, installed, notes

import tinygrad_mha as tg

FEW = {"count": 2, "drawn": 12, "chain": False, "places": False}


def test_our_own_column_passes_everything():
    """Some ops of every kind, and all places where gradients go wrong."""
    ops = ["add", "cross_entropy", "einsum", "getitem", "softmax", "split", "std", "where"]
    results = compare([Ours()], ops, **{**FEW, "places": True})
    assert results.failures == {"tinygrad_mha": []}
    assert len(results.rows) == len(compared.POINTS) + len(compared.PLACES)
    for row, _, cell in results.rows:
        passed, of = map(int, cell.split(" of "))
        assert passed == of > 0, row


def test_a_chain_of_20_000_ops():
    stages, _ = deep_stages(Ours())
    assert stages == list(compared.STAGES)


# ------------------------------------------------------------------------- broken on purpose


class Broken(Ours):
    """Passes what ``spoil(gradients, incoming)`` makes of the gradients."""

    def spoil(self, ds, vs):
        return ds

    def record(self, f, args, which):
        values, pull = super().record(f, args, which)
        return values, lambda vs: self.spoil(pull(vs), vs)


class Zeros(Ours):
    def __init__(self):
        super().__init__()
        self.ops["softmax"] = lambda x, axis: tg.softmax(x.detach(), axis=axis)


class Aliases(Broken):
    def spoil(self, ds, vs):
        return [vs[0] if np.array_equal(d, vs[0]) else d for d in ds]


class Upcasts(Broken):
    def spoil(self, ds, vs):
        return [d.astype(np.float64) for d in ds]


class Overwrites(Broken):
    def spoil(self, ds, vs):
        for v in vs:
            if v.flags.writeable:
                v *= 2
        return ds


class Doubles(Ours):
    """Every backward pass gives twice what the last one gave."""

    def record(self, f, args, which):
        values, pull = super().record(f, args, which)
        factor = [0.5]

        def more(vs):
            factor[0] *= 2
            return [d * factor[0] for d in pull(vs)]

        return values, more


class Cycle(Ours):
    def record(self, f, args, which):
        values, pull = super().record(f, args, which)
        ring = [values]
        ring.append(ring)
        return values, pull


class Onefold(Ours):
    """A gradient that is a constant when it is differentiated again."""

    def slope(self, f, which, n):
        gradient = super().slope(f, which, n)
        return lambda *both: tuple(d.detach() for d in gradient(*both))


class Forgets(Ours):
    """Where shapes differ, the sum over the copies is left out."""

    def record(self, f, args, which):
        shapes = {np.shape(a) for a in args if isinstance(a, np.ndarray)}
        values, pull = super().record(f, args, which)
        return values, (lambda vs: [d * 0.5 for d in pull(vs)]) if len(shapes) > 1 else pull


class Unlike(Ours):
    """Raises for arrays that are not in order in memory."""

    def record(self, f, args, which):
        assert all(a.flags.c_contiguous for a in args if isinstance(a, np.ndarray)), "layout"
        return super().record(f, args, which)


@pytest.mark.parametrize(
    ("library", "op", "points"),
    [
        (Ours, "mul", []),
        (Zeros, "softmax", ["gradient"]),
        (Aliases, "add", ["apart"]),
        (Upcasts, "mul", ["float32"]),
        (Overwrites, "mul", ["untouched"]),
        (Doubles, "mul", ["again"]),
        (Cycle, "mul", ["freed"]),
        (Onefold, "mul", ["order 2"]),
        (Forgets, "mul", ["broadcast"]),
        (Unlike, "mul", ["layouts"]),
    ],
)
def test_what_is_broken_fails_in_its_row(library, op, points):
    results = compare([library()], [op], **{**FEW, "drawn": 25})
    of_ops = {row for row, _, _ in compared.POINTS.values()}
    failed = {failure.row for failure in results.failures["tinygrad_mha"]} & of_ops
    wanted = {compared.POINTS[point][0] for point in points}
    assert wanted <= failed
    # a fault may show in a neighbouring row as well, but never as a gradient that is wrong
    assert {compared.POINTS["gradient"][0]} & failed == {compared.POINTS["gradient"][0]} & wanted
    if not points:
        assert not failed


def test_the_first_wrong_element_is_named():
    results = compare([Zeros()], ["softmax"], **FEW)
    lines = list(failure_lines(results.failures["tinygrad_mha"]))
    found = r"gradient = central differences \| softmax of .*: argument 0\[\d.*\]: gradient -?0, "
    assert any(re.search(found + r"differences -?\d", line) for line in lines), lines


def test_what_is_not_offered_does_not_count():
    library = Ours()
    del library.ops["tanh"]

    def refuses(x):
        raise NotImplementedError("exp: not yet")

    library.ops["exp"] = refuses
    results = compare([library], ["exp", "tanh", "sin"], **FEW)
    assert results.held(compared.POINTS["gradient"][0]) == {"tinygrad_mha": "1 of 1"}
    said = list(notes(results))
    assert any("has no tanh" in line for line in said)
    assert any("exp: not asked where it says: exp: not yet" in line for line in said)
    assert not any(failure.op == "exp" for failure in results.failures["tinygrad_mha"])


# -------------------------------------------------------------------------------------- the peers


def test_a_missing_peer_is_skipped_with_a_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "autograd", None)
    monkeypatch.setitem(sys.modules, "mygrad", None)
    assert [library.name for library in installed()] == ["tinygrad_mha"]
    out = capsys.readouterr().out
    assert "autograd is not installed: pip install 'autograd[scipy]>=1.8'" in out
    assert "MyGrad is not installed: pip install mygrad" in out


@pytest.mark.parametrize("peer", ["autograd", "mygrad"])
def test_a_peer_is_asked_in_its_own_words(peer):
    """What everybody gets right, the adapter must get right."""
    pytest.importorskip(peer)
    (library,) = [a for a in installed() if a.name.lower() == peer]
    results = compare([library], ["mul", "matmul", "sum"], **FEW)
    assert results.held(compared.POINTS["gradient"][0]) == {library.name: "3 of 3"}
    assert results.held(compared.POINTS["broadcast"][0])[library.name] in ("1 of 1", "2 of 2")


def test_the_table_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(compared, "OPS", ("mul", "tanh"))
    monkeypatch.setattr(compared, "LIBRARIES", (Ours,))
    monkeypatch.setattr(compared, "PLACES", {})
    monkeypatch.setattr(compared, "deep_stages", lambda library: (list(compared.STAGES), ""))
    monkeypatch.setattr(sys, "argv", ["compare_gradients.py", "--cases", "1", "--failures"])
    compared.main()
    out = capsys.readouterr().out
    assert "| gradient = central differences | ops | 2 of 2 |" in out
    assert "tinygrad_mha:\n  nothing" in out
