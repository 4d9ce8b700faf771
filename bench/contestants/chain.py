"""y ← y · w + b, 500 times, and backward: ``python bench/contestants/chain.py ours 4``.

The second argument is the length of y, w and b; 0 makes them scalars (0-d arrays).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

LINKS, REPEATS = 500, 30
Pass = Callable[[], tuple[np.ndarray, np.ndarray]]


def ours(y0: np.ndarray, w0: np.ndarray, b0: np.ndarray) -> Pass:
    import tinygrad_mha as tg

    w, b = (tg.Tensor(x, requires_grad=True) for x in (w0, b0))

    def run():
        w.grad = b.grad = None
        y = tg.Tensor(y0)
        for _ in range(LINKS):
            y = y * w + b
        y.sum().backward()
        return w.grad.numpy(), b.grad.numpy()

    return run


def pytorch(y0: np.ndarray, w0: np.ndarray, b0: np.ndarray) -> Pass:
    import torch

    torch.set_num_threads(1)
    w, b = (torch.tensor(x, requires_grad=True) for x in (w0, b0))

    def run():
        w.grad = b.grad = None
        y = torch.tensor(y0)
        for _ in range(LINKS):
            y = y * w + b
        y.sum().backward()
        return w.grad.numpy(), b.grad.numpy()

    return run


def autograd(y0: np.ndarray, w0: np.ndarray, b0: np.ndarray) -> Pass:
    import autograd.numpy as anp
    from autograd import grad

    def chain(w, b):
        y = y0
        for _ in range(LINKS):
            y = y * w + b
        return anp.sum(y)

    slope = grad(chain, (0, 1))
    return lambda: slope(w0, b0)


def mygrad(y0: np.ndarray, w0: np.ndarray, b0: np.ndarray) -> Pass:
    import mygrad as mg

    mg.turn_memory_guarding_off()
    w, b = mg.tensor(w0), mg.tensor(b0)

    def run():
        y = mg.tensor(y0, constant=True)
        for _ in range(LINKS):
            y = y * w + b
        y.sum().backward()
        gradients = w.grad, b.grad
        w.null_grad()
        b.null_grad()
        return gradients

    return run


def main(who: str, length: str) -> None:
    shape = (int(length),) if int(length) else ()
    y0, w0, b0 = (np.full(shape, x, np.float32) for x in (1.0, 0.99, 0.01))
    run = globals()[who](y0, w0, b0)
    times = []
    for _ in range(5 + REPEATS):
        start = time.perf_counter()
        gradients = run()
        times.append(time.perf_counter() - start)
    wrong = [str(g.dtype) for g in gradients if g.dtype != np.float32]
    answer = {
        "us": statistics.median(times[5:]) / (2 * LINKS) * 1e6,
        "dtypes": wrong,
        "slope": [float(g.mean()) for g in gradients],
    }
    print(json.dumps(answer))


main(*sys.argv[1:])
