"""Chapter 15: the LSTM, a whole layer over a padded batch in one recorded node.

Source: Hochreiter, Schmidhuber, Long Short-Term Memory, 1997; with the forget gate of Gers,
Schmidhuber, Cummins, Learning to Forget, 2000. Gates stand in the order i f g o, as in PyTorch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .backend import Array, is_array, place_like, to_host, xp
from .movement import getitem, stack, transpose
from .primitives import sigmoid, tanh, where
from .products import matmul
from .tensor import fused, value


def lstm_reference(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, reverse=False):
    """The definition: one step after another, one gate after another.

    A pad is not even read: the state stays what it was and the output is zero. So "the last state"
    is that of the last real token, and in reverse the text begins at its last real token.
    """
    steps, n = x.shape[0], w_hh.shape[1]
    real = _real(value(x), lengths)
    h, c = h0, c0
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        x_t = where(real[t], getitem(x, key=t), 0.0)  # (B, I)
        a = matmul(x_t, transpose(w_ih)) + matmul(h, transpose(w_hh))  # (B, 4H)
        for bias in (b_ih, b_hh):
            a = a if bias is None else a + bias
        i, f, g, o = (getitem(a, key=(slice(None), slice(k * n, k * n + n))) for k in range(4))
        i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
        c_new = f * c + i * g
        h_new = o * tanh(c_new)
        c = where(real[t], c_new, c)
        h = where(real[t], h_new, h)
        outputs[t] = where(real[t], h_new, 0.0)
    y = stack(outputs) if steps else x[:, :, :0] @ transpose(w_hh)[:0, :n]
    return y, h, c


def _real(x, lengths):
    """(T, B, 1) booleans: False at pads."""
    steps, batch = x.shape[:2]
    ends = np.full(batch, steps) if lengths is None else _lengths(lengths, steps, batch)
    return place_like((np.arange(steps)[:, None] < ends)[..., None], x)


def _sample(rng):
    t, b, i, h = 3, 2, 3, 2
    shapes = (t, b, i), (b, h), (b, h), (4 * h, i), (4 * h, h), (4 * h,), (4 * h,)
    return tuple(rng.standard_normal(s) for s in shapes), {"lengths": [3, 2]}


@fused(reference=lstm_reference, sample=_sample)
def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, reverse=False):
    """One LSTM layer over all steps: returns ``(y, h_n, c_n)``.

    x: (T, B, I)    h0, c0: (B, H)    w_ih: (4H, I)    w_hh: (4H, H)    b_ih, b_hh: (4H,) or None
    lengths: (B,) integers in [0, T], None for "no pads"    y: (T, B, H)    h_n, c_n: (B, H)

    1  a = x w_ihᵀ + h w_hhᵀ + b          4  c' = f c + i g
    2  i, f, o = sigmoid(a_i, a_f, a_o)    5  s  = tanh c'
    3  g = tanh(a_g)                       6  h' = o s

    *Packed.* Texts are ordered by falling length; then those still running at step t are the first
    n_t rows, and a step is a product with n_t rows and nothing else: no mask, and no work on pads.
    All real tokens lie one after another in (N, ·) arrays, N = Σ lengths, and step t owns a stretch
    of rows. So the input products of all steps are one matrix product, and so is each gradient of
    a weight.

    *One tanh.* sigmoid(a) = (1 + tanh(a/2)) / 2, so with the rows of i, f and o halved beforehand
    one call serves all four gates.

    *Backward.* With dh and dc, the gradients of h' and c', the steps in reverse are
        6, 5  dc += dh · o (1 − s²)        4, 2  da_i = dc · g i (1 − i)    da_f = dc · c f (1 − f)
        6, 2  da_o = dh · s o (1 − o)      4, 3  da_g = dc · i (1 − g²)
        4     dc ← dc · f                   1    dh ← da w_hh
    The factors after the dots do not depend on dh or dc, so they are computed for all steps at
    once, before the loop; inside it only the recurrence itself is left.
    """
    _check(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    m, n = xp(x), w_hh.shape[1]
    plan = plan_steps(x, lengths, reverse)
    halves, order_of_gates = _halves(w_hh), _IFOG
    tokens = plan.pack(x)  # (N, I)

    # 1 for all steps at once, as far as it does not depend on h. Gates from here on: i f o g.
    a = tokens @ (_gates(w_ih, order_of_gates) * halves).T  # (N, 4H)
    bias = _total_bias(b_ih, b_hh)
    if bias is not None:
        a += _gates(bias, order_of_gates) * halves[:, 0]
    recurrent = m.ascontiguousarray((_gates(w_hh, order_of_gates) * halves).T)  # (H, 4H)
    h, c = plan.sort(h0), plan.sort(c0)  # (B, H), updated in place as the texts proceed
    hs, cs, ss = (m.empty((len(tokens), n), x.dtype) for _ in range(3))
    first_h, first_c = h * 1, c * 1
    from_h, ig = m.empty((len(h), 4 * n), x.dtype), m.empty((len(h), n), x.dtype)
    for rows, count in plan.steps:
        h_t, c_t, gates = h[:count], c[:count], a[rows]
        gates += m.matmul(h_t, recurrent, out=from_h[:count])  # 1
        m.tanh(gates, out=gates)  # 2, 3
        ifo = gates[:, : 3 * n]
        ifo *= 0.5
        ifo += 0.5
        c_t *= gates[:, n : 2 * n]  # 4
        c_t += m.multiply(gates[:, :n], gates[:, 3 * n :], out=ig[:count])
        cs[rows] = c_t
        s_t = m.tanh(c_t, out=ss[rows])  # 5
        m.multiply(gates[:, 2 * n : 3 * n], s_t, out=h_t)  # 6
        hs[rows] = h_t
    y = plan.unpack(hs)

    def pullback(gs):
        dy, dh_n, dc_n = gs
        dh = m.zeros_like(h) if dh_n is None else plan.sort(dh_n)
        dc = m.zeros_like(c) if dc_n is None else plan.sort(dc_n)
        dys = None if dy is None else plan.pack(dy)
        h_before, c_before = plan.before(first_h, hs), plan.before(first_c, cs)
        i, f, o, g = (a[:, k * n : k * n + n] for k in range(4))

        # the factors, for all steps at once
        by_dc = m.empty((len(a), 3, n), x.dtype)  # da_i, da_f and da_g are dc times these
        m.multiply(g * i, 1 - i, out=by_dc[:, 0])
        m.multiply(c_before * f, 1 - f, out=by_dc[:, 1])
        m.multiply(i, 1 - g * g, out=by_dc[:, 2])
        by_dh = ss * o * (1 - o)  # da_o is dh times this
        to_dc = o * (1 - ss * ss)
        da = m.empty((len(a), 4, n), x.dtype)  # gates i f g o again, as in the weights
        for rows, count in reversed(plan.steps):
            dh_t, dc_t, da_t = dh[:count], dc[:count], da[rows]
            if dys is not None:
                dh_t += dys[rows]
            dc_t += dh_t * to_dc[rows]  # 6, 5
            m.multiply(dc_t[:, None], by_dc[rows], out=da_t[:, :3])  # 4, 3, 2
            m.multiply(dh_t, by_dh[rows], out=da_t[:, 3])  # 6, 2
            dc_t *= f[rows]  # 4
            m.matmul(da_t.reshape(count, 4 * n), w_hh, out=dh_t)  # 1
        da = da.reshape(len(a), 4 * n)
        db = da.sum(axis=0)
        return (
            lambda: plan.unpack(da @ w_ih),
            plan.unsort(dh),
            plan.unsort(dc),
            lambda: da.T @ tokens,
            lambda: da.T @ h_before,
            None if b_ih is None else db,
            None if b_hh is None else db,
        )

    return (y, plan.unsort(h), plan.unsort(c)), pullback


_IFOG = (0, 1, 3, 2)  # where i f o g stand among i f g o


def _gates(w, order):
    """The four blocks of rows of a weight (4H, ...) in another order."""
    n = w.shape[0] // 4
    return xp(w).concatenate([w[k * n : k * n + n] for k in order])


def _halves(w_hh):
    """(4H, 1): 1/2 for the rows of the three sigmoids, 1 for g's (the last, after reordering)."""
    halves = xp(w_hh).ones((w_hh.shape[0], 1), w_hh.dtype)
    halves[: 3 * w_hh.shape[1]] *= 0.5
    return halves


