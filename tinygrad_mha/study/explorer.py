"""The backprop explorer: a recording as one HTML page, which needs no network.

What is drawn is decided here, how is decided in ``page/``, whose scripts read the JSON that
:func:`data` makes. They are allowed by their hash, so nothing else in the file can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..tensor import Op, Tensor
from . import typeset

if TYPE_CHECKING:
    from .trace import Call, Recorder

# in the order in which they are read: one script, in a scope of its own
SCRIPTS = [
    f"{name}.js"
    for name in (
        "tools", "picture", "layout", "drawing", "way_back", "panel", "views", "input"
    )
]  # fmt: skip


def picture(r: Recorder) -> dict[str, Any]:
    """One graph: its calls, leaves, groups and arrays."""
    return {
        "calls": [call_of(c) for c in r.calls],
        "leaves": [
            {"name": x.name, "kind": x.kind, "values": x.values, "gradient": x.gradient}
            for x in r.leaves
        ],
        "groups": [{"name": g.name, "kind": g.kind, "parent": g.parent} for g in r.groups],
        "arrays": r.arrays,
        "order": r.order,
        "root": r.root,
        "inside": r.pictures,
        "ops": {c.op.name: told(c.op) for c in r.calls},
    }


def call_of(c: Call) -> dict[str, Any]:
    """One call as JSON has it; what is empty is left out."""
    said = {
        "op": c.op.name,
        "inputs": c.inputs,
        "outputs": c.outputs,
        "params": c.params,
        "group": c.group,
        "line": c.line,
        "kept": c.kept,
        "step": c.step,
        "g": c.g,
        "ds": c.ds,
        "checks": c.checks,
        "inside": c.inside,
    }
    return {k: v for k, v in said.items() if v not in ({}, [], "", -1)}


def told(op: Op) -> dict[str, Any]:
    """What an op means."""
    return {
        "fused": op.reference is not None,
        "meaning": typeset.meaning(op),
        "doc": typeset.html(op.__doc__ or ""),
        "signature": str(op.__signature__),
    }


def data(r: Recorder) -> dict[str, Any]:
    """The whole recording."""
    ops: dict[str, Any] = {}
    graph = gathered(picture(r), ops)
    return {**graph, "ops": ops, "views": r.views, "passes": r.passes}


def gathered(graph: dict[str, Any], ops: dict[str, Any]) -> dict[str, Any]:
    """A picture and those inside it, with what all their ops mean in one place."""
    ops |= graph["ops"]
    inside = [gathered(inner, ops) for inner in graph["inside"]]
    return {**{k: x for k, x in graph.items() if k != "ops"}, "inside": inside}


def html(said: dict[str, Any], title: str) -> str:
    """The page."""
    files = resources.files(__package__) / "page"
    style, page, *scripts = (
        (files / name).read_text(encoding="utf-8")
        for name in ("explorer.css", "explorer.html", *SCRIPTS)
    )
    script = "\n".join(['(() => {\n"use strict";', *scripts, "})();\n"])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "@title@": escape(printable(title)),
        "@digest@": digest,
        "@style@": style,
        "@data@": embedded(said),
        "@script@": script,
    }
    # all at once, so that a mark in what is put in stays what it is
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], page)


def printable(text: str) -> str:
    """With escapes for what is not seen, could turn the text around, or has no UTF-8.

    >>> print(printable("a\\u202eb"))
    a\\u202eb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# As JSON writes them: a pair of surrogates, which is one character; then what is not seen or turns
# the text beside it around: control characters, marks of direction, half a pair.
UNSEEN = re.compile(
    r"\\(?:(ud[89ab]..\\ud[c-f]..)"
    r"|(u(?:00[01].|007f|00[89].|061c|200[ef]|202[89a-e]|206[6-9]|d[89a-f]..))|.)"
)


def embedded(said: Any) -> str:
    """JSON that can stand between <script> and </script>: no character of HTML is left in it.

    What is not seen is shown by its escape.

    >>> embedded("</script>")
    '"\\\\u003c/script\\\\u003e"'
    >>> print(json.loads(embedded("a\\u202eb")))
    a\\u202eb
    """
    text = json.dumps(said, separators=(",", ":"))
    text = UNSEEN.sub(lambda m: rf"\\{m[2]}" if m[2] else m[0], text)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def framed(page: str) -> str:
    """The page inside a notebook's."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="allow-scripts" '
        'style="width:100%;height:720px;border:0"></iframe>'
    )


def of_tensor(y: Tensor) -> str | None:
    """The explorer of the graph behind a Tensor, for a notebook; None if there is none to show."""
    from .trace import trace_of

    recorder = trace_of(y) if y.node is not None else None
    return None if recorder is None else framed(html(data(recorder), y.node.op.name))
