"""Nothing piles up: in a training of many steps, in a model that is served for minutes."""

import gc
import subprocess
import sys
from pathlib import Path

import counts
import numpy as np
import pytest
import soak

BENCH = Path(__file__).parents[1] / "bench"


def after(step, first, last):
    """What there is after the steps of these numbers."""
    for number in range(first, last):
        assert np.isfinite(step(number))
    return counts.count()


def test_a_few_hundred_steps_leave_nothing_behind():
    """Exact counts: not one object or block more for every ten steps, no file, thread or process."""
    step = soak.step_of()
    before = after(step, 0, 200)
    slack = counts.Counts(rss_mb=4, blocks=20, objects=20, files=0, threads=0, children=0)
    assert counts.grown(before, after(step, 200, 400), slack) == []


def test_a_step_that_keeps_something_is_found():
    step, kept = soak.step_of(), []

    def leaks(number):
        kept.append(np.empty(3))
        return step(number)

    before = after(leaks, 0, 50)
    slack = counts.Counts(rss_mb=4, blocks=20, objects=20, files=0, threads=0, children=0)
    [found] = counts.grown(before, after(leaks, 50, 150), slack)
    assert found.startswith("blocks: ")


def test_an_open_file_is_counted(tmp_path):
    if not counts.files():
        pytest.skip("this system does not tell which files are open")
    before = counts.count()
    with open(tmp_path / "file", "w"):
        assert any(text.startswith("files: ") for text in counts.grown(before, counts.count()))
    gc.collect()
    assert counts.files() == before.files


@pytest.mark.long
@pytest.mark.parametrize(
    "command", [["soak.py", "--steps", "200000"], ["serve.py", "--minutes", "10"]]
)
def test_for_long(command):
    if command[0] == "serve.py":
        pytest.importorskip("sklearn")
    name, *options = command
    done = subprocess.run([sys.executable, BENCH / name, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
