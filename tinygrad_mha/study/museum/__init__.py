"""Real bugs of backward passes, each small enough to be repaired.

An exhibit is one file: the broken code, the repaired one, and a judge that draws a new case every
time. :mod:`exhibit` says what belongs to it, :mod:`judging` has what the judges share.
"""

from __future__ import annotations

from importlib import import_module

from .exhibit import Exhibit

# by room, from simple to hard; the name of a file is the name of its exhibit
ROOMS = {
    "Sums and copies": (
        "accidental_table",
        "repeated_ids",
        "overwritten",
        "saved_and_overwritten",
        "whole_numbers",
        "cut_to_shape",
        "ties",
    ),
    "Numbers that are none": (
        "huge_inputs",
        "dead_branch",
        "outside_the_root",
        "clipped_loss",
        "large_mean",
        "big_number",
        "sum_of_nothing",
        "wider_and_wider",
    ),
    "Means": (
        "other_denominator",
        "mean_of_means",
        "frozen_statistics",
    ),
    "Sequences": (
        "into_the_pads",
        "one_step_late",
        "bound_to_a_name",
        "exchanged_states",
    ),
    "The machine": (
        "shared_sum",
        "second_walk",
        "too_early",
        "waiting_for_ever",
        "deep_water",
        "own_tail",
    ),
    "The last room": (
        "ones",
        "right_once",
        "lost_writes",
        "other_mask",
        "on_the_diagonal",
    ),
}
NAMES = [name for names in ROOMS.values() for name in names]


def exhibit(name: str) -> Exhibit:
    """The exhibit in the file of this name."""
    return import_module(f"{__name__}.{name}").EXHIBIT
