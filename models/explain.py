"""What a model's answer to one text rests on: a share for each token, and the attention by head.

Three ways to share a score out among the tokens, two of them from the gradient of the score with
respect to the embedded tokens x (T, d), which is what the engine is for:

gradient × input       x · ∂f/∂x, summed over the width: the score's slope here, times the way from
                       nothing. Exact for a linear model. Small where the score is flat, as behind a
                       softmax or a gate that is sure, and behind a layer norm, which undoes most of
                       any change of size.
integrated gradients   the same with the gradient averaged over the straight way from a baseline to
                       x: the shares add up to f(x) − f(baseline), but for the steps being finite.
leave one out          by how much the score falls if a word is taken out of the text: no gradient,
                       one more text for each word. Of two words that say the same, neither matters.

Sources: Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating
Activation Differences, §2; Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, §3
and §5 (how many steps, and that the gap tells); Li, Monroe and Jurafsky, Understanding Neural
Networks through Representation Erasure, §3. Attention weights are where a head looks, which
need not be what the answer rests on: Jain and Wallace, Attention is not Explanation, §4.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor
from tinygrad_mha.backend import Array, placed, to_host
from tinygrad_mha.tensor import evaluating

from .errors import InputError, one_line, quoted
from .terminal import columns, fitted, shown
from .text import UNKNOWN, tokenize
from .trained import TrainedClassifier

STEPS = 32  # on the way from the baseline
AT_ONCE = 1024  # tokens in one batch of points on that way
LONGEST = 1024  # tokens of a text: its attention has the square of that for every head
UNKNOWNS = ("[UNK]", "<unk>")  # what tokenizers of pretrained models call it

Score = Callable[[Tensor], Tensor]  # (N, T, d) -> (N,)


# ------------------------------------------------------------------------ shares of a score


def gradient_times_input(score: Score, x: Array) -> np.ndarray:
    """What each token contributes, if the score were as linear everywhere as it is at x.

    Parameters
    ----------
    score : function of a Tensor (N, T, d) to a Tensor (N,)
    x : array (T, d)
        The embedded tokens.

    Returns
    -------
    array (T,), float64, in units of the score

    Examples
    --------
    >>> w = np.array([[1.0, 2.0], [3.0, -4.0]])
    >>> gradient_times_input(lambda x: (x * w).sum(axis=(1, 2)), np.array([[1.0, 1.0], [2.0, 1.0]]))
    array([3., 2.])
    """
    return (slopes(score, x[None])[0] * to_host(x)).sum(axis=-1)


def integrated_gradients(
    score: Score, x: Array, baseline: Array, steps: int = STEPS
) -> tuple[np.ndarray, float, float]:
    """What each token contributes on the straight way from a baseline.

    Parameters
    ----------
    score : function of a Tensor (N, T, d) to a Tensor (N,)
    x, baseline : arrays (T, d)
    steps : int
        The gradient is taken in the middle of each of so many steps of equal length.

    Returns
    -------
    shares : array (T,), float64
        In units of the score. Their sum misses ``end − start`` by what the steps are too few.
    start, end : float
        score(baseline) and score(x).

    Examples
    --------
    >>> cube = lambda x: (x**3).sum(axis=(1, 2))
    >>> integrated_gradients(cube, np.array([[1.0], [2.0]]), np.zeros((2, 1)), steps=10)
    (array([0.9975, 7.98  ]), 0.0, 9.0)
    """
    way = (np.arange(steps) + 0.5) / steps
    mean = np.zeros(x.shape)
    few = max(1, AT_ONCE // max(1, len(x)))
    for start in range(0, steps, few):
        [part] = placed(x, way[start : start + few, None, None].astype(x.dtype))
        mean += slopes(score, baseline + part * (x - baseline)).sum(axis=0) / steps
    shares = (mean * to_host(x - baseline)).sum(axis=-1)
    with tg.no_grad():
        start_score, end_score = (float(score(Tensor(a[None])).numpy()[0]) for a in (baseline, x))
    return shares, start_score, end_score


def slopes(score: Score, points: Array) -> np.ndarray:
    """The gradient of the score at each of the points (N, T, d): float64, on the host."""
    x = Tensor(points, requires_grad=True)
    [dx] = tg.grad(score(x).sum(), [x], retain_graph=False)
    return dx.numpy().astype(np.float64)


# ------------------------------------------------------------------------- inside the model


def opened(model: Any, x: Tensor, seen: list[Tensor] | None = None) -> Any:
    """The model behind its embedding: whatever the ids are, the tokens are ``x`` (N, T, d).

    A shallow copy, which shares all layers with the model but the embedding; the model itself is
    not changed, and may be in use elsewhere. The weights of each attention are appended to
    ``seen``, if given: (N, h, T, T) for each layer, in order.
    """

    def changed(module: Any, **members: Any) -> Any:
        other = copy.copy(module)
        vars(other).update(members)
        return other

    def watched(layer: Any) -> Any:
        return Watched(layer.multihead_attn, seen) if seen is not None else layer.multihead_attn

    if not hasattr(model, "encoder"):
        return changed(model, embedding=lambda ids: x, multihead_attn=watched(model))
    layers = [changed(layer, multihead_attn=watched(layer)) for layer in model.encoder.layers]
    encoder = changed(model.encoder, word_embeddings=lambda ids: x, layers=layers)
    return changed(model, encoder=encoder)


class Watched:
    """An attention that hands its weights to somebody else, too."""

    def __init__(self, attend: Any, seen: list[Tensor]) -> None:
        self.attend, self.seen = attend, seen

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        y, weights = self.attend(*args, **kwargs, need_weights=True)
        self.seen.append(weights)
        return y


class Token(NamedTuple):
    """One token of a text."""

    text: str  # as the user wrote it, or nearly
    piece: str  # as the model sees it
    known: bool = True
    special: bool = False  # not of the text: [CLS], [SEP]
    glued: bool = False  # no blank before it

    @property
    def name(self) -> str:
        """What a table calls it."""
        return self.piece if self.known else f"{self.text} {self.piece}"


def tokens_of(trained: TrainedClassifier, text: str, ids: np.ndarray) -> list[Token]:
    """The tokens that ids stand for, with what was in the text in their place."""
    if not hasattr(trained.model, "encoder"):
        level = trained.config["level"]
        words = tokenize(text, level)[: len(ids)]
        known = [bool(i != UNKNOWN) for i in ids]
        unknown = trained.vocabulary.tokens[UNKNOWN]
        return [
            Token(word, word if is_known else unknown, is_known, glued=level == "char")
            for word, is_known in zip(words, known, strict=True)
        ]
    tokenizer: Any = trained.vocabulary.tokenizer  # type: ignore[attr-defined]
    text = text.encode("utf-8", "replace").decode("utf-8")  # as WordPiece does
    found = tokenizer.encode(text)  # still cut at max_len, by who made the ids
    tokens, end = [], 0
    for piece, (a, b), special in zip(
        found.tokens, found.offsets, found.special_tokens_mask, strict=True
    ):
        special = bool(special) and piece not in UNKNOWNS
        own = text[a:b] if b > a and not special else piece
        glued = not special and 0 < a == end
        tokens.append(Token(own, piece, piece not in UNKNOWNS, special, glued))
        end = end if special else b
    return tokens


def words_of(tokens: Sequence[Token], pieces: bool) -> list[list[int]]:
    """What is left out at once: each token, or all ``pieces`` of a word; never [CLS] and [SEP].

    A word ends at a blank and at a punctuation mark, but not at an apostrophe.

    Examples
    --------
    >>> tokens = [Token("[CLS]", "[CLS]", special=True), Token("play", "play")]
    >>> tokens += [Token("ing", "##ing", glued=True), Token(",", ",", glued=True)]
    >>> words_of(tokens, pieces=True)
    [[1, 2], [3]]
    """
    words: list[list[int]] = []
    for k, token in enumerate(tokens):
        if token.special:
            continue
        before = tokens[words[-1][-1]].text if words else ""
        if pieces and token.glued and in_word(token.text) and in_word(before):
            words[-1].append(k)
        else:
            words.append([k])
    return words


def in_word(text: str) -> bool:
    """Whether it is no punctuation mark."""
    return text in ("'", "’") or any(unicodedata.category(c)[0] in "LMN" for c in text)


def baseline_of(trained: TrainedClassifier, ids: np.ndarray, tokens: Sequence[Token]) -> Any:
    """Ids of a text of the same length that says nothing: unknown tokens, between the special ones.

    None if there is no unknown token: then it is zeros.
    """
    unknown: int | None = UNKNOWN
    if hasattr(trained.model, "encoder"):
        numbers = map(trained.vocabulary.tokenizer.token_to_id, UNKNOWNS)  # type: ignore[attr-defined]
        unknown = next((i for i in numbers if i is not None), None)
    if unknown is None:
        return None
    return np.where([t.special for t in tokens], ids, unknown).astype(ids.dtype)


# ------------------------------------------------------------------------------- all of it


@dataclass
class Explanation:
    """A model's answer to one text, and what it rests on.

    Attributes
    ----------
    text : str
    tokens : list of Token, T of them
    cut : bool
        The text has more tokens than the model takes.
    labels, probabilities : list of str and array (classes,)
    target : int
        The label that is explained.
    gradient_input, integrated : arrays (T,)
        Each token's share in the target's score.
    score, base_score : float
        The target's score (logit) of the text and of the baseline.
    steps : int
        Of the integration.
    baseline : str
        What the text is compared with, in words.
    attention : array (layers, heads, T, T)
        Row: the token that looks. Column: where to. Rows sum to 1.
    words : list of W lists of int
        The tokens of each word that was left out.
    without : array (W, classes)
        All scores of the text without the word.
    """

    text: str
    tokens: list[Token]
    cut: bool
    labels: list[str]
    probabilities: np.ndarray
    target: int
    gradient_input: np.ndarray
    integrated: np.ndarray
    score: float
    base_score: float
    steps: int
    baseline: str
    attention: np.ndarray
    words: list[list[int]] = field(default_factory=list)
    without: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def predicted(self) -> int:
        """The most probable label."""
        return int(self.probabilities.argmax())

    @property
    def gap(self) -> float:
        """By how much the sum of ``integrated`` misses the difference of the two scores."""
        return float(self.integrated.sum() - (self.score - self.base_score))

    @property
    def received(self) -> np.ndarray:
        """(T,): the attention a token gets, on the average of all layers, heads and tokens."""
        if not self.tokens:
            return np.zeros(0)
        return self.attention.mean(axis=(0, 1, 2), dtype=np.float64)

    @property
    def left_out(self) -> np.ndarray:
        """(T,): by how much the target's score falls without the token's word; NaN: it has none."""
        falls = np.full(len(self.tokens), np.nan)
        for word, scores in zip(self.words, self.without, strict=True):
            falls[word] = self.score - scores[self.target]
        return falls

    @property
    def unit(self) -> str:
        """What is left out at once."""
        return "token" if all(t.glued for t in self.tokens if not t.special) else "word"

    @property
    def turns(self) -> list[tuple[list[int], int]]:
        """The words without which the answer would be another label, and that label."""
        best = self.without.argmax(axis=1).tolist() if self.words else []
        pairs = zip(self.words, best, strict=True)
        return [(word, k) for word, k in pairs if k != self.predicted]

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it; numbers rounded to 6 digits after the point."""
        shares = zip(self.tokens, self.gradient_input, self.integrated, self.received, strict=True)
        return {
            "text": self.text,
            "label": self.labels[self.predicted],
            "target": self.labels[self.target],
            "probabilities": {
                k: round(float(p), 6) for k, p in zip(self.labels, self.probabilities, strict=True)
            },
            "tokens": [
                {
                    **{k: getattr(token, k) for k in ("text", "piece", "known", "special")},
                    "gradient_input": round(float(g), 6),
                    "integrated_gradients": round(float(s), 6),
                    "attention": round(float(a), 6),
                }
                for token, g, s, a in shares
            ],
            "left_out": [
                {
                    "word": "".join(self.tokens[k].text for k in word),
                    "tokens": word,
                    "label": self.labels[int(scores.argmax())],
                    "effect": round(float(self.score - scores[self.target]), 6),
                }
                for word, scores in zip(self.words, self.without, strict=True)
            ],
            "cut": self.cut,
            "logit": round(self.score, 6),
            "baseline_logit": round(self.base_score, 6),
            "baseline": self.baseline,
            "gap": round(self.gap, 6),
            "steps": self.steps,
            "attention": self.attention.astype(np.float64).round(6).tolist(),
        }


