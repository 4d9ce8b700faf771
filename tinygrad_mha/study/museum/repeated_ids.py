"""Repeated ids: an indexed += keeps one of the gradients of a row that was read twice."""

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import certify, same, shapes


def broken():
    mine = {}

    def embedding_reference(ids, weight):
        return weight[ids]

    @tg.fused(reference=embedding_reference, registry=mine)
    def embedding(ids, weight):
        """Row ids[k] of the table for each k: ids (n,), weight (V, d)."""

        def pullback(g):
            dweight = np.zeros_like(weight)
            dweight[ids] += g
            return None, dweight

        return weight[ids], pullback

    return embedding


def solution():
    mine = {}

    def embedding_reference(ids, weight):
        return weight[ids]

    @tg.fused(reference=embedding_reference, registry=mine)
    def embedding(ids, weight):
        """Row ids[k] of the table for each k: ids (n,), weight (V, d)."""

        def pullback(g):
            dweight = np.zeros_like(weight)
            np.add.at(dweight, ids, g)
            return None, dweight

        return weight[ids], pullback

    return embedding


def judge(embedding, rng):
    rows, width, n = int(rng.integers(2, 6)), int(rng.integers(1, 4)), int(rng.integers(2, 8))
    ids = rng.integers(0, rows, n)
    ids[rng.integers(1, n)] = ids[0]  # at least one comes twice
    weight = rng.standard_normal((rows, width))
    same("embedding", embedding(ids, weight), weight[ids], told=f"ids {ids.tolist()}")
    certify(embedding, [ids, weight], rng)


EXHIBIT = Exhibit(
    title="The word that learns once a text",
    mechanism="an indexed += adds once to a row that is named twice",
    seen="autograd#39, chainer PR#1920, neunet, NeuralForge",
    story="""
        An embedding looks up one row of a table for each token. Trained on short texts it is as
        good as ever; on long ones the most frequent words learn far too slowly. The gradient has
        the shape of the table, and all tests pass. In the tests no id came twice.
        """,
    broken=broken,
    solution=solution,
    looks_fine=shapes(lambda rng: [np.array([3, 0, 4, 1]), rng.standard_normal((5, 3))]),
    judge=judge,
    hints=(
        "If one row goes to two places of the output, how many gradients come back to it?",
        "What does x hold after x = np.zeros(3); x[[1, 1]] += 1? Try it.",
        """
        x[ids] += g means x[ids] = x[ids] + g: both copies of the row are read before either is
        written, and the second write wins.
        """,
        "np.add.at(x, ids, g) adds for each id, however often it comes.",
    ),
    why="""
        y = weight[ids] copies, and the adjoint of a copy is a sum:

            dweight[k] = Σ g[j] over all j with ids[j] = k

        As a product it is y = P weight with P[j, k] = 1 where ids[j] = k, and dweight = Pᵀ g. A
        column of P with two ones adds two rows of g.
        """,
    withheld=("embedding", "take"),
)
