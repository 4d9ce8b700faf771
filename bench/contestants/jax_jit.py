"""JAX on the CPU: ``python bench/contestants/jax_jit.py small train 2``.

The whole step is one compiled function, Adam included, and the memory of weights and moments is
donated. Compilation falls into the steps that are not timed. Everything is float32.
"""

from __future__ import annotations

import os
import sys
from functools import partial

# read when jax is imported: the threads of its pool
os.environ |= {"NPROC": sys.argv[3], "PJRT_NPROC": sys.argv[3], "JAX_PLATFORMS": "cpu"}

import jax
import jax.numpy as jnp
from by_hand import check_float32, weights
from jax import lax, random
from work import DROPOUT, HEADS, RATE, SIZES, measure


def dropout(x, key):
    if key is None:
        return x
    return jnp.where(random.bernoulli(key, 1 - DROPOUT, x.shape), x / (1 - DROPOUT), 0)


def lstm(w, x):
    """(T, B, d) -> (T, B, d)"""

    def step(state, of_x):
        h, c = state
        i, f, g, o = jnp.split(of_x + h @ w["w_h"], 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros(x.shape[1:], x.dtype)
    of_x = x @ w["w_x"] + w["b"]  # all steps in one product
    return lax.scan(step, (zeros, zeros), of_x)[1]


def attention(w, x, keys):
    """(B, T, d) -> (B, T, d)"""
    b, t, d = x.shape
    q, k, v = (
        (x @ w[f"w_{n}"] + w[f"b_{n}"]).reshape(b, t, HEADS, -1).swapaxes(1, 2) for n in "qkv"
    )
    p = jax.nn.softmax(q @ k.swapaxes(2, 3) * (d // HEADS) ** -0.5)
    y = (dropout(p, keys[0]) @ v).swapaxes(1, 2).reshape(b, t, d)
    y = x + dropout(y @ w["w_o"] + w["b_o"], keys[1])
    y = y - y.mean(-1, keepdims=True)
    return y * lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-5) * w["scale"] + w["shift"]


def loss_of(w, ids, targets, key=None):
    keys = [None] * 4 if key is None else random.split(key, 4)
    x = dropout(w["table"][ids.T], keys[0])
    x = attention(w, lstm(w, x).swapaxes(0, 1), keys[1:3])
    logits = dropout(x.mean(1), keys[3]) @ w["w_c"] + w["b_c"]
    right = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
    return (jax.nn.logsumexp(logits, 1) - right).mean()


@partial(jax.jit, donate_argnums=0)
def train_step(state, ids, targets):
    w, mean, square, t, key = state
    key, now = random.split(key)
    loss, gradients = jax.value_and_grad(loss_of)(w, ids, targets, now)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradients)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradients)
    t = t + 1
    rate, root = RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    w = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), w, mean, square)
    return (w, mean, square, t, key), loss


def main(name: str, what: str, threads: str) -> None:
    w = jax.tree.map(jnp.asarray, weights(SIZES[name]))
    check_float32(w)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = w, zeros(w), zeros(w), jnp.float32(0), random.key(0)
    infer_step = jax.jit(loss_of)

    def train(ids, targets):
        nonlocal state
        state, loss = train_step(state, ids.astype("int32"), targets.astype("int32"))
        return float(jax.block_until_ready((state, loss))[1])

    def infer(ids, targets):
        return float(infer_step(w, ids.astype("int32"), targets.astype("int32")))

    measure({"train": train, "infer": infer}[what], name)


main(*sys.argv[1:])