def explain(
    trained: TrainedClassifier, text: str, target: str | None = None, steps: int = STEPS
) -> Explanation:
    """Share out one score of a text among its tokens, and look at every head's attention.

    Parameters
    ----------
    trained : TrainedClassifier or FineTunedClassifier
    text : str
        May be empty.
    target : str, optional
        The label whose score (logit) is explained; by default the most probable one.
    steps : int
        Of the integrated gradients.

    Raises
    ------
    InputError
        If the model has no such label, or the text is too long to be drawn.

    Examples
    --------
    >>> from tinygrad_mha.models.text import Vocabulary
    >>> from tinygrad_mha.models.trained import build_model
    >>> config = {"d_model": 8, "h": 2, "num_layers": 1, "bidirectional": False, "dropout": 0.0}
    >>> config |= {"pooling": "mean", "level": "word", "max_len": 9}
    >>> vocabulary = Vocabulary(["good", "bad"])
    >>> model = build_model(config, len(vocabulary), 2)
    >>> trained = TrainedClassifier(model, vocabulary, ["-", "+"], config)
    >>> e = explain(trained, "not bad", target="+")
    >>> [token.name for token in e.tokens], e.attention.shape, abs(e.gap) < 1e-4
    (['not <unk>', 'bad'], (1, 2, 2, 2), True)
    """
    if target is not None and target not in trained.labels:
        shown = ", ".join(trained.labels[:30])
        more = len(trained.labels) - 30
        shown += f" and {more} more, in config.json" if more > 0 else ""
        raise InputError(f"no label {quoted(target)}; the labels are {shown}", source="--target")
    cuts = getattr(trained.vocabulary, "cut", 0)
    [ids] = trained.encode([text])
    if len(ids) > LONGEST:
        raise InputError(
            f"the text has {len(ids):,} tokens; explain takes at most {LONGEST:,}: give it a part"
        )
    tokens = tokens_of(trained, text, ids)
    if hasattr(trained.model, "encoder"):
        cut = trained.vocabulary.cut > cuts  # type: ignore[attr-defined]
    else:
        cut = len(tokenize(text, trained.config["level"])) > len(ids)
    logits, attention = answer(trained, ids)
    chosen = int(logits.argmax()) if target is None else trained.labels.index(target)
    score = base = float(logits[chosen])
    first = integrated = np.zeros(0)
    words = words_of(tokens, pieces=hasattr(trained.model, "encoder"))
    without = trained.logits([np.delete(ids, word) for word in words])
    compared = "as many unknown tokens"
    if tokens:
        f = lambda x: scores(trained.model, ids, x)[:, chosen]
        base_ids = baseline_of(trained, ids, tokens)
        x = embedded(trained.model, ids)
        start = x * 0 if base_ids is None else embedded(trained.model, base_ids)
        compared = "zeros" if base_ids is None else compared
        first = gradient_times_input(f, x)
        integrated, base, score = integrated_gradients(f, x, start, steps)
    return Explanation(
        text, tokens, cut, trained.labels, tg.softmax(logits), chosen, first, integrated,
        score, base, steps, compared, attention, words, without,
    )  # fmt: skip


