"""Small model folders of every kind, good ones."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.models import fine_tuned as tuned
from tinygrad_mha.models import lora
from tinygrad_mha.models import pretrained as published
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.text import Vocabulary
from tinygrad_mha.models.trained import TrainedClassifier, build_model
from tinygrad_mha.models.transformer import TransformerEncoder
from tinygrad_mha.models.wordpiece import WordPiece

TOKENIZERS = importlib.util.find_spec("tokenizers") is not None  # extra: hub
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", "word", "a", "_", "b", "é"]
SIZES = {"d_model": 4, "h": 2, "num_layers": 1, "d_ff": 12, "max_positions": 16}


def trained(folder: Path) -> Path:
    """As ``train`` writes it."""
    tg.manual_seed(0)
    config = {"d_model": 4, "h": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.1}
    config |= {"pooling": "mean", "level": "word", "max_len": 9, "training": {"lr": 0.001}}
    vocabulary = Vocabulary(["hello", "world", "word", "é"])
    model = build_model(config, len(vocabulary), 2)
    metrics = {"accuracy": 0.5, "history": [{"loss": 1.0}]}
    TrainedClassifier(model, vocabulary, ["bad", "good"], config, metrics).save(folder)
    return folder


def pretrained(folder: Path) -> Path:
    """As transformers writes it, with both kinds of tokenizer files."""
    tg.manual_seed(0)
    TransformerEncoder(len(PIECES), **SIZES).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    if TOKENIZERS:
        tokenizer = WordPiece.from_folder(folder)
        (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    return folder


def fine_tuned(folder: Path) -> Path:
    """As ``finetune`` writes it: the whole encoder."""
    classifier(base_of(folder), adapter=False).save(folder)
    return folder


def adapted(folder: Path) -> Path:
    """As ``finetune --tune lora`` writes it: an adapter, and where its base is."""
    classifier(base_of(folder), adapter=True).save(folder)
    return folder


def base_of(folder: Path) -> Path:
    return pretrained(folder.with_name(f"{folder.name}-base"))


def classifier(base: Path, adapter: bool) -> tuned.FineTunedClassifier:
    encoder = published.load_encoder(base)
    config = {
        "base": str(base), "digest": tuned.digest(base), "encoder": tuned.arguments(encoder),
        "tune": "lora" if adapter else "all", "max_len": 12, "pooling": "mean", "dropout": 0.1,
        "lora": {"rank": 2, "alpha": 4.0} if adapter else {}, "training": {},
    }  # fmt: skip
    if adapter:
        lora.adapt(encoder, 2, 4.0)
    model = EncoderClassifier(encoder, 2).astype(np.float32)
    tokenizer = WordPiece.from_folder(base)
    return tuned.FineTunedClassifier(model, tokenizer, ["bad", "good"], config, {"accuracy": 1.0})


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))
