"""A checkpoint, which ``--resume`` reads into a run that has just begun."""

from dataclasses import asdict
from pathlib import Path

import tinygrad_mha as tg
from tinygrad_mha.models import checkpoint, resume, train
from tinygrad_mha.models.dataset import Dataset

from .verdict import Target

SETTINGS = {"d_model": 4, "h": 2, "batch_size": 4, "workers": 1, "epochs": 2, "min_count": 1}


class Begun(Exception):
    """A run has begun, and is wanted for something else."""


class Watching(checkpoint.Checkpoints):
    def begin(self, run: checkpoint.Resumable, data: str) -> None:
        self.run, self.data = run, data
        raise Begun


def target(place: Path) -> Target:
    folder = place / "checkpoint"
    settings = train.Settings(**SETTINGS)
    options = {"command": "train", "settings": asdict(settings)}
    first = Watching(folder, options=options)
    texts = [f"{word} {k}" for k in range(12) for word in ("good", "bad")]
    data = Dataset(texts, [text.split()[0] for text in texts], [*range(24)], "d.csv")
    tg.manual_seed(0)
    try:
        train.train(train.split(data), settings, checkpoints=first)
    except Begun:
        assert first.write(first.run)
    path = folder / checkpoint.NAME

    def run(data: bytes) -> None:
        path.write_bytes(data)
        saved = checkpoint.read(folder)
        resume.settings_of(saved, train.Settings)
        checkpoint.Checkpoints(folder, saved=saved).begin(first.run, first.data)

    return Target("checkpoint", "safetensors", run, [path.read_bytes()])
