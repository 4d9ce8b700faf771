"""A language model: it says how probable each next token is, and so can write a text of its own.

Sources: Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), §2.3 (blocks
with the norm first, and one more norm at the end); Press, Wolf, Using the Output Embedding to
Improve Language Models, §3 (one table of words for input and output).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.backend import is_array, to_host
from tinygrad_mha.tensor import evaluating, value

from .key_value_cache import KeyValueCache
from .transformer import TransformerEncoder, draw_normal, integers

IGNORED = -1  # the target where there is none


class LanguageModel(nn.Module):
    """A stack of transformer blocks in which each token sees itself and those before it.

    h = TransformerEncoder(ids), causal, norm first                     (B, T, d_model)
    logits = h Eᵀ, with E the table of the word embeddings              (B, T, vocab_size)

    The logits at place t are for the token at t + 1.

    Parameters
    ----------
    vocab_size, d_model, h, num_layers : int
    d_ff : int, optional
        By default 4 · d_model.
    max_positions : int
        The longest text: each position has a vector, which is learned.
    dropout, eps, activation : see :class:`TransformerBlock`

    Raises
    ------
    ValueError
        If a size makes no sense, or ``h`` does not divide ``d_model``.

    Notes
    -----
    Weights are drawn as those of :class:`TransformerEncoder`, but for the tables of words and
    positions: with the standard deviation 1 / √d_model the first logits have the variance 1.

    Examples
    --------
    >>> tg.manual_seed(0)
    >>> model = LanguageModel(4, d_model=16, h=2, num_layers=1, max_positions=10, dropout=0)
    >>> optimizer = tg.optim.AdamW(model.parameters(), lr=1e-2)
    >>> for step in range(40):
    ...     loss = model.loss([[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]])
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> model.generate([0, 1, 2], max_new_tokens=6, temperature=0)
    array([0, 1, 2, 3, 0, 1, 2, 3, 0])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 128,
        h: int = 4,
        num_layers: int = 4,
        d_ff: int | None = None,
        max_positions: int = 256,
        dropout: float = 0.1,
        *,
        eps: float = 1e-5,
        activation: str = "gelu",
    ) -> None:
        self.encoder = TransformerEncoder(
            vocab_size, d_model, h, num_layers, d_ff, max_positions, token_types=0,
            dropout=dropout, eps=eps, activation=activation, norm_first=True,
        )  # fmt: skip
        for table in (self.encoder.word_embeddings, self.encoder.position_embeddings):
            draw_normal(table, d_model**-0.5)

    @property
    def max_positions(self) -> int:
        """The number of tokens of the longest text."""
        return self.encoder.max_positions

    def forward(self, ids: Any, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """The logits of each next token, (B, T, vocab_size).

        Parameters
        ----------
        ids : integers (B, T)
            Pads at the end of a text need no mask: nothing before them sees them.
        caches : one KeyValueCache a layer, optional
            ``ids`` continue a text whose earlier tokens are in there, and join them. This is for
            use under ``no_grad``: keys and values from a cache carry no gradient.

        Raises
        ------
        ValueError
            If the text has more tokens than there are positions.
        """
        x = self.encoder(ids, is_causal=True, caches=caches)
        return tg.linear(x, self.encoder.word_embeddings.weight)

    def loss(self, ids: Any, lengths: Any = None, reduction: str = "mean") -> Tensor:
        """The cross-entropy of each next token, in nats.

        Parameters
        ----------
        ids : integers (B, T), T of 2 or more
            All tokens but the last are read, all but the first are to be foretold.
        lengths : B integers in [0, T], optional
            How many tokens of each text are real; the rest are pads at its end, which nobody has to
            foretell. By default all are real.
        reduction : "mean" (over the tokens that count), "sum" or "none" (B, T - 1)

        Raises
        ------
        ValueError
            If there is no next token, or a length does not fit.
        """
        ids = integers(ids, "ids")
        steps = ids.shape[1]
        if steps < 2:
            raise ValueError(f"ids {ids.shape}: a text of {steps} tokens has no next token")
        targets, ignored = ids[:, 1:], None
        if lengths is not None:
            lengths = _host(lengths)
            if lengths.shape != ids.shape[:1] or lengths.dtype.kind not in "iu":
                raise ValueError(f"lengths {lengths.shape} should be {len(ids)} integers")
            if ((lengths < 0) | (lengths > steps)).any():
                raise ValueError(f"lengths {lengths.tolist()} should be between 0 and {steps}")
            ignored = IGNORED
            targets = np.where(np.arange(1, steps) < lengths[:, None], targets, ignored)
        logits = self(ids[:, :-1])
        return tg.cross_entropy(logits, targets, ignore_index=ignored, reduction=reduction)

    def generate(
        self,
        prompt_ids: Any,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: int | None = None,
        *,
        use_cache: bool = True,
    ) -> np.ndarray:
        """Prompts and what the model writes after them.

        The tokens are drawn on the host, by a NumPy generator, from :func:`probabilities`. So one
        seed gives one text on every device (unless a number falls between two probabilities that
        differ by a rounding error).

        Parameters
        ----------
        prompt_ids : integers (T,), or (B, T) for several prompts of one length
        max_new_tokens : int
        temperature, top_k, top_p : see :func:`probabilities`
        seed : int, optional
            Without one, the text is another one each time.
        stop : int, optional
            The token that ends a text. Generation ends when all texts have; those that ended
            before the others are filled up with it.
        use_cache : bool
            False computes the whole text again for each token: the same numbers, up to rounding,
            more slowly.

        Returns
        -------
        integers (T + n,) or (B, T + n), n ≤ max_new_tokens

        Raises
        ------
        ValueError
            Before anything is computed: if the prompts are empty or of several lengths, if the text
            would get longer than ``max_positions``, or if an option makes no sense.
        FloatingPointError
            If the model says NaN.
        """
        text = _prompts(prompt_ids)
        end = text.shape[1] + max_new_tokens
        if max_new_tokens < 0 or end > self.max_positions:
            raise ValueError(
                f"{text.shape[1]} tokens and {max_new_tokens} new ones: a text can have 1 to "
                f"{self.max_positions}, the positions of this model"
            )
        _check(temperature, top_k, top_p)
        rng = np.random.default_rng(seed)
        layers = self.encoder.layers
        caches = [KeyValueCache(end) for _ in layers] if use_cache else None
        unread = text
        running = np.ones(len(text), bool)
        with evaluating(), tg.no_grad():
            for _ in range(max_new_tokens):
                logits = to_host(self(unread, caches)[:, -1].data)
                p = probabilities(logits, temperature, top_k, top_p)
                new = _draw(p, rng)
                if stop is not None:
                    new = np.where(running, new, stop)
                    running = new != stop
                text = np.concatenate([text, new[:, None]], axis=1)
                unread = text[:, -1:] if use_cache else text
                if not running.any():
                    break
        return text if np.ndim(prompt_ids) == 2 else text[0]


def probabilities(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """What each next token is drawn with: softmax(logits / temperature), cut and rescaled.

    Parameters
    ----------
    logits : floats (B, V)
    temperature : float
        Below 1 the probable gets more probable; 0 takes the most probable token (the first one, if
        several are).
    top_k : int, optional
        Only that many of the most probable tokens remain.
    top_p : float, optional
        Of those, only the most probable ones remain: as few as have this share or more.

    Returns
    -------
    float64 (B, V)
        Each row sums up to 1.

    Notes
    -----
    Source: Holtzman et al., The Curious Case of Neural Text Degeneration, §3.1 to 3.3.

    Examples
    --------
    >>> logits = np.log([[0.5, 0.2, 0.3]])
    >>> probabilities(logits, top_k=2).round(3), probabilities(logits, temperature=0)
    (array([[0.625, 0.   , 0.375]]), array([[1., 0., 0.]]))
    """
    _check(temperature, top_k, top_p)
    if np.isnan(logits).any():
        raise FloatingPointError("the logits of the next token are NaN")
    logits = logits.astype(np.float64)
    order = np.argsort(-logits, axis=-1, kind="stable")  # (B, V), the most probable one first
    best = np.take_along_axis(logits, order, axis=-1)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    with np.errstate(over="ignore"):  # at a tiny temperature e^-inf is the 0 that is meant
        p = np.exp((best - best[:, :1]) / temperature)
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:
        better = np.cumsum(p, axis=-1)[:, :-1]  # the share of those before each but the first
        p[:, 1:][better >= top_p] = 0
        p /= p.sum(axis=-1, keepdims=True)
    out = np.empty_like(p)
    np.put_along_axis(out, order, p, axis=-1)
    return out


def _draw(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token a row, (B,): where a random number falls, with the probabilities laid in line."""
    ends = np.cumsum(p, axis=-1)
    at = rng.random(len(p))[:, None] * ends[:, -1:]  # the last end is 1 up to rounding
    return (ends <= at).sum(axis=-1)


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature should be a number from 0 on, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k should be 1 or more, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p should be above 0 and at most 1, not {top_p}")


def _prompts(ids: Any) -> np.ndarray:
    """Prompts as integers (B, T) on the host."""
    try:
        a = _host(ids)
    except ValueError:  # NumPy's, for a ragged list
        lengths = ", ".join(map(str, sorted({np.size(row) for row in ids})))
        raise ValueError(
            f"these prompts have {lengths} tokens: generate those of one length at a time"
        ) from None
    a = a[None] if a.ndim == 1 else a
    if a.ndim != 2 or not a.size or a.dtype.kind not in "iu":
        raise ValueError(
            "prompt_ids should be integers (T,) or (B, T) with at least one token, not "
            f"{a.dtype} {np.shape(ids)}"
        )
    return a.astype(np.int64)


def _host(x: Any) -> np.ndarray:
    x = value(x)
    return to_host(x) if is_array(x) else np.asarray(x)
