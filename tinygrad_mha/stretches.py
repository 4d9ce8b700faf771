"""Large arrays a few rows at a time, so that what is made on the way stays in the cache."""

from __future__ import annotations

import numpy as np

from .backend import Array, xp


def stretches(rows: int, width: int, at_a_time: int, like: Array) -> list[slice]:
    """``rows`` of ``width`` numbers each, cut into stretches of about ``at_a_time`` numbers.

    On a GPU there is one stretch, of all rows: fewer calls count for more there.

    >>> stretches(5, 10, 20, np.ones(1))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    if xp(like) is not np:
        return [slice(0, rows)]
    count = max(1, at_a_time // max(1, width))
    return [slice(start, start + count) for start in range(0, rows, count)]
