"""LoRA: a pretrained matrix stays as it is, and a product of two narrow ones is learned beside it.

y = x Wᵀ + b + (x Aᵀ) Bᵀ · alpha / r        A: (r, n)    B: (m, r)

B begins as zeros, so that at first nothing is changed. A and B together have r (n + m) numbers, W
has n m. Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, §4.1; §7.1 for why
it is the projections to queries and values that get one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.random import uniform

from .transformer import TransformerEncoder

PROJECTIONS = ("w_q", "w_v")


class LoraLinear(nn.Linear):
    """A linear layer whose own weights are frozen, with an adapter of rank r.

    Examples
    --------
    >>> layer = LoraLinear(nn.Linear(4, 3), rank=2, alpha=4.0)
    >>> [name for name, p in layer.named_parameters() if p.requires_grad]
    ['lora_a', 'lora_b']
    >>> layer.merged().weight.shape
    (3, 4)
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        for p in layer.parameters():
            p.requires_grad = False
        n_out, n_in = layer.weight.shape
        self.scale = alpha / rank
        where: Any = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        bound = n_in**-0.5
        a = uniform((rank, n_in), -bound, bound) if nn.drawing() else np.zeros((rank, n_in))
        self.lora_a = nn.Parameter(a, **where)
        self.lora_b = nn.Parameter(np.zeros((n_out, rank)), **where)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer, and the adapter on top."""
        return super().forward(x) + tg.linear(tg.linear(x, self.lora_a), self.lora_b) * self.scale

    def merged(self) -> nn.Linear:
        """A plain layer that computes the same."""
        with nn.undrawn():
            n_out, n_in = self.weight.shape
            layer = nn.Linear(n_in, n_out, bias=self.bias is not None)
        with tg.no_grad():
            weight = self.weight + (self.lora_b @ self.lora_a) * self.scale
        layer.weight = nn.Parameter(weight.data)
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.data)
        return layer

    def describe(self) -> str:
        return f"{super().describe()[:-1]}, rank={len(self.lora_a)})"


def adapt(encoder: TransformerEncoder, rank: int, alpha: float) -> None:
    """Give every layer's projections to queries and values an adapter."""
    for layer in encoder.layers:
        for name in PROJECTIONS:
            plain = getattr(layer.multihead_attn, name)
            setattr(layer.multihead_attn, name, LoraLinear(plain, rank, alpha))


def merge(encoder: TransformerEncoder) -> None:
    """Put the adapters into the weights: a plain encoder, which computes the same."""
    for layer in encoder.layers:
        for name in PROJECTIONS:
            adapted = getattr(layer.multihead_attn, name)
            if isinstance(adapted, LoraLinear):
                setattr(layer.multihead_attn, name, adapted.merged())
