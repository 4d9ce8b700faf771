"""An explanation as one HTML file, which needs no network and asks nobody for anything.

The text, coloured, and all numbers are plain HTML. A script draws the heads and answers to mouse,
finger and keys; it is allowed by its hash, so that nothing else in the file could run, even if a
text found a way out of its quotation.
"""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from tinygrad_mha.study.explorer import embedded

from .errors import InputError
from .explain import Explanation, peaked, strongest
from .files import write_whole
from .terminal import shown

MOST = 1 << 22  # attention weights in a page, 2 bytes each: those of the most peaked heads
SHORT = 28  # characters that fit in one line of large letters
BARS = 6  # labels with a bar

# attribute: (class of its colouring, name)
SHARES = {
    "integrated": ("ig", "integrated gradients"),
    "gradient_input": ("gi", "gradient × input"),
    "left_out": ("lo", "left out"),
}


def check_place(path: str) -> None:
    """Refuse a place where no page can be written, before anything is computed for it."""
    place = Path(os.path.realpath(path))
    problem = ""
    if place.exists() and not place.is_file():
        problem = "is no regular file"
    elif not place.parent.is_dir():
        problem = "is in no folder that exists"
    elif not os.access(place.parent, os.W_OK):
        problem = "is in a folder that cannot be written to"
    if problem:
        raise InputError(f"it {problem}; choose another place with --out", source=path)


def write(e: Explanation, path: str) -> None:
    """Write the page, whole or not at all."""
    write_whole(page(e).encode(), Path(path))


