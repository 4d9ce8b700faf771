"""The book: every block runs and prints what it says; every link and picture is there."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg

BOOK = Path(tg.__file__).parent / "study" / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.md"))
PAGES = [BOOK / "README.md", *CHAPTERS]
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)


def blocks(text: str) -> list[tuple[str, str, int]]:
    """(language, code, line) of each block between fences."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in found]


def prose(text: str) -> str:
    """What is left of a page without its code, in blocks and in lines."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.fixture(autouse=True)
def as_at_the_start():
    tg.set_default_dtype(np.float32)
    tg.manual_seed(0)
    with np.printoptions(legacy=False):
        yield
    tg.set_default_dtype(np.float32)


@each_chapter
def test_every_block_runs_and_prints_what_it_says(path):
    parser, names = doctest.DocTestParser(), {"__name__": path.stem}
    found = [(code, line) for language, code, line in blocks(path.read_text(encoding="utf-8"))
             if language == "python"]  # fmt: skip
    assert found
    for code, line in found:
        test = parser.get_doctest(code, names, f"{path.name}, block at line {line}", path.name, line)
        assert test.examples, f"the block at line {line} has no >>>, so it would not be tested"
        assert all(not text.strip() or text.startswith((">>> ", "... ", ">>>", "..."))
                   for example in test.examples for text in [">>> " + example.source])  # fmt: skip
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        said: list[str] = []
        runner.run(test, out=said.append, clear_globs=False)
        assert runner.failures == 0, "".join(said)
        names = test.globs  # later blocks go on where earlier ones stopped
