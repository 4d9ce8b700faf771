"""A fine-tuned encoder with everything that is needed to answer for a text.

On disk it is a folder as that of any trained model, with the tokenizer's ``tokenizer.json`` in the
place of ``vocab.json``. If only an adapter was trained (``--tune lora``), the weights are
``adapter.safetensors``, a thousandth of the size: loading finds the pretrained model again by its
name, and knows by its digest whether it is the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mha import nn

from . import lora, pretrained
from .encoder_classifier import POOLINGS, EncoderClassifier
from .errors import InputError, quoted
from .files import PRETRAINED, TRAINED, read_object, size_of
from .trained import (
    FINE_TUNED,
    VERSION,
    TrainedClassifier,
    _on_one_line,
    _weights,
    as_json,
    check_keys,
)
from .transformer import ACTIVATIONS, TransformerEncoder
from .wordpiece import WordPiece

ADAPTER = "adapter.safetensors"
KEYS: dict[str, type] = {
    "base": str,
    "digest": str,
    "encoder": dict,
    "tune": str,
    "max_len": int,
    "pooling": str,
    "dropout": float,
    "lora": dict,  # {}, or {"rank": …, "alpha": …}
}
SIZES = ("vocab_size", "d_model", "h", "num_layers", "d_ff", "max_positions", "token_types")


@dataclass
class FineTunedClassifier(TrainedClassifier):
    """An :class:`EncoderClassifier` with its tokenizer, its labels and its settings.

    Used as a :class:`TrainedClassifier`; ``vocabulary`` is the tokenizer.
    """

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, cut at ``max_len``."""
        return self.vocabulary.encode(texts, self.config["max_len"])  # type: ignore[return-value]

    def contents(self) -> dict[str, bytes]:
        """The files of the folder."""
        from safetensors.numpy import save

        weights = self.model.state_dict()
        name = "model.safetensors"
        if self.config["lora"]:
            name = ADAPTER
            weights = {k: a for k, a in weights.items() if ".lora_" in k or k.startswith("fc.")}
        config = {"format": FINE_TUNED, "version": VERSION, "labels": self.labels, **self.config}
        return {
            name: save(weights, metadata={"format": FINE_TUNED}),
            "config.json": as_json(config),
            "tokenizer.json": self.vocabulary.json.encode(),  # type: ignore[attr-defined]
            "metrics.json": as_json(self.metrics),
        }

    def merged(self) -> FineTunedClassifier:
        """The same classifier with its adapter in the weights: it needs no pretrained model."""
        model: Any = self.model
        lora.merge(model.encoder)
        config = {**self.config, "lora": {}}
        return FineTunedClassifier(model, self.vocabulary, self.labels, config, self.metrics)


