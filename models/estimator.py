"""The classifier as a scikit-learn estimator: ``fit``, ``predict``, ``score`` and so on.

Needs scikit-learn (extra ``sklearn``). Without it, this file can be imported all the same, and the
class says what is missing as soon as somebody wants an instance.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import optim, random

from .dataset import Dataset
from .errors import InputError, quoted
from .estimator_input import (
    as_json,
    classes_of,
    labelled,
    labels_of,
    loaded_labels,
    short,
    texts_of,
)
from .parallel import Workers, shards_for
from .prepared import check_labels
from .readers import check_label
from .run import Run, TrainingError, a_smaller_batch_for_a_full_gpu
from .settings import Settings
from .text import LEVELS, BucketedBatches, LabelSet, stratified_split, tokenize
from .text_classifier import TextClassifier
from .train import (
    Split,
    subset,
    train,
    with_initial_weights,
    with_vocabulary,
)
from .trained import TrainedClassifier

REMEDY = "TextClassifierEstimator needs scikit-learn: pip install 'tinygrad_mha[sklearn]'"
missing: ImportError | None = None
try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted
except ImportError as e:
    missing = e

    class BaseEstimator:  # type: ignore[no-redef]
        """Stands where scikit-learn's would."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            raise ImportError(REMEDY) from missing

    class ClassifierMixin:  # type: ignore[no-redef]
        """Stands where scikit-learn's would."""


FOR_A_CLASS = 10  # texts: a tenth of fewer is less than one
KINDS: dict[str, type] = {  # of the parameters that become settings
    **dict.fromkeys(("d_model", "h", "num_layers", "min_count", "max_len"), int),
    **dict.fromkeys(("epochs", "batch_size", "early_stopping", "workers"), int),
    **dict.fromkeys(("dropout", "attention_dropout", "word_dropout", "label_smoothing"), float),
    **dict.fromkeys(("weight_decay", "lr"), float),
    **dict.fromkeys(("level", "base", "tune", "device"), str),
    "bidirectional": bool,
}
ACCEPTED: dict[type, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: ((bool, np.bool_), "True or False"),
    str: (str, "a string"),
}
POSITIVE = ("epochs", "batch_size", "workers")  # in Settings 0 means "choose", here None does
# options of the command line, which messages name, whose parameter has another name
OPTIONS = {"heads": "h", "layers": "num_layers", "no-bidirectional": "bidirectional=False"}


