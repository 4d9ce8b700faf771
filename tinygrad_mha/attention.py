"""Chapter 14: scaled dot-product attention.

Source: Vaswani et al., Attention Is All You Need, §3.2.1.
"""

from __future__ import annotations

import numpy as np

from .backend import is_array, place_like, xp
from .dropout import dropout_mask
from .movement import mT
from .primitives import attach, masked_fill, mul
from .products import matmul
from .random import next_mask
from .sampling import normal
from .softmax import softmax_into, softmax_reference
from .tensor import floating, fused, value


def scaled_dot_product_attention_reference(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, seed=None
):
    """The definition: each query averages the values, weighted by how well its key matches."""
    p = attention_weights(q, k, mask=mask, is_causal=is_causal, scale=scale)
    if dropout_p:
        p = mul(p, dropout_mask(value(p), dropout_p, seed))
    return matmul(p, v)


def attention_weights(q, k, *, mask=None, is_causal=False, scale=None):
    """softmax(q kᵀ · scale) where allowed: (..., Tq, Tk). What the fused op never hands out."""
    _check(q, k)
    scores = matmul(q, mT(k)) * _scale(q, scale)
    added, allowed = _masks(value(scores), mask, is_causal)
    if added is not None:
        scores = scores + added
    if allowed is not None:
        scores = masked_fill(scores, ~allowed, value=-np.inf)
    return softmax_reference(scores)


def _resolve(*, mask, is_causal, dropout_p, scale, seed):
    return {
        "mask": value(mask),
        "is_causal": is_causal,
        "dropout_p": dropout_p,
        "scale": scale,
        "seed": next_mask(seed) if dropout_p else None,
    }


@fused(
    reference=scaled_dot_product_attention_reference,
    sample=normal((2, 3, 4), (2, 5, 4), (2, 5, 2)),
    resolve=_resolve,
)
def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, seed=None
):
    """Each query averages the values, weighted by how well its key matches.

    p = softmax(q kᵀ · scale)    y = p v        scale = 1 / √d unless given

    q: (..., Tq, d)    k: (..., Tk, d)    v: (..., Tk, e)    y: (..., Tq, e)

    Backward, in the order of the chain rule (m is the dropout mask, or 1):
        dv = (p·m)ᵀ g          dp = (g vᵀ) · m
        ds = p · (dp − ⟨dp, p⟩) · scale
        dq = ds k              dk = dsᵀ q

    A boolean mask says True where a query *may* attend, a floating one is added to the scores and
    is a constant; either broadcasts to (..., Tq, Tk). ``is_causal`` lets query i see keys 0 … i.
    Forbidden scores are -inf, never a large number; a query that may attend nothing gets zeros and
    sends back zeros. What is masked weighs 0, and 0 times anything finite is 0: so queries, keys
    and values have to be finite even where nobody may look (in PyTorch too).
    """
    _check(q, k, v)
    scale = _scale(q, scale)
    s = floating(q @ mT(k))  # (..., Tq, Tk), and from here on in place
    s *= scale
    added, allowed = _masks(s, mask, is_causal)
    if added is not None:
        s += added
    if allowed is not None:
        s = xp(s).where(allowed, s, s.dtype.type(-np.inf))
    p = softmax_into(s, -1)
    m = dropout_mask(p, dropout_p, seed) if dropout_p else None

    def pullback(g):
        dv = mT(p if m is None else p * m) @ g
        ds = g @ mT(v)  # this is dp; it becomes ds in place
        if m is not None:
            ds *= m
        ds -= (ds * p).sum(axis=-1, keepdims=True)
        ds *= p
        ds *= scale
        return ds @ k, mT(ds) @ q, dv

    return (p if m is None else p * m) @ v, pullback


def _scale(q, scale):
    """1 / √d unless given. With d = 0 every score is an empty sum, 0, whatever it is scaled by."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else scale


def _masks(scores, mask, is_causal):
    """What is added to the scores, and where attention is allowed; None for "nothing"."""
    added = allowed = None
    mask = value(mask)
    if mask is not None:
        mask = mask if is_array(mask) else np.asarray(mask)
        if xp(mask) is np:
            mask = place_like(mask, scores)
        try:
            fits = np.broadcast_shapes(mask.shape, scores.shape) == scores.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"mask {mask.shape} does not broadcast to the scores {scores.shape}")
        if mask.dtype == bool:
            allowed = mask
        elif mask.dtype.kind == "f":
            added = mask.astype(scores.dtype, copy=False)
        else:
            raise TypeError(
                f"mask of {mask.dtype}: write booleans (True = may attend) or floats (added)"
            )
    if is_causal:
        m, (rows, columns) = xp(scores), scores.shape[-2:]
        triangle = m.arange(columns) <= m.arange(rows)[:, None]
        allowed = triangle if allowed is None else allowed & triangle
    return added, allowed


def _check(q, k, v=None):
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries {q.shape} and keys {k.shape} must agree in their last axis")
    if v is not None and (v.ndim < 2 or k.shape[-2] != v.shape[-2]):
        raise ValueError(f"keys {k.shape} and values {v.shape} must be equally many")


attach("scaled_dot_product_attention", scaled_dot_product_attention)
