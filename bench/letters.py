"""Draw which letters of a name speak for its language: integrated gradients, letter by letter.

    tinygrad-mha train && python bench/letters.py model

Needs matplotlib (the `bench` extra). Writes bench/pictures/letters.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "letters"  # the same drawing, the same file
from matplotlib import pyplot as plt  # noqa: E402

import tinygrad_mha as tg  # noqa: E402
from tinygrad_mha.models import TrainedClassifier  # noqa: E402

NAMES = ["Mkhwanazi", "Hämäläinen", "Ó Súilleabháin", "Lindqvist", "Kovačević", "Bernasconi",
         "Vandenberg", "Məmmədov"]  # fmt: skip
STEPS = 64


def letter_scores(trained: TrainedClassifier, name: str) -> tuple[str, float, np.ndarray]:
    """The answer, its probability, and each letter's share in its log-probability.

    Integrated gradients (Sundararajan, Taly, Yan, Axiomatic Attribution for Deep Networks, §3): on
    the straight way from a name of unknown letters to the name itself, the gradients are averaged
    and multiplied with the way. The shares add up to what the letters did for the answer. The
    points of the way are simply the rows of one batch.
    """
    [ids] = trained.encode([name])
    model, table = trained.model.eval(), trained.model.embedding
    start, end = table(np.ones_like(ids)).data, table(ids).data  # (T, d); 1 is the unknown letter
    way = (np.arange(STEPS, dtype=start.dtype) + 0.5)[:, None, None] / STEPS  # (STEPS, 1, 1)
    points = tg.Tensor(start + way * (end - start), requires_grad=True)  # (STEPS, T, d)
    best = int(model(ids[None], [len(ids)]).numpy().argmax())
    model.embedding = lambda _: points
    try:
        scores = tg.log_softmax(model(np.tile(ids, (STEPS, 1)), [len(ids)] * STEPS))
    finally:
        model.embedding = table
    [gradient] = tg.grad(scores[:, best].sum(), [points])
    share = (gradient.numpy().mean(axis=0) * (end - start)).sum(axis=-1)
    p = float(tg.softmax(model(ids[None], [len(ids)])).numpy()[0, best])
    return trained.labels[best], p, share


def main(folder: str) -> None:
    trained = TrainedClassifier.load(folder)
    fig, ax = plt.subplots(figsize=(8.2, 0.52 * len(NAMES) + 0.75))
    colours = plt.get_cmap("PuOr_r")
    for row, name in enumerate(NAMES):
        label, p, share = letter_scores(trained, name)
        top = max(np.abs(share).max(), 1e-9)
        for k, (letter, s) in enumerate(zip(name, share, strict=True)):
            shade = colours(0.5 + 0.42 * s / top)
            ax.add_patch(plt.Rectangle((k, row + 0.08), 0.94, 0.84, color=shade, lw=0))
            dark = np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.5
            ax.text(k + 0.47, row + 0.5, letter, ha="center", va="center", fontsize=13,
                    color="white" if dark else "black", family="DejaVu Sans Mono")  # fmt: skip
        ax.text(15.0, row + 0.5, label, va="center", fontsize=12, weight="bold")
        ax.add_patch(plt.Rectangle((17.2, row + 0.3), 4 * p, 0.4, color="#555555", lw=0))
        ax.text(17.4 + 4 * p, row + 0.5, f"{p:.0%}", va="center", fontsize=10, color="#333333")
    ax.set_xlim(-0.1, 23)
    ax.set_ylim(len(NAMES) + 0.1, -0.7)
    ax.axis("off")
    for x, text in ((0, "letters: orange for the answer, violet against it"), (15, "answer"),
                    (17.2, "probability")):  # fmt: skip
        ax.text(x, -0.35, text, fontsize=9, color="#555555")
    fig.patch.set_facecolor("white")
    place = Path(__file__).parent / "pictures"
    place.mkdir(exist_ok=True)
    fig.savefig(place / "letters.svg", bbox_inches="tight", metadata={"Date": None})
    fig.savefig("letters.png", dpi=110, bbox_inches="tight") if "--png" in sys.argv else None


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model")