def page(e: Explanation) -> str:
    """The page as text.

    Examples
    --------
    >>> from tinygrad_mha.models.explain import Token
    >>> token, shares = Token("<b>", "<b>"), np.array([1.0])
    >>> e = Explanation("<b>", [token], False, ["bad", "good"], np.array([0.1, 0.9]), 1, shares,
    ...                 shares, 2.5, 0.5, 32, "zeros", np.ones((1, 1, 1, 1)))
    >>> text = page(e)
    >>> "<b>" in text, "&lt;b&gt;" in text, "http:" in text
    (False, True, False)
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    data = data_of(e)
    target, predicted = (escape(shown(e.labels[k])) for k in (e.target, e.predicted))
    return PAGE.substitute(
        digest=digest,
        style=STYLE,
        script=SCRIPT,
        data=embedded(data),
        target=target,
        predicted=predicted,
        percent=percent(e.probabilities[e.predicted]),
        explained=""
        if e.target == e.predicted
        else f'<p class="note">Explained is <bdi>{target}</bdi>.</p>',
        bars=bars(e),
        words=words(e),
        notes=notes(e),
        rows=rows(e),
        heads=heads(e),
        about=about(e, len(data["heads"])),
    )


def data_of(e: Explanation) -> dict[str, Any]:
    """What the script needs: attention (heads, T, T) in 65535ths, two bytes each, little-endian."""
    order = peaked(e)
    count = len(e.tokens)
    turns = {k: label for word, label in e.turns for k in word}
    kept = sorted(order[: max(1, MOST // max(1, count**2))])
    weights = np.array([e.attention[layer, head] for layer, head in kept])
    bits = np.rint(weights.astype(np.float64) * 65535).astype("<u2")
    return {
        "tokens": [shown(token.name) for token in e.tokens],
        "shares": {name: [plain(x) for x in getattr(e, name)] for name in SHARES},
        "turns": [shown(e.labels[turns[k]]) if k in turns else None for k in range(count)],
        "received": e.received.tolist(),
        "heads": [[layer + 1, head + 1] for layer, head in kept],
        "layers": len(e.attention),
        "attention": base64.b64encode(bits.tobytes()).decode(),
    }


def plain(x: float) -> float | None:
    """A number as JSON has it, which knows no NaN."""
    return None if np.isnan(x) else float(x)


def signed(x: float, digits: int = 3) -> str:
    """A number with its sign, typeset; nothing for NaN."""
    if np.isnan(x):
        return ""
    return f"{x:+.{digits}f}".replace("-", "−")


def percent(p: float) -> str:
    """A probability as a person says it; never 100 % unless it is."""
    if 0.995 <= p < 1:
        return f"{min(p, 0.9999):.2%}".replace("%", "\u2009%")
    return f"{p:.0%}".replace("%", "\u2009%")


def bars(e: Explanation) -> str:
    """The probabilities of the first labels, and of the one that is explained."""
    order = [int(k) for k in np.argsort(-e.probabilities, kind="stable")]
    kept = order[:BARS]
    if e.target not in kept:
        kept = [*order[: BARS - 1], e.target]
    lines = []
    for k in kept:
        p = float(e.probabilities[k])
        here = ' class="explained"' if k == e.target else ""
        lines.append(
            f'<li{here}><bdi class="label">{escape(shown(e.labels[k]))}</bdi>'
            f'<span class="track"><span style="width:{100 * p:.2f}%"></span></span>'
            f'<span class="number">{p:.3f}</span></li>'
        )
    if len(order) > len(kept):
        rest = 1 - sum(float(e.probabilities[k]) for k in kept)
        lines.append(
            f'<li class="rest"><span class="label">{len(order) - len(kept)} more</span>'
            f'<span></span><span class="number">{max(rest, 0):.3f}</span></li>'
        )
    return "\n".join(lines)


def words(e: Explanation) -> str:
    """The text, each token with its shares as variables of its style."""
    full = {name: largest(e, name) or 1.0 for name in SHARES}
    short = sum(len(t.text) for t in e.tokens) <= SHORT and all(t.glued for t in e.tokens)
    parts = []
    for k, token in enumerate(e.tokens):
        kinds, style = ["token"], []
        for name, (kind, _) in SHARES.items():
            share = float(np.nan_to_num(getattr(e, name)[k]))
            style.append(f"--{kind}:{abs(share) / full[name]:.3f}")
            if share < 0:
                kinds.append(f"{kind}-against")
        kinds += ["special"] * token.special + ["unknown"] * (not token.known)
        title = f"{shown(token.name)}: {numbers(e, k)}"
        if k and not token.glued:
            parts.append("\n")
        parts.append(
            f'<span class="{" ".join(kinds)}" style="{";".join(style)}" title="{escape(title)}">'
            f"{escape(shown(token.text))}</span>"
        )
        if token.text.isspace():
            parts.append("<wbr>")
    kind = "words large" if short else "words"
    inside = "".join(parts) or '<em class="note">The text has no tokens.</em>'
    return f'<div class="{kind}" id="words" dir="auto">{inside}</div>'


def numbers(e: Explanation, k: int) -> str:
    """A token's shares, in words."""
    shares = [f"{name} {signed(getattr(e, a)[k]) or '–'}" for a, (_, name) in SHARES.items()]
    return f"{', '.join(shares)}, attention received {e.received[k]:.2f}"


def largest(e: Explanation, name: str) -> float:
    """The largest share, whatever its sign; 0 if there is none."""
    return float(np.nan_to_num(abs(getattr(e, name))).max(initial=0))


def notes(e: Explanation) -> str:
    """Under the text: what the colours mean, and what they add up to."""
    difference = signed(e.score - e.base_score)
    meaning = {
        "integrated": (
            f"The average slope on the way from {e.baseline} (score {signed(e.base_score)}) to "
            f"this text ({signed(e.score)}), times the way. The shares add up to "
            f"{signed(e.integrated.sum())}; the difference is {difference}."
        ),
        "gradient_input": (
            "The slope at this very text, times the embedded token. The shares add up to "
            f"{signed(e.gradient_input.sum())}, which need not be the difference, {difference}."
        ),
        "left_out": (
            f"By how much the score falls if a {e.unit} is taken out of the text. Of two {e.unit}s "
            f"that say the same, neither matters. {turned(e)}"
        ),
    }
    lines = []
    for attribute, (kind, _) in SHARES.items():
        full = largest(e, attribute)
        lines.append(
            f'<div class="legend {kind}-only"><span>{signed(-full, 2)}</span>'
            f'<span class="scale"></span><span>{signed(full, 2)}</span></div>'
            f'<p class="note {kind}-only">{meaning[attribute]}</p>'
        )
    if not all(t.known for t in e.tokens):
        lines.append('<p class="note">Dotted: unknown to the model.</p>')
    if e.cut:
        lines.append(f'<p class="note">Only the first {len(e.tokens):,} tokens are read.</p>')
    return "\n".join(lines)


