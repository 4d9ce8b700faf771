"""Chapter 15: the LSTM, a whole layer over a padded batch in one recorded node.

Source: Hochreiter, Schmidhuber, Long Short-Term Memory, 1997; with the forget gate of Gers,
Schmidhuber, Cummins, Learning to Forget, 2000. Gates stand in the order i f g o, as in PyTorch.
"""

from __future__ import annotations

import numpy as np

from .backend import place_like, xp
from .movement import getitem, stack, transpose
from .packing import checked_lengths, plan_steps
from .primitives import sigmoid, tanh, where
from .products import matmul
from .stretches import stretches
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
    ends = np.full(batch, steps) if lengths is None else checked_lengths(lengths, steps, batch)
    return place_like((np.arange(steps)[:, None] < ends)[..., None], x)


def _sample(rng):
    t, b, i, h = 3, 2, 3, 2
    shapes = (t, b, i), (b, h), (b, h), (4 * h, i), (4 * h, h), (4 * h,), (4 * h,)
    return tuple(rng.standard_normal(s) for s in shapes), {"lengths": [3, 2]}


def lstm_without_way_back(
    x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, reverse=False
):
    """What :func:`lstm` returns, bit for bit, when nobody will ask for a gradient.

    Of all steps only h is kept; the rest is written over by the next step, in arrays and views that
    are made once. A text of its own takes two thirds of the time. (``one`` is an array because a
    Python 1 would be made into one at every step.)
    """
    plan, _, a, recurrent, first_h, c_n = _prepare(
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse
    )
    m, n = xp(x), w_hh.shape[1]
    hs, one = m.empty((len(a), n), x.dtype), m.ones((), x.dtype)
    count, h = None, first_h[:0]
    with np.errstate(over="ignore"):
        for rows, running in plan.steps:
            if running != count:
                h = _resized(h, first_h, running)
                count, gates = running, m.empty((running, 4 * n), x.dtype)
                i, f, g, o = (gates[:, k * n : k * n + n] for k in range(4))
                minus_g, c = m.empty((running, n), x.dtype), c_n[:running]
            m.dot(h, recurrent, out=gates)  # sooner there than matmul, if it is one text
            m.subtract(a[rows], gates, out=gates)
            m.tanh(g, out=minus_g)
            m.exp(gates, out=gates)
            m.add(gates, one, out=gates)
            m.divide(c, f, out=c)
            m.divide(minus_g, i, out=minus_g)
            m.subtract(c, minus_g, out=c)
            m.tanh(c, out=minus_g)
            h = m.divide(minus_g, o, out=hs[rows])
    return plan.unpack(hs), plan.unsort(plan.after(first_h, hs)), plan.unsort(c_n)


