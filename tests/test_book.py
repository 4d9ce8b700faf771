"""The book: every block runs and prints what it says; every link and every picture is there."""

import doctest
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.study import pictures

BOOK = Path(tg.__file__).parent / "study" / "book"
CONTENTS = BOOK / "README.md"
TRANSLATIONS = sorted(BOOK.glob("[0-9][0-9]_*.*.md"))  # 07_attention.zh.md
CHAPTERS = sorted({*BOOK.glob("[0-9][0-9]_*.md")} - {*TRANSLATIONS})
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_page = pytest.mark.parametrize(
    "path", [CONTENTS, *CHAPTERS, *TRANSLATIONS], ids=lambda path: path.stem
)


@pytest.fixture(autouse=True)
def as_at_the_start():
    tg.set_default_dtype(np.float32)
    tg.manual_seed(0)
    with np.printoptions(legacy=False):
        yield
    tg.set_default_dtype(np.float32)


def read(path):
    return path.read_text(encoding="utf-8")


def python_blocks(text):
    return list(re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def prose(text):
    """A page without its code, in blocks and in lines."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+)[^`].*?\1", "", text)


# ------------------------------------------------------------------------------------- the code


@each_chapter
def test_every_block_runs_and_prints_what_it_says(path):
    text, parser, names = read(path), doctest.DocTestParser(), {"__name__": path.stem}
    assert python_blocks(text)
    for block in python_blocks(text):
        line = text.count("\n", 0, block.start()) + 1
        test = parser.get_doctest(block[1], {}, f"block at line {line}", str(path), line)
        assert test.examples, f"the block at line {line} has no >>>, so it would not be tested"
        test.globs = names  # later blocks go on where earlier ones stopped
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        said = []
        runner.run(test, out=said.append, clear_globs=False)
        assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_has_the_code_of_its_original(path):
    original = path.with_name(path.name.split(".")[0] + ".md")
    ours, theirs = ([m[1] for m in python_blocks(read(p))] for p in (path, original))
    assert ours == theirs
    assert f"]({original.name})" in read(path)


@each_page
def test_nothing_is_shown_as_python_that_is_not_run(path):
    """Blocks are python, and run, or sh or text; and fences come in pairs."""
    fences = re.findall(r"^\s*```(.*)$", read(path), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= {"python", "sh", "text", "", "cuda"}, fences
    assert set(fences[1::2]) <= {""}
    assert ">>>" not in prose(read(path))


# ------------------------------------------------------------------------------------ the pages


@each_page
def test_links_and_pictures_exist(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(read(path)))
    links += re.findall(r"""(?:src|href)=["']([^"']+)["']""", prose(read(path)))
    for link in links:
        if not re.match(r"https?://", link):
            target, _, place = link.partition("#")
            assert (path.parent / target).exists() if target else place, link


@each_chapter
def test_a_chapter_shows_exercises_its_code_and_its_sources(path):
    text = read(path)
    number = int(path.stem[:2])
    assert re.match(rf"# {number}\. \S", text)
    assert re.search(r"^## Try$", text, re.MULTILINE)
    exercises = text.split("\n## Try\n")[1].split("\n## ")[0]
    assert len(re.findall(r"^\d+\. ", exercises, re.MULTILINE)) >= 3
    assert re.search(r"\]\((\.\./){2,3}[\w/]+\.py\)", text), "no link to the code"
    assert "Sources" in text


@each_page
def test_the_dollar_signs_of_formulas_are_balanced(path):
    """GitHub sets what stands between $ and $ within a paragraph, or between $$ and $$."""
    text = prose(read(path))
    for paragraph in re.split(r"\n\s*\n", text):
        display = paragraph.split("$$")
        assert len(display) % 2, paragraph
        for inline in display[::2]:
            assert inline.count("$") % 2 == 0, paragraph
        for formula in [*display[1::2], *" ".join(display[::2]).split("$")[1::2]]:
            assert formula.strip(), paragraph
            braces = formula.replace(r"\{", "").replace(r"\}", "")
            assert braces.count("{") == braces.count("}"), formula
            assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula))


def test_the_contents_page_lists_every_chapter():
    """In order and by its own title, twelve of them; whoever adds one adds it there."""
    listed = re.findall(r"^(\d+)\. \[([^\]]+)\]\((\d\d)_\w+\.md\)", read(CONTENTS), re.MULTILINE)
    numbers = re.findall(r"^(\d+)\. ", read(CONTENTS), re.MULTILINE)
    assert [int(n) for n in numbers] == list(range(1, 13))
    assert [int(n) for n, _, _ in listed] == [int(k) for _, _, k in listed]
    assert [k for _, _, k in listed] == [path.stem[:2] for path in CHAPTERS]
    for (_, title, _), path in zip(listed, CHAPTERS, strict=True):
        assert read(path).splitlines()[0].split(". ", 1)[1] == title


def test_every_picture_is_shown():
    shown = {name for path in CHAPTERS for name in re.findall(r"pictures/(\w+)\.svg", read(path))}
    assert shown >= set(pictures.PICTURES)
    assert {path.stem for path in (BOOK / "pictures").glob("*.svg")} >= set(pictures.PICTURES)


# ---------------------------------------------------------------------------------- the pictures


def test_the_graph_of_the_loss():
    places = pictures.graph_of_the_loss()
    values = {name: place.value for name, place in places.items()}
    gradients = {name: place.gradient for name, place in places.items()}
    assert values == {"w": 2, "x": 3, "b": 1, "t": 5, "p": 6, "s": 7, "e": 2, "L": 4}
    assert gradients == {"w": 12, "x": 8, "b": 4, "t": -4, "p": 4, "s": 4, "e": 4, "L": 1}
    for place in places.values():
        for name, slope in place.slopes.items():  # each result is used once, so there is one term
            assert places[name].gradient == place.gradient * slope


def test_the_derivatives_of_tanh():
    x = np.linspace(-2, 2, 9)
    y, first, second, third, _ = pictures.tanh_and_derivatives(x)
    np.testing.assert_allclose(y, np.tanh(x))
    np.testing.assert_allclose(first, 1 - y**2)
    np.testing.assert_allclose(second, -2 * y * first, atol=1e-12)
    np.testing.assert_allclose(third, -2 * first * (1 - 3 * y**2), atol=1e-12)


@pytest.mark.parametrize("name", pictures.LINEAR)
def test_an_adjoint_is_the_transpose(name):
    matrix, adjoint = pictures.matrix_and_adjoint(name)
    assert matrix.any()
    np.testing.assert_array_equal(adjoint, matrix.T)


def test_two_losses_and_their_slopes():
    u = np.array([-8.0, 0.0, 3.0])
    p = 1 / (1 + np.exp(-u))
    found = pictures.losses_and_slopes(u)
    np.testing.assert_allclose(found["cross-entropy"], (-np.log(p), p - 1))
    np.testing.assert_allclose(found["squared error"], ((1 - p) ** 2, -2 * p * (1 - p) ** 2))


def test_the_variance_loses_its_digits_in_one_pass_only():
    one_pass, two_passes = pictures.errors_of_the_variance(np.array([1.0, 1e3, 1e4])).values()
    assert one_pass[0] < 1e-6
    assert one_pass[1] > 1e-3
    assert one_pass[2] > 1
    assert (two_passes < 1e-6).all()


def test_what_reaches_back():
    found = pictures.what_reaches_back(steps=30, units=16, draws=4)
    last = {name: lengths[-1] for name, lengths in found.items()}
    assert all(lengths[0] == 1 for lengths in found.values())
    assert last["tanh network, s = 0.5"] < 1e-5 < 1 < last["tanh network, s = 2"]
    assert last["LSTM, forget bias 0"] < last["LSTM, forget bias 1"] < last["LSTM, forget bias 3"]
    assert last["LSTM, forget bias 0"] < 1e-4
    assert last["LSTM, forget bias 3"] > 0.1


def test_the_packed_batch():
    plan = pictures.packed_batch()
    texts = [int(place) % len(pictures.LENGTHS) for place in plan.flat]
    assert [texts.count(k) for k in range(4)] == pictures.LENGTHS
    assert [count for _, count in plan.steps] == [4, 3, 2, 2, 1, 1]


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib")
def test_redrawing_gives_pictures(tmp_path):
    """All can be drawn, and twice alike; to the byte they depend on matplotlib's version."""
    pictures.main(tmp_path)
    for name in pictures.PICTURES:
        drawn, committed = (
            read(folder / f"{name}.svg") for folder in (tmp_path, BOOK / "pictures")
        )
        assert abs(drawn.count("<path") - committed.count("<path")) <= 5
    pictures.draw_graph(tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "graph.svg").read_bytes()
