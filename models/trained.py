"""A trained classifier: the model with everything that is needed to answer for a text.

On disk it is one folder: ``model.safetensors`` (weights), ``config.json``, ``vocab.json`` and
``metrics.json``. Nothing in it is code, and loading it runs none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mha as tg

from .errors import InputError
from .text import BucketedBatches, Vocabulary, tokenize
from .text_classifier import POOLINGS, TextClassifier

FORMAT = "tinygrad_mha text classifier"
VERSION = 1
FILES = ("model.safetensors", "config.json", "vocab.json", "metrics.json")
SHAPE = {  # the part of config.json that rebuilds the model: key -> accepted type
    "d_model": int,
    "h": int,
    "num_layers": int,
    "bidirectional": bool,
    "dropout": float,
    "pooling": str,
}
TEXT = {"level": str, "max_len": int}


@dataclass
class TrainedClassifier:
    """A :class:`TextClassifier` with its vocabulary, its labels and its settings.

    Attributes
    ----------
    model : TextClassifier
    vocabulary : Vocabulary
    labels : list of str
        The class names in the order of the model's scores.
    config : dict
        What ``config.json`` holds beside the labels: the model's shape, how texts are cut into
        tokens, and the settings of the training.
    metrics : dict
        What was measured after training.
    """

    model: TextClassifier
    vocabulary: Vocabulary
    labels: list[str]
    config: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, cut at ``max_len``."""
        level, most = self.config["level"], self.config["max_len"]
        return [self.vocabulary.encode(tokenize(text, level), most) for text in texts]

    def logits(self, encoded: Sequence[np.ndarray], batch_size: int = 128) -> np.ndarray:
        """Scores (N, classes) for token ids, in evaluation mode, in the order given."""
        self.model.eval()
        answer = np.zeros((len(encoded), len(self.labels)), np.float32)
        batches = BucketedBatches(list(encoded), None, batch_size, shuffle=False)
        with tg.no_grad():
            for ids, lengths, _, rows in batches.epoch(0):
                answer[rows] = self.model(ids, lengths).numpy()
        return answer

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities (N, classes), float32, each row summing to one."""
        return tg.softmax(self.logits(self.encode(texts)))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        return [self.labels[k] for k in self.logits(self.encode(texts)).argmax(axis=1)]

    # -------------------------------------------------------------------------------- on disk

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder whole or not at all: it is made beside its place, then moved there."""
        from safetensors.numpy import save_file

        target = Path(folder)
        check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            weights = {k: np.ascontiguousarray(v) for k, v in self.model.state_dict().items()}
            save_file(weights, new / "model.safetensors", metadata={"format": FORMAT})
            config = {"format": FORMAT, "version": VERSION, "labels": self.labels, **self.config}
            _write(new / "config.json", config)
            _write(new / "vocab.json", self.vocabulary.to_json())
            _write(new / "metrics.json", self.metrics)
            new.chmod(0o755)  # mkdtemp made it private
            old = None
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
                target.rename(old / "model")
            new.rename(target)
            if old is not None:
                shutil.rmtree(old)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | None = None) -> TrainedClassifier:
        """Read a folder that :meth:`save` wrote; InputError for any other."""
        place = Path(folder)
        if not place.is_dir():
            raise InputError(
                "no such model folder; train one: tinygrad-mha train", source=str(place)
            )
        config = _config(place / "config.json")
        vocabulary = Vocabulary.from_json(_read(place / "vocab.json"), str(place / "vocab.json"))
        labels = config.pop("labels")
        model = build_model(config, len(vocabulary), len(labels), str(place / "config.json"))
        weights = place / "model.safetensors"
        try:
            model.load_state_dict(_weights(weights))
        except (ValueError, KeyError) as e:
            raise InputError(
                f"the weights do not fit config.json ({e}); the folder is damaged: train again",
                source=str(weights),
            ) from None
        if device is not None:
            model.to(device)
        metrics = _read(place / "metrics.json")
        model.eval()
        return cls(model, vocabulary, labels, config, metrics if metrics else {})


def build_model(config: dict, vocab_size: int, classes: int, source: str = "") -> TextClassifier:
    """The untrained model that a configuration describes."""
    try:
        return TextClassifier(vocab_size, num_classes=classes, **{k: config[k] for k in SHAPE})
    except ValueError as e:
        raise InputError(str(e), source=source or None) from None


def check_replaceable(folder: Path) -> None:
    """Refuse to overwrite anything that is not a model folder of ours."""
    if folder.is_dir():
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in FILES)
        if not strangers:
            return
        what = f"holds {strangers[0]!r}, so it is no model folder"
    elif folder.exists() or folder.is_symlink():
        what = "exists and is no folder"
    else:
        return
    raise InputError(f"it {what}; choose another place with --out", source=str(folder))


def _write(path: Path, data: Any) -> None:
    # ASCII, so that a lone surrogate in a token survives; sorted, so that runs can be compared
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="ascii")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(
            f"cannot be read ({(e.strerror or str(e)).lower()}); this is no complete model folder: "
            "train again",
            source=str(path),
        ) from None
    except (ValueError, RecursionError):
        raise InputError(
            "is not valid JSON; the file is damaged: train again", source=str(path)
        ) from None


def _config(path: Path) -> dict[str, Any]:
    """A configuration, every value checked before anything is built from it."""
    config = _read(path)

    def refuse(problem: str) -> InputError:
        return InputError(problem, source=str(path))

    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise refuse("this is no model of tinygrad_mha; give a folder that `train` wrote")
    if config.get("version") != VERSION:
        raise refuse(
            f"format version {config.get('version')!r}, but this program reads version {VERSION}; "
            "install the version of tinygrad_mha that wrote it, or train again"
        )
    known = {"format", "version", "labels", "training", *SHAPE, *TEXT}
    for key in sorted(config.keys() - known):
        raise refuse(f"unknown key {key!r}; remove it, or train again")
    for key, kind in {**SHAPE, **TEXT, "labels": list, "training": dict}.items():
        if key not in config:
            raise refuse(f"the key {key!r} is missing; the file is damaged: train again")
        given = config[key]
        fits = isinstance(given, kind) or (kind is float and type(given) is int)
        if not fits or (kind is int and (type(given) is bool or not 0 < given <= 10**6)):
            raise refuse(f"{key!r} is {given!r}, which is no proper {kind.__name__}; train again")
    labels = config["labels"]
    if len(labels) < 2 or len(set(map(str, labels))) < len(labels):
        raise refuse("'labels' should be two or more different names; train again")
    if not all(isinstance(name, str) for name in labels):
        raise refuse("'labels' should be strings; train again")
    if config["level"] not in ("word", "char") or config["pooling"] not in POOLINGS:
        raise refuse("'level' or 'pooling' has a value this program does not know; train again")
    if not 0 <= config["dropout"] <= 1:
        raise refuse("'dropout' is not between 0 and 1; train again")
    return {k: v for k, v in config.items() if k not in ("format", "version")}


def _weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        problem = "is missing; this is no complete model folder: train again"
    except OSError as e:
        problem = f"cannot be read ({(e.strerror or str(e)).lower()})"
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        problem = f"is no valid safetensors file ({e}); the file is damaged: train again"
    raise InputError(problem, source=str(path))
