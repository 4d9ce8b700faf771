"""Training: from texts and labels to a :class:`TrainedClassifier`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

import tinygrad_mha as tg

from .checkpoint import Checkpoints
from .dataset import Dataset
from .errors import InputError, one_line
from .metrics import confusion_matrix, scores
from .prepared import Encoded, Found, Prepared, check_labels, check_vocabulary
from .ranks import Ranks
from .readers import Bad, nothing_in
from .run import Run, TrainingError, class_weights
from .settings import Settings
from .text import (
    BucketedBatches,
    LabelSet,
    Vocabulary,
    most_texts,
    remove_duplicates,
    stratified_split,
    tokenize,
)
from .trained import TrainedClassifier, build_model

__all__ = [
    "Run",
    "Settings",
    "Split",
    "TrainingError",
    "evaluate",
    "split",
    "subset",
    "train",
]


@dataclass
class Split:
    """The rows that train, those that early stopping looks at, those that measure the result."""

    fit: Dataset
    stop: Dataset
    test: Dataset
    found: Found = field(default_factory=Found)


def subset(data: Dataset, rows: Sequence[int] | np.ndarray) -> Dataset:
    """Some rows of a data set."""

    def pick(values: list) -> list:
        return [values[i] for i in rows]

    files = None if data.files is None else pick(data.files)
    return Dataset(pick(data.texts), pick(data.labels), pick(data.lines), data.source, files)


def split(data: Dataset, test: Dataset | None = None, seed: int = 0) -> Split:
    """Remove duplicates, hold a fifth out as the test part, and a tenth of the rest to stop early.

    With a ``test`` set of its own nothing is held out for that. Nothing has looked at any row
    before: vocabulary and labels are made from the result.
    """
    whole = remove_duplicates(data)
    found = Found(len(data) - len(whole), sum(not text.strip() for text in data.texts))
    found.torn = sum(count > 1 for count in Counter(whole.texts).values())
    data = whole
    needed = 3 if test is None else 2
    found.measured = "" if test is None else test.source
    if test is None:
        keep, out = stratified_split(data.texts, data.labels, 0.2, seed)
        data, test = subset(data, keep), subset(data, out)
    keep, out = stratified_split(data.texts, data.labels, 0.1, seed)
    if not len(out) or not len(test):
        raise too_few(most_texts(whole.texts, whole.labels), needed, whole.source)
    return Split(subset(data, keep), subset(data, out), test, found)


def too_few(most: int, needed: int, source: str) -> InputError:
    """No class has enough different texts."""
    return InputError(
        f"no class has more than {most} different {'text' if most == 1 else 'texts'}, to hold "
        f"some out takes {needed}; add texts, or see whether --label-column names the labels",
        source=source,
    )


def tell_overlap(both: int, alike: int, of: int, measured: str, source: str) -> None:
    """Say it if texts to measure on are among those that train.

    ``both`` are there as they are; ``alike`` are others whose tokens are those of a text there: the
    model sees no difference. Without a file of its own, ``measured`` is "".
    """
    texts = f"of the {of} texts to measure on"
    there = "texts that train" if not measured else f"texts of {source}"
    told = f"{alike} {texts} have the same tokens as {there}"
    if both:
        told = f"{both} {texts} are in {source} too"
        told += f", and {alike} more have the same tokens as texts there" if alike else ""
    if both or alike:
        print(one_line(f"{measured or source}: {told}: it will look too good"), file=sys.stderr)


def train(
    parts: Split | Prepared,
    settings: Settings,
    progress: bool = False,
    source: str = "",
    row_weights: np.ndarray | None = None,
    stop_weights: np.ndarray | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks | None = None,
) -> TrainedClassifier:
    """Fit a classifier to ``parts.fit``; keep the weights with the best loss on ``parts.stop``.

    Without rows in ``parts.stop`` nothing is measured, and the weights after the last epoch are
    kept. ``row_weights`` and ``stop_weights``, one number from 0 on for each row of ``parts.fit``
    and of ``parts.stop``, say how much a row counts in the means that are the loss.
    ``checkpoints`` are written on the way, and gone on from if they have one. ``ranks`` share every
    batch: each of them has to call this with the same arguments.

    One seed and one number of workers give the same weights, bit for bit.
    """
    began = time.perf_counter()
    settings = settings.settled(len(parts.fit))
    counts = {k: len(getattr(parts, k)) for k in ("fit", "stop", "test")}
    found = parts.found
    if isinstance(parts, Split):
        parts = prepared(parts, settings, source, row_weights)
    fit, stop, labels = parts.fit, parts.stop, parts.labels
    trained = with_initial_weights(parts.vocabulary, labels, settings)

    weight = class_weights(fit.targets, len(labels), settings.class_weight)
    batches = BucketedBatches(fit.ids, fit.targets, settings.batch_size, seed=settings.seed)
    if progress:
        announce(counts, source or fit.source, found)
    run = Run(trained, settings, batches, weight, row_weights, ranks)
    width = settings.d_model // (2 if settings.bidirectional else 1)
    if checkpoints is not None:
        run.watch(checkpoints, stop.ids, stop.targets, parts.vocabulary.tokens, labels.names)
    told = run.until_it_gets_worse(stop.ids, stop.targets, stop_weights, width, progress)
    trained.model.eval()
    trained.metrics = {
        "data": source or parts.fit.source,
        "rows": counts,
        **told,
        "parameters": sum(p.size for p in trained.model.parameters()),
        "seconds": run.seconds_before + time.perf_counter() - began,
    }
    return trained


def announce(counts: dict[str, int], source: str, found: Found) -> None:
    """Which rows do what, of which file, and which do nothing."""
    told = f"{counts['fit']} train, {counts['stop']} stop early"
    rows = counts["fit"] + counts["stop"] + found.duplicates
    if not found.measured:
        rows += counts["test"]
        told += f", {counts['test']} measure"
    if found.duplicates:
        told += f", {number_of(found.duplicates, 'duplicate')} left out"
    told = f"{source}: {rows} rows; {told}"
    if found.empty:
        told += f"; {number_of(found.empty, 'text')} empty"
    if found.measured:
        told += f"; {found.measured}: {counts['test']} rows measure"
    if found.torn:
        several = "1 text has" if found.torn == 1 else f"{found.torn} texts have"
        told += f"\n{source}: {several} more than one label: no answer is right for all of them"
    print(*map(one_line, told.split("\n")), sep="\n", file=sys.stderr, flush=True)


def number_of(count: int, what: str) -> str:
    """A count with its verb.

    >>> number_of(1, "text"), number_of(2, "text")
    ('1 text is', '2 texts are')
    """
    return f"1 {what} is" if count == 1 else f"{count} {what}s are"


def prepared(
    parts: Split, settings: Settings, source: str = "", row_weights: np.ndarray | None = None
) -> Prepared:
    """Texts and labels as numbers; the vocabulary is that of ``parts.fit``.

    The rows of ``parts.test`` wait until somebody measures on them.
    """
    labels = LabelSet.from_labels(parts.fit.labels, source or parts.fit.source)
    vocabulary, fit_ids = with_vocabulary(parts.fit, settings, source, row_weights)
    check_labels(labels, source or parts.fit.source)

    def encoded(data: Dataset) -> Encoded:
        ids = [vocabulary.encode(tokenize(t, settings.level), settings.max_len) for t in data.texts]
        return Encoded(ids, labels.encode(data), data.source)

    fit = Encoded(fit_ids, labels.encode(parts.fit), parts.fit.source)
    test = Encoded([], np.zeros(0, np.int64), parts.test.source)
    return Prepared(vocabulary, labels, fit, encoded(parts.stop), test)


def with_vocabulary(
    fit: Dataset, settings: Settings, source: str = "", row_weights: np.ndarray | None = None
) -> tuple[Vocabulary, list[np.ndarray]]:
    """The vocabulary of texts, and their ids."""
    tokens = [tokenize(text, settings.level) for text in fit.texts]
    vocabulary = Vocabulary.build(tokens, settings.min_count, weights=row_weights)
    check_vocabulary(vocabulary, settings.min_count, source or fit.source)
    return vocabulary, [vocabulary.encode(t, settings.max_len) for t in tokens]


def with_initial_weights(
    vocabulary: Vocabulary, labels: LabelSet, settings: Settings
) -> TrainedClassifier:
    """A model that has learned nothing."""
    tg.manual_seed(settings.seed)
    config: dict[str, Any] = {"training": asdict(settings)}
    shape = ("d_model", "h", "num_layers", "bidirectional", "dropout", "pooling")
    for key in (*shape, "level", "max_len"):
        config[key] = config["training"].pop(key)
    model = build_model(config, len(vocabulary), len(labels))
    model.multihead_attn.attention_dropout = settings.attention_dropout
    model.to(settings.device)
    return TrainedClassifier(model, vocabulary, labels.names, config)


def evaluate(
    trained: TrainedClassifier, data: Dataset | Encoded, learned: np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy, macro F1, loss, a table by class and the confusion matrix on labelled texts.

    ``learned`` (classes,) says how many texts of each class trained, see
    :func:`~tinygrad_mha.models.metrics.scores`.
    """
    if isinstance(data, Dataset):
        targets = LabelSet(trained.labels).encode(data)
        data = Encoded(trained.encode(data.texts), targets, data.source)
    targets, logits = data.targets, trained.logits(data.ids)
    confusion = confusion_matrix(targets, logits.argmax(axis=1), len(trained.labels))
    loss = float(tg.cross_entropy(logits.astype(np.float64), targets))
    measured = {**scores(confusion, learned), "loss": loss, "rows": len(data)}
    return {**measured, "confusion": confusion.tolist()}


def with_known_labels(data: Dataset, labels: LabelSet, bad: Bad) -> Dataset:
    """The rows whose label is one of ``labels``; the others are ``bad``."""
    kept = []
    for i, label in enumerate(data.labels):
        try:
            labels.index(label)
        except InputError as error:
            bad(InputError(str(error), source=data.where(i)))
        else:
            kept.append(i)
    if not kept:
        raise InputError(nothing_in(data.source, bad), source=data.source)
    return subset(data, kept)