def _total_bias(b_ih, b_hh):
    if b_ih is None or b_hh is None:
        return b_hh if b_ih is None else b_ih
    return b_ih + b_hh


class Plan(NamedTuple):
    """How a padded batch is packed: texts by falling length, real tokens only, step after step.

    ``steps`` holds (rows, count) for each step in the order of computation: the stretch of packed
    rows that it owns, and how many texts are still (or already) running.
    """

    shape: tuple[int, int]  # (T, B)
    steps: list[tuple[slice, int]]
    order: Array | None  # (B,) the text at each place of the order; None if they stand so already
    place: Array | None  # (B,) its inverse
    flat: Array | None  # (N,) where each packed row lies in (T * B); None if there are no pads
    previous: Array  # (N,) the row of [initial state; packed rows] from which each row came

    def pack(self, x):
        """(T, B, ·) -> (N, ·)"""
        x = x.reshape(self.shape[0] * self.shape[1], x.shape[2])
        return x if self.flat is None else x[self.flat]

    def unpack(self, packed):
        """(N, ·) -> (T, B, ·), zero at the pads"""
        if self.flat is None:
            return packed.reshape(*self.shape, packed.shape[1])
        y = xp(packed).zeros((self.shape[0] * self.shape[1], packed.shape[1]), packed.dtype)
        y[self.flat] = packed
        return y.reshape(*self.shape, packed.shape[1])

    def sort(self, h):
        """A copy of (B, ·) by falling length."""
        return h * 1 if self.order is None else h[self.order]

    def unsort(self, h):
        return h * 1 if self.place is None else h[self.place]

    def before(self, first, states):
        """(N, ·): the state that each packed row started from."""
        return xp(first).concatenate((first, states))[self.previous]


