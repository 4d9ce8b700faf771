"""Chapter 13: dropout."""

from __future__ import annotations

from .backend import place_like
from .primitives import attach, mul
from .random import keep_mask, keep_scale, next_mask
from .sampling import normal
from .tensor import floating, fused, value


def dropout_reference(x, *, p, training=True, seed=None):
    """The definition: multiply by a mask that is 0 with probability p and 1 / (1 − p) otherwise."""
    return mul(x, dropout_mask(value(x), p, seed)) if training and p else mul(x, 1.0)


def dropout_mask(x, p, seed):
    """0 with probability p, else 1 / (1 − p): an array like array x."""
    kept = place_like(keep_mask(seed, x.shape, p), x)
    return kept * floating(x).dtype.type(keep_scale(p))


def _resolve(*, p, training=True, seed=None):
    """Draw the key before the forward pass, so that every replay sees the same mask."""
    return {"p": p, "training": training, "seed": next_mask(seed) if training and p else None}


@fused(reference=dropout_reference, sample=normal((3, 4), p=0.5, seed=1), resolve=_resolve)
def dropout(x, *, p, training=True, seed=None):
    """Zero each element with probability p and scale the rest, so that the mean stays.

    y = x · m,   m = 0 with probability p, else 1 / (1 − p)        dx = g · m

    ``training=False`` returns x. ``seed`` fixes the mask; without it, masks follow
    :func:`tinygrad_mha.manual_seed`. Source: Srivastava et al., Dropout, §4 (the "inverted" form,
    §10).
    """
    if not training or not p:
        return x * 1, lambda g: (g,)
    mask = dropout_mask(x, p, seed)
    return x * mask, lambda g: (g * mask,)


attach("dropout", dropout)