def digest(folder: Path) -> str:
    """What tells one pretrained model's weights from another's."""
    size_of(folder / pretrained.WEIGHTS, PRETRAINED)  # it is there, and is no pipe
    sha = hashlib.sha256()
    with open(folder / pretrained.WEIGHTS, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def arguments(encoder: TransformerEncoder) -> dict[str, Any]:
    """What ``TransformerEncoder(**arguments(encoder))`` makes one of the same shape from."""
    config = pretrained.config_of(encoder)
    sizes = {ours: config[key] for ours, (key, _) in pretrained.SIZES.items()}
    shares = {ours: config[key] for ours, key in pretrained.SHARES.items()}
    activation = encoder.layers[0].activation
    return {**sizes, **shares, "eps": encoder.layer_norm.eps, "activation": activation}


# ------------------------------------------------------------------------------------ loading


def load(folder: Path, config: dict[str, Any], device: str | None) -> FineTunedClassifier:
    """Read a folder that :meth:`FineTunedClassifier.save` wrote; InputError for any other."""
    path = folder / "config.json"
    check(config, str(path))
    config = {k: v for k, v in config.items() if k not in ("format", "version")}
    labels = config.pop("labels")
    tokenizer = WordPiece.from_folder(folder, TRAINED)
    metrics = read_object(folder / "metrics.json", TRAINED)
    name = ADAPTER if config["lora"] else "model.safetensors"
    encoder = adapted_base(config, path) if config["lora"] else undrawn(config, folder)
    tokenizer.check_ids(len(encoder.word_embeddings.weight))
    with nn.undrawn():
        model = EncoderClassifier(encoder, len(labels), config["dropout"], config["pooling"])
    try:
        missing, extra = model.load_state_dict(_weights(folder / name), strict=False)
    except ValueError as e:
        raise does_not_fit(folder / name, _on_one_line(e)) from None
    if config["lora"]:
        missing = [k for k in missing if ".lora_" in k or k.startswith("fc.")]
    if missing or extra:
        what = f"missing: {pretrained.some(missing)}" if missing else pretrained.some(extra)
        raise does_not_fit(folder / name, what)
    if device is not None:
        model.to(device)
    model.eval()
    return FineTunedClassifier(model, tokenizer, labels, config, metrics)  # type: ignore[arg-type]


def does_not_fit(path: Path, problem: str) -> InputError:
    return InputError(
        f"the weights do not fit config.json ({problem}); the folder is damaged: train again",
        source=str(path),
    )


def undrawn(config: dict[str, Any], folder: Path) -> TransformerEncoder:
    """An encoder of the shape that a configuration describes."""
    sizes = config["encoder"]
    path = folder / "config.json"
    try:
        return pretrained.undrawn_encoder(sizes, path)
    except (ValueError, TypeError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{_on_one_line(e)}; the file is damaged", source=str(path)) from None


def adapted_base(config: dict[str, Any], path: Path) -> TransformerEncoder:
    """The pretrained encoder that an adapter was trained on, with room for the adapter."""
    base = pretrained.find(config["base"])
    found = digest(base)
    if found != config["digest"]:
        raise InputError(
            f"this adapter was trained on another model than {quoted(config['base'])}, as it is "
            "now; give back that model, or train again",
            source=str(path),
        )
    encoder = pretrained.load_encoder(base)
    encoder.pooler = None
    with nn.undrawn():
        lora.adapt(encoder, config["lora"]["rank"], config["lora"]["alpha"])
    return encoder


def check(config: dict[str, Any], source: str) -> None:
    """Every value, before anything is built from it."""

    def refuse(key: str, given: Any) -> InputError:
        return InputError(
            f"{key!r} is {quoted(given)}, which does not fit; train again", source=source
        )

    check_keys(config, KEYS, source)
    if config["pooling"] not in POOLINGS:
        raise refuse("pooling", config["pooling"])
    if not 0 <= config["dropout"] <= 1:
        raise refuse("dropout", config["dropout"])
    encoder = config["encoder"]
    known = {*SIZES, "dropout", "attention_dropout", "eps", "activation"}
    if encoder.keys() != known:
        raise refuse("encoder", sorted(encoder.keys() ^ known))
    for key in SIZES:
        n = encoder[key]
        if type(n) is not int or not (key != "token_types") <= n <= pretrained.LARGEST:
            raise refuse(key, n)
    for key in ("dropout", "attention_dropout", "eps"):
        if type(encoder[key]) not in (int, float) or not 0 <= encoder[key] <= 1:
            raise refuse(key, encoder[key])
    if encoder["activation"] not in [*ACTIVATIONS]:  # a list: it may be something unhashable
        raise refuse("activation", encoder["activation"])
    if config["max_len"] > encoder["max_positions"]:
        raise refuse("max_len", config["max_len"])
    if adapter := config["lora"]:
        rank, alpha = adapter.get("rank"), adapter.get("alpha")
        if adapter.keys() != {"rank", "alpha"} or type(rank) is not int or not 0 < rank <= 10**4:
            raise refuse("lora", adapter)
        if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
            raise refuse("lora", adapter)
