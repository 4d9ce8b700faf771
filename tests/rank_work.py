"""What the processes of test_ranks.py do: ``mpiexec -n 2 python rank_work.py HOW FOLDER``.

Each rank trains a small float64 model on its share of the batches and writes what came out to
FOLDER; the test does the same alone, with :func:`trained`, and compares.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "cuda"))
import strict_cupy

import tinygrad_mha as tg
from tinygrad_mha.models import data_parallel
from tinygrad_mha.models.buckets import Buckets
from tinygrad_mha.models.launch import launch
from tinygrad_mha.models.ranks import group
from tinygrad_mha.models.text import BucketedBatches, Vocabulary
from tinygrad_mha.models.train import Run, Settings
from tinygrad_mha.models.trained import TrainedClassifier, build_model

ROWS, BATCH = 27, 12  # batches of 12, 12 and 3 rows: of four ranks one has no row of the last
BUCKET = 1024  # bytes: a tiny model has several buckets then


def trained(ranks, before_step=lambda run: None, weighted=False, device="cpu"):
    """Two epochs of a bidirectional LSTM with attention and dropout; the run and what it told."""
    s = Settings(
        d_model=16, h=2, num_layers=2, dropout=0.3, word_dropout=0.2, batch_size=BATCH, epochs=2,
        lr=0.01, clip=0.5, warmup=0.0, workers=1, early_stopping=0,
        class_weight="balanced" if weighted else "none", device=device,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    texts = [rng.integers(2, 40, n).astype(np.int32) for n in rng.integers(1, 9, ROWS + 5)]
    targets = rng.integers(0, 3, len(texts))
    config = {k: getattr(s, k) for k in ("d_model", "h", "num_layers", "bidirectional", "dropout")}
    tg.manual_seed(0)
    tg.set_default_dtype(np.float64)
    try:
        model = build_model({**config, "pooling": "mean"}, 40, 3)
    finally:
        tg.set_default_dtype(np.float32)
    model.to(device)
    labels = ["a", "b", "c"]
    whole = TrainedClassifier(model, Vocabulary(list(map(str, range(38)))), labels, {})
    batches = BucketedBatches(texts[:ROWS], targets[:ROWS], BATCH, seed=3)
    weight = np.array([1.0, 2.0, 0.5], np.float32) if weighted else None
    row_weights = np.linspace(0, 2, ROWS) if weighted else None
    run = Run(whole, s, batches, weight, row_weights, ranks)
    step = run.train_step

    def watched(*batch):
        before_step(run)
        return step(*batch)

    run.train_step = watched
    told = run.until_it_gets_worse(texts[ROWS:], targets[ROWS:], None, 8, progress=False)
    return run, told


def by_ranks(how, folder):
    """One rank's part; what it knows in the end goes to a file of its own."""
    ranks, made = group(), []

    def small(*arguments):
        made.append(Buckets(*arguments, size=BUCKET))
        return made[0]

    data_parallel.Buckets = small

    def before_step(run):
        if ranks.rank == 1 and run.step == 3:
            if how == "raise":
                raise RuntimeError("no more patience")
            if how == "bug":
                raise KeyError("a bug")
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "drift":
                run.parameters[0].data[0] += 1e-9

    device = "cuda:0" if how == "gpu" else "cpu"
    run, told = trained(ranks, before_step, how == "weighted", device)
    [buckets] = made
    said = {
        "history": told["history"],
        "early": buckets.early,
        "buckets": len(buckets.cuts),
        "exchanged": ranks.exchanged,
        "gathered": ranks.gathered({"rank": ranks.rank, "word": "é" * ranks.rank}),
    }
    weights = {str(k): p.numpy() for k, p in enumerate(run.parameters)}
    np.savez(Path(folder) / f"{ranks.rank}.npz", **weights)
    (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps(said))
    return 0


def fine_tuned(ranks, mode, base):
    """Two epochs on the pretrained encoder in ``base``, a step being two batches; in float64."""
    import test_finetune as small

    from tinygrad_mha.models import finetune

    finetune.WordPiece = small.Letters  # a process of its own, or a test that puts it back
    tg.set_default_dtype(np.float64)
    try:
        s = small.settings(base, mode, accumulate=2, batch_size=5, dropout=0.2)
        return finetune.finetune(small.split(small.texts(40)), s, ranks=ranks)
    finally:
        tg.set_default_dtype(np.float32)


def tuned_by_ranks(mode, folder):
    """One rank's part of a fine-tuning, and what it has come to."""
    ranks = group()
    trained = fine_tuned(ranks, mode, Path(folder) / "base")
    weights = [p.numpy() for p in trained.model.parameters()]
    np.savez(Path(folder) / f"{ranks.rank}.npz", **{str(k): a for k, a in enumerate(weights)})
    said = {"history": trained.metrics["history"], "exchanged": ranks.exchanged}
    (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps(said))
    return 0


def without_pickle():
    """mpi4py's own methods for objects pickle them: here they fail."""
    from mpi4py import MPI

    def refuse(*_):
        raise AssertionError("something is pickled")

    MPI.pickle.__init__(dumps=refuse, loads=refuse)


def work(arguments):
    """As the command line's own ``run``: failures become a line and a status."""
    without_pickle()
    how, folder = arguments
    gpu = strict_cupy.installed() if how == "gpu" else contextlib.nullcontext()
    try:
        with gpu:
            if how.startswith("finetune-"):
                return tuned_by_ranks(how.removeprefix("finetune-"), folder)
            return by_ranks(how, folder)
    except RuntimeError as e:
        print(f"tinygrad-mha: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(launch(work, sys.argv[1:]))
