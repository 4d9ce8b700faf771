"""HIPS autograd: ``python bench/contestants/hips_autograd.py small train 2``.

Everything is float32, gradients included (checked at the first step). Four other ways to cut
steps and gates (``split`` or indices) were as fast. The library has no threads: BLAS has them.
"""

from __future__ import annotations

import sys

import autograd.numpy as np
import numpy
from autograd import value_and_grad
from autograd.scipy.special import expit, logsumexp
from by_hand import Adam, check_float32, weights
from work import CLASSES, DROPOUT, HEADS, SIZES, measure

rng = numpy.random.default_rng(1)


def dropout(x, training: bool):
    if not training:
        return x
    keep = rng.random(x.shape, numpy.float32) >= DROPOUT
    return x * (keep * numpy.float32(1 / (1 - DROPOUT)))


def lstm(w, x):
    """(T, B, d) -> (T, B, d)"""
    steps, batch, d = x.shape
    h = c = numpy.zeros((batch, d), numpy.float32)
    of_x = np.dot(x, w["w_x"]) + w["b"]  # all steps in one product
    hs = []
    for t in range(steps):
        i, f, g, o = np.split(of_x[t] + np.dot(h, w["w_h"]), 4, axis=1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        hs.append(h)
    return np.stack(hs)


def attention(w, x, training: bool):
    """(B, T, d) -> (B, T, d)"""
    b, t, d = x.shape
    q, k, v = (
        np.swapaxes(np.reshape(np.dot(x, w[f"w_{n}"]) + w[f"b_{n}"], (b, t, HEADS, -1)), 1, 2)
        for n in "qkv"
    )
    scores = np.matmul(q, np.swapaxes(k, 2, 3)) * (d // HEADS) ** -0.5
    p = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    p = p / np.sum(p, axis=-1, keepdims=True)
    y = np.matmul(dropout(p, training), v)
    y = np.reshape(np.swapaxes(y, 1, 2), (b, t, d))
    y = x + dropout(np.dot(y, w["w_o"]) + w["b_o"], training)
    y = y - np.mean(y, axis=-1, keepdims=True)
    variance = np.mean(y * y, axis=-1, keepdims=True)
    return y / np.sqrt(variance + 1e-5) * w["scale"] + w["shift"]


def loss_of(w, ids, targets, training: bool):
    x = dropout(w["table"][ids.T], training)
    x = np.swapaxes(lstm(w, x), 0, 1)
    x = dropout(np.mean(attention(w, x, training), axis=1), training)
    logits = np.dot(x, w["w_c"]) + w["b_c"]
    right = np.sum(logits * numpy.eye(CLASSES, dtype=numpy.float32)[targets], axis=1)
    return np.mean(logsumexp(logits, axis=1) - right)


def main(name: str, what: str, threads: str) -> None:
    w = weights(SIZES[name])
    adam, slope = Adam(w), value_and_grad(loss_of)

    def train(ids, targets):
        loss, gradients = slope(w, ids, targets, True)
        if adam.t == 0:
            check_float32(gradients)
        adam.step(gradients)
        return float(loss)

    def infer(ids, targets):
        return float(loss_of(w, ids, targets, False))

    measure({"train": train, "infer": infer}[what], name, fewer=6)


main(*sys.argv[1:])
