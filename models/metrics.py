"""How good the answers are, and how to print that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .terminal import columns, fitted, shown


def confusion_matrix(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each class (column).

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = np.asarray(truth) * classes + np.asarray(answer)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray, learned: np.ndarray | None = None) -> dict[str, Any]:
    """Accuracy, macro F1 and each class's precision, recall, F1 and support.

    Macro F1 is the plain mean over the classes that occur, in the truth or among the answers.
    ``majority`` is the accuracy of one answer to everything: the class that is the most frequent
    among those that were ``learned``, (classes,) how often each. Without them it is the most
    frequent of those that were measured, which nobody could know.
    """
    hits, truth, answers = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(answers, 1)
    recall = hits / np.maximum(truth, 1)
    f1 = 2 * hits / np.maximum(truth + answers, 1)
    occurs = truth + answers > 0
    usual = truth if learned is None else truth[int(np.argmax(learned))]
    return {
        "accuracy": float(hits.sum() / max(confusion.sum(), 1)),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "majority": float(np.max(usual) / max(confusion.sum(), 1)),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": truth.tolist(),
    }


def shortened(label: str, limit: int = 24) -> str:
    """A label that fits a table: of a long one both ends are seen.

    >>> print(shortened("support/" * 5 + "billing"), shortened("\\u202e"))
    support/supp…ort/billing \\u202e
    """
    label = shown(label)
    if columns(label) <= limit:
        return label
    head = tail = ""
    for k in range(len(label)):  # a character from the front, one from the end, in turn
        more = label[k // 2] if k % 2 == 0 else label[-1 - k // 2]
        if columns(head) + columns(tail) + columns(more) > limit - 1:
            break
        head, tail = (head + more, tail) if k % 2 == 0 else (head, more + tail)
    return f"{head}…{tail}"


def in_table(labels: Sequence[str]) -> list[str]:
    """Every label as a table has it; those that would look alike are numbered.

    >>> in_table(["a" * 30, "b", "a" * 31])
    ['aaaaaaaaaa…aaaaaaaaa (1)', 'b', 'aaaaaaaaaa…aaaaaaaaa (2)']
    """
    short = [shortened(label) for label in labels]
    alike, numbers = Counter(short), Counter[str]()
    for k, (label, name) in enumerate(zip(labels, short, strict=True)):
        if alike[name] > 1:
            numbers[name] += 1
            number = f" ({numbers[name]})"
            short[k] = shortened(label, 24 - len(number)) + number
    return short


NOTHING = "–"  # in the place of a number that nothing can be computed from


def class_table(labels: Sequence[str], measured: dict[str, Any]) -> str:
    """Precision, recall, F1 and support, a line a class.

    No answer of a class has no precision, no text of it no recall, and neither no F1.
    """
    labels = in_table(labels)
    width = max(map(columns, [*labels, "class"]))
    lines = [f"{'class':{width}}  precision  recall     F1  support"]
    support = np.array(measured["support"])
    answers = np.sum(measured["confusion"], axis=0) if "confusion" in measured else support + 1
    columns_of = (("precision", 9, answers), ("recall", 6, support), ("f1", 5, answers + support))
    for k, label in enumerate(labels):
        cells = [
            f"{measured[key][k]:{wide}.3f}" if of[k] else f"{NOTHING:>{wide}}"
            for key, wide, of in columns_of
        ]
        lines.append(f"{fitted(label, width)}  {'  '.join(cells)}  {support[k]:7d}")
    if left := int((answers + support == 0).sum()):
        classes = "1 class that was" if left == 1 else f"{left} classes that were"
        lines.append(f"macro F1 leaves out {classes} neither measured nor answered")
    return "\n".join(lines)


def confusion_table(labels: Sequence[str], confusion: np.ndarray, most: int = 8) -> str:
    """The matrix for a few classes; for many, only the mistakes made most often."""
    labels = in_table(labels)
    if len(labels) <= most:
        width = max([columns(x) for x in labels] + [len(str(confusion.max())), 5])
        head = " ".join(fitted(x, width, right=True) for x in labels)
        lines = [f"{'true / answered':>{width + 6}} {head}"]
        for label, row in zip(labels, confusion, strict=True):
            numbers = " ".join(f"{n:{width}d}" for n in row)
            lines.append(f"{fitted(label, width + 6, right=True)} {numbers}")
        return "\n".join(lines)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:most]
    lines = ["the most frequent confusions:"]
    for k in worst:
        i, j = divmod(int(k), len(labels))
        if wrong[i, j]:
            share = f"{wrong[i, j] / confusion[i].sum():.0%} of {labels[i]}"
            often = "once" if wrong[i, j] == 1 else f"{wrong[i, j]} times"
            lines.append(f"  {labels[i]} taken for {labels[j]}: {often} ({share})")
    return "\n".join(lines) if len(lines) > 1 else "no confusions"