@fused(reference=lstm_reference, sample=_sample, without_way_back=lstm_without_way_back)
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

    *Gates in place.* sigmoid(a) = 1 / (1 + e^−a), so it is −a that is computed, from −x; one
    exponential serves the three sigmoids, and tanh(−a_g) is −g. What is kept of a gate is 1 + e^−a:
    to divide by that is to multiply with the sigmoid. The exponential may overflow: whatever is
    divided by 1 + ∞ is the 0 that it should be.

    *Backward.* With dh and dc, the gradients of h' and c', the steps in reverse are
        6, 5  dc += dh · o (1 − s²)        4, 2  da_i = dc · g i (1 − i)    da_f = dc · c f (1 − f)
        6, 2  da_o = dh · s o (1 − o)      4, 3  da_g = dc · i (1 − g²)
        4     dc ← dc · f                   1    dh ← da w_hh
    The factors after the dots do not depend on dh or dc, so they are computed for all steps at
    once, before the loop; inside it only the recurrence itself is left.
    """
    plan, tokens, a, recurrent, first_h, first_c = _prepare(
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse
    )
    m, n = xp(x), w_hh.shape[1]
    hs, cs, ss, gs = (m.empty((len(a), n), x.dtype) for _ in range(4))
    from_h, ig = m.empty((len(first_h), 4 * n), x.dtype), m.empty((len(first_h), n), x.dtype)
    h, c = first_h[:0], first_c[:0]  # what the step before left
    with np.errstate(over="ignore"):
        for rows, count in plan.steps:
            h, c = (_resized(*state, count) for state in ((h, first_h), (c, first_c)))
            gates, h_t, c_t = a[rows], hs[rows], cs[rows]
            gates -= m.matmul(h, recurrent, out=from_h[:count])  # 1
            g = m.tanh(gates[:, 2 * n : 3 * n], out=gs[rows])  # 3: this is −g
            m.exp(gates, out=gates)  # 2: those of g are of no use, but one call is faster than two
            gates += 1
            m.divide(c, gates[:, n : 2 * n], out=c_t)  # 4
            c_t -= m.divide(g, gates[:, :n], out=ig[:count])
            s_t = m.tanh(c_t, out=ss[rows])  # 5
            h, c = m.divide(s_t, gates[:, 3 * n :], out=h_t), c_t  # 6
    y = plan.unpack(hs)

    def pullback(d):
        dy, dh_n, dc_n = d
        dh = m.zeros_like(first_h) if dh_n is None else plan.sort(dh_n)
        dc = m.zeros_like(first_c) if dc_n is None else plan.sort(dc_n)
        dys = None if dy is None else plan.pack(dy)
        h_before, c_before = plan.before(first_h, hs), plan.before(first_c, cs)
        da, to_dc = _factors(a, gs, c_before, ss)
        one_by_f, onto_dc = a[:, n : 2 * n], m.empty_like(dh)
        by_gate = da.reshape(len(a), 4, n)
        for rows, count in reversed(plan.steps):
            dh_t, dc_t, da_t = dh[:count], dc[:count], by_gate[rows]
            if dys is not None:
                dh_t += dys[rows]
            dc_t += m.multiply(dh_t, to_dc[rows], out=onto_dc[:count])  # 6, 5
            da_t[:, :3] *= dc_t[:, None]  # 4, 3, 2
            da_t[:, 3] *= dh_t  # 6, 2
            dc_t /= one_by_f[rows]  # 4
            m.matmul(da[rows], w_hh, out=dh_t)  # 1
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

    return (y, plan.unsort(plan.after(first_h, hs)), plan.unsort(plan.after(first_c, cs))), pullback


def _prepare(x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse):
    """The plan, x packed, what x gives to −a at all steps (N, 4H), w_hhᵀ, the first h and c."""
    _check(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    plan = plan_steps(x, lengths, reverse)
    tokens = plan.pack(x)  # (N, I)
    a = -tokens @ w_ih.T  # (N, 4H)
    bias = _total_bias(b_ih, b_hh)
    if bias is not None:
        a -= bias
    m, many = xp(x), len(tokens) > 4 * w_hh.shape[1]  # steps enough for a copy of w_hh to pay
    recurrent = m.ascontiguousarray(w_hh.T) if many else m.ascontiguousarray(w_hh).T  # (H, 4H)
    first_h, first_c = (plan.sort(state).astype(x.dtype, copy=False) for state in (h0, c0))
    return plan, tokens, a, recurrent, first_h, first_c


def _resized(state, first, count):
    """The state of the first ``count`` texts: some have ended, or, in reverse, some begin."""
    if count <= len(state):
        return state[:count]
    return xp(state).concatenate((state, first[len(state) : count]))


AT_A_TIME = 1 << 14  # numbers: a dozen arrays of that size stay in the processor's cache


def _factors(gates, minus_g, c_before, s):
    """What dc and dh are multiplied with: (N, 4H) for the gates i f g o, and (N, H) from dh to dc.

    They do not depend on dc or dh, so they are computed before the loop, some rows at a time.
    ``gates`` are 1 + e^−a, so their reciprocals are the sigmoids.
    """
    m, n = xp(s), s.shape[1]
    factors, to_dc = m.empty_like(gates), m.empty_like(s)
    for rows in stretches(len(s), n, AT_A_TIME, s):
        sigmoids = 1 / gates[rows]
        i, f, _, o = (sigmoids[:, k * n : k * n + n] for k in range(4))
        g = minus_g[rows]
        by_i, by_f, by_g, by_o = (factors[rows, k * n : k * n + n] for k in range(4))
        x = i - 1
        x *= i
        m.multiply(x, g, out=by_i)  # g i (1 − i)
        m.subtract(1, f, out=x)
        x *= f
        m.multiply(x, c_before[rows], out=by_f)  # c f (1 − f)
        m.multiply(g, g, out=x)
        m.subtract(1, x, out=x)
        m.multiply(x, i, out=by_g)  # i (1 − g²)
        m.subtract(1, o, out=x)
        x *= o
        m.multiply(x, s[rows], out=by_o)  # s o (1 − o)
        m.multiply(s[rows], s[rows], out=x)
        m.subtract(1, x, out=x)
        m.multiply(x, o, out=to_dc[rows])  # o (1 − s²)
    return factors, to_dc


def _total_bias(b_ih, b_hh):
    if b_ih is None or b_hh is None:
        return b_hh if b_ih is None else b_ih
    return b_ih + b_hh


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
