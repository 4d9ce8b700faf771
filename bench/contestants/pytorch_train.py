"""``tinygrad-mha train`` in PyTorch: ``python bench/contestants/pytorch_train.py names FOLDER 2``.

Data, splits, vocabulary, batches and settings are ours, imported from there; the model, the
optimizer, its schedule, clipping, early stopping and the loop are PyTorch's. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_classifier import TextClassifier
from torch.nn import functional as F

from tinygrad_mha.models.datasets import default_level
from tinygrad_mha.models.metrics import confusion_matrix, scores
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.text import BucketedBatches, LabelSet, Vocabulary, tokenize
from tinygrad_mha.models.train import Settings, split

SHAPE = ("d_model", "h", "num_layers", "bidirectional", "dropout", "pooling")


def logits_of(model: TextClassifier, encoded: list[np.ndarray], classes: int) -> torch.Tensor:
    model.eval()
    answer = torch.zeros(len(encoded), classes, dtype=torch.float64)
    with torch.inference_mode():
        for ids, lengths, _, rows in BucketedBatches(encoded, None, 128, shuffle=False).epoch():
            answer[torch.from_numpy(rows)] = model(
                torch.from_numpy(ids), torch.from_numpy(lengths)
            ).double()
    return answer


def fit(
    model: TextClassifier,
    s: Settings,
    batches: BucketedBatches,
    stop: tuple[list[np.ndarray], torch.Tensor],
    classes: int,
) -> int:
    """Train until the validation loss has stopped to fall; the number of epochs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    total = len(batches) * s.epochs
    warmup = int(s.warmup * total)

    def share(step: int) -> float:
        if step < warmup:
            return (1 + (warmup - 1) * step / warmup) / warmup
        return (1 + math.cos(math.pi * min(1, (step - warmup) / (total - warmup)))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    best: dict[str, Any] = {}
    best_loss, waited, step = math.inf, 0, 0
    for epoch in range(s.epochs):
        model.train()
        for ids, lengths, targets, _ in batches.epoch(epoch):
            rng = np.random.default_rng((s.seed, 1, step))
            hidden = (rng.random(ids.shape) < s.word_dropout) & (ids != Vocabulary.PAD)
            ids = np.where(hidden, Vocabulary.UNKNOWN, ids)
            logits = model(torch.from_numpy(ids), torch.from_numpy(lengths))
            loss = F.cross_entropy(
                logits, torch.from_numpy(targets), label_smoothing=s.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
            optimizer.step()
            schedule.step()
            step += 1
        valid = F.cross_entropy(logits_of(model, stop[0], classes), stop[1]).item()
        print(f"epoch {epoch + 1} validation loss {valid:.3f}", file=sys.stderr, flush=True)
        if valid < best_loss:
            best = {k: v.clone() for k, v in model.state_dict().items()}
            best_loss, waited = valid, 0
        else:
            waited += 1
            if waited == s.early_stopping:
                break
    model.load_state_dict(best)
    return epoch + 1


def main(name: str, folder: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    parts = split(read_dataset(name))
    s = Settings.for_level(default_level(name)).settled(len(parts.fit))
    labels = LabelSet.from_labels(parts.fit.labels)
    tokens = [tokenize(text, s.level) for text in parts.fit.texts]
    vocabulary = Vocabulary.build(tokens, s.min_count)

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [vocabulary.encode(tokenize(text, s.level), s.max_len) for text in texts]

    torch.manual_seed(s.seed)
    shape = {key: getattr(s, key) for key in SHAPE}
    model = TextClassifier(len(vocabulary), len(labels), **shape)
    encoded = [vocabulary.encode(t, s.max_len) for t in tokens]
    batches = BucketedBatches(encoded, labels.encode(parts.fit), s.batch_size, seed=s.seed)
    stop = encode(parts.stop.texts), torch.from_numpy(labels.encode(parts.stop))
    epochs = fit(model, s, batches, stop, len(labels))

    predicted = logits_of(model, encode(parts.test.texts), len(labels)).argmax(1).numpy()
    result = scores(confusion_matrix(labels.encode(parts.test), predicted, len(labels)))
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), place / "model.pt")
    (place / "vocab.json").write_text(json.dumps(vocabulary.tokens))
    (place / "config.json").write_text(json.dumps({"labels": labels.names, "shape": shape}))
    print(json.dumps({k: result[k] for k in ("accuracy", "macro_f1")} | {"epochs": epochs}))


main(*sys.argv[1:])
