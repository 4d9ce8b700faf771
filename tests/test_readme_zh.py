"""The Chinese README: its code and its numbers are the English one's, and its links lead somewhere.

A table of the English README may be missing here; none may say something else.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = ROOT / "tinygrad_mha" / "study" / "README.zh.md"
CHINESE = PATH.read_text(encoding="utf-8")
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")

NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")
WRITTEN_OTHERWISE = {"2,270": "22.7 million"}  # Chinese counts in ten thousands


def blocks(text):
    """Fenced blocks, with their fences."""
    return re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE)


def prose(text):
    """All but the fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_in_lines(text):
    """What stands in `backticks`, each on one line."""
    return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))}


def rows(text):
    """The rows of all tables: for each cell its numbers, in any order (that of words differs)."""
    lines = re.findall(r"^\|(.*)\|$", prose(text), re.MULTILINE)
    return [
        [sorted(NUMBER.findall(cell)) for cell in line.split("|")]
        for line in lines
        if not re.fullmatch(r"[\s:|-]+", line)
    ]


def test_the_first_line_leads_to_the_english_readme():
    title, empty, link = CHINESE.splitlines()[:3]
    assert title == ENGLISH.splitlines()[0]
    assert empty == ""
    assert link == "[English](../../README.md)"
    assert (PATH.parent / "../../README.md").resolve() == ROOT / "README.md"


def test_the_blocks_are_those_of_the_english_readme():
    assert blocks(CHINESE)
    assert blocks(CHINESE) == blocks(ENGLISH)
    assert "```" not in prose(CHINESE)


def test_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)\s]+)\)", prose(CHINESE))
    assert any(link.endswith(".svg") for link in links)
    for link in links:
        if not re.match(r"https?://", link):
            assert (PATH.parent / link.partition("#")[0]).exists(), link


def test_the_rows_of_tables_have_the_numbers_of_the_english_ones():
    """Cell by cell, and in the same order."""
    there = iter(rows(ENGLISH))
    assert rows(CHINESE)
    for row in rows(CHINESE):
        assert row in there, row  # which goes on behind the row that it has found


def test_numbers_anywhere_are_in_the_english_readme():
    for chinese, english in WRITTEN_OTHERWISE.items():
        assert chinese in CHINESE
        assert english in ENGLISH
    ours, theirs = (
        set(NUMBER.findall(re.sub(r"\]\([^)]*\)", "]", prose(text)))) for text in (CHINESE, ENGLISH)
    )
    assert not ours - theirs - set(WRITTEN_OTHERWISE)


def test_names_in_code_are_those_of_the_english_readme():
    assert code_in_lines(CHINESE)
    assert code_in_lines(CHINESE) <= code_in_lines(ENGLISH)
