"""``--resume DIR``: what the run that was to write DIR was asked to do, and how far it came."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .checkpoint import Saved, read
from .datasets import BUILTIN
from .errors import InputError, one_line, quoted
from .files import TRAINED, read_object
from .readers import STDIN, exists
from .trained import TrainedClassifier

# What may be said anew: where things are, how it is computed and told, and not what is computed.
FREE = {"resume", "out", "json", "checkpoint_every", "device", "workers", "data", "valid"}
DATA = ("data", "valid", "text_column", "label_column", "on_bad_row", "merge")
OTHER_NAMES = {"num_layers": "layers", "h": "heads"}


class Resumed:
    """What ``--resume`` found, put into ``options``; without the option, only defaults.

    Attributes
    ----------
    saved : Saved or None
        The checkpoint to go on from.
    settings : Settings, FinetuneSettings or None
        Those of the run; None if it starts from its beginning.
    finished : TrainedClassifier or None
        The model, if the run had come to its end.
    command : str
        The command line that goes on with this run.

    Raises
    ------
    InputError
        If there is no such folder, or an option is not that of the run.
    """

    def __init__(
        self, options: argparse.Namespace, kind: Any, settings_of: Callable[..., Any]
    ) -> None:
        self.options, self.name = options, options.command.__name__
        self.settings_of = settings_of
        self.saved: Saved | None = None
        self.settings: Any = None
        self.finished: TrainedClassifier | None = None
        if options.resume is not None:
            self._find(Path(options.resume), kind)
        if options.data is None:
            if self.name == "finetune":
                raise InputError(
                    "DATA is missing; give the texts to fine-tune on", source=self.name
                )
            options.data = "names"
        if options.out is None:
            options.out = options.resume or "model"
        self.command = f"tinygrad-mha {self.name} --resume {shlex.quote(str(options.out))}"
        if options.data == "-":
            self.command += " < DATA"

    def _find(self, folder: Path, kind: Any) -> None:
        if not folder.is_dir():
            raise InputError(
                "no such folder to go on from; start without --resume", source=str(folder)
            )
        self.saved = read(folder)
        if self.saved is not None:
            self._go_on(self.saved, kind)
        elif (folder / "config.json").exists() and self._same(
            model := TrainedClassifier.load(folder)
        ):
            print(f"{one_line(str(folder))}: this run had come to its end", file=sys.stderr)
            self.finished = model
        elif self.options.data is None:
            raise InputError(
                "there is no checkpoint to go on from; give DATA and start without --resume",
                source=str(folder),
            )
        else:
            told = f"{one_line(str(folder))}: no checkpoint yet; this run starts from its beginning"
            print(told, file=sys.stderr)

    def _go_on(self, saved: Saved, kind: Any) -> None:
        """Take the options and settings of the run, but for those that may be said anew."""
        options, asked = self.options, saved.words["options"]
        if asked.get("command") != self.name:
            raise InputError(
                f"this run is one of {quoted(asked.get('command'))}: "
                f"tinygrad-mha {asked.get('command')} --resume {shlex.quote(str(options.resume))}",
                source=str(saved.path),
            )
        known = asked.get("settings")
        self.settings = settings_of(saved, kind)
        for name, value in vars(options).items():
            if name in FREE or value is None or (name == "merge" and not value):
                continue
            if name in known and known[name] != value:
                raise _differs(name, value, known[name], saved)
            if name in DATA and (asked.get(name) or DEFAULTS.get(name)) != value:
                raise _differs(name, value, asked.get(name), saved)
        for name in DATA:
            if getattr(options, name, None) in (None, False) and asked.get(name) is not None:
                if not isinstance(asked[name], str | bool):
                    raise saved.refuse("its options are damaged")
                setattr(options, name, asked[name])
                if name in ("data", "valid"):
                    self._check_place(name, asked[name])
        if options.device is None:
            options.device = self.settings.device
        self.settings = replace(self.settings, workers=options.workers or self.settings.workers)

    def _check_place(self, name: str, source: str) -> None:
        """Files are remembered as they were given: from another folder they may not be there."""
        if source == "-" or source in BUILTIN or exists(source):
            return
        command = f"tinygrad-mha {self.name} --resume {shlex.quote(str(self.options.resume))}"
        path = shlex.quote(f"PATH/{os.path.basename(source) or source}")
        more = f"--valid {path}" if name == "valid" else path
        raise InputError(
            f"this run's {'--valid' if name == 'valid' else 'DATA'} is not here; go back to the "
            f"folder it began in, or say where the file is: {command} {more}",
            source=source,
        )

    def _same(self, model: TrainedClassifier) -> bool:
        """Whether a finished model is of the run that is asked for now.

        Without DATA, it is unless an option says otherwise; with DATA, what is not said counts too.
        """
        known = {**model.config, **model.config.get("training", {})}
        asked = {k: v for k, v in vars(self.options).items() if v is not None}
        if "data" in asked:
            asked |= asdict(self.settings_of(self.options))
        fits = (
            v == known[k] or (not v and k in OPEN)
            for k, v in asked.items()
            if k in known and k not in FREE
        )
        data = STDIN if self.options.data == "-" else self.options.data
        return "test" in model.metrics and data in (None, model.metrics.get("data")) and all(fits)

    def remembered(self, settings: Any) -> dict[str, Any]:
        """What a checkpoint has to say of the command line."""
        data = {name: getattr(self.options, name, None) for name in DATA}
        return {"command": self.name, "settings": asdict(settings), **data}


def tell_replaced(out: Path, data: str) -> None:
    """Say what a new run on ``data`` takes the place of: one that waits, or a model of other data.

    What cannot be read is no loss, and passed over.
    """
    told = ""
    with contextlib.suppress(InputError):
        if (saved := read(out)) is not None:
            command = f"tinygrad-mha {saved.words['options'].get('command')}"
            told = "the run that was interrupted"
            if type(step := saved.words["run"].get("step")) is int:
                told += f" at step {step}"
            told += f"; to go on with it instead: {command} --resume {shlex.quote(str(out))}"
        elif (out / "metrics.json").exists():
            of = read_object(out / "metrics.json", TRAINED).get("data")
            if isinstance(of, str) and of != data:
                told = f"the model that was trained on {of}"
    if told:
        print(one_line(f"{out}: replaces {told}"), file=sys.stderr, flush=True)


KINDS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}


def settings_of(saved: Saved, kind: Any) -> Any:
    """The settings that a checkpoint holds; InputError if they are none of this kind."""
    known = saved.words["options"].get("settings")
    try:
        for field in fields(kind):
            kinds = tuple(KINDS[name] for name in field.type.split(" | "))
            value = known[field.name]
            if type(value) not in kinds and not (float in kinds and type(value) is int):
                raise TypeError(f"{field.name} is {quoted(value)}")
        return kind(**known)
    except (TypeError, ValueError, KeyError, ArithmeticError) as e:
        raise saved.refuse(f"its settings are damaged ({one_line(str(e))})") from None


# settings of which 0 and None stand for "as it suits the data"
OPEN = {"epochs", "batch_size", "lr", "weight_decay", "attention_dropout"}
DEFAULTS = {"text_column": "text", "label_column": "label"}


def _differs(name: str, value: Any, known: Any, saved: Saved) -> InputError:
    option = "--" + OTHER_NAMES.get(name, name).replace("_", "-")
    was = "without it" if known is None or (name in OPEN and not known) else f"with {quoted(known)}"
    return InputError(
        f"{option} is {quoted(value)}, but this run began {was}; leave it out, or start again "
        "without --resume",
        source=str(saved.path),
    )
