"""What the steps of an epoch said, read without making a GPU wait at every step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tinygrad_mha.backend import is_array, to_host, xp

SUMS = {"loss_sum": float, "hits": int, "rows": int, "tokens": int}


class Seen:
    """What the steps of an epoch said so far.

    Reading a number from a GPU means to wait for it. So what the steps say is left where it is,
    and read many steps at a time.
    """

    def __init__(self) -> None:
        self.loss_sum, self.hits, self.rows, self.tokens = 0.0, 0, 0, 0
        self.pending: list[tuple[tuple, int]] = []
        self.began = time.monotonic()

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; nothing may be waiting."""
        sums = {k: getattr(self, k) for k in SUMS}
        return {**sums, "seconds": time.monotonic() - self.began}

    @classmethod
    def restored(cls, state: dict[str, float]) -> Seen:
        """What :meth:`state` said, as if the time in between had not been."""
        seen = cls()
        for k, kind in SUMS.items():
            setattr(seen, k, kind(state[k]))
        seen.began -= float(state["seconds"])
        return seen

    def add(self, told: tuple[Any, Any, Any], rows: int, tokens: int) -> None:
        """``told``: the loss, how many were right, the norm of the gradients."""
        self.pending.append((told, rows))
        self.tokens += tokens

    @property
    def waiting(self) -> int:
        """How many steps have not been read."""
        return len(self.pending)

    def read(self) -> tuple[str, float, int] | None:
        """Read the steps that wait: None, or what was no finite number, and how many steps ago."""
        rows, self.pending = self.pending, []
        read = together([number for told, _ in rows for number in told])
        for k, (_, count) in enumerate(rows):
            loss, right, norm = read[3 * k : 3 * k + 3]
            for what, number in (("loss", loss), ("norm of the gradients", norm)):
                if not np.isfinite(number):
                    return what, float(number), len(rows) - 1 - k
            self.loss_sum += float(loss) * count
            self.hits, self.rows = self.hits + int(right), self.rows + count
        return None

    def said(self) -> dict[str, float]:
        """Means so far."""
        return {
            "train_loss": self.loss_sum / max(self.rows, 1),
            "train_accuracy": self.hits / max(self.rows, 1),
            "tokens_per_second": self.tokens / (time.monotonic() - self.began),
        }


def together(numbers: list[Any]) -> list[Any]:
    """Numbers and 0-d arrays as numbers; those of a GPU cross in one copy."""
    far = [x for x in numbers if is_array(x) and xp(x) is not np]
    if not far:
        return numbers
    there = xp(far[0]).stack([x.astype(np.float64) for x in far])
    crossed = iter(to_host(there).tolist())
    return [next(crossed) if is_array(x) and xp(x) is not np else x for x in numbers]
