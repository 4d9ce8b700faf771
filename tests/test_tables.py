"""Tables of labels on a terminal, whatever the labels are."""

import numpy as np
import pytest

from tinygrad_mha.models.metrics import class_table, confusion_table
from tinygrad_mha.models.terminal import columns, fitted

LABELS = ["好评", "pos\u202eitive", "e\u0301te", "差评" * 20, "b\x1b[2Jad", "\u0301"]
CONFUSION = np.arange(36).reshape(6, 6)
MEASURED = {
    "precision": np.linspace(0, 1, 6),
    "recall": np.linspace(1, 0, 6),
    "f1": np.full(6, 0.5),
    "support": np.arange(1, 7) * 1000,
}


@pytest.mark.parametrize(
    "table", [class_table(LABELS, MEASURED), confusion_table(LABELS, CONFUSION)]
)
def test_columns_stand_under_each_other(table):
    """A Chinese character is two columns wide, an accent none."""
    lines = table.split("\n")
    assert len({columns(line) for line in lines}) == 1
    assert "好评" in table
    ends = [columns(line[: line.rindex(" ") + 1]) for line in lines[1:]]
    assert max(ends) - min(ends) <= 4  # where the last numbers begin: they have up to five digits


def test_every_number_is_there():
    rows = [line.split() for line in confusion_table(LABELS, CONFUSION).split("\n")[1:]]
    np.testing.assert_array_equal([[int(n) for n in row[-6:]] for row in rows], CONFUSION)
    rows = [line.split() for line in class_table(LABELS, MEASURED).split("\n")[1:]]
    assert [row[-4:] for row in rows] == [
        [f"{p:.3f}", f"{r:.3f}", "0.500", str(n)]
        for p, r, n in zip(*(MEASURED[k] for k in ("precision", "recall", "support")), strict=True)
    ]


@pytest.mark.parametrize("most", [8, 2])
def test_a_label_does_nothing_to_the_terminal(most):
    """Neither a code nor a mark that turns the direction of what follows."""
    table = confusion_table(LABELS, CONFUSION, most) + class_table(LABELS, MEASURED)
    assert table.replace("\n", "").isprintable()
    assert "pos\\u202eitive" in table
    assert "b\\x1b[2Jad" in table


@pytest.mark.parametrize("text", ["", "short", "東京タワー", "e\u0301" * 30])
@pytest.mark.parametrize("right", [False, True])
def test_a_cell_is_as_wide_as_it_should_be(text, right):
    cell = fitted(text, 6, right)
    assert columns(cell) == 6
    kept = cell.strip().rstrip("…")
    assert text.startswith(kept)
    assert (kept == text) == (columns(text) <= 6)
    if kept:
        assert cell[-1 if right else 0] != " "


@pytest.mark.parametrize(
    ("text", "wide"), [("abc", 3), ("好评", 4), ("e\u0301", 1), ("\u200d", 0), ("ａ", 2)]
)
def test_how_wide_a_text_is(text, wide):
    assert columns(text) == wide