def turned(e: Explanation) -> str:
    """Whether one word decides the answer."""
    if not e.words:
        return ""
    if not e.turns:
        return f"No single {e.unit} decides the answer."
    names = []
    for word, label in e.turns[:BARS]:
        name = shown("".join(e.tokens[k].text for k in word))
        names.append(f"<bdi>{escape(name)}</bdi> (<bdi>{escape(shown(e.labels[label]))}</bdi>)")
    more = len(e.turns) - len(names)
    rest = f" or one of {more} more" if more else ""
    return f"The answer is another one without {', '.join(names)}{rest}."


def rows(e: Explanation) -> str:
    """The table of all numbers."""
    lines, first = [], {word[0] for word in e.words}
    for k, token in enumerate(e.tokens):
        cells = [signed(getattr(e, name)[k], 4) for name in SHARES]
        cells[-1] *= k in first  # once for all pieces of a word
        cells.append(f"{e.received[k]:.3f}")
        inside = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(
            f'<tr><th scope="row"><bdi>{escape(shown(token.name))}</bdi></th>{inside}</tr>'
        )
    return "\n".join(lines)


def heads(e: Explanation) -> str:
    """Each head's largest weight, in words."""
    lines = []
    if e.tokens:
        for layer, head in np.ndindex(e.attention.shape[:2]):
            query, key, weight = strongest(e, layer, head)
            a, b = (f"<bdi>{escape(shown(e.tokens[i].name))}</bdi>" for i in (query, key))
            lines.append(
                f"<tr><td>{layer + 1}</td><td>{head + 1}</td><td>{a} → {b}</td>"
                f"<td>{weight:.3f}</td></tr>"
            )
    return "\n".join(lines)


def about(e: Explanation, kept: int) -> str:
    """How many heads the page shows."""
    layers, count, *_ = e.attention.shape
    total = layers * count
    what = f"{total} heads" if layers == 1 else f"{layers} layers of {count} heads"
    return what if kept == total else f"{what}, of which the {kept} most peaked are drawn"


# ------------------------------------------------------------------------------- the page

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-$digest'">
<title>$target, explained</title>
<style>$style</style>
</head>
<body>
<main>
<div class="side">
<section class="card" aria-label="The answer">
<p class="eyebrow">The model answers</p>
<h1><bdi>$predicted</bdi> <small>$percent</small></h1>
$explained
<ol class="bars">
$bars
</ol>
</section>
<section class="card" aria-label="The text">
<h2>What speaks for <bdi>$target</bdi></h2>
<input type="radio" name="way" id="ig" checked><label for="ig">integrated gradients</label><input
 type="radio" name="way" id="gi"><label for="gi">gradient × input</label><input
 type="radio" name="way" id="lo"><label for="lo">left out</label>
$words
<p id="chosen" class="note" hidden></p>
$notes
<details open><summary>All numbers</summary>
<div class="wide"><table>
<thead><tr><th scope="col">token</th><th scope="col">integrated</th><th scope="col">gradient ×
 input</th><th scope="col">left out</th><th scope="col">attention received</th></tr></thead>
