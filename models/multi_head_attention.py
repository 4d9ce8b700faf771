"""Multi-head attention with its residual connection and layer norm.

Source: Vaswani et al., Attention Is All You Need, §3.2.2 (the heads), §3.1 (residual and norm),
§5.4 (dropout).
"""

from __future__ import annotations

from typing import Any

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.attention import attention_weights


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in a subspace of its own.

    head_k = Attention(query W_q^k, key W_k^k, value W_v^k)
    y = LayerNorm(query + Dropout(Concat(head_1, …, head_h) W_o))

    Parameters
    ----------
    h : int
        Number of heads.
    d_model : int
        Width of query, key, value and output.
    d_k, d_v : int
        Width of one head's queries and keys, and of its values; the paper takes d_model / h.
    dropout : float
        Probability for the attention weights and for the output before the residual.

    Examples
    --------
    >>> tg.manual_seed(0)
    >>> attend = MultiHeadAttention(h=2, d_model=8, d_k=4, d_v=4).eval()
    >>> x = Tensor([[[float(t == i) for i in range(8)] for t in range(5)]])
    >>> y, weights = attend(x, need_weights=True)
    >>> y.shape, weights.shape, weights.sum(axis=-1).numpy().round(5).min().item()
    ((1, 5, 8), (1, 2, 5, 5), 1.0)
    """

    def __init__(self, h: int, d_model: int, d_k: int, d_v: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.h = h
        self.w_q = nn.Linear(d_model, h * d_k)
        self.w_k = nn.Linear(d_model, h * d_k)
        self.w_v = nn.Linear(d_model, h * d_v)
        self.fc_out = nn.Linear(h * d_v, d_model)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(d_model)
        self.recompute = False  # whether the way back computes the weights again

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Any = None,
        need_weights: bool = False,
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

        Returns
        -------
        Tensor (B, Tq, d_model)
        """
        if query.ndim != 3:
            raise ValueError(f"query {query.shape} should be (batch, steps, d_model)")
        key = query if key is None else key
        value = key if value is None else value
        q = self._heads(self.w_q(query))  # (B, h, Tq, d_k)
        k = self._heads(self.w_k(key))  # (B, h, Tk, d_k)
        v = self._heads(self.w_v(value))  # (B, h, Tk, d_v)
        p = self.dropout.p if self.training else 0.0
        y = tg.scaled_dot_product_attention(
            q, k, v, mask=mask, dropout_p=p, recompute=self.recompute
        )  # (B, h, Tq, d_v)
        y = y.swapaxes(1, 2).reshape(*query.shape[:2], v.shape[1] * v.shape[3])  # concat
        y = self.layer_norm(self.dropout(self.fc_out(y)), residual=query)
        return (y, attention_weights(q, k, mask=mask)) if need_weights else y

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, h · d) -> (B, h, T, d)"""
        batch, steps, width = x.shape
        return x.reshape(batch, steps, self.h, width // self.h).swapaxes(1, 2)