class TextClassifierEstimator(ClassifierMixin, BaseEstimator):
    """A text classifier (embedding → LSTM → multi-head attention → linear) for scikit-learn.

    What is None is chosen as ``tinygrad-mha train`` would: by the level, the number of texts and
    the machine.

    Parameters
    ----------
    d_model, h : int
        Width of every layer; attention heads.
    num_layers, bidirectional : int, bool
        Of the LSTM.
    dropout, attention_dropout, word_dropout : float
        Probabilities in [0, 1): that a hidden value is dropped, an attention weight (None: as
        dropout), that a token is replaced by the unknown one.
    label_smoothing, weight_decay : float
        The share of every target that is spread over all classes; the decay of AdamW.
    level : {"word", "char"}
        What a token is; words unless given.
    min_count : int
        Rarer tokens of the training texts are unknown. None: 2 for words, 1 for characters, and
        also 1 where no token occurs twice.
    max_len : int
        Tokens kept of a text.
    epochs, batch_size, lr : int, int, float
        At most so many passes; texts a step; the peak of the learning rate.
    early_stopping : int
        Epochs without a better loss on held-out texts until :meth:`fit` stops; it keeps the best
        weights. A tenth of the texts is held out for that, if there are at least 10 different ones
        a class. With fewer, or with 0, all texts train, and the last weights are kept.
    class_weight : "balanced" or dict from labels to numbers
        A label that a dict leaves out has the weight 1.
    base : str
        A pretrained encoder to fine-tune, such as ``"minilm"``. What describes the LSTM classifier
        has to be None then.
    tune : str
        Which weights of ``base`` train.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    workers : int
        Cores that share each batch.
    random_state : int, RandomState or None
        The same int and the same number of workers give the same weights, bit for bit.
    verbose : int
        1 shows the progress on standard error, 0 nothing.

    Attributes
    ----------
    classes_ : ndarray (C,)
        The labels in order, of the type they were given in.
    trained_ : TrainedClassifier
        The model with its vocabulary; its labels are strings, as the readers of files spell them:
        True is ``"true"``, as in JSON.

    Notes
    -----
    The LSTM classifier computes its answers in float64, so that they depend on the text alone and
    not on the texts beside it: in float32 a matrix product rounds differently in other company.

    Examples
    --------
    >>> days = TextClassifierEstimator(d_model=16, h=2, epochs=20, workers=1, random_state=0)
    >>> texts = ["a fine day", "fine and sunny", "rain again", "cold rain"] * 5
    >>> days.fit(texts, [1, 1, 0, 0] * 5).predict(["a sunny day", "cold again"])
    array([1, 0])
    >>> days.predict_proba(["a sunny day"]).shape, days.score(texts, [1, 1, 0, 0] * 5)
    ((1, 2), 1.0)
    """

    def __init__(
        self,
        *,
        d_model: int | None = None,
        h: int | None = None,
        num_layers: int | None = None,
        bidirectional: bool | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        word_dropout: float | None = None,
        label_smoothing: float | None = None,
        weight_decay: float | None = None,
        level: str | None = None,
        min_count: int | None = None,
        max_len: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        early_stopping: int | None = None,
        class_weight: Any = None,
        base: str | None = None,
        tune: str | None = None,
        device: str | None = None,
        workers: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.d_model = d_model
        self.h = h
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.word_dropout = word_dropout
        self.label_smoothing = label_smoothing
        self.weight_decay = weight_decay
        self.level = level
        self.min_count = min_count
        self.max_len = max_len
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.early_stopping = early_stopping
        self.class_weight = class_weight
        self.base = base
        self.tune = tune
        self.device = device
        self.workers = workers
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TextClassifierEstimator:
        """Train from scratch.

        Parameters
        ----------
        X : list, 1-d array or Series of N str
        y : array-like (N,)
            Labels: strings, integers or booleans, all of one type, of two classes at least. A
            string has no line breaks, and no blanks around it: files could not hold such a label.
        sample_weight : array-like (N,), optional
            How much each text counts in the mean that is the loss. One of weight 0 is left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X, y, sample_weight or a parameter cannot be used: one line with the remedy.
        TrainingError
            If the loss stops being a number.
        """
        data, labels, weights = rows_of(X, y, sample_weight)
        classes = classes_of(labels)
        weights = self._with_class_weights(weights, labels, classes)
        with python_names(), random.apart():
            seed = self._draw_seed()
            given = self._given()
            fit, stop = np.arange(len(data)), np.arange(0)
            waits = given.get("early_stopping", Settings.early_stopping)
            if waits and len(set(data.texts)) >= FOR_A_CLASS * len(classes):
                fit, stop = stratified_split(data.texts, data.labels, 0.1, seed)
            parts = Split(subset(data, fit), subset(data, stop), subset(data, []))
            rows = (None, None) if weights is None else (weights[fit], weights[stop])
            how = bool(self.verbose), data.source, *rows
            if self.base is not None:
                trained = self._finetuned(parts, given, seed, how)
            else:
                trained = train(parts, self._settings(given, parts.fit.texts, seed), *how)
        self._take(trained, classes)
        self._pace = Pace(seed)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> TextClassifierEstimator:
        """Go on training: one pass over these texts, with the learning rate ``lr`` all the time.

        The first call makes the model, unless :meth:`fit` or :meth:`load` did, and fixes the
        vocabulary: tokens that only come later are unknown for good. The state of the optimizer is
        kept from call to call and in a pickle, but not by :meth:`save`.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`, but one class will do.
        classes : array-like (C,)
            All labels that will ever come. The first call needs it.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TrainingError
            As :meth:`fit`; nothing has changed then.
        """
        if self.base is not None:
            raise InputError("partial_fit does not fine-tune a base; use fit")
        if isinstance(self.class_weight, str):
            raise InputError(
                f"class_weight {self.class_weight!r} takes all texts at once, which partial_fit "
                "never has; give a dict of weights, or sample_weight"
            )
        data, labels, weights = rows_of(X, y, sample_weight)
        known = self._known_classes(classes)
        strange = ~np.isin(labels, known)
        if strange.any():
            raise InputError(
                f"the label {labels[strange].tolist()[0]!r} is none of classes, "
                f"{quoted(known.tolist())}; give them all in the first call"
            )
        weights = self._with_class_weights(weights, labels, known)
        with python_names(), random.apart():
            if not hasattr(self, "classes_"):
                pace = Pace(self._draw_seed())
                settings = self._settings(self._given(), data.texts, pace.seed).settled(len(data))
                names = LabelSet(names_of(known))
                check_labels(names, data.source)
                vocabulary, _ = with_vocabulary(data, settings, data.source, weights)
                trained = with_initial_weights(vocabulary, names, settings)
                trained.metrics = {"data": data.source, "epochs": 0, "history": []}
            else:
                trained, pace = copy.deepcopy(self.trained_), self._pace
                settings = self._settings(self._given(), data.texts, pace.seed).settled(len(data))
                trained.model.to(settings.device)
            pace = one_pass(trained, data, settings, weights, pace, bool(self.verbose))
        self._take(trained, known)
        self._pace = pace
        return self

    def _known_classes(self, classes: Any) -> np.ndarray:
        """What ``classes`` of a partial_fit mean, the first time or later."""
        fitted = getattr(self, "classes_", None)
        if classes is None:
            if fitted is None:
                raise InputError(
                    "the first call of partial_fit needs classes, all labels that will ever come"
                )
            return fitted
        known = classes_of(labels_of(of_one_type(classes, "classes"), "classes"), "classes")
        if fitted is not None and not np.array_equal(known, fitted):
            raise InputError(
                f"classes are {quoted(known.tolist())}, but they were {quoted(fitted.tolist())}; "
                "leave them out, or begin again with a clone"
            )
        return known

    def _take(self, trained: TrainedClassifier, classes: np.ndarray) -> None:
        """Answer with this model from now on."""
        if classes.dtype == bool:  # older versions wrote 'False' and 'True': the same order
            trained.labels = names_of(classes)
        columns = [trained.labels.index(name) for name in names_of(classes)]
        trained.model.eval()  # for those who call it themselves; predictions need no such thing
        exact = trained
        if isinstance(trained.model, TextClassifier):
            model = copy.deepcopy(trained.model)
            model.astype(np.float64)
            exact = replace(trained, model=model)
        # one assignment: threads that predict meanwhile have the old model or the new, no mixture
        self._answering = Answering(exact, columns, classes)
        self.trained_, self.classes_ = trained, classes

    # ---- what to train with

    def _given(self) -> dict[str, Any]:
        """The settings among the parameters that are not None, as plain numbers and strings."""
        given = {}
        for name, kind in KINDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            accepted, what = ACCEPTED[kind]
            wrong = not isinstance(value, accepted) or (
                kind is not bool and isinstance(value, bool)
            )
            if wrong or (name in POSITIVE and value < 1):
                least = ", at least 1" if name in POSITIVE else ""
                raise InputError(f"{name} is {short(value)}, it must be {what}{least}, or None")
            given[name] = kind(value)  # a grid is often made of NumPy's numbers; JSON has none
        given["class_weight"] = "none"  # a dict makes weights of rows
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            given["class_weight"] = "balanced"
        elif self.class_weight is not None and not isinstance(self.class_weight, Mapping):
            raise InputError(
                f"class_weight is {short(self.class_weight)}, it must be 'balanced', a dict or None"
            )
        given.setdefault("device", tg.backend.default_device())
        return given

    def _settings(self, given: dict[str, Any], texts: Sequence[str], seed: int) -> Settings:
        """The settings that suit the level and these texts, where nothing was given."""
        if "tune" in given:
            raise InputError("tune chooses among the weights of a base; give base, or no tune")
        level = given.pop("level", "word")
        if level not in LEVELS:
            raise InputError(f"level is {quoted(level)}; the levels are {', '.join(LEVELS)}")
        settings = Settings.for_level(level, seed=seed, **given)
        if "min_count" not in given and not occurs(texts, level, settings.min_count):
            settings = replace(settings, min_count=1)
        return settings

    def _finetuned(
        self, parts: Split, given: dict[str, Any], seed: int, how: tuple[Any, ...]
    ) -> TrainedClassifier:
        from .finetune import FinetuneSettings, finetune

        known = {f.name for f in fields(FinetuneSettings)}
        for name in given:
            if name not in known and getattr(self, name) is not None:
                raise InputError(f"{name} is of no use with base={self.base!r}; leave it None")
        chosen = {name: value for name, value in given.items() if name in known}
        return finetune(parts, FinetuneSettings(**chosen, seed=seed), *how)

    def _with_class_weights(
        self, weights: np.ndarray | None, labels: np.ndarray, classes: np.ndarray
    ) -> np.ndarray | None:
        """The weights of rows times those that a dict gives to classes."""
        if not isinstance(self.class_weight, Mapping):
            return weights
        by_class = dict.fromkeys(classes.tolist(), 1.0)
        strange = [label for label in self.class_weight if label not in by_class]
        if strange and by_class.keys() - self.class_weight.keys():  # else a fold without a class
            raise InputError(
                f"class_weight names {short(strange[0])}, which is no label in y; correct it"
            )
        for label, weight in self.class_weight.items():
            if not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
                raise InputError(
                    f"class_weight of {short(label)} is {short(weight)}; give a number from 0 on"
                )
            by_class[label] = float(weight)
        each = np.array([by_class[label] for label in labels.tolist()])
        each = each if weights is None else each * weights
        if not each.any():
            raise InputError("class_weight leaves no text a weight above zero; raise some")
        return each

    def _draw_seed(self) -> int:
        """An int is the seed itself, so that it gives what ``train --seed`` would."""
        generator = check_random_state(self.random_state)  # refuses what is neither
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(generator.randint(2**31 - 1))

    # ----------------------------------------------------------------------------- answering

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class: (N, C) float64, columns as in ``classes_``.

        Raises
        ------
        ValueError
            If X is no list, 1-d array or Series of strings: one line with the remedy.
        NotFittedError
        """
        check_is_fitted(self)
        return self._answering.predict_proba(texts_of(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each text: (N,), of the type of ``classes_``."""
        check_is_fitted(self)
        answering = self._answering
        best = self.predict_proba(X).argmax(axis=1)
        if self._answering is not answering:
            return self.predict(X)  # another thread has called fit: these are other columns
        return answering.classes[best]

    # ------------------------------------------------------------------------------ keeping

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder that ``tinygrad-mha train`` would, for ``tinygrad-mha predict``.

        Raises
        ------
        InputError
            If the place cannot be written to, or a label cannot be printed on a line.
        """
        check_is_fitted(self)
        check_type(self.classes_)
        for name in self.trained_.labels:
            check_label(name, "in classes_", "y", None)
        dtype = "U" if self.classes_.dtype.kind == "U" else self.classes_.dtype.str
        kept: dict[str, Any] = {"classes": self.classes_.tolist(), "dtype": dtype}
        if isinstance(self.class_weight, Mapping):
            pairs = ((as_json(label), float(w)) for label, w in self.class_weight.items())
            kept["class_weight"] = sorted(pairs, key=str)
        metrics = {**self.trained_.metrics, "estimator": kept}
        replace(self.trained_, metrics=metrics).save(folder)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], device: str | None = None
    ) -> TextClassifierEstimator:
        """A fitted estimator from a folder that :meth:`save` or ``tinygrad-mha train`` wrote.

        Its parameters are what the model was trained with, whether chosen or left to choose.
        Labels have the type they were given in; those that ``train`` has read are strings.

        Raises
        ------
        InputError
            If it is no such folder.
        """
        trained = TrainedClassifier.load(folder, device)
        settings = {**trained.config.get("training", {}), **trained.config}
        kept = trained.metrics.pop("estimator", {})
        path = os.path.join(os.fspath(folder), "metrics.json")
        names = trained.labels
        if isinstance(kept, dict) and kept.get("dtype") == "|b1" and names == ["false", "true"]:
            names = ["False", "True"]  # as Python spells them
        classes, weights = loaded_labels(kept, names, path)
        self = cls()
        self.set_params(**{name: settings.get(name) for name in KINDS if name != "device"})
        self.device, self.random_state = device, settings.get("seed")
        self.class_weight = "balanced" if settings.get("class_weight") == "balanced" else weights
        self._take(trained, classes)
        self._pace = Pace(settings.get("seed", 0))
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_answering"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "classes_" in state:
            self._take(self.trained_, self.classes_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


if missing is not None:  # its example cannot run
    TextClassifierEstimator.__doc__ = REMEDY


# -------------------------------------------------------------------------------- messages


@contextmanager
def python_names() -> Iterator[None]:
    """Inside, messages that name an option of the command line name the parameter instead."""

    def name(option: re.Match[str]) -> str:
        return OPTIONS.get(option[1], option[1].replace("-", "_"))

    try:
        yield
    except (InputError, TrainingError, tg.backend.OutOfDeviceMemory) as e:
        raise type(e)(re.sub(r"--([a-z][a-z-]*)", name, str(e))) from None


# ---------------------------------------------------------------------------------- labels

TYPES = {bool: "booleans", np.bool_: "booleans", str: "strings", Integral: "integers"}
TYPES |= {Real: "numbers"}  # after the integers, which are such, too


def rows_of(X: Any, y: Any, sample_weight: Any) -> tuple[Dataset, np.ndarray, np.ndarray | None]:
    """Texts with the names of their labels; the labels as they are; weights of the rows."""
    data, labels, weights = labelled(X, of_one_type(y), sample_weight)
    return replace(data, labels=names_of(labels)), labels, weights


def names_of(labels: np.ndarray) -> list[str]:
    """What a model calls labels: booleans as in JSON, so that it knows those of a file again.

    >>> names_of(np.array([True, False])), names_of(np.array([10, 9]))
    (['true', 'false'], ['10', '9'])
    """
    spell = json.dumps if labels.dtype == bool else str
    return [spell(label) for label in labels.tolist()]


def of_one_type(y: Any, name: str = "y") -> Any:
    """Labels as an array of one type; an InputError for those that no model could keep.

    NumPy would make strings of a list of numbers and strings, and scikit-learn would make floats of
    the integers of pandas that may be missing. What is no column is left to scikit-learn's message.

    >>> of_one_type(np.array([1, 0], object))
    array([1, 0])
    >>> of_one_type([1, "one"])
    Traceback (most recent call last):
        ...
    tinygrad_mha.models.errors.InputError: y[0] is 1 among strings; give labels of one type: all \
strings, all integers or all booleans
    """
    if y is None:
        return y
    plain = isinstance(getattr(y, "dtype", None), np.dtype) and y.dtype != object
    try:
        labels = np.asarray(y) if plain else np.asarray(y, dtype=object)
    except ValueError:  # lists of several lengths
        return y
    if labels.ndim not in (1, 2) or labels.shape[1:] not in ((), (1,)):
        return y
    values = labels.ravel().tolist()
    if not plain:
        labels = narrowed(values, y, name).reshape(labels.shape)
    check_type(labels)
    if labels.dtype.kind in "OU":
        check_names(values, name)  # before NumPy takes a NUL from the end of one
    return labels


def narrowed(values: list[Any], y: Any, name: str) -> np.ndarray:
    """The array of the type that all values have; ``y`` is what they came from."""
    kinds = {type_of(kind) for kind in {type(value) for value in values}}
    if kinds == {"integers", "numbers"}:
        kinds = {"numbers"}
    if len(kinds) > 1 or None in kinds:
        raise stranger(values, kinds, name)
    [kind] = kinds or ["strings"]
    if kind == "booleans":
        return np.array(values, bool)
    if kind == "integers":
        return integers(values, y, name)
    array = np.asarray(y)  # of what type, if it has one, NumPy knows best
    return array.astype(float) if kind == "numbers" and array.dtype == object else array


def type_of(kind: type) -> str | None:
    """What messages call labels of this type; None for what can be none.

    >>> type_of(np.int8), type_of(bool), type_of(bytes)
    ('integers', 'booleans', None)
    """
    return next((told for known, told in TYPES.items() if issubclass(kind, known)), None)


def integers(values: list[int], y: Any, name: str) -> np.ndarray:
    """Integers of the type they have, or else of 64 bits."""
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        if limits.min <= min(values) and max(values) <= limits.max:
            array = np.asarray(y)
            return array if array.dtype.kind in "iu" else np.array(values, dtype)
    at = max(range(len(values)), key=lambda i: abs(values[i]))
    raise InputError(
        f"{name}[{at}] is {short(values[at])}, for which 64 bits are too few; "
        "make the labels strings"
    )


def stranger(values: list[Any], kinds: set[str | None], name: str) -> InputError:
    """What is said of labels of several types: the first that is of another than most would be."""
    of_each = [type_of(type(value)) for value in values]
    common = "strings" if "strings" in kinds else next((kind for kind in of_each if kind), None)
    at = next(i for i, kind in enumerate(of_each) if kind != common or kind is None)
    value, among = values[at], f" among {common}" if common else ""
    # None; NaN; pandas' NA and NaT, without pandas
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    remedy = "give labels of one type: all strings, all integers or all booleans"
    if missing or (isinstance(value, Real) and value != value):
        remedy = "give it a label, or drop the row"
    return InputError(f"{name}[{at}] is {short(value)}{among}; {remedy}")


def check_type(labels: np.ndarray) -> None:
    """Refuse dates, bytes and whatever else a model's folder does not hold."""
    if labels.dtype.kind not in "biufUO":
        raise InputError(f"labels of type {labels.dtype} cannot be saved; turn them into strings")


def check_names(names: list[Any], name: str) -> None:
    """Refuse strings that :meth:`TextClassifierEstimator.save` would, or that no file can hold."""
    first: dict[str, int] = {}
    for i, label in enumerate(names):
        first.setdefault(label, i)
    for label, i in first.items():
        place = f"{name}[{i}]"
        check_label(label.strip() and label, "there", place, None)
        if label != label.strip():
            raise InputError(
                f"{place} is {quoted(label)}, with blanks around it, which the readers of files "
                "take away; do so, too: label.strip()"
            )


# -------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Answering:
    """What a fitted estimator answers with."""

    exact: TrainedClassifier  # in float64, where that is affordable
    columns: list[int]  # of its scores, in the order of the classes
    classes: np.ndarray

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """(N, C) float64."""
        # 64 a batch: half of the usual number, since float64 takes twice the memory
        logits = self.exact.logits(self.exact.encode(texts), batch_size=64)
        return tg.softmax(logits.astype(np.float64))[:, self.columns]


@dataclass(frozen=True)
class Pace:
    """Where a training stands between two calls of ``partial_fit``, beside the weights."""

    seed: int
    steps: int = 0
    optimizer: dict[str, np.ndarray] | None = None  # its state; None before the first step


def occurs(texts: Sequence[str], level: str, times: int) -> bool:
    """Whether any token is there so often.

    >>> occurs(["to be", "not to be"], "word", 2), occurs(["to be", "not"], "word", 2)
    (True, False)
    """
    counts: Counter[str] = Counter()
    for text in texts:
        for token in tokenize(text, level):
            counts[token] += 1
            if counts[token] == times:
                return True
    return False


def one_pass(
    trained: TrainedClassifier,
    data: Dataset,
    settings: Settings,
    weights: np.ndarray | None,
    pace: Pace,
    progress: bool,
) -> Pace:
    """Train on every row once."""
    passes = trained.metrics.get("epochs", 0)
    settings = replace(settings, epochs=passes + 1)  # the progress bar counts them
    targets = LabelSet(trained.labels).encode(data)
    encoded = trained.encode(data.texts)
    trained.model.multihead_attn.attention_dropout = settings.attention_dropout
    batches = BucketedBatches(encoded, targets, settings.batch_size, seed=settings.seed)
    run = Run(trained, settings, batches, None, weights)
    if pace.optimizer is not None:
        run.optimizer.load_state_dict(pace.optimizer)
    run.optimizer.lr = settings.lr
    constant: Any = optim.Schedule(run.optimizer, lambda step: 1.0)  # nobody knows when it ends
    run.schedule, run.step = constant, pace.steps
    run.last_step = run.step + len(batches)
    width = settings.d_model // (2 if settings.bidirectional else 1)
    count = settings.workers if settings.device == "cpu" else 1
    cut = shards_for(settings.batch_size, width, count)
    with (
        a_smaller_batch_for_a_full_gpu(settings.batch_size),
        Workers(count, (run.loss_of,), run.parameters, shards=cut) as workers,
    ):
        said = run.epoch(passes, workers, progress)
    if progress:
        told = "  ".join(f"{name} {said[f'train_{name}']:.3f}" for name in ("loss", "accuracy"))
        print(f"pass {passes + 1}  {told}", file=sys.stderr)
    history = [*trained.metrics.get("history", []), said]
    trained.metrics = {**trained.metrics, "epochs": passes + 1, "history": history}
    return Pace(pace.seed, run.step, run.optimizer.state_dict())