<tbody>
$rows
</tbody></table></div></details>
</section>
</div>
<section class="card heads" aria-label="Attention">
<h2>Where each head looks <small>$about</small></h2>
<noscript><p class="note">The drawings need JavaScript; the numbers below do not.</p></noscript>
<div id="pick" hidden>
<button type="button" id="back" aria-label="the token before">‹</button>
<button type="button" id="on" aria-label="the next token">›</button>
<span id="looks"></span></div>
<div id="grid"></div>
<details open><summary>The largest weight of each head</summary>
<div class="wide"><table>
<thead><tr><th scope="col">layer</th><th scope="col">head</th><th scope="col">token → token it looks
 at</th><th scope="col">weight</th></tr></thead>
<tbody>
$heads
</tbody></table></div></details>
</section>
</main>
<dialog id="big" aria-labelledby="name">
<header><h2 id="name"></h2>
<button type="button" id="previous" aria-label="the head before">‹</button>
<button type="button" id="next" aria-label="the next head">›</button>
<button type="button" id="close" aria-label="close">×</button></header>
<p class="note">Row: the token that looks. Column: what it looks at. Arrow keys move.</p>
<div class="wide"><canvas id="map" tabindex="0" role="img"></canvas></div>
<p id="cell" aria-live="polite"></p>
</dialog>
<script type="application/json" id="data">$data</script>
<script>$script</script>
</body>
</html>
""")

STYLE = """
:root { --page: #f4f3f0; --card: #fff; --ink: #1d1d1f; --soft: #62625f; --line: #deddd8;
  --for: 230 97 1; --against: 38 110 186; --heat: 70 36 120; --mark: #d6336c; --fill: #55534e }
@media (prefers-color-scheme: dark) {
  :root { --page: #121316; --card: #1b1d21; --ink: #ececea; --soft: #a2a29d; --line: #34363c;
    --for: 240 118 24; --against: 62 134 222; --heat: 205 184 255; --mark: #ff7aa8;
    --fill: #a9a7a1 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1320px; margin: 0 auto; padding: 20px; display: grid; gap: 16px;
  grid-template-columns: minmax(0, 440px) minmax(0, 1fr); align-items: start }
.side { display: grid; gap: 16px; position: sticky; top: 20px; max-height: calc(100vh - 40px);
  overflow: auto; scrollbar-width: thin; grid-template-columns: minmax(0, 1fr) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 18px 20px }
h1, h2, p { margin: 0 }
h1 { font-size: 2rem; line-height: 1.15; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin-bottom: 10px; overflow-wrap: anywhere }
small { font-weight: 400; color: var(--soft); font-size: .95rem; letter-spacing: 0 }
h1 small { font-size: 1.2rem }
.eyebrow, .note { color: var(--soft); font-size: .85rem }
.note { margin-top: 8px }
.bars { list-style: none; margin: 14px 0 0; padding: 0; display: grid; gap: 5px }
.bars li { display: grid; grid-template-columns: 6.5rem 1fr 3rem; gap: 10px; align-items: center;
  font-size: .9rem }
.label { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.track { height: 9px; border-radius: 5px; background: var(--line); overflow: hidden }
.track span { display: block; height: 100%; background: var(--fill); border-radius: 5px }
.explained .track span { background: rgb(var(--for)) }
.explained .label { font-weight: 600 }
.rest { color: var(--soft) }
.number, td { text-align: right; font-variant-numeric: tabular-nums }
input[type=radio] { position: absolute; opacity: 0 }
input + label { display: inline-block; padding: 4px 11px; border: 1px solid var(--line);
  border-radius: 99px; margin: 0 5px 5px 0; font-size: .85rem; cursor: pointer; color: var(--soft) }
input:checked + label { background: var(--ink); color: var(--card); border-color: var(--ink) }
input:focus-visible + label { outline: 2px solid var(--mark); outline-offset: 2px }
#ig:checked ~ .gi-only, #gi:checked ~ .ig-only, #lo:checked ~ :is(.ig-only, .gi-only),
  :is(#ig, #gi):checked ~ .lo-only { display: none }
#chosen { min-height: 3em }
.words { margin: 16px 0 6px; font-size: 1.12rem; line-height: 2.05; overflow-wrap: anywhere }
.large { font-size: 2rem; line-height: 1.7 }
.token { --v: var(--ig); --pole: var(--for); padding: 3px 2px; border-radius: 4px; cursor: default;
  background: rgb(var(--pole) / calc(var(--v) * .62));
  border-bottom: 3px solid rgb(var(--pole) / var(--v)) }
.ig-against { --pole: var(--against); border-bottom-style: dashed }
#gi:checked ~ .words .token { --v: var(--gi); --pole: var(--for); border-bottom-style: solid }
#lo:checked ~ .words .token { --v: var(--lo); --pole: var(--for); border-bottom-style: solid }
#gi:checked ~ .words .gi-against, #lo:checked ~ .words .lo-against {
  --pole: var(--against); border-bottom-style: dashed }
.special { color: var(--soft); font-size: .7em }
.unknown { text-decoration: underline dotted }
.token.chosen { box-shadow: 0 0 0 2px var(--mark) }
.token:focus-visible { outline: 2px solid var(--mark); outline-offset: 3px }
.legend { display: flex; align-items: center; gap: 10px; font-size: .8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; margin-top: 10px }
.scale { flex: 1; height: 8px; border-radius: 4px; background: linear-gradient(to right,
  rgb(var(--against) / .8), rgb(var(--against) / 0) 50%, rgb(var(--for) / 0) 50%,
  rgb(var(--for) / .8)) }
details { margin-top: 12px; font-size: .87rem }
summary { cursor: pointer; color: var(--soft) }
.wide { overflow: auto; max-width: 100% }
table { border-collapse: collapse; width: 100%; margin-top: 6px }
th, td { padding: 3px 8px; border-bottom: 1px solid var(--line); font-weight: 400 }
thead th { color: var(--soft); text-align: right; vertical-align: bottom }
th:first-child { text-align: left }
.heads td:nth-child(3) { text-align: left }
.heads thead th:nth-child(3) { text-align: left }
.heads th:first-child { text-align: right }
#pick { position: sticky; top: 0; z-index: 2; background: var(--card); padding: 6px 0 10px;
  font-size: .9rem; min-height: 3.2em }
#pick[hidden] { display: none }
#looks b { color: var(--mark) }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: 8px; cursor: pointer }
#pick button, header button { width: 2.1em; height: 2.1em; line-height: 1; margin-right: 2px }
button:focus-visible, canvas:focus-visible, summary:focus-visible {
  outline: 2px solid var(--mark); outline-offset: 2px }
.layer { margin-top: 12px }
.layer > p { font-size: .8rem; color: var(--soft); margin-bottom: 4px }
.row { display: grid; gap: 6px; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)) }
.few .row { gap: 12px; max-width: calc(var(--columns) * 240px) }
.head { padding: 4px; text-align: left; min-width: 0 }
.head:hover { border-color: var(--mark) }
.head { font-size: .72rem; line-height: 1.35 }
.head p { display: flex; justify-content: space-between; color: var(--soft); margin-top: 3px;
  font-variant-numeric: tabular-nums }
