"""The weights of PyTorch's modules under our names.

``nn.LSTM``, ``nn.Linear``, ``nn.Embedding`` and ``nn.LayerNorm`` have PyTorch's names already:
their ``load_state_dict`` takes a PyTorch state as it is, from a safetensors file for example
(``safetensors.numpy.load_file``). Attention is divided otherwise there; the functions here put
that right, and ``load_state_dict`` of :class:`MultiHeadAttention` and :class:`TransformerBlock`
calls them. They only rename and cut: what does not fit is told by ``load_state_dict``.

Sources: the pages of torch.nn.MultiheadAttention and torch.nn.TransformerEncoderLayer in PyTorch's
documentation, and the names in their ``state_dict()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .multi_head_attention import MultiHeadAttention

# PyTorch's name -> ours, where it is one; one below the other in it, where they are three
ATTENTION = {
    "in_proj_weight": ("w_q.weight", "w_k.weight", "w_v.weight"),
    "in_proj_bias": ("w_q.bias", "w_k.bias", "w_v.bias"),
    "q_proj_weight": ("w_q.weight",),
    "k_proj_weight": ("w_k.weight",),
    "v_proj_weight": ("w_v.weight",),
    "out_proj.weight": ("fc_out.weight",),
    "out_proj.bias": ("fc_out.bias",),
}
BLOCK = {"norm1.": "multihead_attn.layer_norm.", "norm2.": "layer_norm."}  # the rest has our names


def multi_head_attention(
    state: Mapping[str, Any], module: MultiHeadAttention | None = None
) -> dict[str, Any]:
    """A state of ``torch.nn.MultiheadAttention`` under the names of :class:`MultiHeadAttention`.

    ``in_proj_weight`` (3d, d) becomes w_q, w_k and w_v (d, d); with other widths of keys and values
    they are ``q_proj_weight``, … there as well. Its ``num_heads``, which no weight tells, has to be
    our ``h``. PyTorch's module has neither residual nor norm: those are ours all the same.

    Parameters
    ----------
    state : mapping from names to arrays, Tensors or PyTorch's tensors
        With any other names than PyTorch's it is returned as it is.
    module : MultiHeadAttention, optional
        Whose layer norm is kept: it joins the state, unless that has one.

    Returns
    -------
    dict
        Names that are unknown stay as they are. Without any bias (``bias=False``) ours are zeros.

    Examples
    --------
    >>> state = {"in_proj_weight": np.arange(12.0).reshape(6, 2), "out_proj.weight": np.eye(2)}
    >>> ours = multi_head_attention(state)
    >>> sorted(ours)
    ['fc_out.bias', 'fc_out.weight', 'w_k.bias', 'w_k.weight', 'w_q.bias', 'w_q.weight', \
'w_v.bias', 'w_v.weight']
    >>> ours["w_k.weight"]
    array([[4., 5.],
           [6., 7.]])
    """
    if not any(name in ATTENTION for name in state):
        return dict(state)
    ours: dict[str, Any] = {}
    for name, x in state.items():
        parts = ATTENTION.get(name, (name,))
        if any(part in state for part in parts if part != name):  # both names: one too many
            parts = (name,)
        ours |= zip(parts, _cut(x, len(parts)), strict=True)
    if not any(name.endswith("bias") for name in ours):
        _add_zeros(ours, ("w_q", "w_k", "w_v", "fc_out"))
    if module is not None:
        for name, p in module.layer_norm.named_parameters():
            ours.setdefault(f"layer_norm.{name}", p)
    return ours


def transformer_encoder_layer(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of ``torch.nn.TransformerEncoderLayer`` under the names of :class:`TransformerBlock`.

    The names are the same for both places of the norm and for both activations, which have to be
    chosen alike here and there: ``norm_first``, and ``activation``, which is "relu" there unless
    something else is said.

    Parameters
    ----------
    state : mapping from names to arrays, Tensors or PyTorch's tensors
        With any other names than PyTorch's it is returned as it is.

    Returns
    -------
    dict
        Names that are unknown stay as they are. Without any bias (``bias=False``) ours are zeros.

    Examples
    --------
    >>> theirs = ["self_attn.out_proj.bias", "norm1.bias", "norm2.bias", "linear1.bias"]
    >>> sorted(transformer_encoder_layer(dict.fromkeys(theirs)))
    ['layer_norm.bias', 'linear1.bias', 'multihead_attn.fc_out.bias', \
'multihead_attn.layer_norm.bias']
    """
    prefix = "self_attn."
    heads = {name: x for name, x in state.items() if str(name).startswith(prefix)}
    if not heads:
        return dict(state)
    ours = {}
    for name, x in state.items():
        if name in heads:
            continue
        for theirs, our in BLOCK.items():
            if name.startswith(theirs):
                name = our + name.removeprefix(theirs)
        ours[name] = x
    inside = multi_head_attention({name.removeprefix(prefix): x for name, x in heads.items()})
    ours |= {f"multihead_attn.{name}": x for name, x in inside.items()}
    if not any(name.endswith("bias") for name in state):
        _add_zeros(ours, ("linear1", "linear2", "layer_norm", "multihead_attn.layer_norm"))
    return ours


def _cut(x: Any, parts: int) -> list[Any]:
    """Equal pieces along the first axis; where that cannot be, all of it ``parts`` times, whose
    shape ``load_state_dict`` will then complain of."""
    rows = x.shape[0] if getattr(x, "ndim", 0) else 1
    if parts == 1 or rows % parts:
        return [x] * parts
    n = rows // parts
    return [x[k * n : (k + 1) * n] for k in range(parts)]


def _add_zeros(state: dict[str, Any], layers: tuple[str, ...]) -> None:
    for layer in layers:
        shape: Any = getattr(state.get(f"{layer}.weight"), "shape", ())
        if len(shape):  # else it is missing, which will be told
            state[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
