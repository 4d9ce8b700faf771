"""The pages: whatever a text, a label or a docstring says, no tag comes out of it."""

import json
from html.parser import HTMLParser

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.models import explain_page
from tinygrad_mha.models.explain import Explanation, Token
from tinygrad_mha.models.terminal import shown
from tinygrad_mha.study import explorer, typeset

from .verdict import Target

HOSTILE = (
    "<script>alert(1)</script>|</script><img src=x onerror=ran()>|<!--|]]>|<svg onload=ran()>|"
    '" onmouseover="ran()|javascript:ran()|\u202eabc\u2066|\u2028|\0\x1b[2J|&lt;&#60;|$data @data@'
)
DOCSTRING = (
    "y = <b>x_j^(a-1)</b> · `code <i>`\n\n    dx = g * `x`\n\nA *word* & <script>ran()</script>."
)
TAGS = {"p", "div", "i", "sub", "sup", "em", "code", "b", "br", "ul", "li", "span"}


def targets() -> list[Target]:
    seeds = [
        text.encode("utf-8", "surrogatepass") for text in (HOSTILE, DOCSTRING, "\ud800 good|bad")
    ]
    return [
        Target("explain page", "lines", Explained().run, seeds),
        Target("explorer page", "lines", Explorer().run, seeds),
    ]


class Tags(HTMLParser):
    """The tags of a page with their attributes' names, and what its scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.inside = tag == "script"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts.append(data)
            self.inside = False

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]!r}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data[:80]!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data[:80]!r}")


def explanation(text: str) -> Explanation:
    """Of a text whose tokens and labels are its pieces."""
    parts = [*text.split("|"), "a", "b"][:4]
    labels = sorted({*parts[:2], "x", "y"})
    tokens = [Token(part, part[::-1], known=bool(k), special=not k) for k, part in enumerate(parts)]
    shares = np.linspace(-1, 1, len(parts))
    weights = np.full((1, 1, len(parts), len(parts)), 1 / len(parts))
    without = np.arange(float(len(parts) * len(labels))).reshape(len(parts), len(labels))
    return Explanation(
        text, tokens, False, labels, np.full(len(labels), 1 / len(labels)), len(labels) - 1,
        shares, shares, 2.5, 0.5, 32, "zeros", weights, [[k] for k in range(len(parts))], without,
    )  # fmt: skip


class Explained:
    """A page has the tags of a page of plain words, and two scripts."""

    def __init__(self) -> None:
        self.known = {*Tags(page_of(explanation("a|b b|c| "))).tags}

    def run(self, data: bytes) -> None:
        e = explanation(data.decode("utf-8", "surrogateescape"))
        found = Tags(page_of(e))
        assert {*found.tags} <= self.known, {*found.tags} - self.known
        assert [tag for tag, _ in found.tags].count("script") == 2
        assert json.loads(found.scripts[0])["tokens"] == [shown(t.name) for t in e.tokens]


def page_of(e: Explanation) -> str:
    """Without the parts that no text comes into: they would only take time."""
    page = explain_page.page(e)
    page.encode()
    return page.replace(explain_page.STYLE, "").replace(explain_page.SCRIPT, "")


class Explorer:
    """A recording whose names and docstrings are pieces of the input."""

    def __init__(self) -> None:
        x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
        with tg.trace() as t:
            tg.softmax(x * x).sum().backward()
        self.said = json.dumps(t.data)
        self.plain = Tags(explorer.html(json.loads(self.said), "title")).tags

    def run(self, data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        parts = [*text.split("|"), text]
        said = json.loads(self.said)
        for k, leaf in enumerate(said["leaves"]):
            leaf["name"] = parts[k % len(parts)]
        for k, group in enumerate(said["groups"]):
            group["name"] = group["kind"] = parts[k % len(parts)]
        doc = typeset.html(text)
        for tag, attributes in Tags(doc).tags:
            assert tag in TAGS
            assert set(attributes) <= {"class"}
        said["ops"] = {
            **{name: {**op, "doc": doc, "meaning": text} for name, op in said["ops"].items()},
            text: {"fused": True, "meaning": text, "doc": doc, "signature": text},
        }
        page = explorer.html(said, parts[0])
        page.encode()
        found = Tags(page)
        assert found.tags == self.plain
        [title, *_] = json.loads(found.scripts[0])["leaves"]
        if parts[0].isprintable():
            assert title["name"] == parts[0]
        assert found.scripts[1].startswith("(() => {")
