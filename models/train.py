"""Training: from texts and labels to a :class:`TrainedClassifier`."""

from __future__ import annotations

import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import optim
from tinygrad_mha.backend import OutOfDeviceMemory, explained, place_like, placed
from tinygrad_mha.random import mask_stream

from . import recompute
from .checkpoint import Checkpoints, digest
from .data_parallel import workers_for
from .dataset import Dataset
from .errors import InputError, one_line
from .metrics import confusion_matrix, scores
from .parallel import Workers, cores, shards_for
from .prepared import Encoded, Prepared, check_labels, check_vocabulary
from .ranks import Ranks
from .seen import Seen
from .text import (
    BucketedBatches,
    LabelSet,
    Vocabulary,
    contents,
    lengths_of,
    most_texts,
    remove_duplicates,
    stratified_split,
    tokenize,
)
from .trained import LIMIT, TrainedClassifier, build_model
from .usage import peak_mb

WILD = 10  # times the loss of a guess: so bad is nothing that learns
READ_EVERY = 50  # steps on a GPU: so often somebody waits for it, to look at the loss


class TrainingError(RuntimeError):
    """The training itself failed, though its input was fine."""


class BlownUp(TrainingError):
    """Numbers have become too large, or no numbers.

    Attributes
    ----------
    certificate : str
        What detect_anomaly says of the first that was no number, in full; "" if it found none.
    """

    certificate = ""