def answer(trained: TrainedClassifier, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores (classes,) of one text, and all attention weights (layers, heads, T, T)."""
    model: Any = trained.model
    [logits] = trained.logits([ids])  # refuses what is not finite
    if not len(ids):
        return logits, np.zeros((1, model.multihead_attn.h, 0, 0), np.float32)
    seen: list[Tensor] = []
    with tg.no_grad():
        scores(model, ids, Tensor(embedded(model, ids)[None]), seen)
    return logits, np.stack([weights.numpy()[0] for weights in seen])


def embedded(model: Any, ids: np.ndarray) -> Array:
    """(T, d): the rows of the embedding, where the model lives."""
    encoder = getattr(model, "encoder", None)
    table = model.embedding if encoder is None else encoder.word_embeddings
    with tg.no_grad():
        return table(ids).data


def scores(model: Any, ids: np.ndarray, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """(N, classes) for N versions x (N, T, d) of one embedded text."""
    with evaluating():
        return opened(model, x, seen)(np.tile(ids, (len(x), 1)), [len(ids)] * len(x))


# ----------------------------------------------------------------------- in the terminal

WIDTH = 80
CELLS = 6  # of a bar, to each side
ROWS, HEADS, TOP = 60, 12, 4  # more tokens, heads or labels than these: the strongest
ASCII = str.maketrans("█▌▐│→×…␣◌", "##||>x._o")  # for a terminal that has nothing else
WARM, COOL, PLAIN = "\x1b[38;5;208m", "\x1b[38;5;39m", "\x1b[0m"


def table(e: Explanation, colour: bool = False) -> list[str]:
    """The explanation as lines of at most 80 columns.

    Examples
    --------
    >>> shares = np.array([0.5]), np.array([2.0])
    >>> labels, p = ["bad", "good"], np.array([0.1, 0.9])
    >>> e = Explanation("fine", [Token("fine", "fine")], False, labels, p, 1, *shares, 2.5, 0.5,
    ...                 32, "zeros", np.ones((1, 1, 1, 1)))
    >>> print(*table(e)[:5], sep="\\n")
    good 0.900   bad 0.100
    <BLANKLINE>
    what speaks for good:
    token             gradient × input   integrated gradients attention  left out
    fine                 │█▌       +0.500       │██████   +2.000      1.00
    """
    lines = [top(e), ""]
    if e.cut:
        lines += [f"only the first {len(e.tokens):,} tokens are read, as in training", ""]
    if not e.tokens:
        return [*lines, "the text has no tokens: this is the answer to nothing"]
    lines.append(fitted(f"what speaks for {shown(e.labels[e.target])}:", WIDTH).rstrip())
    lines.append("token             gradient × input   integrated gradients attention  left out")
    strength = np.maximum(abs(e.gradient_input), abs(e.integrated))
    full = strength.max() or 1.0  # one scale for both
    rows = np.sort(np.argsort(-strength, kind="stable")[:ROWS])
    falls, first = e.left_out, {word[0] for word in e.words}
    for k in rows:
        cells = [fitted(shown(e.tokens[k].name), 14)]
        for share in (e.gradient_input[k], e.integrated[k]):
            cells.append(f"{bar(share / full, colour)} {share:+8.3f}")
        fall = f" {falls[k]:+9.3f}" if k in first else ""
        lines.append(f"{' '.join(cells)} {e.received[k]:9.2f}{fall}")
    if len(rows) < len(e.tokens):
        lines.append(f"… and {len(e.tokens) - len(rows)} weaker tokens; --out and --json have all")
    gap = " " * (2 * CELLS + 1)
    sums = (f"{gap} {share.sum():+8.3f}" for share in (e.gradient_input, e.integrated))
    lines += [f"{'sum':14} {' '.join(sums)}", ""]
    lines.append(
        f"score {e.score:+.3f}; of {e.baseline} {e.base_score:+.3f}; difference "
        f"{e.score - e.base_score:+.3f}"
    )
    lines.append(f"integrated gradients add up to it, but for {e.gap:+.4f} ({e.steps} steps);")
    lines.append("gradient × input is the slope at this very text, and need not add up")
    if e.words:
        lines += [f"left out: by how much the score falls without the {e.unit}", *turn_lines(e)]
    return [*lines, "", *head_lines(e)]


def turn_lines(e: Explanation) -> list[str]:
    """The first words without which the answer would be another one."""
    lines = []
    for word, label in e.turns[:TOP]:
        name = fitted(shown("".join(e.tokens[k].text for k in word)), 20).rstrip()
        lines.append(
            fitted(f"without {name} the answer is {shown(e.labels[label])}", WIDTH).rstrip()
        )
    more = len(e.turns) - TOP
    return [*lines, *([f"and without {more} other {e.unit}s, another answer"] if more > 0 else [])]


def top(e: Explanation) -> str:
    """On one line: the most probable labels, and the one that is explained."""

    def line(kept: Sequence[int]) -> str:
        each = [f"{fitted(shown(e.labels[k]), 24).rstrip()} {e.probabilities[k]:.3f}" for k in kept]
        rest = [f"and {len(order) - len(kept)} more"] if len(order) > len(kept) else []
        return "   ".join([*each, *rest])

    order = [int(k) for k in np.argsort(-e.probabilities, kind="stable")]
    kept = [k for k in order if k in (order[0], e.target)]
    for k in order[:TOP]:
        more = [i for i in order if i in kept or i == k]
        if len(more) <= TOP and columns(line(more)) <= WIDTH:
            kept = more
    return line(kept)


def bar(share: float, colour: bool) -> str:
    """A number from -1 to 1, drawn from the middle to the left or to the right."""
    halves = round(abs(share) * 2 * CELLS)
    if share < 0:
        left, right = ("▐" * (halves % 2) + "█" * (halves // 2)).rjust(CELLS), " " * CELLS
    else:
        left, right = " " * CELLS, ("█" * (halves // 2) + "▌" * (halves % 2)).ljust(CELLS)
    if colour:
        left, right = f"{COOL}{left}{PLAIN}", f"{WARM}{right}{PLAIN}"
    return f"{left}│{right}"


def head_lines(e: Explanation) -> list[str]:
    """For each head, or for those with the most peaked rows, its largest weight."""
    order = peaked(e)
    which = "each head looks"
    if len(order) > HEADS:
        which = f"the {HEADS} most peaked of {len(order)} heads look"
    lines = [f"what {which} at most" + ", inside the text" * any(t.special for t in e.tokens)]
    for layer, head in sorted(order[:HEADS]):
        query, key, weight = strongest(e, layer, head)
        where = f"layer {layer + 1:2} " if len(e.attention) > 1 else ""
        pair = [fitted(shown(e.tokens[i].name), 20).rstrip() for i in (query, key)]
        lines.append(f"{where}head {head + 1:2}   {weight:.2f}   {pair[0]} → {pair[1]}")
    return lines


def peaked(e: Explanation) -> list[tuple[int, int]]:
    """All (layer, head), those first whose tokens look at one place each."""
    peaks = (e.attention * inside(e)).max(axis=-1, initial=0).sum(axis=-1)  # (layers, heads)
    order = np.argsort(-peaks.reshape(-1), kind="stable")
    return [divmod(int(k), peaks.shape[1]) for k in order]


def strongest(e: Explanation, layer: int, head: int) -> tuple[int, int, float]:
    """(query, key, weight) of a head's largest weight inside the text."""
    weights = e.attention[layer, head] * inside(e)
    query, key = divmod(int(weights.argmax()), len(weights))
    return query, key, float(weights[query, key])


def inside(e: Explanation) -> np.ndarray:
    """(T, T): where a token of the text looks at another; everywhere if all tokens are special.

    A head that finds nothing to do rests on [CLS] or [SEP] (Clark et al., What Does BERT Look At?,
    §3.2), which would hide what it does otherwise.
    """
    own = np.array([not t.special for t in e.tokens], bool)
    own = own if own.any() else ~own
    return own[:, None] & own


def show(folder: str, text: str, target: str | None, page: str | None, with_json: bool) -> None:
    """The command: print the table, write the page, end with JSON; as asked for."""
    from .explain_page import check_place, write

    if page is not None:
        check_place(page)  # before anything is computed
    e = explain(TrainedClassifier.load(folder), text, target)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in table(e, colour):
        print(line if drawable() else line.translate(ASCII))
    if page is not None:
        write(e, page)
        print(f"\nthe page is in {one_line(page)}")
    if with_json:
        print(json.dumps(e.as_json()))


def drawable() -> bool:
    """Whether standard output can take what bars are made of."""
    try:
        "".join(map(chr, ASCII)).encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return False
    return True
