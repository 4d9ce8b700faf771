"""What the options mean that several commands have."""

from __future__ import annotations

import argparse
from typing import Any

import tinygrad_mha as tg

from .errors import InputError


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
    return read_dataset(source, *columns, bad=bad or fatal)
