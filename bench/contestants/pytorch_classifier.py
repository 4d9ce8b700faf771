"""The whole classifier in PyTorch: lengths, both directions, several layers, every pooling.

Its parameters have the names and layouts of ours, so that either can load the other's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Attention(nn.Module):
    def __init__(self, h: int, d: int, dropout: float) -> None:
        super().__init__()
        self.h, self.p = h, dropout
        self.w_q, self.w_k, self.w_v, self.fc_out = (nn.Linear(d, d) for _ in range(4))
        self.dropout, self.layer_norm = nn.Dropout(dropout), nn.LayerNorm(d)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (
            w(x).view(b, t, self.h, d // self.h).transpose(1, 2)
            for w in (self.w_q, self.w_k, self.w_v)
        )
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, real[:, None, None], dropout_p=p)
        y = y.transpose(1, 2).reshape(b, t, d)
        return self.layer_norm(x + self.dropout(self.fc_out(y)))


class TextClassifier(nn.Module):
    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        d_model: int,
        h: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        pooling: str,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.embedding = nn.Embedding(vocab_size, d_model, padding_idx=0)
        self.rnn = nn.LSTM(
            d_model,
            d_model // 2 if bidirectional else d_model,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
            batch_first=True,
        )
        self.multihead_attn = Attention(h, d_model, dropout)
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(d_model, num_classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, classes) for padded ids (B, T), the longest row first."""
        lengths = lengths.clamp(min=1)  # a text without tokens is one pad: PyTorch packs no zeros
        packed = pack_padded_sequence(
            self.dropout(self.embedding(ids)), lengths, batch_first=True, enforce_sorted=True
        )
        x, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        real = torch.arange(x.shape[1]) < lengths[:, None]
        x = self.multihead_attn(x, real)
        if self.pooling == "mean":
            x = (x * real[..., None]).sum(1) / lengths[:, None]
        elif self.pooling == "max":
            x = x.masked_fill(~real[..., None], float("-inf")).amax(1)
        else:
            x = x[torch.arange(len(x)), lengths - 1]
        return self.fc(self.dropout(x))
