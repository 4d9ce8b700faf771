"""Draw which letters of a name speak for its language: gradient × input, letter by letter.

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

NAMES = ["Kowalczyk", "Hämäläinen", "Ó Súilleabháin", "Lindqvist", "Kovačević", "Bernasconi",
         "Vandenberg", "Məmmədov"]  # fmt: skip


def letter_scores(trained: TrainedClassifier, name: str) -> tuple[str, float, np.ndarray]:
    """The answer, its probability, and each letter's share in its score.

    The score of the answer changes by <gradient, d> when the letter's vector moves by d; for
    d = the vector itself that is gradient × input.
    """
    [ids] = trained.encode([name])
    model = trained.model.eval()
    vectors = []

    def remembered(ids):  # the embedding, whose result we want the gradient of
        vectors.append(tg.Tensor(model_embedding(ids).data, requires_grad=True))
        return vectors[0]

    model_embedding, model.embedding = model.embedding, remembered
    try:
        logits = model(ids[None], [len(ids)])
    finally:
        model.embedding = model_embedding
    best = int(logits.numpy().argmax())
    [gradient] = tg.grad(logits[0, best], vectors)
    share = (gradient.numpy() * vectors[0].numpy()).sum(axis=-1)[0]
    return trained.labels[best], float(tg.softmax(logits).numpy()[0, best]), share


def main(folder: str) -> None:
    trained = TrainedClassifier.load(folder)
    fig, ax = plt.subplots(figsize=(8.2, 0.52 * len(NAMES) + 0.75))
    colours = plt.get_cmap("PuOr_r")
    for row, name in enumerate(NAMES):
        label, p, share = letter_scores(trained, name)
        top = np.abs(share).max()
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
