"""Chapter 12: random numbers that do not depend on who draws first.

Initial weights come from one NumPy generator on the host. Dropout masks come from a *counter-based*
generator, Philox (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, §3): the bits are a
function of a key and a counter, so the mask of row 5 is the same whether it is drawn with rows 0-9,
or by another thread that has rows 5-9 only, or on another device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np


class MaskKey(NamedTuple):
    """Which mask: it fixes every bit together with the row and the place inside the row."""

    seed: int
    step: int  # the training step
    layer: int  # the how-many-th mask of this step
    first_row: int  # which row of the whole batch our row 0 is


class _Source:
    """Where initial weights come from: a seed, and a generator that has drawn some numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: np.random.Generator | None = None  # numpy.random imports slowly
        self._making = threading.Lock()

    def generator(self) -> np.random.Generator:
        """The one generator of this source, made when first used."""
        with self._making:
            if self._generator is None:
                self._generator = np.random.default_rng(self.seed)
            return self._generator


class _Stream(threading.local):
    """What each thread has of its own: the place in the sequence of masks, and maybe a source."""

    source: _Source | None = None  # since this thread has called manual_seed

    def __init__(self) -> None:
        self.seed, self.step, self.layer, self.first_row = _source.seed, 0, 0, 0


_source = _Source(0)  # of the main thread, and of all that have none of their own
_stream = _Stream()


def manual_seed(seed: int) -> None:
    """Start all randomness over: initial weights and dropout masks.

    Called in the main thread, it is for the whole program; in another thread, for that thread
    alone, so that two models that are made at the same time do not take each other's numbers.
    Masks: each thread has its own place in the sequence, which begins at the main thread's seed,
    so that no thread's masks depend on how fast another one runs.

    >>> manual_seed(0)
    >>> first = uniform((2,), -1, 1)
    >>> manual_seed(0)
    >>> bool((uniform((2,), -1, 1) == first).all())
    True
    """
    global _source
    seed = int(seed)
    if seed < 0:
        raise ValueError(f"seed {seed} should be an integer from 0 on")
    s = _stream
    if s.source is None and threading.current_thread() is threading.main_thread():
        _source = _Source(seed)
    else:
        s.source = _Source(seed)
    s.seed, s.step, s.layer, s.first_row = seed, 0, 0, 0


@contextmanager
def apart() -> Iterator[None]:
    """Inside, this thread seeds and draws for itself; outside, it looks as if it never had."""
    s, before = _stream, _stream.source
    s.source = _Source(s.seed)
    try:
        with replay(masks()):
            yield
    finally:
        s.source = before


def weights_generator() -> np.random.Generator:
    """The generator of initial weights."""
    return (_stream.source or _source).generator()


def uniform(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Uniform float64 numbers in [low, high), from the generator of initial weights."""
    return weights_generator().uniform(low, high, shape)


def normal(shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float64 numbers, from the generator of initial weights."""
    return weights_generator().standard_normal(shape)


@contextmanager
def mask_stream(seed: int, step: int, first_row: int = 0) -> Any:
    """Inside, the masks are those of one step, for a batch that begins at ``first_row``."""
    s = _stream
    before = s.seed, s.step, s.layer, s.first_row
    s.seed, s.step, s.layer, s.first_row = seed, step, 0, first_row
    try:
        yield
    finally:
        s.seed, s.step, s.layer, s.first_row = before


def masks() -> tuple[int, int, int, int]:
    """This thread's place in the sequence of masks, for :func:`replay`."""
    s = _stream
    return s.seed, s.step, s.layer, s.first_row


@contextmanager
def replay(place: tuple[int, int, int, int]) -> Any:
    """Inside, the masks are those that followed ``place``."""
    s, before = _stream, masks()
    s.seed, s.step, s.layer, s.first_row = place
    try:
        yield
    finally:
        s.seed, s.step, s.layer, s.first_row = before


def next_mask(seed: int | MaskKey | None = None) -> MaskKey:
    """The key of the next mask; an explicit ``seed`` stands for itself and advances nothing."""
    if isinstance(seed, MaskKey):
        return seed
    if seed is not None:
        return MaskKey(int(seed), 0, 0, 0)
    s = _stream
    s.layer += 1
    return MaskKey(s.seed, s.step, s.layer, s.first_row)


def keep_mask(key: MaskKey, shape: tuple[int, ...], p: float) -> np.ndarray:
    """Booleans that are False with probability ``p`` (to the nearest 1/65536). Rows along axis 0.

    Sixteen bits decide an element. A row begins at a whole block of the generator (256 bits), so
    that its bits depend on its number and not on the rows before it.
    """
    rows = shape[0] if shape else 1
    size = int(np.prod(shape[1:], dtype=np.int64))
    blocks = -(-size // 16)  # a block is four words of 64 bits: sixteen elements
    kept = _keep(key, key.first_row * blocks, rows * blocks, p)
    return kept.reshape(rows, blocks * 16)[:, :size].reshape(shape)


def keep_rows(
    key: MaskKey, shape: tuple[int, ...], p: float, index: tuple[int, ...], rows: slice
) -> np.ndarray:
    """``keep_mask(key, shape, p)[(*index, rows)]``, where only these bits are drawn.

    ``index`` names all axes but the last two, and ``rows`` is a stretch of the next to last: so
    the bits lie side by side, and one jump of the counter is enough.
    """
    count, width = rows.stop - rows.start, shape[-1]
    if not index:  # the rows are along axis 0, and each begins at a block
        return keep_mask(key._replace(first_row=key.first_row + rows.start), (count, width), p)
    place = 0  # of the matrix inside its row of the batch
    for i, n in zip(index[1:], shape[1:-2], strict=True):
        place = place * n + i
    start = (place * shape[-2] + rows.start) * width
    stop = start + count * width
    first, end = start // 16, -(-stop // 16)
    blocks = -(-int(np.prod(shape[1:], dtype=np.int64)) // 16)
    kept = _keep(key, (key.first_row + index[0]) * blocks + first, end - first, p)
    return kept[start - first * 16 : stop - first * 16].reshape(count, width)


def _keep(key: MaskKey, first: int, blocks: int, p: float) -> np.ndarray:
    """What ``blocks`` blocks of the generator say, from block ``first`` on, as flat booleans."""
    drop = threshold(p)
    if drop == 65536:  # no number of sixteen bits is so large, and to ask crashes NumPy 2.0
        return np.zeros(blocks * 16, dtype=bool)
    pair = np.array([key.seed % 2**64, key.layer], np.uint64)  # a list may become float64 in there
    bits = np.random.Philox(key=pair, counter=[first, key.step, 0, 0])
    # All values of 64 bits are allowed, so these are the generator's words as they come. (So are
    # those of bits.random_raw, which does not let other threads run meanwhile.)
    words = np.random.Generator(bits).integers(
        0, 2**64 - 1, blocks * 4, dtype=np.uint64, endpoint=True
    )
    return words.astype("<u8", copy=False).view("<u2") >= drop


def threshold(p: float) -> int:
    """Of 65536 possible values of sixteen bits, how many mean "drop"."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability {p} is not between 0 and 1")
    return round(p * 65536)


def keep_scale(p: float) -> float:
    """What a kept element is multiplied with, so that the expectation stays: 1 / (1 − p)."""
    kept = 65536 - threshold(p)
    return 65536 / kept if kept else 0.0
