"""Chapter 14: scaled dot-product attention.

Source: Vaswani et al., Attention Is All You Need, §3.2.1.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import is_array, place_like, xp
from .dropout import dropout_mask
from .movement import mT
from .primitives import attach, masked_fill, mul
from .products import matmul
from .random import keep_mask, keep_scale, next_mask
from .sampling import normal
from .softmax import shift_of, softmax_reference
from .stretches import stretches
from .tensor import floating, fused, value
from .tiled_attention import tiled_attention

# More scores than this for each head are computed in tiles, and are never all there. (On one thread
# both ways take as long somewhere between 512 x 512 and 1024 x 1024; on two, tiles lead from 256 x
# 256 on.)
LONG = 512 * 512


def scaled_dot_product_attention_reference(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, seed=None, recompute=False
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
    added, allowed = _masks(scores.shape, mask, is_causal, value(scores))
    if added is not None:
        scores = scores + added
    if allowed is not None:
        scores = masked_fill(scores, ~allowed, value=-np.inf)
    return softmax_reference(scores)


def _resolve(*, mask, is_causal, dropout_p, scale, seed, recompute):
    return {
        "mask": value(mask),
        "is_causal": is_causal,
        "dropout_p": dropout_p,
        "scale": scale,
        "seed": next_mask(seed) if dropout_p else None,
        "recompute": recompute,
    }


def attention_without_way_back(q, k, v, **params):
    """The same, when nobody will ask for a gradient: then no score is kept."""
    return scaled_dot_product_attention.forward(q, k, v, **{**params, "recompute": True})[0]


@fused(
    reference=scaled_dot_product_attention_reference,
    without_way_back=attention_without_way_back,
    sample=normal((2, 3, 4), (2, 5, 4), (2, 5, 2)),
    resolve=_resolve,
)
def scaled_dot_product_attention(
    q, k, v, *, mask=None, is_causal=False, dropout_p=0.0, scale=None, seed=None, recompute=False
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

    With ``recompute`` no (Tq, Tk) array is kept for the way back, where p is computed again, a few
    texts at a time: the same numbers to the last bit.

    Long sequences are computed in tiles, and no (Tq, Tk) array exists: see tiled_attention.py. (Not
    with ``create_graph``: that path is the reference's, and writes the scores out.)
    """
    _check(q, k, v)
    scale = _scale(q, scale)
    if q.shape[-2] * k.shape[-2] > LONG:
        shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
        return tiled_attention(
            q, k, v, mask=_mask(mask, shape, q), is_causal=is_causal, dropout_p=dropout_p,
            scale=scale, seed=seed,
        )  # fmt: skip
    return dense_attention(q, k, v, mask, is_causal, dropout_p, scale, seed, recompute)


MILD = 20  # e^20 is far from the largest float32 and e^−40 from the smallest
IN_CACHE = 1 << 16  # scores worked on at a time: a few such arrays fit into a core's own cache