.head span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.few .head { padding: 9px; font-size: .82rem }
.thumb { position: relative; aspect-ratio: 1; background: rgb(var(--heat) / .05);
  border-radius: 3px; overflow: hidden }
.thumb canvas { width: 100%; height: 100%; display: block; image-rendering: pixelated }
.thumb i { position: absolute; left: 0; right: 0; min-height: 2px; border: solid var(--mark);
  border-width: 1.5px 0 }
.strip { width: 100%; height: 16px; display: block; margin-top: 5px;
  border-bottom: 1px solid var(--line) }
.few .strip { height: 30px }
dialog { border: 1px solid var(--line); border-radius: 14px; background: var(--card);
  color: var(--ink); padding: 16px 18px; max-width: calc(100vw - 16px);
  max-height: calc(100vh - 16px) }
dialog::backdrop { background: rgb(0 0 0 / .55) }
header { display: flex; gap: 4px; align-items: center }
header h2 { flex: 1; margin: 0 }
#map { display: block; margin: 10px auto 0 }
#cell { min-height: 1.5em; text-align: center; font-variant-numeric: tabular-nums }
@media (max-width: 900px) {
  main { grid-template-columns: minmax(0, 1fr); padding: 10px; gap: 10px }
  .side { position: static; max-height: none; gap: 10px }
  .card { padding: 14px }
  .row { grid-template-columns: repeat(auto-fill, minmax(58px, 1fr)) }
  .few .row { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) } }
