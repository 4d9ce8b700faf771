"""An array as a page shows it: in full if it is small, else as a heat map and a histogram."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from ..backend import to_host

FULL = 64  # an array of so many numbers is shown in full
BINS = 24  # of a histogram


def summary(a: Any, cells: int = 24) -> dict[str, Any]:
    """What JSON can hold of an array of any shape, dtype and device.

    Parameters
    ----------
    a : array
    cells : int
        A heat map has at most so many rows and columns; each cell is the mean of a block.

    Returns
    -------
    dict
        ``shape`` and ``dtype``; ``values`` in full, or ``heat``: rows, columns, the number that
        the darkest cell stands for, and a byte for each cell in base64 (0: minus that number, 127:
        zero, 254: that number); ``range``: smallest, largest, mean, standard deviation of the
        finite ones; ``norm``; ``histogram``: counts between smallest and largest; ``odd``: how many
        are no finite numbers.

    Examples
    --------
    >>> s = summary(np.array([[1.0, -2.0]]))
    >>> s["shape"], s["values"], s["norm"]
    ([1, 2], [1.0, -2.0], 2.2361)
    >>> summary(np.zeros((100, 100)), cells=8)["heat"]["rows"]
    8
    """
    host = np.asarray(to_host(a))
    numbers = host.astype(np.float64).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    said: dict[str, Any] = {"shape": list(host.shape), "dtype": str(host.dtype)}
    said["odd"] = int(numbers.size - finite.size)
    if finite.size:
        least, most = float(finite.min()), float(finite.max())
        scale = max(abs(least), abs(most)) or 1.0  # the squares of large numbers are too large
        norm = float(np.sqrt(np.square(finite / scale).sum())) * scale
        parts = (least, most, float(finite.mean()), float((finite / scale).std()) * scale)
        said["range"], said["norm"] = [short(x) for x in parts], short(norm)
    if numbers.size <= FULL:
        said["values"] = [short(x) for x in numbers.tolist()]
        return said
    if finite.size:
        span = (least, most) if most - least < math.inf else None
        said["histogram"] = np.histogram(finite, BINS, span)[0].tolist() if span else []
    said["heat"] = heat(host, cells)
    return said


def short(x: float) -> float | str:
    """Five digits; what is no number, as JSON has none, by its name.

    >>> short(1 / 3), short(float("nan"))
    (0.33333, 'nan')
    """
    return float(f"{x:.5g}") if math.isfinite(x) else str(x)


def heat(host: np.ndarray, cells: int) -> dict[str, Any]:
    """The last axis from left to right, all others from top to bottom, in blocks."""
    table = np.nan_to_num(host.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    table = table.reshape(-1, host.shape[-1])
    for axis in (0, 1):
        n = table.shape[axis]
        if n > cells:
            edges = np.arange(cells) * n // cells
            counts = np.diff([*edges, n])
            table = np.add.reduceat(table, edges, axis=axis)
            table = table / (counts[:, None] if axis == 0 else counts)
    full = float(abs(table).max(initial=0)) or 1.0
    coded = (np.rint(table / full * 127) + 127).astype(np.uint8)
    return {
        "rows": len(table),
        "columns": table.shape[1],
        "full": short(full),
        "cells": base64.b64encode(coded.tobytes()).decode(),
    }
