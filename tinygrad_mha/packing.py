"""Chapter 15b: a padded batch without its pads, packed step after step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .backend import Array, is_array, place_like, to_host, xp
from .tensor import value


class Plan(NamedTuple):
    """How a padded batch is packed: texts by falling length, real tokens only, step after step.

    ``steps`` holds (rows, count) for each step in the order of computation: the stretch of packed
    rows that it owns, and how many texts are still (or already) running.
    """

    shape: tuple[int, int]  # (T, B)
    steps: list[tuple[slice, int]]
    order: Array | None  # (B,) the text at each place of the order; None if they stand so already
    place: Array | None  # (B,) its inverse
    flat: Array | None  # (N,) where each packed row lies in (T * B); None if there are no pads
    previous: Array | None  # (N,) the row of [first states; packed rows] from which each row came
    last: Array | slice  # the packed row of the last step of each text that has one
    reverse: bool

    def pack(self, x):
        """(T, B, ·) -> (N, ·)"""
        x = x.reshape(self.shape[0] * self.shape[1], x.shape[2])
        return x if self.flat is None else x[self.flat]

    def unpack(self, packed):
        """(N, ·) -> (T, B, ·), zero at the pads"""
        if self.flat is None:
            return packed.reshape(*self.shape, packed.shape[1])
        y = xp(packed).zeros((self.shape[0] * self.shape[1], packed.shape[1]), packed.dtype)
        y[self.flat] = packed
        return y.reshape(*self.shape, packed.shape[1])

    def sort(self, h):
        """A copy of (B, ·) by falling length."""
        return h * 1 if self.order is None else h[self.order]

    def unsort(self, h):
        return h * 1 if self.place is None else h[self.place]

    def before(self, first, states):
        """(N, ·): the state that each packed row started from."""
        m, batch = xp(first), len(first)
        if self.previous is not None:
            return m.concatenate((first, states))[self.previous]
        return m.concatenate((states[batch:], first) if self.reverse else (first, states[:-batch]))

    def after(self, first, states):
        """(B, ·): the state that each text ended with."""
        ended, last = first * 1, states[self.last]
        ended[: len(last)] = last  # sorted by length: those that have no step are at the end
        return ended


def plan_steps(x, lengths, reverse) -> Plan:
    """Work out, on the host, which rows each step touches."""
    steps, batch = x.shape[:2]
    ends = np.full(batch, steps) if lengths is None else checked_lengths(lengths, steps, batch)
    if ends.size and steps and (lengths is None or (ends == steps).all()):  # no pads
        times = range(steps - 1, -1, -1) if reverse else range(steps)
        stretches = [(slice(t * batch, (t + 1) * batch), batch) for t in times]
        return Plan((steps, batch), stretches, None, None, None, None, stretches[-1][0], reverse)
    order = np.argsort(-ends, kind="stable")
    sorted_already = bool((order == np.arange(batch)).all())
    running = (np.arange(steps)[:, None] < ends[order]).sum(axis=1)  # n_t
    starts = np.concatenate(([0], np.cumsum(running)))
    times = range(steps - 1, -1, -1) if reverse else range(steps)
    stretches = [(slice(int(starts[t]), int(starts[t + 1])), int(running[t])) for t in times]

    # Row j of step t came from row j of the step before, or else from the first state.
    t_of = np.repeat(np.arange(steps), running)
    text = np.arange(starts[-1]) - starts[t_of]
    came = t_of + (1 if reverse else -1)
    inside = (came >= 0) & (came < steps)
    came = np.where(inside, came, 0)
    if steps:
        inside &= text < running[came]
    previous = np.where(inside, batch + starts[came] + text, text)
    begun = np.flatnonzero(ends[order] > 0)
    last = begun if reverse else starts[ends[order][begun] - 1] + begun
    return Plan(
        (steps, batch),
        stretches,
        None if sorted_already else place_like(order, x),
        None if sorted_already else place_like(np.argsort(order), x),
        place_like(t_of * batch + order[text], x),
        place_like(previous, x),
        place_like(last, x),
        reverse,
    )


def checked_lengths(lengths, steps, batch) -> np.ndarray:
    lengths = value(lengths)
    ends = to_host(lengths) if is_array(lengths) else np.asarray(lengths)
    if not ends.size:  # an empty list has no dtype of its own
        ends = ends.astype(np.int64)
    if ends.shape != (batch,) or ends.dtype.kind not in "iu":
        raise ValueError(f"lengths should be {batch} integers, one for each text")
    if ends.size and (ends.min() < 0 or ends.max() > steps):
        bad = ends[(ends < 0) | (ends > steps)][0]
        raise ValueError(f"a length of {bad} is not between 0 and the {steps} steps of x")
    return ends.astype(np.int64)
