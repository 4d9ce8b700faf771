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

    cut = shards_for(size.batch, size.d_model, int(threads))
    with Workers(int(threads), cut) as workers:

        def train(ids, targets):
            nonlocal count
            count += 1

            def loss_of(rows):
                with mask_stream(0, count, rows.start):
                    logits = model(ids[rows])
                    loss = tg.cross_entropy(logits, targets[rows], reduction="sum")
                loss = loss * (1 / len(ids))
                return loss, loss.item()

            said = workers.gradients(loss_of, parameters, len(ids))
            adam.step(workers)
            return sum(said)

        def infer(ids, targets):
            def loss_of(rows):
                with tg.no_grad():
                    logits = model(ids[rows])
                    return tg.cross_entropy(logits, targets[rows], reduction="sum").item()

            return sum(workers.map(loss_of, workers.cut(len(ids))))

        if what == "infer":
            model.eval()
        measure({"train": train, "infer": infer}[what], name)


main(*sys.argv[1:])
