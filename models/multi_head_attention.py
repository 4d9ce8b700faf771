"""Multi-head attention with its residual connection and layer norm.

Source: Vaswani et al., Attention Is All You Need, §3.2.2 (the heads), §3.1 (residual and norm),
§5.4 (dropout).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.attention import attention_weights
from tinygrad_mha.backend import place_like, placed
from tinygrad_mha.tensor import value as tg_value

if TYPE_CHECKING:
    from .key_value_cache import KeyValueCache


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in a subspace of its own.

    head_k = Attention(query W_q^k, key W_k^k, value W_v^k)
    y = LayerNorm(query + Dropout(Concat(head_1, …, head_h) W_o))

    With ``norm_first`` the norm moves inside: the heads see LayerNorm(query) (and key and value as
    they are given), and y = query + Dropout(Concat(…) W_o).

    Parameters
    ----------
    h : int
        Number of heads.
    d_model : int
        Width of query, key, value and output.
    d_k, d_v : int
        Width of one head's queries and keys, and of its values; the paper takes d_model / h.
    dropout : float
        Probability for the output before the residual, and for the attention weights.
    attention_dropout : float, optional
        For the attention weights another one.
    eps : float
        Of the layer norm.
    norm_first : bool

    Examples
    --------
    >>> tg.manual_seed(0)
    >>> attend = MultiHeadAttention(h=2, d_model=8, d_k=4, d_v=4).eval()
    >>> x = Tensor([[[float(t == i) for i in range(8)] for t in range(5)]])
    >>> y, weights = attend(x, need_weights=True)
    >>> y.shape, weights.shape, weights.sum(axis=-1).numpy().round(5).min().item()
    ((1, 5, 8), (1, 2, 5, 5), 1.0)
    """

    def __init__(
        self,
        h: int,
        d_model: int,
        d_k: int,
        d_v: int,
        dropout: float = 0.1,
        *,
        attention_dropout: float | None = None,
        eps: float = 1e-5,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.h, self.norm_first = h, norm_first
        self.attention_dropout = attention_dropout
        self.w_q = nn.Linear(d_model, h * d_k)
        self.w_k = nn.Linear(d_model, h * d_k)
        self.w_v = nn.Linear(d_model, h * d_v)
        self.fc_out = nn.Linear(h * d_v, d_model)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(d_model, eps)
        self.recompute = False  # whether the way back computes the weights again

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Any = None,
        need_weights: bool = False,
        is_causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Any:
        """Attend from ``query`` to ``key`` (by default the query: self-attention).

        Parameters
        ----------
        query : Tensor (B, Tq, d_model)
        key, value : Tensor (B, Tk, d_model)
            ``key`` defaults to ``query``, ``value`` to ``key``.
        mask : array broadcasting to (B, h, Tq, Tk)
            Boolean: True where a query may attend. Floating: added to the scores.
        need_weights : bool
            Return ``(y, weights)`` with each head's attention, before dropout: (B, h, Tq, Tk).
        is_causal : bool
            Each token attends to itself and to those before it only.
        cache : KeyValueCache, optional
            The text's earlier tokens, which come first; these join them. No gradient reaches them.

        Returns
        -------
        Tensor (B, Tq, d_model)
        """
        if query.ndim != 3:
            raise ValueError(f"query {query.shape} should be (batch, steps, d_model)")
        x = query
        if self.norm_first:
            query = self.layer_norm(query)
        key = query if key is None else key
        value = key if value is None else value
        q = self._heads(self.w_q(query))  # (B, h, Tq, d_k)
        k = self._heads(self.w_k(key))  # (B, h, Tk, d_k)
        v = self._heads(self.w_v(value))  # (B, h, Tk, d_v)
        if cache is not None:
            k, v = map(Tensor, cache.append(k.data, v.data))
            is_causal = is_causal and q.shape[2] > 1  # the last token may see all
            if is_causal:
                mask, is_causal = _seen(mask, q.shape[2], k.shape[2], q), False
        y = tg.scaled_dot_product_attention(
            q, k, v, mask=mask, is_causal=is_causal, dropout_p=self._p(), recompute=self.recompute
        )  # (B, h, Tq, d_v)
        y = y.swapaxes(1, 2).reshape(*x.shape[:2], v.shape[1] * v.shape[3])  # concat
        y = self.dropout(self.fc_out(y))
        y = x + y if self.norm_first else self.layer_norm(y, residual=x)
        if not need_weights:
            return y
        return y, attention_weights(q, k, mask=mask, is_causal=is_causal)

    def load_state_dict(self, state: Any, strict: bool = True) -> tuple[list[str], list[str]]:
        """As every module, and from a ``torch.nn.MultiheadAttention`` (see ``torch_weights``)."""
        from . import torch_weights

        return super().load_state_dict(torch_weights.multi_head_attention(state, self), strict)

    def _p(self) -> float:
        """The probability that an attention weight is dropped."""
        if not self.training:
            return 0.0
        return self.dropout.p if self.attention_dropout is None else self.attention_dropout

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, h · d) -> (B, h, T, d)"""
        batch, steps, width = x.shape
        return x.reshape(batch, steps, self.h, width // self.h).swapaxes(1, 2)


def _seen(mask: Any, new: int, all_of_them: int, beside: Tensor) -> Any:
    """Which of all tokens each of the ``new`` last ones may attend to; with a mask, as it says."""
    [seen] = placed(beside.data, np.tri(new, all_of_them, all_of_them - new, dtype=bool))
    if mask is None:
        return seen
    mask = place_like(tg_value(mask), beside.data)
    if mask.dtype == bool:
        return mask & seen
    return mask + tg.where(seen, 0.0, -np.inf)