"""

SCRIPT = r"""
(() => {
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const T = D.tokens.length, $ = id => document.getElementById(id);
const bytes = atob(D.attention), W = new Float32Array(bytes.length / 2);
for (let k = 0; k < W.length; k++)
  W[k] = (bytes.charCodeAt(2 * k) | bytes.charCodeAt(2 * k + 1) << 8) / 65535;
const weight = (h, i, j) => W[(h * T + i) * T + j];
// an even row is a light tint, however long it is
const power = Math.max(.3, Math.min(.85, Math.log(.15) / -Math.log(Math.max(T, 2))));
const shade = w => Math.pow(w, power);
const two = w => w.toFixed(2).replace(/^0/, "");
const signed = v => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3);
const heat = () => getComputedStyle(document.documentElement).getPropertyValue("--heat");
const make = (tag, kind, parent) => {
  const e = document.createElement(tag);
  if (kind) e.className = kind;
  parent.append(e);
  return e;
};
const clamp = (k, n) => Math.max(0, Math.min(n - 1, k));
const name = h => (D.layers > 1 ? "Layer " + D.heads[h][0] + ", head " : "Head ") + D.heads[h][1];
const largest = (h, i) => {
  let best = 0;
  for (let j = 1; j < T; j++) if (weight(h, i, j) > weight(h, i, best)) best = j;
  return best;
};

/* the text: one token is chosen, by mouse, finger or arrow keys */
const tokens = [...document.querySelectorAll(".token")];
let chosen = -1;
function choose(k, focus) {
  if (chosen >= 0) {
    tokens[chosen].classList.remove("chosen");
    tokens[chosen].tabIndex = -1;
    tokens[chosen].setAttribute("aria-pressed", "false");
  }
  chosen = k;
  tokens[k].classList.add("chosen");
  tokens[k].tabIndex = 0;
  tokens[k].setAttribute("aria-pressed", "true");
  if (focus) tokens[k].focus();
  $("chosen").textContent = D.tokens[k] + ": integrated " + signed(D.shares.integrated[k]) +
    ", gradient × input " + signed(D.shares.gradient_input[k]) +
    (D.shares.left_out[k] === null ? "" : ", left out " + signed(D.shares.left_out[k])) +
    (D.turns[k] === null ? "" : " (then the answer is " + D.turns[k] + ")") +
    ", attention received " + two(D.received[k]);
  const mean = Array.from({length: T}, (_, j) => [j, 0]);
  for (let h = 0; h < heads.length; h++)
    for (let j = 0; j < T; j++) mean[j][1] += weight(h, k, j) / heads.length;
  mean.sort((a, b) => b[1] - a[1]);
  $("looks").replaceChildren("From ", make("b", "", $("looks")), ", on average to ",
    mean.slice(0, 3).map(([j, w]) => D.tokens[j] + " " + two(w)).join(", "));
  $("looks").querySelector("b").textContent = D.tokens[k];
  for (const head of heads) head.look(k);
}
function arrows(e, k, n, step, go) {
  const to = {ArrowRight: k + 1, ArrowLeft: k - 1, ArrowDown: k + step, ArrowUp: k - step,
    Home: 0, End: n - 1}[e.key];
  if (to === undefined) return;
  e.preventDefault();
  go(clamp(to, n));
}
tokens.forEach((t, k) => {
  t.setAttribute("role", "button");
  t.setAttribute("aria-label", t.title);
  t.setAttribute("aria-pressed", "false");
  t.removeAttribute("title");
  t.tabIndex = -1;
  t.addEventListener("mouseenter", () => choose(k));
  t.addEventListener("click", () => choose(k));
  t.addEventListener("keydown", e => arrows(e, k, T, 1, to => choose(to, true)));
});
$("back").onclick = () => choose(clamp(chosen - 1, T));
$("on").onclick = () => choose(clamp(chosen + 1, T));

/* the heads */
function paint(canvas, h, rgb) {
  const [r, g, b] = rgb, c = canvas.getContext("2d"), image = c.createImageData(T, T);
  for (let k = 0; k < T * T; k++)
    image.data.set([r, g, b, 255 * shade(W[h * T * T + k])], 4 * k);
  c.putImageData(image, 0, 0);
}
const heads = [];
let row, layer = 0;
const few = D.heads.length <= 16;
$("grid").className = few ? "few" : "";
$("grid").style.setProperty("--columns", Math.min(few ? 4 : 16,
  Math.max(...D.heads.map(([, head]) => head))));
if (T) D.heads.forEach(([l], h) => {
  if (l !== layer) {
    const block = make("div", "layer", $("grid"));
    if (D.layers > 1) make("p", "", block).textContent = "Layer " + l;
    row = make("div", "row", block);
    layer = l;
  }
  const button = make("button", "head", row), thumb = make("div", "thumb", button);
  const canvas = make("canvas", "", thumb), mark = make("i", "", thumb);
  const strip = make("canvas", "strip", button), line = make("p", "", button);
  const number = make("span", "", line), value = make("span", "", line);
  const key = make("span", "", button);
  number.textContent = D.heads[h][1];
  button.type = "button";
  button.tabIndex = h ? -1 : 0;
  canvas.width = canvas.height = T;
  mark.style.height = 100 / T + "%";
  strip.width = 12 * T;
  strip.height = 60;
  button.onclick = () => open(h);
  button.onkeydown = e => arrows(e, h, heads.length,
    getComputedStyle(row).gridTemplateColumns.split(" ").length, to => {
      button.tabIndex = -1;
      heads[to].button.tabIndex = 0;
      heads[to].button.focus();
    });
  heads.push({button, draw: rgb => paint(canvas, h, rgb), look(k) {
    const c = strip.getContext("2d"), j = largest(h, k);
    const full = Math.max(weight(h, k, j), 2 / T);  // an even row stays low
    mark.style.top = 100 * k / T + "%";
    c.clearRect(0, 0, strip.width, 60);
    c.fillStyle = "rgb(" + heat() + ")";
    for (let i = 0; i < T; i++) {
      const tall = 60 * weight(h, k, i) / full;
      c.fillRect(12 * i + 1, 60 - tall, 10, tall);
    }
    value.textContent = two(weight(h, k, j));
    key.textContent = "→ " + D.tokens[j];
    button.setAttribute("aria-label", name(h) + ": " + D.tokens[k] + " looks at " +
      D.tokens[j] + ", " + two(weight(h, k, j)) + ". Enlarge");
  }});
});

/* one head, enlarged */
let shown = 0, place = {}, at = [0, 0];
function open(h) {
  shown = clamp(h, heads.length);
  at = [chosen, largest(shown, chosen)];
  if (!$("big").open) $("big").showModal();
  $("name").textContent = name(shown);
  enlarge();
}
function enlarge() {
  const canvas = $("map"), c = canvas.getContext("2d"), font = "12px system-ui, sans-serif";
  const paper = getComputedStyle($("big")).backgroundColor;
  const ink = getComputedStyle(document.body).color, rgb = heat(), ratio = devicePixelRatio || 1;
  const cut = (text, width) => {
    let t = text;
    while (c.measureText(t).width > width && t.length > 1) t = t.slice(0, -2) + "…";
    return t;
  };
  c.font = font;
  const widest = Math.max(...D.tokens.map(t => c.measureText(t).width));
  const label = Math.min(widest, innerWidth < 500 ? 70 : 120) + 10;
  const room = Math.min(innerWidth - 60, Math.max(innerHeight - 190, 260)) - label;
  const size = Math.max(8, Math.min(46, Math.floor(room / T)));
  const full = label + size * T, every = Math.ceil(13 / size);
  place = {label, size};
  canvas.width = canvas.height = Math.round(full * ratio);
  canvas.style.width = canvas.style.height = full + "px";
  c.scale(ratio, ratio);
  c.font = font;
  c.textBaseline = "middle";
  for (let k = 0; k < T; k++) {
    const middle = label + size * (k + .5);
    c.fillStyle = ink;
    if (k % every === 0) {
      const text = cut(D.tokens[k], label - 10);
      c.textAlign = "right";
      c.globalAlpha = k === at[0] ? 1 : .65;
      c.fillText(text, label - 6, middle);
      c.save();
      c.globalAlpha = k === at[1] ? 1 : .65;
      c.translate(middle, label - 6);
      c.textAlign = "left";
      if (widest > size - 6) c.rotate(-Math.PI / 2);
      else c.translate(-c.measureText(text).width / 2, -6);
      c.fillText(text, 0, 0);
      c.restore();
    }
    c.globalAlpha = 1;
    for (let j = 0; j < T; j++) {
      const w = weight(shown, k, j), x = label + size * j, y = label + size * k;
      c.fillStyle = "rgb(" + rgb + " / " + (.04 + .96 * shade(w)) + ")";
      c.fillRect(x, y, size - (size > 12), size - (size > 12));
      if (size > 30) {
        c.fillStyle = shade(w) > .5 ? paper : ink;
        c.textAlign = "center";
        c.fillText(two(w), x + size / 2, y + size / 2);
      }
    }
  }
  c.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark");
  c.lineWidth = 2;
  c.strokeRect(label + size * at[1], label + size * at[0], size, size);
  const said = D.tokens[at[0]] + " → " + D.tokens[at[1]] + ": " +
    weight(shown, ...at).toFixed(3);
  $("cell").textContent = said;
  canvas.setAttribute("aria-label", name(shown) + ", " + said);
}
function move(i, j) {
  at = [clamp(i, T), clamp(j, T)];
  enlarge();
}
$("map").onpointermove = $("map").onpointerdown = e => {
  const {label, size} = place;
  const i = Math.floor((e.offsetY - label) / size), j = Math.floor((e.offsetX - label) / size);
  if (i >= 0 && j >= 0 && i < T && j < T && (i !== at[0] || j !== at[1])) move(i, j);
};
$("map").onkeydown = e => {
  const [i, j] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
    ArrowRight: [0, 1]}[e.key] || [0, 0];
  if (!i && !j) return;
  e.preventDefault();
  move(at[0] + i, at[1] + j);
};
$("previous").onclick = () => open(shown - 1);
$("next").onclick = () => open(shown + 1);
$("close").onclick = () => $("big").close();
$("big").onclick = e => { if (e.target === $("big")) $("big").close(); };
$("big").onclose = () => heads[shown].button.focus();
addEventListener("resize", () => { if ($("big").open) enlarge(); });

function draw() {
  const rgb = heat().trim().split(" ").map(Number);
  for (const head of heads) head.draw(rgb);
  if (chosen >= 0) choose(chosen);
  if ($("big").open) enlarge();
}
for (const details of document.querySelectorAll("details")) details.open = false;
if (T) {
  $("pick").hidden = $("chosen").hidden = false;
  const sizes = D.shares.integrated.map(Math.abs);
  choose(sizes.indexOf(Math.max(...sizes)));
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
})();
"""