def dense_attention(q, k, v, mask, is_causal, dropout_p, scale, seed, recompute):
    """The scores of a few texts at a time, which stay in the processor's cache meanwhile.

    What the row sums take part in is left to BLAS, which adds short rows faster than NumPy does.
    """
    m, dtype = xp(q), np.result_type(*(floating(x).dtype for x in (q, k, v)))
    q, k, v = (x.astype(dtype, copy=False) for x in (q, k, v))
    single = q.ndim == k.ndim == v.ndim == 2  # one matrix each: a batch of one
    if single:
        q, k, v = q[None], k[None], v[None]
    lead = q.shape[:-2]
    scored = () if single else lead  # the leading axes of the scores, as the user sees them
    if not lead == k.shape[:-2] == v.shape[:-2]:
        scored = np.broadcast_shapes(lead, k.shape[:-2])
        lead = np.broadcast_shapes(scored, v.shape[:-2])
        q, k, v = (m.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    shape = (*lead, q.shape[-2], k.shape[-2])
    added, allowed = _masks((*scored, *shape[-2:]), mask, is_causal, q)
    added, allowed = (None if a is None else m.broadcast_to(a, shape) for a in (added, allowed))
    scale, grow = dtype.type(scale), dtype.type(keep_scale(dropout_p))
    y, ones = _like(q, v.shape[-1]), m.ones((shape[-1], 1), dtype)
    pieces = stretches(shape[0], math.prod(shape[1:]), IN_CACHE, q)
    kept = []  # p, and what dropout keeps, of each piece

    def scores(part):
        s = m.matmul(q[part] * scale, mT(k[part]))
        if added is not None:
            s += added[part]
        if allowed is not None:
            m.copyto(s, -np.inf, where=~allowed[part])
        return s

    def exponentials(s):
        m.exp(s, out=s)
        return m.matmul(s, ones)

    def kept_by_dropout(p, part):
        if scored == lead:  # each text has its own place in the generator
            key = seed._replace(first_row=seed.first_row + part.start)
            return place_like(keep_mask(key, p.shape, dropout_p), p)
        keep = keep_mask(seed, (*scored, *shape[-2:]), dropout_p)  # texts share their scores
        return m.broadcast_to(place_like(keep, p), shape)[part]

    def weights(part):
        """p, and which of its elements dropout keeps (None: all)."""
        s = scores(part)
        # Scores are mild in most models: then no maximum of each row is needed to keep e^s finite.
        # (To look at them would make a GPU wait.)
        total = exponentials(s) if m is np and s.max(initial=0) < MILD else None
        if total is None or not (total > math.exp(-2 * MILD)).all():
            s = s if total is None else scores(part)
            s -= shift_of(s, -1)
            total = exponentials(s)
            total += total == 0  # nobody to attend to: p stays 0
        s /= total
        return s, kept_by_dropout(s, part) if dropout_p else None

    for part in pieces:
        p, keep = weights(part)
        m.matmul(p if keep is None else p * keep, v[part], out=y[part])
        if not recompute:
            kept.append((p, keep))
    if dropout_p:
        y *= grow

    def pullback(g):
        g = g[None] if single else g
        dq, dk, dv = _like(q), _like(k), _like(v)
        for place, part in enumerate(pieces):
            p, keep = weights(part) if recompute else kept[place]
            pm = p if keep is None else p * keep
            m.matmul(mT(pm), g[part], out=dv[part])
            ds = m.matmul(g[part], mT(v[part]))
            ds *= pm  # p · dp
            ds -= m.matmul(ds, ones) * p
            m.matmul(ds, k[part], out=dq[part])
            m.matmul(mT(ds), q[part], out=dk[part])
        dq *= scale * grow
        dk *= scale * grow
        dv *= grow
        return (dq[0], dk[0], dv[0]) if single else (dq, dk, dv)

    return (y[0] if single else y), pullback


def _like(x, width=None):
    """An empty array whose axes lie in memory as those of x, so that nobody has to reorder them."""
    return xp(x).empty_like(x, shape=(*x.shape[:-1], x.shape[-1] if width is None else width))


def _scale(q, scale):
    """1 / √d unless given. With d = 0 every score is an empty sum, 0, whatever it is scaled by."""
    return max(q.shape[-1], 1) ** -0.5 if scale is None else scale


def _masks(shape, mask, is_causal, like):
    """What is added to the scores, and where attention is allowed; None for "nothing"."""
    added = allowed = None
    mask = _mask(mask, shape, like)
    if mask is not None and mask.dtype == bool:
        allowed = mask
    elif mask is not None:
        added = mask.astype(like.dtype, copy=False)
    if is_causal:
        m, (rows, columns) = xp(like), shape[-2:]
        triangle = m.arange(columns) <= m.arange(rows)[:, None]
        allowed = triangle if allowed is None else allowed & triangle
    return added, allowed


def _mask(mask, scores, like):
    """The mask as an array beside ``like``: booleans or floats that broadcast to ``scores``."""
    mask = value(mask)
    if mask is None:
        return None
    mask = mask if is_array(mask) else np.asarray(mask)
    if xp(mask) is np:
        mask = place_like(mask, like)
    try:
        fits = np.broadcast_shapes(mask.shape, scores) == scores
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask {mask.shape} does not broadcast to the scores {scores}")
    if mask.dtype != bool and mask.dtype.kind != "f":
        raise TypeError(
            f"mask of {mask.dtype}: write booleans (True = may attend) or floats (added)"
        )
    return mask


def _check(q, k, v=None):
    if q.ndim < 2 or k.ndim < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries {q.shape} and keys {k.shape} must agree in their last axis")
    if v is not None and (v.ndim < 2 or k.shape[-2] != v.shape[-2]):
        raise ValueError(f"keys {k.shape} and values {v.shape} must be equally many")


attach("scaled_dot_product_attention", scaled_dot_product_attention)
