"""Nothing piles up: in a training of many steps, in a model that is served for minutes."""

import gc
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import counts
import numpy as np
import pytest
import soak

import tinygrad_mha as tg

BENCH = Path(__file__).parents[1] / "bench"


def calmest(step, stretches=6, steps=50, warm_up=100):
    """What each stretch of steps added, of every count: the least.

    Caches fill for thousands of steps, ever more slowly and by fits; what a step leaves behind,
    each stretch leaves.
    """
    for number in range(warm_up):
        step(number)
    seen = [counts.count()]
    for k in range(stretches):
        for number in range(warm_up + k * steps, warm_up + (k + 1) * steps):
            assert np.isfinite(step(number))
        seen.append(counts.count())
    return counts.Counts(
        *(min(b - a for a, b in pairwise(column)) for column in zip(*seen, strict=True))
    )


def test_a_few_hundred_steps_leave_nothing_behind():
    """No object in five steps, no file, no thread, no process.

    Blocks take longer to settle, by up to one a step here: 200,000 steps judge them sharply.
    """
    added = calmest(soak.step_of(), steps=50)
    assert added.objects < 10
    assert added.blocks < 100
    assert (added.files, added.threads, added.children) == (0, 0, 0)


def test_a_step_that_keeps_something_is_found():
    step, kept = soak.step_of(), []

    def leaks(number):
        kept.append(tg.Tensor([1.0]))
        return step(number)

    assert calmest(leaks, stretches=2, steps=50, warm_up=10).objects >= 50


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
