"""What the options mean that several commands have."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import tinygrad_mha as tg

from .errors import InputError, one_line


def choose_device(options: argparse.Namespace, own: Any = str) -> None:
    """Everything is made on the device of --device, else of $TINYGRAD_MHA_DEVICE.

    ``own`` gives the name of our own device, where several share the work.
    """
    given = options.device is not None
    try:
        name = tg.backend.check_device(options.device) if given else tg.backend.default_device()
        tg.set_default_device(own(name))
    except tg.DeviceError as e:
        raise InputError(str(e), source="--device" if given else "$TINYGRAD_MHA_DEVICE") from None


def read(source: str, options: argparse.Namespace, bad: Any = None) -> Any:
    """A labelled data set from the command line's arguments."""
    from .readers import fatal, read_dataset

    columns = options.text_column or "text", options.label_column or "label"
    data = read_dataset(source, *columns, bad=bad or fatal)
    tell_nested(source)
    return data


def tell_nested(source: str) -> None:
    """Say it if folders inside the classes of a folder of texts are not read."""
    from .readers import nested_folders

    if os.path.isdir(source) and (count := nested_folders(source)):
        folders = "1 folder inside a class" if count == 1 else f"{count} folders inside classes"
        verb = "is" if count == 1 else "are"
        told = f"{source}: {folders} {verb} not read; put the files into the class's own folder"
        print(one_line(told), file=sys.stderr)


def bad_rows(options: argparse.Namespace, source: str) -> Any:
    """What --on-bad-row says to do with rows of a file that are wrong."""
    from .readers import STDIN, Skipped, fatal

    return Skipped(STDIN if source == "-" else source) if options.on_bad_row == "skip" else fatal


def tell_skipped(*bad: Any) -> None:
    """Say how many rows were skipped, of each file."""
    for one in bad:
        if hasattr(one, "told"):
            one.told()
