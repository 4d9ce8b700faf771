"""MyGrad: ``python bench/contestants/mygrad_lib.py small train 2``.

Everything is float32, gradients included (checked at the first step). Its memory guard is off, as
its documentation advises for speed. The library has no threads of its own: BLAS has them.
"""

from __future__ import annotations

import sys

import mygrad as mg
import numpy as np
from by_hand import Adam, check_float32, weights
from mygrad.nnet.activations import sigmoid, softmax
from mygrad.nnet.losses import softmax_crossentropy
from work import DROPOUT, HEADS, SIZES, measure

rng = np.random.default_rng(1)


def dropout(x, training: bool):
    if not training:
        return x
    keep = rng.random(x.shape, np.float32) >= DROPOUT
    return x * (keep * np.float32(1 / (1 - DROPOUT)))


def lstm(w, x):
    """(T, B, d) -> (T, B, d)"""
    steps, batch, d = x.shape
    h = c = np.zeros((batch, d), np.float32)
    of_x = mg.matmul(x, w["w_x"]) + w["b"]  # all steps in one product
    hs = []
    for t in range(steps):
        gates = of_x[t] + mg.matmul(h, w["w_h"])
        i, f, g, o = (gates[:, k * d : (k + 1) * d] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * mg.tanh(g)
        h = sigmoid(o) * mg.tanh(c)
        hs.append(h)
    return mg.stack(hs)


def attention(w, x, training: bool):
    """(B, T, d) -> (B, T, d)"""
    b, t, d = x.shape
    q, k, v = (
        (mg.matmul(x, w[f"w_{n}"]) + w[f"b_{n}"]).reshape(b, t, HEADS, d // HEADS).swapaxes(1, 2)
        for n in "qkv"
    )
    scores = mg.matmul(q, k.swapaxes(2, 3)) * np.float32((d // HEADS) ** -0.5)
    y = mg.matmul(dropout(softmax(scores), training), v)
    y = y.swapaxes(1, 2).reshape(b, t, d)
    y = x + dropout(mg.matmul(y, w["w_o"]) + w["b_o"], training)
    y = y - y.mean(axis=-1, keepdims=True)
    variance = (y * y).mean(axis=-1, keepdims=True)
    return y / mg.sqrt(variance + np.float32(1e-5)) * w["scale"] + w["shift"]


def loss_of(w, ids, targets, training: bool):
    x = dropout(w["table"][ids.T], training)
    x = lstm(w, x).swapaxes(0, 1)
    x = dropout(attention(w, x, training).mean(axis=1), training)
    return softmax_crossentropy(mg.matmul(x, w["w_c"]) + w["b_c"], targets)


def main(name: str, what: str, threads: str) -> None:
    mg.turn_memory_guarding_off()
    arrays = weights(SIZES[name])
    w = {k: mg.tensor(a, copy=False) for k, a in arrays.items()}
    adam = Adam(arrays)

    def train(ids, targets):
        loss = loss_of(w, ids, targets, True)
        loss.backward()
        gradients = {k: p.grad for k, p in w.items()}
        if adam.t == 0:
            check_float32(gradients)
        adam.step(gradients)  # in the memory of w
        for p in w.values():
            p.null_grad()
        return loss.item()

    def infer(ids, targets):
        with mg.no_autodiff:
            return loss_of(w, ids, targets, False).item()

    measure({"train": train, "infer": infer}[what], name, fewer=6)


main(*sys.argv[1:])
