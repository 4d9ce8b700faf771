"""Chapter 14, continued: attention in tiles, for sequences whose scores do not fit in memory.

The scores of T queries and T keys are T² numbers: at T = 8,192 and eight heads 2 GB, of which each
is used once. Here they are computed tile by tile, ROWS queries by COLUMNS keys, used while they are
in the cache, and forgotten. Time stays quadratic in T; memory grows with T.

**Forward.** The softmax of a row needs the row's maximum m and its total l = Σ e^(s_j − m), and
both depend on keys that later tiles bring. So they are corrected on the way (the "online" softmax).
Suppose that after some tiles

    m = max s_j        l = Σ e^(s_j − m)        y = Σ e^(s_j − m) v_j

and that the next tile has a larger maximum. With m' the maximum of both, every earlier term has to
shrink by the same factor, e^(s_j − m') = e^(s_j − m) · e^(m − m'), and so do the sums:

    l' = l · e^(m − m') + Σ e^(s_j − m')        y' = y · e^(m − m') + Σ e^(s_j − m') v_j

the sums on the right over the new tile. After the last one y / l is the answer. What is kept for
the way back is y and one number a row, the logarithm of the full sum, L = m + log l.

**Backward.** Now p = e^(s − L) at once, with no maximum and no total: the tiles are computed again,
which costs less than to have stored them. For a tile of p and the gradient g of y,

    dv_j += pᵀ g        dp = g vᵀ        ds = p · (dp − D) · scale
    dq_i += ds k        dk_j += dsᵀ q

where D = ⟨dp, p⟩, a sum over the whole row, seems to ask for all tiles before the first can be
finished. It does not: D_i = Σ_j p_ij (g_i · v_j) = g_i · Σ_j p_ij v_j = g_i · y_i.

**Dropout** multiplies p by a mask m after the softmax. The total l is that of all weights, dropped
or not; y = Σ (p·m) v, dv = (p·m)ᵀ g and dp = (g vᵀ) · m; and D is still g · y, because there m
goes the same way as v: Σ_j p_ij m_ij (g_i · v_j) = g_i · y_i. The bits of m are a function of their
place (see random.py), so that those of a few rows can be drawn alone, and again on the way back.

Two small economies. The scale is multiplied into q, not into the scores. And a number that is to be
subtracted from every score of a row rides along in the matrix product, as one more column:
s − L = [q, −L] [k, 1]ᵀ and dp − D = [g, −D] [v, 1]ᵀ.

Sources: Milakov and Gimelshein, Online Normalizer Calculation for Softmax, 2018 (the forward pass);
Rabe and Staats, Self-Attention Does Not Need O(n²) Memory, 2021; Dao et al., FlashAttention, 2022,
§3.1 and appendix B (D, and the tiles of the way back).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .backend import place_like, xp
from .random import keep_rows, keep_scale
from .tensor import default_dtype
from .threads import side_by_side

# Of a tile: half a megabyte in float32, which a core's own cache can hold.
ROWS, COLUMNS = 512, 256


def tiled_attention(q, k, v, *, mask, is_causal, dropout_p, scale, seed):
    """(y, pullback) of scaled_dot_product_attention, which has made the checks.

    On the CPU every head is a piece of work of its own, and threads share them (so that a lone head
    is computed by one thread); on a GPU all heads go through the same tiles together.
    """
    m = xp(q)
    dtype = np.result_type(
        *(x.dtype if x.dtype.kind == "f" else default_dtype() for x in (q, k, v))
    )
    q, k, v = (x.astype(dtype, copy=False) for x in (q, k, v))
    shared = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    lead = np.broadcast_shapes(shared, v.shape[:-2])
    heads = list(np.ndindex(lead)) if m is np else [()]
    if mask is not None and mask.ndim < 2:
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
    drop = (seed, (*shared, q.shape[-2], k.shape[-2]), dropout_p) if dropout_p else None

    def of(head, *arrays):
        return [m.broadcast_to(x, (*lead, *x.shape[-2:]))[head] for x in arrays]

    def tiles(head):
        part = None if mask is None else of(head, mask)[0]
        return Tiles(q.shape[-2], k.shape[-2], part, is_causal, drop, head)

    def room(length, width):
        return m.empty((*lead, length, width), dtype)

    y, log_total = room(q.shape[-2], v.shape[-1]), room(q.shape[-2], 1)
    side_by_side(
        lambda head: forward(*of(head, q, k, v), tiles(head), scale, y[head], log_total[head]),
        heads,
    )

    def pullback(g):
        ds = [room(*x.shape[-2:]) for x in (q, k, v)]
        side_by_side(
            lambda head: backward(
                *of(head, q, k, v, g, y, log_total), tiles(head), scale, *(d[head] for d in ds)
            ),
            heads,
        )
        return ds

    return y, pullback


def forward(q, k, v, tiles, scale, y, log_total):
    """Fill y (..., Tq, e) and the logarithm of each row's sum of exponentials (..., Tq, 1)."""
    m, room = xp(q), Room(q)
    v1 = beside(v, 1)
    calm = tiles.mask_is_boolean and is_calm(q, k, scale)
    for i in tiles.rows():
        qi, yi, kept = q[..., i, :] * scale, y[..., i, :], tiles.kept(i, q)
        yi[...] = 0
        top = m.full((*qi.shape[:-1], 1), 0 if calm else -np.inf, q.dtype)
        total = m.zeros_like(top)
        for j, hidden, added in tiles.columns(i, q):
            p = room.product(qi, k[..., j, :])  # the scores; from here on in place
            if added is not None:
                p += added
            hide(p, hidden)
            if not calm:
                higher = m.maximum(top, p.max(axis=-1, keepdims=True))
                shift = finite(higher)
                p -= shift
                shrink = m.exp(top - shift)
                total *= shrink
                yi *= shrink
                top = higher
            m.exp(p, out=p)
            total += p @ v1[..., j, -1:]  # a product with ones is the fastest sum over a row
            if kept is not None:
                p *= kept[..., j]
            yi += p @ v1[..., j, :-1]
        total += total == 0  # a query that may attend nothing: 0 / 1
        yi /= total
        if kept is not None:
            yi *= keep_scale(tiles.drop[2])
        log_total[..., i, :] = finite(top) + m.log(total)


