"""Which op has kernels: op name -> a forward like the op's own, or None where they do not fit."""

from __future__ import annotations

from collections.abc import Callable

from .attention import scaled_dot_product_attention
from .dropout import dropout
from .embedding import embedding
from .gelu import gelu, linear_gelu
from .linear import linear
from .losses import cross_entropy
from .lstm import lstm
from .norm import add_layer_norm, layer_norm, rms_norm
from .softmax import log_softmax, softmax

KERNELS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        linear, linear_gelu, gelu, softmax, log_softmax, embedding, dropout, layer_norm,
        add_layer_norm, rms_norm, cross_entropy, scaled_dot_product_attention, lstm,
    )
}  # fmt: skip
