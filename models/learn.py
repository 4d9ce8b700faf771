"""The commands that make a model: read, split, fit, measure, save, tell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
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
from .options import bad_rows, choose_device, read, tell_nested, tell_skipped
from .prepared import Encoded
from .ranks import Ranks, group
from .readers import STDIN, Bad
from .resume import Resumed, tell_replaced
from .signals import Stops
from .stream import prepare
from .text import tokenize
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
    if begun.settings is None:
        check_adapter(options, settings)
    bad = bad_rows(options, options.data), bad_rows(options, options.valid)
    fit: Any = training.train
    if begun.name == "finetune":
        from .finetune import finetune as fit
        from .finetune import tokens_of

        parts = in_memory(options, bad, lambda texts: tokens_of(texts, settings))
    elif options.data == "-" or os.path.isfile(options.data):
        parts = streamed(options, settings, out, bad, ranks)
    else:
        parts = in_memory(
            options, bad, lambda texts: [tuple(tokenize(t, settings.level)) for t in texts]
        )
    tell_skipped(*bad)
    if ranks.first and (begun.saved is None or begun.saved.path.parent != out):
        tell_replaced(out, name)
    asked = begun.remembered(settings)
    checkpoints = checkpoints_for(
        ranks, out, options.checkpoint_every, asked, begun.saved, stops, begun.command
    )
    trained = fit(parts, settings, ranks.first, name, checkpoints=checkpoints, ranks=ranks)
    if not ranks.first:
        return
    result = training.evaluate(trained, parts.test, learned(parts, trained.labels))
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


def check_adapter(options: argparse.Namespace, settings: Any) -> None:
    """Options of an adapter mean nothing where none is trained."""
    given = vars(options)
    for name, option in (("merge", "--merge"), ("lora_rank", "--lora-rank")):
        if given.get(name) and settings.tune != "lora":
            raise InputError(
                f"goes with --tune lora, but this is --tune {settings.tune}; leave it out, or add "
                "--tune lora",
                source=option,
            )


def learned(parts: Any, labels: list[str]) -> np.ndarray:
    """How many texts of each class train."""
    fit = parts.fit
    known = training.LabelSet(labels)
    targets = fit.targets if isinstance(fit, Encoded) else known.encode(fit)
    return np.bincount(targets, minlength=len(labels))


def streamed(
    options: argparse.Namespace,
    settings: training.Settings,
    out: Path,
    bad: tuple[Bad, Bad],
    ranks: Ranks,
) -> Any:
    """The rows of a file as numbers, split: the texts themselves need not fit into memory."""
    columns = options.text_column or "text", options.label_column or "label"
    where = a_disk_for(out), options.valid
    parts = prepare(options.data, settings, *where, columns, bad[0], ranks.first, ranks, bad[1])
    if options.valid:
        tell_nested(options.valid)
    return parts


def in_memory(
    options: argparse.Namespace, bad: tuple[Bad, Bad], tokens_of: Callable[[list[str]], list[Any]]
) -> Any:
    """All texts, split into those that train, stop early and measure."""
    data = read(options.data, options, bad[0])
    test = read(options.valid, options, bad[1]) if options.valid else None
    labels = training.LabelSet.from_labels(data.labels, options.data)  # one class is told first
    if test is not None:
        test = training.with_known_labels(test, labels, bad[1])
    parts = training.split(data, test)
    training.LabelSet.from_labels(parts.fit.labels, options.data).encode(parts.test)
    measured = parts.test.texts
    there = parts.fit.texts if test is None else data.texts
    known, seen = set(there), set(tokens_of(there))
    both = [text in known for text in measured]
    alike = [x in seen for x in tokens_of(measured)]
    more = sum(alike) - sum(a and b for a, b in zip(alike, both, strict=True))
    training.tell_overlap(sum(both), more, len(measured), parts.found.measured, options.data)
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
        # before the measurement, which is none of the training's, and without workers that are gone
        print("" if peak is None else f"; {peak:,.0f} MB of memory at most in the training's steps")
    count = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    print(f"{count} in {seconds:.0f} s; the model is in {out}")
    if options.json:
        summary = {k: result[k] for k in ("accuracy", "macro_f1", "loss")}
        summary |= {"epochs": epochs, "seconds": round(seconds, 3), "model": str(out)}
        print(json.dumps(summary))
