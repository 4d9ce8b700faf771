"""How good the answers are, and how to print that."""

from __future__ import annotations

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


def scores(confusion: np.ndarray) -> dict[str, Any]:
    """Accuracy, macro F1 and each class's precision, recall, F1 and support.

    Macro F1 is the plain mean over the classes that occur, in the truth or among the answers.
    """
    hits, truth, answers = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(answers, 1)
    recall = hits / np.maximum(truth, 1)
    f1 = 2 * hits / np.maximum(truth + answers, 1)
    occurs = truth + answers > 0
    return {
        "accuracy": float(hits.sum() / max(confusion.sum(), 1)),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else 0.0,
        "majority": float(truth.max() / max(confusion.sum(), 1)),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": truth.tolist(),
    }


def shortened(label: str, limit: int = 24) -> str:
    """A label that fits a table.

    >>> print(shortened("a" * 1000), shortened("\\u202e"))
    aaaaaaaaaaaaaaaaaaaaaaa… \\u202e
    """
    label = shown(label)
    return label if columns(label) <= limit else fitted(label, limit).rstrip()


def class_table(labels: Sequence[str], measured: dict[str, Any]) -> str:
    """Precision, recall, F1 and support, a line a class."""
    labels = [shortened(label) for label in labels]
    width = max(map(columns, [*labels, "class"]))
    lines = [f"{'class':{width}}  precision  recall     F1  support"]
    numbers = (measured[k] for k in ("precision", "recall", "f1", "support"))
    for label, p, r, f, n in zip(labels, *numbers, strict=True):
        lines.append(f"{fitted(label, width)}  {p:9.3f}  {r:6.3f}  {f:5.3f}  {n:7d}")
    return "\n".join(lines)


def confusion_table(labels: Sequence[str], confusion: np.ndarray, most: int = 8) -> str:
    """The matrix for a few classes; for many, only the mistakes made most often."""
    labels = [shortened(label) for label in labels]
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
            lines.append(f"  {labels[i]} taken for {labels[j]}: {wrong[i, j]} times ({share})")
    return "\n".join(lines) if len(lines) > 1 else "no confusions"