@dataclass(frozen=True)
class Settings:
    """Everything a training run depends on, beside its data."""

    d_model: int = 128
    h: int = 8
    num_layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.2
    attention_dropout: float | None = None  # of the attention weights; None: as dropout
    pooling: str = "mean"
    level: str = "word"
    min_count: int = 1
    max_len: int = 256
    epochs: int = 0  # 0: as many as `steps` optimizer steps take
    batch_size: int = 0  # 0: 64, or fewer if there are few texts
    steps: int = 2100
    max_steps: int = 0  # no more steps than that, whatever the epochs; 0: no limit
    lr: float = 3e-3
    optimizer: str = "adamw"
    weight_decay: float | None = None  # None: what suits the optimizer
    clip: float = 1.0
    warmup: float = 0.05  # share of all steps
    label_smoothing: float = 0.0
    word_dropout: float = 0.15  # probability that a token is replaced by <unk> in training
    class_weight: str = "none"  # or "balanced"
    early_stopping: int = 6  # epochs without a better validation loss; 0 never stops
    seed: int = 0
    workers: int = 0  # 0: the cores
    memory: int = 0  # MB that a step may keep for its backward pass; 0: as much as it wants
    device: str = "cpu"

    def __post_init__(self) -> None:
        sizes = ("d_model", "h", "num_layers", "max_len")
        least = dict.fromkeys((*sizes, "min_count", "steps"), 1)
        least |= dict.fromkeys(
            ("epochs", "batch_size", "workers", "early_stopping", "seed", "memory", "max_steps"), 0
        )
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        for name, high in {**dict.fromkeys(sizes, LIMIT), "num_layers": 1000}.items():
            if getattr(self, name) > high:
                raise InputError(f"{name} is {getattr(self, name)}, it must be at most {high}")
        shares = ("dropout", "attention_dropout", "word_dropout", "label_smoothing", "warmup")
        for name in shares:
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, it must be in [0, 1)")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr is {self.lr}, it must be a positive number")
        if not 0 <= (self.weight_decay or 0) < float("inf"):
            raise InputError(f"weight_decay is {self.weight_decay}, it must be a number from 0 on")
        if self.d_model % self.h:
            near = self.h * max(1, round(self.d_model / self.h))
            raise InputError(
                f"d_model {self.d_model} is not divisible by {self.h} heads; "
                f"choose another --heads, or --d-model {near}"
            )
        if self.bidirectional and self.d_model % 2:
            raise InputError(
                f"d_model {self.d_model} is odd, but two directions need half of it each; "
                "choose an even --d-model, or --no-bidirectional"
            )
        # weights, gradients and Adam's two moments, 4 bytes each; the embedding comes on top
        layer = 6 if self.bidirectional else 8
        need = 16 * self.d_model**2 * (4 + layer * self.num_layers)
        if need > memory():
            raise InputError(
                f"d_model {self.d_model} with {self.num_layers} layers takes {need >> 30:,} GiB "
                f"of {memory() / 2**30:,.0f}; choose a smaller --d-model or --layers"
            )
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"unknown optimizer {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}"
            )

    def settled(self, rows: int) -> Settings:
        """What was left open, decided for ``rows`` training texts and this machine."""
        batch_size = self.batch_size or max(8, min(64, rows // 40))
        by_steps = round(self.steps * batch_size / max(rows, 1))
        epochs = self.epochs or max(FEWEST, min(MOST, by_steps))
        return replace(
            self,
            batch_size=batch_size,
            epochs=epochs,
            workers=self.workers or cores(),
            weight_decay=self.decay(),
        )

    def decay(self) -> float:
        """``weight_decay``, or what suits the optimizer."""
        return DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    @classmethod
    def for_level(cls, level: str, **given: Any) -> Settings:
        """The settings that suit words or characters, where ``given`` does not say otherwise."""
        return cls(level=level, **{**SUITED[level], **given})


def memory() -> float:
    """The bytes of memory of this machine, or infinity where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return float("inf")


FEWEST, MOST = 5, 50  # epochs, where the data decides
# Chosen on the early-stopping parts of the built-in sets for the seeds 0 and 1; what that means for
# the test parts, and a measurement without those rows, is in bench/quality.py. A high learning rate
# for as long as there is time, and hidden tokens, did more against overfitting than dropout.
SUITED: dict[str, dict[str, Any]] = {
    "char": {
        "num_layers": 2,
        "pooling": "last",
        "lr": 6e-3,
        "steps": 3000,
    },
    "word": {"min_count": 2, "word_dropout": 0.3},
}

OPTIMIZERS = {"adamw": optim.AdamW, "adam": optim.Adam, "sgd": optim.SGD}
DECAY = {"adamw": 0.2, "adam": 0.2, "sgd": 0.0}


@dataclass
class Split:
    """The rows that train, those that early stopping looks at, those that measure the result."""

    fit: Dataset
    stop: Dataset
    test: Dataset


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
    data = whole = remove_duplicates(data)
    needed = 3 if test is None else 2
    if test is None:
        keep, out = stratified_split(data.texts, data.labels, 0.2, seed)
        data, test = subset(data, keep), subset(data, out)
    keep, out = stratified_split(data.texts, data.labels, 0.1, seed)
    if not len(out) or not len(test):
        raise too_few(most_texts(whole.texts, whole.labels), needed, whole.source)
    return Split(subset(data, keep), subset(data, out), test)


def too_few(most: int, needed: int, source: str) -> InputError:
    """No class has enough different texts."""
    return InputError(
        f"no class has more than {most} different {'text' if most == 1 else 'texts'}, to hold "
        f"some out takes {needed}; add texts, or see whether --label-column names the labels",
        source=source,
    )


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
    if isinstance(parts, Split):
        parts = prepared(parts, settings, source, row_weights)
    fit, stop, labels = parts.fit, parts.stop, parts.labels
    trained = with_initial_weights(parts.vocabulary, labels, settings)

    weight = class_weights(fit.targets, len(labels), settings.class_weight)
    batches = BucketedBatches(fit.ids, fit.targets, settings.batch_size, seed=settings.seed)
    if progress:
        announce(counts, source or fit.source)
    run = Run(trained, settings, batches, weight, row_weights, ranks)
    width = settings.d_model // (2 if settings.bidirectional else 1)
    if checkpoints is not None:
        run.watch(checkpoints, stop.ids, stop.targets, parts.vocabulary.tokens, labels.names)
    told = run.until_it_gets_worse(stop.ids, stop.targets, stop_weights, width, progress)
    trained.metrics = {
        "data": source or parts.fit.source,
        "rows": counts,
        **told,
        "parameters": sum(p.size for p in trained.model.parameters()),
        "seconds": run.seconds_before + time.perf_counter() - began,
    }
    return trained


def announce(counts: dict[str, int], source: str) -> None:
    """Which rows do what."""
    print(
        f"{one_line(source)}: {sum(counts.values())} rows; "
        f"{counts['fit']} train, {counts['stop']} stop early, {counts['test']} measure",
        file=sys.stderr,
        flush=True,
    )


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


@contextmanager
def a_smaller_batch_for_a_full_gpu(batch_size: int) -> Iterator[None]:
    """Inside, an OutOfDeviceMemory says which --batch-size to try."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        told = explained(e)
        if not isinstance(told, OutOfDeviceMemory):
            raise
        cure = f"--batch-size {batch_size // 2} instead of {batch_size}"
        if batch_size == 1:
            cure = "a smaller --max-len or --d-model, for --batch-size is 1"
        raise OutOfDeviceMemory(f"{told}: {cure}") from e


class Run:
    """The state of a training run between steps."""

    def __init__(
        self,
        trained: TrainedClassifier,
        settings: Any,
        batches: BucketedBatches,
        weight: np.ndarray | None,
        row_weights: np.ndarray | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.trained, self.model = trained, trained.model
        self.settings, self.batches, self.weight = settings, batches, weight
        self.row_weights = row_weights
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer()
        total = len(batches) * settings.epochs
        self.last_step = min(total, getattr(settings, "max_steps", 0) or total)
        warmup = int(settings.warmup * self.last_step)
        self.schedule = optim.WarmupCosine(
            self.optimizer, warmup=warmup, total=self.last_step, start=1 / max(warmup, 1)
        )
        self.step = 0
        self.position = 0  # batches of the present epoch that are done
        self.seen = Seen()
        self.history: list[dict[str, float]] = []  # of the epochs that are done
        self.best, self.best_loss, self.waited = self.weights(), float("inf"), 0
        self.checkpoints: Checkpoints | None = None
        self.unread: list[tuple[Any, ...]] = []  # batches whose losses nobody has looked at
        self.guess = math.log(max(2, len(trained.labels)))  # the loss of equal probabilities
        self.stopped = ""  # what there is to say of the end, if it was no good one
        self.began, self.seconds_before = time.perf_counter(), 0.0
        if settings.memory:
            recompute.fit(self.model, self.largest_loss, settings.memory << 20)

    def make_optimizer(self) -> optim.Optimizer:
        """What changes the parameters, as the settings say."""
        s = self.settings
        more = {"momentum": 0.9} if s.optimizer == "sgd" else {}
        return OPTIMIZERS[s.optimizer](self.parameters, lr=s.lr, weight_decay=s.decay(), **more)

    def until_it_gets_worse(
        self,
        stop_ids: Sequence[np.ndarray],
        stop_targets: np.ndarray,
        stop_weights: np.ndarray | None,
        width: int,
        progress: bool,
    ) -> dict[str, Any]:
        """All epochs, or fewer: the weights are then those with the best loss on the stop rows.

        ``width`` is that of a text's state, which says whether workers are worth their overhead.
        Returns what there is to tell.
        """
        s = self.settings
        count = s.workers if s.device == "cpu" else 1  # a GPU shares the work by itself
        cut = shards_for(-(-s.batch_size // self.ranks.size), width, count)
        jobs = self.loss_of, self.trained.scores
        stops = None if self.checkpoints is None else self.checkpoints.stops
        with (
            a_smaller_batch_for_a_full_gpu(s.batch_size),
            nullcontext() if stops is None else stops.looked_at(),
            workers_for(
                self.ranks, count, jobs, self.parameters, shards=cut, stops=stops
            ) as workers,
        ):
            while not self.over():
                try:
                    said = self.epoch(len(self.history), workers, progress)
                except BlownUp as e:
                    if not np.isfinite(self.best_loss):
                        raise
                    self.stopped = f"{e}; the weights are those of the best epoch before it"
                    break
                loss = said["train_loss"]
                if len(stop_ids):
                    loss, accuracy = measure(
                        self.trained, stop_ids, stop_targets, self.weight, workers, stop_weights
                    )
                    said |= {"valid_loss": loss, "valid_accuracy": accuracy}
                if progress:
                    _report(len(self.history), said)
                if loss < self.best_loss or not len(stop_ids):
                    self.best, self.best_loss, self.waited = self.weights(), loss, 0
                else:
                    self.waited += 1
                self.history.append(said)
                self.position, self.seen = 0, Seen()
                self.check_progress(said["train_loss"], loss)
            if self.checkpoints is not None and self.checkpoints.stops.asked is not None:
                self.checkpoints.leave(self)
            peak = peak_mb(s.device)
        for p, a in zip(self.parameters, self.best, strict=True):
            p.data = a
        if not np.isfinite(self.best_loss):
            raise TrainingError(f"the validation loss is {self.best_loss}; try a smaller --lr")
        if self.stopped and not progress:
            warnings.warn(self.stopped, RuntimeWarning, stacklevel=3)
        if self.best_loss >= self.guess and not self.stopped:
            self.stopped = f"it guesses: its loss is {self.best_loss:.3g}, {self.advice()}"
        if self.stopped and progress:
            print(one_line(self.stopped), file=sys.stderr)
        measured: dict[str, Any] = {"valid_loss": self.best_loss} if len(stop_ids) else {}
        measured |= {"notice": self.stopped} if self.stopped else {}
        told = {"epochs": len(self.history), **measured, "history": self.history}
        return {**told, "peak_mb": peak}

    def over(self) -> bool:
        """Whether all epochs or steps are done, or the last epochs have brought nothing."""
        s = self.settings
        if self.position:  # in the middle of an epoch: what it brings has not been measured
            return False
        tired = bool(s.early_stopping) and self.waited >= s.early_stopping
        return tired or len(self.history) >= s.epochs or self.step >= self.last_step

    def check_progress(self, fit_loss: float, stop_loss: float) -> None:
        """End a run that has gone wild without any number that is not finite."""
        if min(fit_loss, stop_loss, self.best_loss) > WILD * self.guess:
            raise BlownUp(f"the loss is {fit_loss:.3g} after an epoch, {self.advice()}")

    def advice(self) -> str:
        return f"a guess has {self.guess:.3g}; try a smaller --lr than {self.settings.lr:g}"

    # ---- on disk

    def watch(
        self,
        checkpoints: Checkpoints,
        stop_ids: Sequence[np.ndarray],
        stop_targets: np.ndarray,
        *more: Iterable[str | np.ndarray],
    ) -> None:
        """Write ``checkpoints`` of this run, or go on from the one they have.

        Everything that the run learns from and is measured on goes into the digest that says
        whether a checkpoint is of this run.
        """
        self.checkpoints = checkpoints
        targets = self.batches.targets
        assert targets is not None
        weights = [] if self.row_weights is None else [self.row_weights]
        counts = [self.batches.lengths, targets, lengths_of(stop_ids), stop_targets, *weights]
        ids = contents(self.batches.encoded), contents(stop_ids)
        checkpoints.begin(self, digest(counts, *ids, *more))

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the rest of the run depends on, for a checkpoint: words and arrays."""
        self.look(self.seen, len(self.history))
        words = {
            "step": self.step,
            "position": self.position,
            "seen": self.seen.state(),
            "history": self.history,
            "best_loss": self.best_loss,
            "waited": self.waited,
            "seconds": self.seconds_before + time.perf_counter() - self.began,
            "generator": tg.random.weights_generator().bit_generator.state,
        }
        arrays: dict[str, Any] = {f"weight.{k}": p.data for k, p in enumerate(self.parameters)}
        arrays |= {f"best.{k}": a for k, a in enumerate(self.best)}
        arrays |= {f"optimizer.{k}": a for k, a in self.optimizer.state_dict().items()}
        arrays |= {f"schedule.{k}": a for k, a in self.schedule.state_dict().items()}
        return words, arrays

    def restore(self, words: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from what :meth:`state` said; ValueError if that was another run."""

        def part(name: str) -> dict[str, np.ndarray]:
            start = f"{name}."
            return {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}

        weights, best = part("weight"), part("best")
        for given in (weights, best):
            for k, p in enumerate(self.parameters):
                a = given[str(k)]
                if a.shape != p.shape or a.dtype != p.dtype or not np.isfinite(a).all():
                    raise ValueError(f"weight {k} is {a.shape} {a.dtype}, not {p.shape} {p.dtype}")
        counts = ("step", "position", "waited")
        step, position, waited = (words[name] for name in counts)
        if not all(type(n) is int and n >= 0 for n in (step, position, waited)):
            raise ValueError("a count is no number from 0 on")
        if step > self.last_step or position > len(self.batches):
            raise ValueError(f"step {step}, batch {position} are beyond the end")
        self.seen = Seen.restored(words["seen"])
        tg.random.weights_generator().bit_generator.state = words["generator"]
        self.optimizer.load_state_dict(part("optimizer"))
        self.schedule.load_state_dict(part("schedule"))
        for k, p in enumerate(self.parameters):
            p.data[...] = place_like(weights[str(k)], p.data)
        self.best = [place_like(best[str(k)], p.data) for k, p in enumerate(self.parameters)]
        self.step, self.position, self.waited = step, position, waited
        self.best_loss, self.history = float(words["best_loss"]), list(words["history"])
        self.seconds_before = float(words["seconds"])

    # ---- step by step

    def weights(self) -> list[Any]:
        """Copies of what is trained, where it is."""
        return [p.data.copy() for p in self.parameters]

    def largest_loss(self) -> tg.Tensor:
        """The loss of as many texts as a batch has, all as long as the longest."""
        length = int(self.batches.lengths.max(initial=0))
        ids = np.full((min(self.settings.batch_size, len(self.batches.encoded)), length), 1)
        targets = np.zeros(len(ids), np.int64)
        self.model.train()
        with mask_stream(self.settings.seed, 0):
            return tg.cross_entropy(self.model(ids, [length] * len(ids)), targets)

    def epoch(self, epoch: int, workers: Workers, progress: bool) -> dict[str, float]:
        """One pass over the training rows; returns what the progress bar showed last."""
        from tqdm import tqdm

        class Bar(tqdm):
            monitor_interval = 0  # no thread that watches it: processes start only without threads

        count = min(len(self.batches), self.position + self.last_step - self.step)
        bar = Bar(
            islice(self.batches.epoch(epoch, self.position), count - self.position),
            total=count,
            initial=self.position,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            disable=not progress,
            leave=False,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log needs no moving bar
        )
        seen = self.seen
        for ids, lengths, targets, rows in bar:
            weights = None if self.row_weights is None else self.row_weights[rows]
            told = self.train_step(ids, lengths, targets, workers, weights)
            seen.add(told, len(rows), int(lengths.sum()))
            self.position += 1
            if seen.waiting >= (1 if self.settings.device == "cpu" else READ_EVERY):
                self.look(seen, epoch)
                said = seen.said()
                bar.set_postfix(
                    loss=f"{said['train_loss']:.3f}",
                    accuracy=f"{said['train_accuracy']:.3f}",
                    tokens_s=f"{said['tokens_per_second']:,.0f}",
                    refresh=False,
                )
            if self.checkpoints is not None:
                self.checkpoints.after_step(self)
        self.look(seen, epoch)
        return seen.said()

    def look(self, seen: Seen, epoch: int) -> None:
        """Read what the last steps said; a step that made no numbers ends the run.

        It has changed no weight, and neither have the steps after it if they made none either.
        """
        bad = seen.read()
        batches, self.unread = self.unread, []
        if bad is not None:
            what, number, ago = bad
            place = f"the {what} became {number} at step {self.step - ago} of epoch {epoch + 1}"
            found = self.birth(*batches[-1 - ago]) if ago < len(batches) else ""
            advice = f"try a smaller --lr than {self.settings.lr:g}"
            error = BlownUp("; ".join(filter(None, (place, in_short(found), advice))))
            error.certificate = found
            raise error

    def birth(self, step: int, *batch: Any) -> str:
        """Where the first bad number of a batch came from: what detect_anomaly says.

        The step has changed no weight, so the same batch gives the same numbers again. (On a GPU
        others may have followed; then there may be nothing to find.)
        """
        ids, lengths, targets, scale = batch
        try:
            with tg.detect_anomaly(), np.errstate(all="ignore"):
                loss, _ = self.loss_of(
                    slice(0, len(targets)), ids, lengths, targets, scale, step, 0
                )
                tg.grad(loss, self.parameters, allow_unused=True)
        except tg.AnomalyError as e:
            return str(e)
        except MemoryError:
            pass
        return ""

    def train_step(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
        workers: Workers,
        weights: np.ndarray | None = None,
    ) -> tuple[Any, Any, Any]:
        """Gradients by all workers, clipped, one step of optimizer and schedule.

        ``weights`` (B,) say how much each row counts in the mean; by default all the same.
        Returns the loss, how many rows were right, and the norm of the gradients: numbers, or what
        a GPU will have computed by the time that somebody looks at it.
        """
        s, step = self.settings, self.step
        if s.word_dropout:
            rng = np.random.default_rng((s.seed, 1, step))
            drop = (rng.random(ids.shape) < s.word_dropout) & (ids != Vocabulary.PAD)
            ids = np.where(drop, Vocabulary.UNKNOWN, ids)
        scale: Any  # what the loss of a row is multiplied by: one number, or one for each row
        if weights is None:
            scale = 1 / (len(targets) if self.weight is None else float(self.weight[targets].sum()))
        else:
            scale = shares(weights, targets, self.weight)

        self.unread.append((step, ids, lengths, targets, scale))
        said = self.gradients(workers, ids, lengths, targets, scale)
        with np.errstate(over="ignore", invalid="ignore"):
            norm = optim.clip_grad_norm(self.parameters, s.clip)
            self.optimizer.step(workers, only_if=norm)
        self.schedule.step()
        self.step += 1
        losses, right = zip(*said, strict=True)
        return sum(losses[1:], losses[0]), sum(right[1:], right[0]), norm

    def gradients(self, workers: Workers, ids: Any, lengths: Any, targets: Any, scale: Any) -> list:
        """Leave the gradients of a batch in ``.grad``; what the shards said."""
        batch = ids, lengths, targets, scale, self.step, 0
        return workers.gradients(self.loss_of, len(targets), *batch)

    def loss_of(
        self,
        part: slice,
        ids: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
        scale: Any,
        step: int,
        first: int,
    ) -> tuple[tg.Tensor, tuple[Any, Any]]:
        """What one shard adds to the loss of the batch; its value, and how many were right.

        ``first`` is the number of the first row in the whole batch, if this is a piece of it.
        """
        s = self.settings
        self.model.train()
        with mask_stream(s.seed, step, first + part.start):
            logits = self.model(ids[part], lengths[part])
            loss = tg.cross_entropy(
                logits,
                targets[part],
                weight=self.weight,
                label_smoothing=s.label_smoothing,
                reduction="none" if isinstance(scale, np.ndarray) else "sum",
            )
        if isinstance(scale, np.ndarray):
            [share] = placed(logits.data, scale[part].astype(logits.dtype))
            loss = (loss * share).sum()
        else:
            loss = loss * scale
        [goal] = placed(logits.data, targets[part])
        right = (logits.data.argmax(axis=1) == goal).sum()
        return loss, ((loss.item(), int(right)) if s.device == "cpu" else (loss.data, right))


def in_short(certificate: str) -> str:
    """The call that is to blame, and the range of its first operand."""
    lines = [line.strip() for line in certificate.splitlines()]
    blamed = [line for line in lines if not re.search(r", line \d+", line)]
    return ": ".join(blamed[1 if len(blamed) > 2 else 0 :][:2])


def class_weights(targets: np.ndarray, classes: int, how: str) -> np.ndarray | None:
    """For ``"balanced"``, n / (classes · count) for each class; None for ``"none"``."""
    if how == "none":
        return None
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (classes * np.maximum(counts, 1))).astype(np.float32)


def shares(weights: np.ndarray, targets: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """What each loss is multiplied by, so that their sum is the weighted mean; 0 if none counts.

    ``cross_entropy`` has given a loss the weight of its class already.

    >>> shares(np.array([2.0, 0.0, 6.0]), np.array([0, 1, 0]), None)
    array([0.25, 0.  , 0.75])
    """
    total = float((weights if weight is None else weights * weight[targets]).sum())
    return weights / (total or 1.0)


def measure(
    trained: TrainedClassifier,
    encoded: Sequence[np.ndarray],
    targets: np.ndarray,
    weight: np.ndarray | None,
    workers: Workers | None = None,
    row_weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy on rows that do not train; each mean with the weights of the rows."""
    logits = trained.logits(encoded, workers=workers)
    right = logits.argmax(axis=1) == targets
    logits = logits.astype(np.float64)
    if row_weights is None:
        return float(tg.cross_entropy(logits, targets, weight=weight)), float(right.mean())
    each = tg.cross_entropy(logits, targets, weight=weight, reduction="none")
    loss = float((each * shares(row_weights, targets, weight)).sum())
    return loss, float((right * shares(row_weights, targets, None)).sum())


def evaluate(trained: TrainedClassifier, data: Dataset | Encoded) -> dict[str, Any]:
    """Accuracy, macro F1, loss, a table by class and the confusion matrix on labelled texts."""
    if isinstance(data, Dataset):
        targets = LabelSet(trained.labels).encode(data)
        data = Encoded(trained.encode(data.texts), targets, data.source)
    targets, logits = data.targets, trained.logits(data.ids)
    confusion = confusion_matrix(targets, logits.argmax(axis=1), len(trained.labels))
    loss = float(tg.cross_entropy(logits.astype(np.float64), targets))
    return {**scores(confusion), "loss": loss, "rows": len(data), "confusion": confusion.tolist()}


def _report(epoch: int, h: dict[str, float]) -> None:
    from tqdm import tqdm

    measured = ""
    if "valid_loss" in h:
        measured = f"validation loss {h['valid_loss']:.3f}  accuracy {h['valid_accuracy']:.3f}  "
    tqdm.write(
        f"epoch {epoch + 1:2d}  loss {h['train_loss']:.3f}  accuracy {h['train_accuracy']:.3f}  "
        f"{measured}{h['tokens_per_second']:,.0f} tokens/s",
        file=sys.stderr,
    )
