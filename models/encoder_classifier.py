"""A classifier on top of a pretrained encoder: encoder → pooling over the tokens → linear."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mha import Tensor, nn
from tinygrad_mha.backend import placed, to_host
from tinygrad_mha.tensor import value

from .transformer import TransformerEncoder, draw_normal, integers

POOLINGS = ("mean", "cls")


class EncoderClassifier(nn.Module):
    """Class scores for padded texts, by an encoder that has read much before.

    Parameters
    ----------
    encoder : TransformerEncoder
    num_classes : int
    dropout : float
        Before the last layer.
    pooling : "mean" or "cls"
        How the tokens of a text become one vector: their mean, or the first one's. Pads never take
        part.

    Examples
    --------
    >>> import tinygrad_mha as tg
    >>> tg.manual_seed(0)
    >>> encoder = TransformerEncoder(100, d_model=16, h=2, num_layers=1)
    >>> model = EncoderClassifier(encoder, num_classes=3).eval()
    >>> short, padded = np.array([[5, 7, 2]]), np.array([[5, 7, 2, 0, 0]])
    >>> bool(np.allclose(model(short, [3]).numpy(), model(padded, [3]).numpy(), atol=1e-6))
    True
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        num_classes: int,
        dropout: float = 0.1,
        pooling: str = "mean",
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
        self.pooling = pooling
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(encoder.d_model, num_classes)
        draw_normal(self.fc)

    def forward(self, ids: Any, lengths: Any) -> Tensor:
        """Scores (B, num_classes) for ids (B, T), of which ``lengths`` (B,) are tokens."""
        return self.fc(self.dropout(self.features(ids, lengths)))

    def features(self, ids: Any, lengths: Any) -> Tensor:
        """(B, d_model): each text as one vector."""
        ids = integers(ids, "ids")
        lengths = np.asarray(to_host(value(lengths)))
        if lengths.shape != ids.shape[:1] or lengths.dtype.kind not in "iu":
            raise ValueError(f"lengths {lengths.shape} should be integers, one for each text")
        real = np.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        x = self.encoder(ids, mask=real)
        if self.pooling == "cls":
            return x[:, 0]
        shares = (real / np.maximum(lengths, 1)[:, None]).astype(x.dtype)[:, None]
        return (placed(x.data, shares)[0] @ x).reshape(x.shape[0], x.shape[2])
