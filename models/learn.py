"""The commands that make a model: read, split, fit, measure, save, tell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mha as tg

from . import train as training
from .errors import InputError, one_line
from .files import sweep
from .launch import checkpoints_for
from .metrics import class_table, confusion_table
from .options import choose_device, read
from .ranks import Ranks, group
from .readers import STDIN, Bad, Skipped, fatal
from .resume import Resumed
from .signals import Stops
from .stream import prepare
from .trained import check_replaceable


def given(options: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The settings of a kind that the user gave, and the device."""
    names = {f.name for f in fields(kind)}
    found = {k: v for k, v in vars(options).items() if k in names and v is not None}
    return found | {"device": tg.backend.default_device()}


def learn(options: argparse.Namespace, stops: Stops, kind: Any, settings_of: Any) -> None:
    """Read, split, fit, measure, save, tell."""
    ranks = group()
    begun = Resumed(options, kind, settings_of)
    if ranks.size > 1 and options.data == "-":
        raise InputError("mpiexec hands standard input to rank 0 alone; give a file", source="-")
    out = Path(options.out)
    check_replaceable(out)
    if out.exists():  # if it does not, what was left may be all there is
        sweep(Path(os.path.realpath(out)).parent)
    if begun.finished is not None:
        tell(options, begun.finished, out)
        return
    choose_device(options, ranks.device)
    settings = begun.settings or settings_of(options)
    device, workers = tg.backend.default_device(), settings.workers or ranks.cores
    settings = replace(settings, device=device, workers=workers)  # a run keeps its workers
    name = STDIN if options.data == "-" else options.data
    bad = Skipped(name) if options.on_bad_row == "skip" else fatal
    fit: Any = training.train
    if begun.name == "finetune":
        from .finetune import finetune as fit

        parts = in_memory(options, bad)
    elif options.data == "-" or os.path.isfile(options.data):
        parts = streamed(options, settings, out, bad, ranks)
    else:
        parts = in_memory(options, bad)
    if isinstance(bad, Skipped):
        bad.told()
    asked = begun.remembered(settings)
    checkpoints = checkpoints_for(
        ranks, out, options.checkpoint_every, asked, begun.saved, stops, begun.command
    )
    trained = fit(parts, settings, ranks.first, name, checkpoints=checkpoints, ranks=ranks)
    if not ranks.first:
        return
    result = training.evaluate(trained, parts.test)
    trained.metrics |= {"test": {"data": parts.test.source, **result}}
    if vars(options).get("merge"):
        trained = trained.merged()
    try:
        trained.save(out)
    except OSError:
        if checkpoints.last is not None:
            told = f"the checkpoint of step {checkpoints.last} is kept"
            print(one_line(f"{told}; to go on: {checkpoints.command}"), file=sys.stderr)
        raise
    tell(options, trained, out)


def streamed(
    options: argparse.Namespace, settings: training.Settings, out: Path, bad: Bad, ranks: Ranks
) -> Any:
    """The rows of a file as numbers, split: the texts themselves need not fit into memory."""
    columns = options.text_column or "text", options.label_column or "label"
    where = a_disk_for(out), options.valid
    return prepare(options.data, settings, *where, columns, bad, ranks.first, ranks)


def in_memory(options: argparse.Namespace, bad: Bad) -> Any:
    """All texts, split into those that train, stop early and measure."""
    data = read(options.data, options, bad)
    test = read(options.valid, options, bad) if options.valid else None
    training.LabelSet.from_labels(data.labels, options.data)  # one class only is told first
    parts = training.split(data, test)
    training.LabelSet.from_labels(parts.fit.labels, options.data).encode(parts.test)
    if test is not None:
        known = set(data.texts)
        both = sum(text in known for text in test.texts)
        training.tell_overlap(both, len(test), options.valid, options.data)
    return parts


def a_disk_for(out: Path) -> Path:
    """A folder on the disk that the model goes to: what is temporary may be as large as the data.

    (The system's folder for temporary files may be in memory.)
    """
    parent = Path(os.path.realpath(out)).parent
    while not parent.exists():
        parent = parent.parent
    return parent


def tell(options: argparse.Namespace, trained: Any, out: Path) -> None:
    """What was measured, and where the model is."""
    result = trained.metrics["test"]
    labels, confusion = trained.labels, np.array(result["confusion"])
    print(class_table(labels, result))
    print()
    print(confusion_table(labels, confusion))
    print()
    print(f"accuracy {result['accuracy']:.4f}   macro F1 {result['macro_f1']:.4f}   ", end="")
    print(f"(always the most frequent class: {result['majority']:.4f})")
    epochs, seconds = trained.metrics["epochs"], trained.metrics["seconds"]
    if options.command.__name__ == "finetune":
        counts = trained.metrics["trained_parameters"], trained.metrics["parameters"]
        print(f"{counts[0]:,} of {counts[1]:,} weights trained", end="")
        peak = trained.metrics["peak_mb"]
        print("" if peak is None else f"; {peak:,.0f} MB of memory at most")
    count = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    print(f"{count} in {seconds:.0f} s; the model is in {out}")
    if options.json:
        summary = {k: result[k] for k in ("accuracy", "macro_f1", "loss")}
        summary |= {"epochs": epochs, "seconds": round(seconds, 3), "model": str(out)}
        print(json.dumps(summary))