def backward(q, k, v, g, y, log_total, tiles, scale, dq, dk, dv):
    """Fill dq, dk and dv, computing the tiles of p once more."""
    m, room, other = xp(q), Room(q), Room(q)
    k1, v1 = beside(k, 1), beside(v, 1)
    dk[...] = 0
    dv[...] = 0
    for i in tiles.rows():
        gi, dqi, kept = g[..., i, :], dq[..., i, :], tiles.kept(i, q)
        mean = (gi * y[..., i, :]).sum(axis=-1, keepdims=True)  # ⟨dp, p⟩, the D of above
        q1 = beside(q[..., i, :] * scale, -log_total[..., i, :])
        if kept is None:
            g1 = beside(gi, -mean)
        else:
            g1 = beside(gi * keep_scale(tiles.drop[2]), 0)
        dqi[...] = 0
        for j, hidden, added in tiles.columns(i, q):
            p = room.product(q1, k1[..., j, :])
            if added is not None:
                p += added
            hide(p, hidden)
            m.exp(p, out=p)
            dropped = p if kept is None else p * kept[..., j]
            dv[..., j, :] += mT(dropped) @ g1[..., :-1]
            ds = other.product(g1, v1[..., j, :])
            if kept is not None:
                ds *= kept[..., j]
                ds -= mean
            ds *= p
            dk[..., j, :] += mT(ds) @ q1[..., :-1]
            dqi += ds @ k1[..., j, :-1]
        dqi *= scale


