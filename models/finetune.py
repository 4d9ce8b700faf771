"""Fine-tuning: a pretrained encoder learns a task of its own, all of it or a small part.

=========  ==========================================================================
attention  the projections of every attention (queries, keys, values, output)
all        every weight, the lower layers more carefully
head       nothing but the last layer; what the encoder makes of a text is kept
lora       adapters beside the projections to queries and values (see lora.py)
=========  ==========================================================================

The last layer, which is new, is trained in any case.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import nn, optim
from tinygrad_mha.backend import placed

from . import lora, pretrained
from .checkpoint import Checkpoints
from .dataset import Dataset
from .encoder_classifier import POOLINGS, EncoderClassifier
from .errors import InputError
from .fine_tuned import FineTunedClassifier, arguments, digest
from .parallel import Workers, cores
from .prepared import check_labels
from .ranks import Ranks
from .run import Run, class_weights
from .settings import OPTIMIZERS
from .text import BucketedBatches, LabelSet, contents
from .train import Split, announce
from .trained import TrainedClassifier
from .wordpiece import WordPiece

MODES = ("attention", "all", "head", "lora")
PROJECTIONS = r"\.multihead_attn\.(w_q|w_k|w_v|fc_out)\."

# What suits a mode: chosen by `bench/finetune.py --tuning`, on tweets that the table in the README
# shares no row with.
SUITED: dict[str, dict[str, Any]] = {
    "attention": {"lr": 3e-4, "epochs": 4},
    "all": {"lr": 2e-4, "epochs": 3},
    "head": {"lr": 3e-3, "epochs": 60, "batch_size": 64},
    "lora": {"lr": 1e-3, "epochs": 4},
}


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything a fine-tuning depends on, beside its data."""

    base: str = "minilm"
    tune: str = "attention"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    max_len: int = 128
    pooling: str = "mean"
    dropout: float = 0.1  # before the last layer; the encoder has its own
    epochs: int = 0  # 0: as it suits the mode
    batch_size: int = 0
    accumulate: int = 1  # so many batches make a step
    lr: float = 0.0
    layer_decay: float = 0.9  # each layer learns so much slower than the one above it
    weight_decay: float = 0.01  # of matrices, not of biases and norms
    warmup: float = 0.1  # share of all steps
    clip: float = 1.0
    label_smoothing: float = 0.0
    class_weight: str = "none"  # or "balanced"
    early_stopping: int = 2  # epochs without a better validation loss; 0 never stops
    seed: int = 0
    workers: int = 0  # 0: the cores
    device: str = "cpu"
    optimizer: str = "adamw"
    word_dropout: float = 0.0  # here for Run; a pretrained model has its own unknown word
    memory: int = 0

    def __post_init__(self) -> None:
        if self.tune not in MODES:
            raise InputError(f"tune is {self.tune!r}; choose from {', '.join(MODES)}")
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling is {self.pooling!r}; choose from {', '.join(POOLINGS)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(
                f"unknown optimizer {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}"
            )
        least = {"max_len": 3, "accumulate": 1, "lora_rank": 1}
        for name in ("epochs", "batch_size", "early_stopping", "seed", "workers"):
            least[name] = 0
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        for name in ("dropout", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, it must be in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay is {self.layer_decay}, it must be in (0, 1]")
        for name in ("lr", "weight_decay", "lora_alpha", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}, it must be a positive number")

    def settled(self) -> FinetuneSettings:
        """What was left open, decided for the mode and this machine."""
        suited = {"batch_size": 32, **SUITED[self.tune]}
        decided = {k: getattr(self, k) or v for k, v in suited.items()}
        return replace(self, **decided, workers=self.workers or cores())


def finetune(
    parts: Split,
    settings: FinetuneSettings,
    progress: bool = False,
    source: str = "",
    row_weights: np.ndarray | None = None,
    stop_weights: np.ndarray | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks | None = None,
) -> FineTunedClassifier:
    """Fit a pretrained encoder to ``parts.fit``; the rest as :func:`tinygrad_mha.models.train`.

    Raises
    ------
    InputError
        If the pretrained model is not there or does not fit, or the data does not.
    """
    began = time.perf_counter()
    settings = settings.settled()
    source = source or parts.fit.source
    rows = {k: len(getattr(parts, k)) for k in ("fit", "stop", "test")}
    labels = LabelSet.from_labels(parts.fit.labels, source)
    check_labels(labels, source)
    targets, stop_targets = labels.encode(parts.fit), labels.encode(parts.stop)
    trained = untrained(labels, settings)
    fit_ids, stop_ids = encoded(trained, parts.fit, progress), trained.encode(parts.stop.texts)
    weight = class_weights(targets, len(labels), settings.class_weight)
    if progress:
        announce(rows, source, parts.found)
        counts = [f"{size:,}" for size in sizes(trained.model)]
        print(f"{settings.tune}: trains {counts[0]} of {counts[1]} weights", file=sys.stderr)
    subject: TrainedClassifier = trained
    texts = contents(fit_ids), contents(stop_ids)
    if settings.tune == "head":
        subject, fit_ids, stop_ids = on_kept_features(trained, fit_ids, stop_ids, settings)
    together = settings.batch_size * settings.accumulate
    batches = BucketedBatches(fit_ids, targets, together, seed=settings.seed)
    run = FinetuneRun(subject, settings, batches, weight, row_weights, ranks)
    width = trained.model.encoder.d_model  # type: ignore[attr-defined]
    if settings.tune == "head":
        width = 1  # a step is so short that nobody can help
    if checkpoints is not None:
        base = trained.config["digest"], trained.vocabulary.json  # type: ignore[attr-defined]
        run.watch(checkpoints, stop_ids, stop_targets, base, labels.names, *texts)
    told = run.until_it_gets_worse(stop_ids, stop_targets, stop_weights, width, progress)
    trained.model.eval()
    count, of = sizes(trained.model)
    trained.metrics = {
        "data": source,
        "rows": rows,
        **told,
        "trained_parameters": count,
        "parameters": of,
        "seconds": run.seconds_before + time.perf_counter() - began,
    }
    return trained


def untrained(labels: LabelSet, settings: FinetuneSettings) -> FineTunedClassifier:
    """The pretrained encoder with a new last layer, and what the mode leaves alone frozen."""
    folder = pretrained.find(settings.base)
    encoder = pretrained.load_encoder(folder)
    encoder.pooler = None  # nobody asks it
    if settings.max_len > encoder.max_positions:
        raise InputError(
            f"max_len is {settings.max_len}, but {settings.base} has positions for "
            f"{encoder.max_positions} tokens; choose a smaller --max-len"
        )
    tg.manual_seed(settings.seed)
    adapter: dict[str, Any] = {}
    shape = arguments(encoder)
    if settings.tune == "lora":
        adapter = {"rank": settings.lora_rank, "alpha": settings.lora_alpha}
        lora.adapt(encoder, **adapter)
    model = EncoderClassifier(encoder, len(labels), settings.dropout, settings.pooling)
    freeze(model, settings.tune)
    model.to(settings.device)
    training = asdict(settings)
    config = {k: training.pop(k) for k in ("base", "tune", "max_len", "pooling", "dropout")}
    config |= {"digest": digest(folder), "encoder": shape, "lora": adapter, "training": training}
    tokenizer: Any = WordPiece.from_folder(folder)
    tokenizer.check_ids(len(encoder.word_embeddings.weight))
    return FineTunedClassifier(model, tokenizer, labels.names, config)  # type: ignore[arg-type]


def tokens_of(texts: list[str], settings: FinetuneSettings) -> list[bytes]:
    """What the encoder is given of each text, as something to compare."""
    tokenizer: Any = WordPiece.from_folder(pretrained.find(settings.base))
    return [ids.tobytes() for ids in tokenizer.encode(texts, settings.max_len)]


def freeze(model: EncoderClassifier, tune: str) -> None:
    """Leave ``requires_grad`` to what the mode trains."""
    wanted = {
        "attention": lambda name: re.search(PROJECTIONS, name),
        "all": lambda name: True,
        "head": lambda name: False,
        "lora": lambda name: ".lora_" in name,
    }[tune]
    for name, p in model.named_parameters():
        p.requires_grad = bool(name.startswith("fc.") or wanted(name))


def sizes(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    counts = [(p.size, p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def encoded(trained: FineTunedClassifier, data: Dataset, progress: bool) -> list[np.ndarray]:
    """Ids of all texts, and a notice of those that were too long."""
    tokenizer: Any = trained.vocabulary
    tokenizer.cut = 0
    ids = trained.encode(data.texts)
    if tokenizer.cut and progress:
        print(
            f"{tokenizer.cut} of {len(ids)} texts are longer than {trained.config['max_len']} "
            "tokens and lose their end; --max-len takes more",
            file=sys.stderr,
        )
    return ids


class FinetuneRun(Run):
    """A training run with a rate for each layer, and steps of several batches."""

    def make_optimizer(self) -> optim.Optimizer:
        """Groups by layer; biases and norms do not decay."""
        s, top = self.settings, 1 + self.depth()
        groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                groups.setdefault((self.level(name, top), p.ndim > 1), []).append(p)
        plain = s.optimizer == "sgd"
        return OPTIMIZERS[s.optimizer](
            [
                {
                    "params": params,
                    "lr": s.lr * s.layer_decay ** (top - level),
                    "weight_decay": s.weight_decay if decays else 0.0,
                }
                for (level, decays), params in groups.items()
            ],
            lr=s.lr,
            **({"momentum": 0.9} if plain else {}),
        )

    def depth(self) -> int:
        encoder = getattr(self.model, "encoder", None)
        return 0 if encoder is None else len(encoder.layers)

    @staticmethod
    def level(name: str, top: int) -> int:
        """0 for the embeddings, 1 for the first layer, … ``top`` for what is new."""
        if number := re.match(r"encoder\.layers\.(\d+)\.", name):
            return top if ".lora_" in name else 1 + int(number[1])
        return 0 if name.startswith("encoder.") else top

    def gradients(self, workers: Workers, ids: Any, lengths: Any, targets: Any, scale: Any) -> list:
        """Batch after batch, each padded to its own longest text; the gradients add up."""
        size, said = self.settings.batch_size, []
        sums: list[Any] = []
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            few = lengths[part]
            batch = (
                ids[part, : few.max(initial=1)], few, targets[part],
                scale[part] if isinstance(scale, np.ndarray) else scale, self.step, start,
            )  # fmt: skip
            said += workers.gradients(self.loss_of, len(few), *batch)
            if len(targets) > size:
                found = [p.grad.data for p in self.parameters if p.grad is not None]
                if start:
                    for total, g in zip(sums, found, strict=True):
                        total += g
                else:
                    sums = [g.copy() for g in found]
        if len(targets) > size:
            for total, p in zip(sums, self.parameters, strict=True):
                p.grad = tg.Tensor(total)
        return said


# ------------------------------------------------------------------------------ head: features


class OnFeatures(nn.Module):
    """The last layer alone, on a table of what the frozen encoder made of each text."""

    def __init__(self, model: EncoderClassifier, table: np.ndarray) -> None:
        self.dropout, self.fc = model.dropout, model.fc
        [self.table] = placed(model.fc.weight.data, table)

    def forward(self, rows: np.ndarray, lengths: np.ndarray) -> tg.Tensor:
        """``rows`` (B, 1): the numbers of the texts."""
        return self.fc(self.dropout(tg.Tensor(tg.embedding(rows[:, 0], self.table))))


def on_kept_features(
    trained: FineTunedClassifier,
    fit_ids: list[np.ndarray],
    stop_ids: list[np.ndarray],
    settings: FinetuneSettings,
) -> tuple[TrainedClassifier, list[np.ndarray], list[np.ndarray]]:
    """A classifier whose texts are numbers of rows of a table: the encoder runs once a text.

    It shares its last layer with the one that it is made from.
    """
    model: Any = trained.model
    texts = [*fit_ids, *stop_ids]
    table = features(model, texts, settings)
    rows = [np.array([k], np.int32) for k in range(len(texts))]
    subject = TrainedClassifier(
        OnFeatures(model, table),  # type: ignore[arg-type]
        trained.vocabulary,
        trained.labels,
        trained.config,
    )
    return subject, rows[: len(fit_ids)], rows[len(fit_ids) :]


def features(
    model: EncoderClassifier, texts: list[np.ndarray], settings: FinetuneSettings
) -> np.ndarray:
    """(N, d_model): each text as one vector, in evaluation mode."""

    def job(part: slice, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        with tg.no_grad():
            return model.features(ids[part], lengths[part]).numpy()

    model.eval()
    table = np.zeros((len(texts), model.encoder.d_model), model.fc.weight.dtype)
    count = settings.workers if settings.device == "cpu" else 1
    with Workers(count, (job,), [model.fc.weight]) as workers:
        for ids, lengths, _, rows in BucketedBatches(texts, None, 128, shuffle=False).epoch():
            table[rows] = np.concatenate(workers.run(job, len(rows), ids, lengths))
    return table
