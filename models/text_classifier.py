"""The text classifier: embedding → LSTM → multi-head attention → pooling → linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mha import Tensor, checkpoint, nn
from tinygrad_mha.backend import is_array, place_like, placed, to_host
from tinygrad_mha.tensor import value

from .multi_head_attention import MultiHeadAttention

POOLINGS = ("mean", "max", "last")


class TextClassifier(nn.Module):
    """Class scores for padded texts.

    Parameters
    ----------
    vocab_size, d_model, num_classes : int
        Rows of the embedding, width of every layer, number of scores.
    h : int
        Attention heads; each is d_model / h wide.
    num_layers, bidirectional : int, bool
        Of the LSTM; with two directions each is d_model / 2 wide.
    dropout : float
        After the embedding, between LSTM layers, in the attention, and before the last layer.
    pooling : "mean", "max" or "last"
        How the tokens of a text become one vector; pads never take part.
    padding_idx : int
        The id that pads.

    Examples
    --------
    >>> import tinygrad_mha as tg
    >>> tg.manual_seed(0)
    >>> model = TextClassifier(vocab_size=100, d_model=16, num_classes=3).eval()
    >>> short = model(np.array([[5, 7, 2]]))
    >>> padded = model(np.array([[5, 7, 2, 0, 0, 0]]))
    >>> short.shape, bool(np.allclose(short.numpy(), padded.numpy(), atol=1e-6))
    ((1, 3), True)
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        num_classes: int,
        h: int = 8,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.1,
        pooling: str = "mean",
        padding_idx: int = 0,
    ) -> None:
        super().__init__()
        if h < 1 or d_model % h:
            raise ValueError(f"d_model {d_model} is not divisible by {h} heads")
        if bidirectional and d_model % 2:
            raise ValueError(f"d_model {d_model} is odd: two directions need half of it each")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
        self.padding_idx, self.pooling = padding_idx, pooling
        self.embedding = nn.Embedding(vocab_size, d_model, padding_idx=padding_idx)
        self.rnn = nn.LSTM(
            d_model,
            d_model // 2 if bidirectional else d_model,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
            batch_first=True,
        )
        self.multihead_attn = MultiHeadAttention(h, d_model, d_model // h, d_model // h, dropout)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(d_model, num_classes)
        self.recompute: tuple[str, ...] = ()  # what is computed again on the way back

    def forward(self, ids: Any, lengths: Any = None) -> Tensor:
        """Scores (B, num_classes) for ids (B, T).

        ``lengths`` (B,) are the numbers of real tokens; without it they are read from the pads at
        the end of each row. A text of length 0 is legal: it is scored by the last bias alone.
        """
        ids, lengths = self._on_host(ids, lengths)
        x = self.dropout(self.embedding(ids))  # (B, T, d)
        real = np.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        mask = None
        if not real.all():  # what all layers need of the lengths goes to a GPU in one copy
            mask, *_ = placed(
                x.data, real[:, None, None], lengths.astype(np.int32), _shares(real, lengths, x)
            )
        # (B, T, d), zero at the pads
        x = self._run("rnn", lambda x: self.rnn(x, lengths=lengths)[0], x)
        self.multihead_attn.recompute = "scores" in self.recompute
        x = self._run("attention", lambda x: self.multihead_attn(x, mask=mask), x)
        return self.fc(self.dropout(self._pool(x, real, lengths)))

    def _run(self, what: str, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return checkpoint(fn, x) if what in self.recompute else fn(x)

    def _pool(self, x: Tensor, real: np.ndarray, lengths: np.ndarray) -> Tensor:
        """(B, T, d) -> (B, d) over real tokens; zeros for a text that has none."""
        if self.pooling == "mean":
            [share] = placed(x.data, _shares(real, lengths, x))
            return (share @ x).reshape(x.shape[0], x.shape[2])
        if self.pooling == "max":
            x = x.masked_fill(place_like(~real[..., None], x.data), -np.inf).max(axis=1)
        else:
            x = x[np.arange(len(lengths)), np.maximum(lengths, 1) - 1]
        if lengths.size and lengths.min():
            return x
        return x.masked_fill(place_like(lengths[:, None] == 0, x.data), 0.0)

    def _on_host(self, ids: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray]:
        ids = value(ids)
        ids = to_host(ids) if is_array(ids) else np.asarray(ids)
        if not ids.size:  # an empty list has no dtype of its own
            ids = ids.astype(np.int64)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"ids should be integers (B, T), not {ids.dtype} {ids.shape}")
        if ids.shape[1] == 0:  # nothing but empty texts: give them one pad to stand on
            ids = np.full((len(ids), 1), self.padding_idx, ids.dtype)
        if lengths is None:
            real = ids != self.padding_idx
            lengths = np.where(real.any(axis=1), ids.shape[1] - real[:, ::-1].argmax(axis=1), 0)
        lengths = to_host(value(lengths))
        if lengths.size and lengths.dtype.kind not in "iu":
            raise ValueError(f"lengths should be integers, not {lengths.dtype}")
        lengths = lengths.astype(np.int64)
        if lengths.shape != ids.shape[:1]:
            raise ValueError(f"lengths {lengths.shape} should be one for each of {len(ids)} texts")
        if lengths.size and (lengths.min() < 0 or lengths.max() > ids.shape[1]):
            raise ValueError(f"lengths should lie between 0 and the {ids.shape[1]} ids of a row")
        return ids, lengths


def _shares(real: np.ndarray, lengths: np.ndarray, x: Tensor) -> np.ndarray:
    """(B, 1, T): what each token weighs in the mean of its text, 1 / length or 0."""
    return (real / np.maximum(lengths, 1)[:, None]).astype(x.dtype)[:, None]
