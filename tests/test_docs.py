"""Every example in a docstring or in the README runs, and prints what it says it prints."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg

ROOT = Path(__file__).parents[1]
MODULES = [
    m.name
    for package in ("tinygrad_mha", "tinygrad_mha.models", "tinygrad_mha.study")
    for m in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}.")
    if not m.name.endswith("__main__")
] + ["tinygrad_mha"]


@pytest.fixture(autouse=True)
def as_at_the_start():
    tg.set_default_dtype(np.float32)
    tg.manual_seed(0)
    with np.printoptions(legacy=False):
        yield


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_python_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    parser, names = doctest.DocTestParser(), {}
    for k, block in enumerate(blocks):
        test = parser.get_doctest(block, names, f"README block {k + 1}", "README.md", 0)
        assert test.examples, f"block {k + 1} has no >>>, so it would not be tested"
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        said = []
        runner.run(test, out=said.append, clear_globs=False)
        assert runner.failures == 0, "".join(said)
        names = test.globs  # later blocks go on where earlier ones stopped


def test_the_quick_start_is_two_commands_of_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## Quick start\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\w*\n(.*?)\n```$", section, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    assert not any("\n" in block for block in blocks)


def test_what_the_readme_names_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / path).exists(), path