class Tiles(NamedTuple):
    """Which tiles a head consists of, and what is masked or dropped there."""

    tq: int
    tk: int
    mask: Any  # (..., Tq or 1, Tk or 1): booleans, True = may attend; floats are added; or None
    is_causal: bool
    drop: Any  # (key, the shape of all scores, probability), or None
    head: tuple[int, ...]  # which one this is; (): all of them at once

    @property
    def mask_is_boolean(self) -> bool:
        return self.mask is None or self.mask.dtype == bool

    def rows(self) -> Iterator[slice]:
        return stretches(self.tq, ROWS)

    def columns(self, rows: slice, like: Any) -> Iterator[tuple[slice, Any, Any]]:
        """(columns, where attention is forbidden, what is added), without the tiles of zeros."""
        m = xp(like)
        last = min(self.tk, rows.stop) if self.is_causal else self.tk
        for j in stretches(last, COLUMNS):
            hidden = added = None
            if self.mask is not None:
                part = self.mask[
                    ...,
                    rows if self.mask.shape[-2] > 1 else slice(None),  # a length of 1 broadcasts
                    j if self.mask.shape[-1] > 1 else slice(None),
                ]
                if part.dtype != bool:
                    added = part.astype(like.dtype, copy=False)
                elif m is not np:  # to look at it, the host would have to wait
                    hidden = ~part
                elif not part.any():
                    continue
                elif not part.all():
                    hidden = ~part
            if self.is_causal and j.stop - 1 > rows.start:
                later = m.arange(j.start, j.stop) > m.arange(rows.start, rows.stop)[:, None]
                hidden = later if hidden is None else hidden | later
            yield j, hidden, added

    def kept(self, rows: slice, like: Any) -> Any:
        """Which weights of these rows dropout keeps: (..., rows, Tk), or None for all."""
        if self.drop is None:
            return None
        key, shape, p = self.drop
        lead = shape[:-2]
        if xp(like) is np:  # along an axis of length 1 in the scores, v may have several
            own = self.head[len(self.head) - len(lead) :]
            own = tuple(h if n > 1 else 0 for h, n in zip(own, lead, strict=True))
            return keep_rows(key, shape, p, own, rows)
        every = np.array([keep_rows(key, shape, p, h, rows) for h in np.ndindex(lead)], bool)
        return place_like(every.reshape(*lead, rows.stop - rows.start, self.tk), like)


class Room:
    """Memory for one tile, used again and again so that it stays in the cache."""

    def __init__(self, like: Any) -> None:
        lead = int(np.prod(like.shape[:-2]))
        self.memory = xp(like).empty(lead * ROWS * COLUMNS, like.dtype)

    def product(self, a: Any, b: Any) -> Any:
        """a bᵀ, in this memory."""
        shape = (*a.shape[:-1], b.shape[-2])
        out = self.memory[: int(np.prod(shape))].reshape(shape)
        return xp(a).matmul(a, mT(b), out=out)


def is_calm(q, k, scale):
    """Whether no score of this head is so far from 0 that its exponential could do harm.

    Then no maximum needs to be subtracted: two passes over every tile less. A score is at most
    |q_i| |k_j| · scale, and e^score may be the square root of the largest number at most, Tk times.
    """
    if xp(q) is not np or not k.size:  # the host would have to wait for a GPU's answer
        return False
    with np.errstate(over="ignore"):
        longest = [np.sqrt(np.einsum("id,id->i", x, x).max(initial=0)) for x in (q, k)]
        furthest = longest[0] * longest[1] * abs(scale)
    return furthest < np.log(np.finfo(q.dtype).max) / 2 - np.log(len(k))


def stretches(length: int, size: int) -> Iterator[slice]:
    return (slice(a, min(a + size, length)) for a in range(0, length, size))


def beside(x: Any, column: Any) -> Any:
    """x with one more column.

    (Also, rows of 65 numbers lie better in the cache than rows of 64: a product of a tile and 64
    columns takes a fifth less time.)
    """
    wide = xp(x).empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    wide[..., :-1] = x
    wide[..., -1:] = column
    return wide


def hide(scores: Any, hidden: Any) -> None:
    """-inf where nobody may look; ``hidden`` is None if everybody may look everywhere."""
    if hidden is not None:
        xp(scores).copyto(scores, -np.inf, where=hidden)


def finite(top: Any) -> Any:
    """The maximum to subtract: 0 for a row of nothing but -inf, since -inf - -inf is no number."""
    return xp(top).where(top == -np.inf, top.dtype.type(0), top)


def mT(x: Any) -> Any:
    return x.swapaxes(-1, -2)