def plan_steps(x, lengths, reverse) -> Plan:
    """Work out, on the host, which rows each step touches."""
    steps, batch = x.shape[:2]
    ends = np.full(batch, steps) if lengths is None else _lengths(lengths, steps, batch)
    order = np.argsort(-ends, kind="stable")
    sorted_already = bool((order == np.arange(batch)).all())
    running = (np.arange(steps)[:, None] < ends[order]).sum(axis=1)  # n_t
    starts = np.concatenate(([0], np.cumsum(running)))
    times = range(steps - 1, -1, -1) if reverse else range(steps)
    stretches = [(slice(int(starts[t]), int(starts[t + 1])), int(running[t])) for t in times]

    # Row j of step t came from row j of the step before, or else from the initial state.
    t_of = np.repeat(np.arange(steps), running)
    text = np.arange(starts[-1]) - starts[t_of]
    came = t_of + (1 if reverse else -1)
    inside = (came >= 0) & (came < steps)
    came = np.where(inside, came, 0)
    if steps:
        inside &= text < running[came]
    previous = np.where(inside, batch + starts[came] + text, text)
    no_pads = sorted_already and starts[-1] == steps * batch
    return Plan(
        (steps, batch),
        stretches,
        None if sorted_already else place_like(order, x),
        None if sorted_already else place_like(np.argsort(order), x),
        None if no_pads else place_like(t_of * batch + order[text], x),
        place_like(previous, x),
    )


def _lengths(lengths, steps, batch) -> np.ndarray:
    lengths = value(lengths)
    ends = to_host(lengths) if is_array(lengths) else np.asarray(lengths)
    if not ends.size:  # an empty list has no dtype of its own
        ends = ends.astype(np.int64)
    if ends.shape != (batch,) or ends.dtype.kind not in "iu":
        raise ValueError(f"lengths should be {batch} integers, one for each text")
    if ends.size and (ends.min() < 0 or ends.max() > steps):
        bad = ends[(ends < 0) | (ends > steps)][0]
        raise ValueError(f"a length of {bad} is not between 0 and the {steps} steps of x")
    return ends.astype(np.int64)


def _check(x, h0, c0, w_ih, w_hh, b_ih, b_hh):
    if x.ndim != 3:
        raise ValueError(f"x {x.shape} should be (steps, batch, features)")
    if x.dtype.kind != "f":
        raise TypeError(f"x is {x.dtype}: it should be floating-point; ids go through an embedding")
    n = w_hh.shape[-1]
    fits = {"w_ih": (w_ih, (4 * n, x.shape[2])), "w_hh": (w_hh, (4 * n, n))}
    fits |= {"h0": (h0, (x.shape[1], n)), "c0": (c0, (x.shape[1], n))}
    fits |= {"b_ih": (b_ih, (4 * n,)), "b_hh": (b_hh, (4 * n,))}
    for name, (array, shape) in fits.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} {array.shape} should be {shape} for x {x.shape} and H = {n}")
