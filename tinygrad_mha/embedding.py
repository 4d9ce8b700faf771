"""Chapter 11: embedding, the op whose gradient touches only the rows that were looked up."""

from __future__ import annotations

import numpy as np

from .backend import DeviceError, device_of, is_array, place_like, to_host, xp
from .movement import getitem
from .primitives import where
from .tensor import fused, value


def embedding_reference(ids, weight, *, padding_idx=None):
    """The definition: pick rows. The padding row is read like any other but learns nothing."""
    ids = place_like(_ids(ids, weight.shape), value(weight))
    y = getitem(weight, key=ids)
    if padding_idx is None:
        return y
    return where(
        (ids == padding_row(padding_idx, weight.shape[0]))[..., None], value(weight)[ids], y
    )


def _sample(rng):
    return (rng.integers(1, 5, (2, 3)), rng.standard_normal((5, 4))), {"padding_idx": 0}


@fused(reference=embedding_reference, sample=_sample)
def embedding(ids, weight, *, padding_idx=None):
    """Rows of a table, one for each id.

    y = weight[ids]        dweight[k] = Σ g over the places where ids = k

    ids: (...) integers    weight: (V, d)    y: (..., d)

    A word that occurs twice gets both gradients: ``dweight[ids] += g`` would keep only one. Sorted
    by id, the rows that belong together are neighbours, and one ``add.reduceat`` sums each run.
    The row ``padding_idx`` gets no gradient; a negative one counts from the end.
    """
    if is_array(ids) and xp(ids) is not np and device_of(ids) != device_of(weight):
        raise DeviceError(  # ids on the host are sent along, but nothing comes back unasked
            f"embedding: ids {ids.shape} on {device_of(ids)} and weight {weight.shape} on "
            f"{device_of(weight)}: bring them together, as with .to({device_of(ids)!r})"
        )
    ids, padding_idx = _ids(ids, weight.shape), padding_row(padding_idx, weight.shape[0])
    y = weight[place_like(ids, weight)]

    def pullback(g):
        return None, lambda: embedding_gradient(g, ids, weight.shape, padding_idx)

    return y, pullback


def embedding_gradient(g, ids, shape, padding_idx):
    """Σ g by id, as a table of ``shape`` that is zero in every row that was not looked up."""
    m, dweight = xp(g), xp(g).zeros(shape, g.dtype)
    flat = to_host(ids).reshape(-1)
    order = np.argsort(flat, kind="stable")
    if padding_idx is not None:
        order = order[flat[order] != padding_idx]
    if order.size == 0:
        return dweight
    flat = flat[order]
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    rows = g.reshape(ids.size, shape[1])[place_like(order, g)]
    dweight[place_like(flat[starts], g)] = m.add.reduceat(rows, place_like(starts, g), axis=0)
    return dweight


def padding_row(padding_idx, rows):
    """``padding_idx`` counted from the front, or None."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx {padding_idx} is none of {rows} rows")
    return padding_idx % rows


def _ids(ids, table):
    """The ids as an integer array on the host, every one of them inside a table of that shape."""
    if len(table) != 2:
        raise ValueError(f"weight {table} should be (rows, width)")
    count = table[0]
    ids = value(ids)
    ids = to_host(ids) if is_array(ids) else np.asarray(ids)
    if not ids.size:  # an empty list has no dtype of its own
        ids = ids.astype(np.int64)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids are row numbers: an integer array, not {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        bad = (ids < 0) | (ids >= count)
        raise IndexError(
            f"id {ids[bad][0]} at {np.argwhere(bad)[0].tolist()} is outside the table, which has "
            f"{count} rows, from 0 on"
        )
    return ids
