"""The LSTM on a GPU: three matrix products and one kernel each way, for a layer over all steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, placed, xp
from ..linear import as_rows, from_rows, order_in_memory
from ..packing import checked_lengths
from .columns import column_sum
from .launch import SHARED_BYTES, blocks, dense, launch, limit, usable

FILE = "lstm.cu"
WIDEST = 256  # units of a layer that one kernel walks through; beyond, a step is a matrix product
# threads of a block -> float32 weights that each keeps: about half of its registers
KEPT = {128: 32, 256: 64, 512: 80, 1024: 24}


def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, *, lengths=None, reverse=False) -> Any:
    """Nothing is packed: a text's thread block stops computing where the text ends."""
    from ..lstm import _check

    arrays = [a for a in (x, h0, c0, w_ih, w_hh, b_ih, b_hh) if a is not None]
    if not all(usable(a) and a.dtype == x.dtype for a in arrays) or not x.size or not h0.size:
        return None
    _check(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    m, (steps, batch, _), n = xp(x), x.shape, w_hh.shape[1]
    ends = None if lengths is None else checked_lengths(lengths, steps, batch)
    if ends is not None:
        [ends] = [None] if (ends == steps).all() else placed(x, ends.astype(np.int32))
    order = order_in_memory(x)
    tokens = dense(as_rows(x, order))
    strides = (batch, 1) if order == (0, 1) else (1, steps)  # rows from a step, and a text, on
    shape = steps, batch, n, *strides
    if ends is not None:  # nobody knows what stands at a pad, and 0 · NaN is NaN
        clean = m.empty_like(tokens)
        launch(
            FILE, "without_pads", x, blocks(x.size, 256), 256,
            tokens, clean, ends, steps, batch, x.shape[2], *strides,
        )  # fmt: skip
        tokens = clean
    h0, c0, w_hh = (dense(a) for a in (h0, c0, w_hh))
    gates = tokens @ w_ih.T  # (N, 4H)
    y, before, cells = (m.empty((len(gates), n), x.dtype) for _ in range(3))
    h_n, c_n = (m.empty((batch, n), x.dtype) for _ in range(2))
    walk = Layer if n <= WIDEST else Steps
    walk.forward(
        dense(w_hh.T) if walk is Layer else w_hh.T,
        (gates, b_ih, b_hh, h0, c0, ends, y, before, cells, h_n, c_n), shape, reverse,
    )  # fmt: skip

    def pullback(d):
        dy = None if d[0] is None else dense(as_rows(d[0], order))
        dh_n, dc_n = (None if g is None else dense(g) for g in d[1:])
        da, dh0, dc0 = m.empty_like(gates), m.empty_like(h0), m.empty_like(c0)
        walk.backward(w_hh, (gates, cells, c0, ends, dy, dh_n, dc_n, da, dh0, dc0), shape, reverse)
        db = None if b_ih is None and b_hh is None else column_sum(da)
        return (
            lambda: from_rows(da @ w_ih, order, x.shape),
            dh0,
            dc0,
            lambda: da.T @ tokens,
            lambda: da.T @ before,
            None if b_ih is None else db,
            None if b_hh is None else db,
        )

    return (from_rows(y, order, (steps, batch, n)), h_n, c_n), pullback


class Layer:
    """All steps in one launch."""

    @staticmethod
    def launch(
        name: str, like: Array, numbers: int, arguments: Any, shape: Any, reverse: bool
    ) -> None:
        """``numbers``: of shared memory, for each unit of each text of a block."""
        _, batch, n, *_ = shape
        size = like.dtype.itemsize
        threads = next(t for t in KEPT if t >= 4 * n)
        keep = min(KEPT[threads] * 4 // size, n)
        rows = texts_of_a_block(batch, n * numbers * size, like)
        shared = rows * n * numbers * size
        room = limit(like.device.id, "MaxSharedMemoryPerBlockOptin") - shared
        held = max(0, min(n - keep, room // (4 * n * size)))
        launch(
            FILE, name, like, blocks(batch, rows), threads, *arguments, *shape, int(reverse), held,
            shared=shared + held * 4 * n * size, ROWS=rows, THREADS=threads, KEEP=keep,
        )  # fmt: skip

    @classmethod
    def forward(cls, w: Array, arrays: tuple, shape: Any, reverse: bool) -> None:
        gates, *rest = arrays
        cls.launch("lstm_forward", gates, 6, (gates, w, *rest), shape, reverse)

    @classmethod
    def backward(cls, w: Array, arrays: tuple, shape: Any, reverse: bool) -> None:
        gates, cells, *rest = arrays
        cls.launch("lstm_backward", gates, 10, (gates, cells, w, *rest), shape, reverse)


class Steps:
    """A matrix product and a launch for each step."""

    @staticmethod
    def forward(w: Array, arrays: tuple, shape: Any, reverse: bool) -> None:
        gates, b_ih, b_hh, h0, c0, ends, y, before, cells, h_n, c_n = arrays
        steps, batch, n, *strides = shape
        h_n[...], c_n[...] = h0, c0
        sums = xp(h0).empty((batch, 4 * n), h0.dtype)
        for t in reversed(range(steps)) if reverse else range(steps):
            h_n.dot(w, out=sums)
            launch(
                FILE, "lstm_step", gates, blocks(batch * n, 256), 256,
                gates, sums, b_ih, b_hh, ends, h_n, c_n, y, before, cells, t, batch, n, *strides,
            )  # fmt: skip

    @staticmethod
    def backward(w: Array, arrays: tuple, shape: Any, reverse: bool) -> None:
        gates, cells, c0, ends, dy, dh_n, dc_n, da, dh0, dc0 = arrays
        steps, batch, n, *strides = shape
        dh0[...], dc0[...] = (0 if g is None else g for g in (dh_n, dc_n))
        m = xp(w)
        dh, d = m.zeros_like(dh0), m.empty((batch, 4 * n), w.dtype)
        for k in reversed(range(steps)):
            t, earlier = (steps - 1 - k, steps - k) if reverse else (k, k - 1)
            launch(
                FILE, "lstm_step_back", gates, blocks(batch * n, 256), 256,
                gates, cells, c0, ends, dy, dh, dh0, dc0, da, d, t, earlier, int(k == 0),
                batch, n, *strides,
            )  # fmt: skip
            d.dot(w, out=dh)
        dh0 += dh


def texts_of_a_block(batch: int, bytes_of_one: int, like: Array) -> int:
    """As few as keep every multiprocessor busy: a step takes as long for one as for several.

    A power of two, so that few variants are compiled.
    """
    processors, rows = limit(like.device.id, "MultiProcessorCount"), 1
    while rows < 8 and rows * processors < batch and 2 * rows * bytes_of_one <= SHARED_BYTES:
        rows *= 2
    return rows
