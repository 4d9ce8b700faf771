"""What a library without layers leaves to its user: the first weights, and Adam."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, RATE, Size

Weights = dict[str, np.ndarray]

# The only threads of these libraries are BLAS's. One is often faster than two, as their products
# are small: the limit is an argument, and training_step.py tries both.
threadpool_limits(int(sys.argv[3]), user_api="blas")


def weights(size: Size) -> Weights:
    """The model's weights as PyTorch draws them; float32, and (in, out) so that x @ w suits."""
    rng, d = np.random.default_rng(0), size.d_model

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(-(d**-0.5), d**-0.5, shape).astype(np.float32)

    table = rng.standard_normal((size.vocabulary, d), np.float32)
    table[0] = 0
    w = {"table": table, "w_x": uniform(d, 4 * d), "w_h": uniform(d, 4 * d), "b": uniform(4 * d)}
    for name in "qkvo":
        w |= {f"w_{name}": uniform(d, d), f"b_{name}": uniform(d)}
    w |= {"scale": np.ones(d, np.float32), "shift": np.zeros(d, np.float32)}
    return w | {"w_c": uniform(d, CLASSES), "b_c": uniform(CLASSES)}


class Adam:
    """PyTorch's formula, in place, every weight at every step."""

    def __init__(self, w: Weights) -> None:
        self.w, self.t = w, 0
        self.mean = {k: np.zeros_like(p) for k, p in w.items()}
        self.square = {k: np.zeros_like(p) for k, p in w.items()}

    def step(self, gradients: Weights, rate: float = RATE) -> None:
        self.t += 1
        for k, g in gradients.items():
            m, v = self.mean[k], self.square[k]
            m *= 0.9
            m += 0.1 * g
            v *= 0.999
            g = g * g
            g *= 0.001
            v += g
            np.sqrt(v, out=g)
            g /= (1 - 0.999**self.t) ** 0.5
            g += 1e-8
            np.divide(m, g, out=g)
            g *= rate / (1 - 0.9**self.t)
            self.w[k] -= g


def check_float32(arrays: Weights) -> None:
    """A library that promotes would be compared at twice the work."""
    wrong = {k: a.dtype for k, a in arrays.items() if a.dtype != np.float32}
    if wrong:
        raise SystemExit(f"not float32: {wrong}")
