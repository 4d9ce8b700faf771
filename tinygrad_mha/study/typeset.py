"""An op's docstring as a page shows it: prose as prose, formulas as formulas."""

from __future__ import annotations

import re
from html import escape

from ..tensor import Op

# a name or a closing bracket, then what is lifted or lowered: in brackets, or up to a blank
LIFTED = re.compile(r"\^(<i>\w</i>|\((?:[^()]|\([^()]*\))*\)|[\w.'−-]+)")
LOWERED = re.compile(r"(?<=[\w)∂])_(\{[^}]*\}|[A-Za-z0-9]+(?:'|\b))")
SMALL = re.compile(r"(?<![\w.])([^\W\d_])_([a-z]{1,2})\b")  # q_c in a sentence
LETTER = re.compile(r"(?<![\w&;])([A-Za-z])(?![\w;])")
SENTENCE = re.compile(r"[a-z]{3,} [a-z]{2,} ")
DEFINITION = re.compile(r"\s*(\d+  )?[a-z∂⟨][\w∂'⟨⟩()ᵀ]{0,9}(, [a-z]\w*)* = ")  # y = x Wᵀ
SHAPES = re.compile(r"\s*\w+(, \w+)*: \(")  # x: (..., n)
FORMULA = re.compile(r"[=∂Σ√·]|^\d+  ")


def paragraphs(text: str) -> list[list[str]]:
    """Blocks between empty lines, without the indentation that all lines share."""
    lines = [line.rstrip() for line in text.strip("\n").split("\n")]
    inner = [len(x) - len(x.lstrip()) for x in lines[1:] if x.strip()]
    cut = min(inner, default=0)
    lines = [lines[0].strip(), *(line[cut:] for line in lines[1:])]
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def is_formula(line: str) -> bool:
    """Whether a line is mathematics and not a sentence.

    >>> is_formula("    dx = (h − mean(h)) / s"), is_formula("x reaches the loss in three ways")
    (True, False)
    """
    if DEFINITION.match(line):
        return True
    return bool(FORMULA.search(line)) and not SENTENCE.search(f"{line} ")


def formula(line: str) -> str:
    """One line of mathematics as HTML.

    >>> formula("dx_j = g b a^(b-1)")
    'dx<sub>j</sub> = <i>g</i> <i>b</i> <i>a</i><sup><i>b</i>-1</sup>'
    """
    parts = re.split(r"(`+[^`]+`+)", line)
    if len(parts) > 1:  # code in the middle of it
        return "".join(sentence(p) if p.startswith("`") else formula(p) for p in parts)
    text = LETTER.sub(r"<i>\1</i>", escape(line, quote=False))
    text = LIFTED.sub(lambda m: f"<sup>{unbracketed(m[1])}</sup>", text.replace("</i>^", "</i>^"))
    return LOWERED.sub(lambda m: f"<sub>{unbracketed(m[1])}</sub>", text)


def unbracketed(text: str) -> str:
    """What stands above or below the line needs no brackets."""
    return text[1:-1] if text[0] + text[-1] in ("()", "{}") else text


def columns(line: str) -> list[str]:
    """A sentence with a formula beside it, as two lines.

    >>> columns("Two axes exchanged.      dx = g with the same two exchanged")
    ['Two axes exchanged.', 'dx = g with the same two exchanged']
    """
    parts = re.split(r"(?<=\S) {4,}", line)
    if is_formula(line) or not any(map(is_formula, parts)):
        return [line]
    return parts


def html(text: str) -> str:
    """A docstring as HTML: formulas and shapes keep their lines, sentences flow."""
    parts: list[tuple[str, list[str]]] = []
    for block in paragraphs(text):
        parts.append(("", []))
        for line in (part for whole in block for part in columns(whole)):
            kind = "formula" if is_formula(line) else "shapes" if SHAPES.match(line) else "sentence"
            if parts[-1][0] != kind:
                parts.append((kind, []))
            parts[-1][1].append(line.strip())
    said = []
    for kind, lines in parts:
        if kind == "sentence":
            said.append(f"<p>{sentence(' '.join(lines))}</p>")
        elif kind == "shapes":
            said.append(f'<div class="shapes">{escape(chr(10).join(lines), quote=False)}</div>')
        elif kind == "formula":
            said.append(f'<div class="formula">{chr(10).join(map(formula, lines))}</div>')
    return "".join(said)


def sentence(text: str) -> str:
    """Emphasis as in *this*, and `code`."""
    text = escape(text, quote=False)
    text = re.sub(r"(?<!\*)\*([^* ][^*]*)\*", r"<em>\1</em>", text)
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"<code>\1</code>", text)
    parts = re.split(r"(`+[^`]+`+|<code>.*?</code>)", text)
    for k in range(0, len(parts), 2):
        parts[k] = SMALL.sub(r"\1<sub>\2</sub>", parts[k])
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", "".join(parts))


def meaning(op: Op) -> str:
    """The first line of an op's docstring, as text."""
    blocks = paragraphs(op.__doc__ or "")
    return blocks[0][0] if blocks else ""
