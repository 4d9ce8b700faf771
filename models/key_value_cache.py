"""What attention remembers of a text that grows token by token."""

from __future__ import annotations

from typing import Any

from tinygrad_mha.backend import Array, xp


class KeyValueCache:
    """The keys and values of one layer's earlier tokens.

    Without it each new token would mean to compute those of the whole text again: a text of T
    tokens would cost T² · d² instead of T · d². The arrays have room for the longest text from the
    beginning, so that nothing is copied when a token joins.

    Parameters
    ----------
    room : int
        Tokens of the longest text.

    Examples
    --------
    >>> import numpy as np
    >>> cache = KeyValueCache(room=8)
    >>> for steps in (3, 1):
    ...     k, v = cache.append(np.ones((1, 2, steps, 4)), np.ones((1, 2, steps, 4)))
    >>> k.shape, cache.length
    ((1, 2, 4, 4), 4)
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self.k: Any = None
        self.v: Any = None

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Keys and values (B, h, T, d) of the next tokens; returns those of all, as views."""
        if self.k is None:
            self.k, self.v = (
                xp(a).empty((*a.shape[:2], self.room, a.shape[3]), a.dtype) for a in (k, v)
            )
        if k.shape[0] != self.k.shape[0]:
            raise ValueError(f"a cache for {self.k.shape[0]} texts cannot take {k.shape[0]}")
        end = self.length + k.shape[2]
        if end > self.room:
            raise ValueError(f"{end} tokens do not fit into a cache for {self.room}")
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]
