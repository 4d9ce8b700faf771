"""What a training run depends on, beside its data."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from tinygrad_mha import optim

from .errors import InputError
from .parallel import cores
from .trained import LIMIT


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
