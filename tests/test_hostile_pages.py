"""The pages in a real browser: what a text, a name or a docstring says is shown, and never runs."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fuzz.pages import explanation

import tinygrad_mha as tg
from tinygrad_mha.models import explain_page
from tinygrad_mha.models.explain import Token
from tinygrad_mha.models.terminal import shown
from tinygrad_mha.study import explorer, typeset

HOSTILE = [
    "<script>ran = 1</script>",
    "</script><script>ran = 1</script>",
    "</title></style></textarea><img src=x onerror='ran = 1'>",
    "<svg onload='ran = 1'><a href='javascript:ran = 1'>here</a>",
    "<!-- <script> ran = 1",
    "--><script>ran = 1</script>",
    "]]><script>ran = 1</script>",
    "<![CDATA[<script>ran = 1</script>",
    '" onmouseover="ran = 1" x=\'',
    "' autofocus onfocus='ran = 1",
    "javascript:ran = 1",
    "`${ran = 1}` {{ran = 1}} @data@ @script@ $data",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=javascript:ran=1'><base href=//example.org>",
    "&lt;script&gt;ran = 1&lt;/script&gt;",
    "a\0b\x1b[2J\x7f\x9b",
    "a\u2028b\u2029c",
    "a\u202eb\u2066c\u200f\u061c",
    "a\ud800b\udfff",
    "__proto__",
    "שלום (1)",
]
JOINED = " | ".join(HOSTILE)
FORBIDDEN = "img, svg [onload], iframe, base, a[href^='javascript'], [onerror], [onmouseover]"
CLICK = "new MouseEvent('click', {bubbles: true})"
DOC = "(document.querySelector('#panel .doc') || {}).textContent"
SCRIPT = "<meta http-equiv=.?Content-Security-Policy[^>]*>"


def harmless(browser, path, scripts=2):
    """Nothing ran, nothing was asked for, nothing complained."""
    js = browser.js
    assert js("typeof ran") == "undefined"
    assert js("document.scripts.length") == scripts
    assert js(f'document.querySelectorAll("{FORBIDDEN}").length') == 0
    assert js("document.readyState") == "complete"
    for event in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
        assert not browser.seen(event), browser.seen(event)
    asked = [r["request"]["url"] for r in browser.seen("Network.requestWillBeSent")]
    assert asked == [path.as_uri()]


@pytest.fixture(params=["guarded", "not guarded"])
def guarded(request):
    """With the page's policy and without it, when the quotation has to do alone."""
    return lambda page: page if request.param == "guarded" else re.sub(SCRIPT, "", page, count=1)


def written(page, path):
    path.write_text(page, encoding="utf-8")
    return path


def test_an_explanation(browser, tmp_path, guarded):
    e = explanation("a|b")
    count = len(HOSTILE)
    shares, weights = np.linspace(-1, 1, count), np.full((1, 2, count, count), 1 / count)
    e = replace(
        e, tokens=[Token(text, text) for text in HOSTILE], labels=HOSTILE, target=0,
        probabilities=np.full(count, 1 / count), integrated=shares, gradient_input=shares,
        attention=weights, words=[[k] for k in range(count)],
        without=np.random.default_rng(0).standard_normal((count, count)),
    )  # fmt: skip
    for target in (0, 17):
        page = guarded(explain_page.page(replace(e, target=target)))
        path = written(page, tmp_path / f"{target}.html")
        browser.open(path)
        words = browser.js("[...document.querySelectorAll('.token')].map(t => t.textContent)")
        assert words == [shown(text) for text in HOSTILE]
        for k in range(1, count + 1, 5):
            browser.mouse(f".token:nth-of-type({k})")
        browser.js("document.querySelectorAll('.head')[1].click()")
        assert browser.js("document.getElementById('cell').textContent") is not None
        title = browser.js("document.title")
        assert title == " ".join(f"{shown(HOSTILE[target])}, explained".split())
        harmless(browser, path)


def recording():
    """Every kind of name, each of them hostile."""
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    layer = tg.nn.Linear(2, 2)
    with tg.trace() as t:
        tg.softmax(layer(x) * x).sum().backward()
    said = json.loads(json.dumps(t.data))
    names = {
        op: f"{text} {k}" for k, (op, text) in enumerate(zip(said["ops"], HOSTILE, strict=False))
    }

    def renamed(graph):
        for k, leaf in enumerate(graph["leaves"]):
            leaf["name"] = HOSTILE[k % len(HOSTILE)]
        for group in graph["groups"]:
            group["name"] = group["kind"] = JOINED
        for call in graph["calls"]:
            call["op"] = names.get(call["op"], call["op"])
            call["params"] = {JOINED: JOINED}
            call["line"] = JOINED
        for inner in graph["inside"]:
            renamed(inner)

    renamed(said)
    lines = [
        f"{before}{text}" for before in ("", "    y = ", "some words before ") for text in HOSTILE
    ]
    doc = typeset.html("\n\n".join(lines))
    said["ops"] = {
        names.get(name, name): {**op, "doc": doc, "meaning": JOINED, "signature": JOINED}
        for name, op in said["ops"].items()
    }
    return said


def test_the_explorer(browser, tmp_path, guarded):
    said = recording()
    for title in (JOINED, "plain"):
        path = written(guarded(explorer.html(said, title)), tmp_path / "page.html")
        browser.open(path)
        heading = browser.js("document.querySelector('h1').textContent")
        assert heading == explorer.printable(title)
        browser.click("#unfold")
        nodes = browser.js("document.querySelectorAll('.node').length")
        assert nodes >= 3
        docs = 0
        for k in range(nodes):
            browser.js(f"document.querySelectorAll('.node')[{k}].dispatchEvent({CLICK})")
            docs += "ran = 1" in (browser.js(DOC) or "")
            js = "(document.querySelector('#panel .line') || {}).textContent"
            assert "ran = 1" in browser.js(js)
        assert docs >= 3
        for _ in range(4):
            browser.click("#on")
        tabs = browser.js("document.querySelectorAll('#tabs button').length")
        for k in range(tabs):
            browser.js(f"document.querySelectorAll('#tabs button')[{k}].click()")
        harmless(browser, path)


def test_nothing_turns_the_text_beside_it_around(browser, tmp_path):
    """A mark of direction is shown as its escape, and words of another direction stand apart."""
    marks = "[\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]"
    turned = f"/{marks}/u.test(document.documentElement.outerHTML)"
    e = explanation("a\u202eb\u2067c|\u200fd|שלום")
    paths = [
        written(explain_page.page(e), tmp_path / "explained.html"),
        written(explorer.html(recording(), JOINED), tmp_path / "explorer.html"),
    ]
    for path in paths:
        browser.open(path)
        if path.name == "explorer.html":
            browser.click("#unfold")
            browser.js(f"document.querySelector('.node').dispatchEvent({CLICK})")
        assert not browser.js(turned)
        assert browser.js("document.documentElement.outerHTML.includes('u202e')")
    browser.open(paths[0])
    label = "[...document.querySelectorAll('.bars bdi')].find(b => /^a/.test(b.textContent))"
    assert browser.js(f"getComputedStyle({label}).unicodeBidi") == "isolate"
