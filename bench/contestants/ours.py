"""tinygrad_mha: ``python bench/contestants/ours.py small train 2``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, HEADS, RATE, SIZES, measure

import tinygrad_mha as tg
from tinygrad_mha.models import TextClassifier
from tinygrad_mha.models.parallel import Workers, shards_for
from tinygrad_mha.random import mask_stream


def main(name: str, what: str, threads: str) -> None:
    size = SIZES[name]
    tg.manual_seed(0)
    model = TextClassifier(size.vocabulary, size.d_model, CLASSES, h=HEADS, dropout=DROPOUT)
    parameters = model.parameters()
    adam = tg.optim.Adam(parameters, lr=RATE)
    count = 0

    def loss_of(rows, ids, targets, step):
        with mask_stream(0, step, rows.start):
            logits = model(ids[rows])
            loss = tg.cross_entropy(logits, targets[rows], reduction="sum")
        loss = loss * (1 / len(ids))
        return loss, loss.item()

    def score(rows, ids, targets):
        with tg.no_grad():
            logits = model(ids[rows])
            return tg.cross_entropy(logits, targets[rows], reduction="sum").item()

    if what == "infer":
        model.eval()
    cut = shards_for(size.batch, size.d_model, int(threads))
    with Workers(int(threads), (loss_of, score), parameters, shards=cut) as workers:

        def train(ids, targets):
            nonlocal count
            count += 1
            said = workers.gradients(loss_of, len(ids), ids, targets, count)
            adam.step(workers)
            return sum(said)

        def infer(ids, targets):
            return sum(workers.run(score, len(ids), ids, targets))

        measure({"train": train, "infer": infer}[what], name)


main(*sys.argv[1:])
