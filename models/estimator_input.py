"""What a user hands to the scikit-learn estimator, looked at and told what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .dataset import Dataset
from .errors import InputError, quoted
from .prepared import MOST_CLASSES
from .train import subset


def texts_of(X: Any) -> list[str]:
    """X as a list of str.

    >>> texts_of(np.array(["a", "b"]))
    ['a', 'b']
    >>> texts_of(["a", None])
    Traceback (most recent call last):
        ...
    tinygrad_mha.models.errors.InputError: X[1] is None, not a string; fill in or drop what is \
missing, and turn numbers into strings with str()
    """
    wanted = "give a list, a 1-d array or a Series of strings"
    if isinstance(X, str):
        raise InputError(f"X is a single string; {wanted}, for one text [text]")
    if getattr(X, "ndim", 1) != 1:
        raise InputError(f"X has {X.ndim} dimensions; {wanted}: one column, if it is a table")
    ordered = hasattr(X, "__len__") and hasattr(X, "__iter__")
    if not ordered or isinstance(X, bytes | Mapping | set | frozenset):
        raise InputError(f"X is of type {type(X).__name__}; {wanted}")
    for i, text in enumerate(X):
        if not isinstance(text, str):
            raise InputError(
                f"X[{i}] is {short(text)}, not a string; fill in or drop what is missing, and turn "
                "numbers into strings with str()"
            )
    return [str(text) for text in X]  # NumPy has strings of its own


def labels_of(y: Any, name: str = "y") -> np.ndarray:
    """Labels (N,) that can be classes; their type is kept."""
    if y is None:
        raise InputError(
            "the classifier requires y to be passed, but the target y is None; "
            "give one label for each text"
        )
    from sklearn.utils import assert_all_finite, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets

    y = column_or_1d(y, warn=True)
    if y.dtype == object and any(isinstance(label, str) for label in y):
        for i, label in enumerate(y):
            if not isinstance(label, str):
                raise InputError(
                    f"{name}[{i}] is {short(label)} among strings; give it a label, or drop the row"
                )
    assert_all_finite(y, input_name=name)
    check_classification_targets(y)
    return y


def classes_of(labels: np.ndarray, name: str = "y") -> np.ndarray:
    """The different labels in order; an InputError if there are not two, or too many."""
    classes = np.unique(labels)
    if len(classes) < 2:
        only = f"one class only, {short(classes.tolist()[0])}" if len(classes) else "no class"
        raise InputError(f"{name} holds {only}; a classifier needs two: add texts of another class")
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{name} holds {len(classes)} classes, more than the {MOST_CLASSES} that are "
            "supported; see whether it is the column of the labels"
        )
    return classes


def weights_of(sample_weight: Any, rows: int) -> np.ndarray | None:
    """Weights (N,) float64, finite and from 0 on; None if all count the same."""
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("sample_weight holds no numbers; give one for each text") from None
    if weights.shape != (rows,):
        raise InputError(
            f"sample_weight has the shape {weights.shape}, but X has {rows} texts; "
            "give one number for each"
        )
    bad = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if len(bad):
        raise InputError(
            f"sample_weight[{bad[0]}] is {weights[bad[0]]}; give finite numbers from 0 on"
        )
    if not weights.any():
        raise InputError("every sample_weight is zero, so no text counts; give some more")
    return weights


def labelled(X: Any, y: Any, sample_weight: Any) -> tuple[Dataset, np.ndarray, np.ndarray | None]:
    """Texts with their labels as strings; the labels as they are; weights. All without weight 0."""
    texts, labels = texts_of(X), labels_of(y)
    if len(texts) != len(labels):
        raise InputError(f"X has {len(texts)} texts, but y has {len(labels)} labels; give as many")
    if not texts:
        raise InputError("X holds no text; give some of each class")
    weights = weights_of(sample_weight, len(texts))
    names = list(map(str, labels.tolist()))
    data = Dataset(texts, names, list(range(1, len(texts) + 1)), "X")
    if weights is not None:
        rows = np.flatnonzero(weights)
        data, labels, weights = subset(data, rows), labels[rows], weights[rows]
    return data, labels, weights


def loaded_labels(kept: Any, names: list[str], path: str) -> tuple[np.ndarray, dict | None]:
    """The labels with their type, if the folder says it, else as strings; the weights of them."""
    if kept == {}:
        return np.array(names), None
    try:
        # any other dtype is none of ours: one of a gigabyte would be made before it is looked at
        if re.fullmatch(r"[<>|]?[biufUO]\d?\d?", kept["dtype"]):
            classes = np.unique(np.array(kept["classes"], kept["dtype"]))
            weights = dict(kept["class_weight"]) if "class_weight" in kept else None
            if sorted(map(str, classes.tolist())) == names:
                return classes, weights
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    raise InputError(
        "'estimator' does not fit the labels of config.json; the file is damaged: train again",
        source=path,
    )


def short(value: Any) -> str:
    """``value`` as a message shows it: strings in quotation marks, nothing long."""
    return quoted(value) if isinstance(value, str) else quoted(repr(value))[1:-1]


def as_json(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
