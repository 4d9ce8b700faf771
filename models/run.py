"""A training run: epochs of steps, until it gets worse."""

from __future__ import annotations

import math
import re
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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
from .errors import one_line
from .parallel import Workers, shards_for
from .progress import bar
from .ranks import Ranks
from .seen import Seen
from .settings import OPTIMIZERS
from .text import BucketedBatches, Vocabulary, contents, lengths_of
from .trained import TrainedClassifier
from .usage import peak_mb

WILD = 10  # times the loss of a guess: so bad is nothing that learns
NEAR = 2  # times the loss of a guess: nothing that has only just begun is worse
FEW = 200  # steps, in which many classes cannot be learned
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
        # batches whose losses nobody has looked at; of somebody who never looks, only the last
        self.unread: deque[tuple[Any, ...]] = deque(maxlen=READ_EVERY)
        self.guess = math.log(max(2, len(trained.labels)))  # the loss of equal probabilities
        self.stopped = ""  # what there is to say of the end, if it was no good one
        self.began, self.seconds_before = time.monotonic(), 0.0
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
            raise TrainingError(
                f"the loss on the early-stopping rows is {self.best_loss}; try a smaller --lr"
            )
        if self.stopped and not progress:
            warnings.warn(self.stopped, RuntimeWarning, stacklevel=3)
        if self.best_loss >= self.guess and not self.stopped:
            advice = self.advice(short=self.was_short())
            self.stopped = f"it guesses: its loss is {self.best_loss:.3g}, {advice}"
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
        return self.tired() or len(self.history) >= s.epochs or self.step >= self.last_step

    def tired(self) -> bool:
        """Whether the last epochs have brought nothing."""
        return 0 < self.settings.early_stopping <= self.waited

    def check_progress(self, fit_loss: float, stop_loss: float) -> None:
        """End a run that has gone wild without any number that is not finite."""
        if min(fit_loss, stop_loss, self.best_loss) > WILD * self.guess:
            raise BlownUp(f"the loss is {fit_loss:.3g} after an epoch, {self.advice()}")

    def was_short(self) -> bool:
        """Whether a run that guesses may have had too few steps, rather than too large ones.

        Far too large ones leave it much worse than a guess; a run that stopped early had enough.
        """
        if self.best_loss > NEAR * self.guess or self.tired():
            return False
        losses = [said["train_loss"] for said in self.history[-2:]]
        return self.step < FEW or losses[-1] < losses[0]

    def advice(self, short: bool = False) -> str:
        """What a guess would have, and what to try."""
        s = self.settings
        if short:
            more = f"--epochs than {s.epochs}"
            if self.last_step < len(self.batches) * s.epochs:
                more = f"--max-steps than {self.last_step}"
            steps = "1 step" if self.step == 1 else f"{self.step} steps"
            remedy = f"after {steps}; try more {more}, or another --lr than {s.lr:g}"
            return f"a guess has {self.guess:.3g}, {remedy}"
        return f"a guess has {self.guess:.3g}; try a smaller --lr than {s.lr:g}"

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
            "seconds": self.seconds_before + time.monotonic() - self.began,
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
        count = min(len(self.batches), self.position + self.last_step - self.step)
        shown = bar(
            islice(self.batches.epoch(epoch, self.position), count - self.position),
            total=count,
            initial=self.position,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            disable=not progress,
            mininterval=0.5,
        )
        seen = self.seen
        for ids, lengths, targets, rows in shown:
            weights = None if self.row_weights is None else self.row_weights[rows]
            told = self.train_step(ids, lengths, targets, workers, weights)
            seen.add(told, len(rows), int(lengths.sum()))
            self.position += 1
            if seen.waiting >= (1 if self.settings.device == "cpu" else READ_EVERY):
                self.look(seen, epoch)
                said = seen.said()
                shown.set_postfix(
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
        batches = list(self.unread)
        self.unread.clear()
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


def _report(epoch: int, h: dict[str, float]) -> None:
    from tqdm import tqdm

    measured = ""
    if "valid_loss" in h:
        measured = (
            f"early-stopping part: loss {h['valid_loss']:.3f}  accuracy {h['valid_accuracy']:.3f}  "
        )
    tqdm.write(
        f"epoch {epoch + 1:2d}  loss {h['train_loss']:.3f}  accuracy {h['train_accuracy']:.3f}  "
        f"{measured}{h['tokens_per_second']:,.0f} tokens/s",
        file=sys.stderr,
    )
