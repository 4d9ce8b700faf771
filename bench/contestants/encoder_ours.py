"""A fine-tuning step by tinygrad_mha: ``python bench/contestants/encoder_ours.py train 2``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from work import CLASSES, DROPOUT, ENCODER, RATE, measure

import tinygrad_mha as tg
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.transformer import TransformerEncoder
from tinygrad_mha.random import mask_stream


def main(what: str, threads: str) -> None:
    tg.manual_seed(0)
    encoder = TransformerEncoder(ENCODER.vocabulary, ENCODER.d_model, 12, 6, dropout=DROPOUT)
    model = EncoderClassifier(encoder, CLASSES, DROPOUT)
    parameters = model.parameters()
    adam = tg.optim.AdamW(parameters, lr=RATE)
    count = 0

    def loss_of(rows, ids, targets, step):
        lengths = np.full(len(ids[rows]), ids.shape[1])
        with mask_stream(0, step, rows.start):
            logits = model(ids[rows], lengths)
            loss = tg.cross_entropy(logits, targets[rows], reduction="sum")
        loss = loss * (1 / len(ids))
        return loss, loss.item()

    def score(rows, ids, targets):
        with tg.no_grad():
            logits = model(ids[rows], np.full(len(ids[rows]), ids.shape[1]))
            return tg.cross_entropy(logits, targets[rows], reduction="sum").item()

    if what == "infer":
        model.eval()

    def train(ids, targets):
        nonlocal count
        count += 1
        said = workers.gradients(loss_of, len(ids), ids, targets, count)
        adam.step(workers)
        return sum(said)

    def infer(ids, targets):
        return sum(workers.run(score, len(ids), ids, targets))

    step = {"train": train, "infer": infer}[what]
    with Workers(int(threads), (loss_of, score), parameters, shards=int(threads)) as workers:
        measure(step, "encoder")


main(*sys.argv[1:])
