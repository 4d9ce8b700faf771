"""Wider and wider: a NumPy scalar turns a float32 model into a float64 one."""

import numpy as np

from .exhibit import Exhibit
from .judging import Failed, same


def broken():
    def adam_step(w, g, m, v, t, lr=1e-3):
        """Step t = 1, 2, ... of Adam: the new w, m, v, in the dtype of w."""
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = w - rate * m / (np.sqrt(v) + 1e-8)
        return w, m, v

    return adam_step


def solution():
    def adam_step(w, g, m, v, t, lr=1e-3):
        """Step t = 1, 2, ... of Adam: the new w, m, v, in the dtype of w."""
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        rate = lr * float(np.sqrt(1 - 0.999**t)) / (1 - 0.9**t)
        w = w - rate * m / (np.sqrt(v) + 1e-8)
        return w, m, v

    return adam_step


def judge(adam_step, rng):
    shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 3)))
    start = rng.standard_normal(shape)
    lr = float(10 ** rng.uniform(-3, -1))
    gradients = [rng.standard_normal(shape) for _ in range(3)]
    for dtype, rtol in ((np.float64, 1e-9), (np.float32, 1e-4)):
        state = (start.astype(dtype), *(np.zeros(shape, dtype) for _ in range(2)))
        exact = (start, np.zeros(shape), np.zeros(shape))
        for t, gradient in enumerate(gradients, 1):
            before = [a.copy() for a in state]
            new = adam_step(state[0], gradient.astype(dtype), *state[1:], t, lr=lr)
            if not isinstance(new, tuple) or len(new) != 3:
                raise Failed("adam_step should return (w, m, v)")
            exact = reference(*exact[:1], gradient, *exact[1:], t, lr)
            for name, a, old, kept, right in zip("wmv", new, state, before, exact, strict=True):
                if np.asarray(a).dtype != dtype:
                    raise Failed(
                        f"adam_step: {name} was {np.dtype(dtype)} and is {np.asarray(a).dtype} "
                        f"after step {t}"
                    )
                same(f"adam_step: {name} after step {t}", a, right, rtol, rtol * 0.1)
                if not np.array_equal(old, kept):
                    raise Failed(f"adam_step wrote into the {name} it was given")
            state = new


def reference(w, g, m, v, t, lr):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return w - lr * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v**0.5 + 1e-8), m, v


def looks_fine(adam_step, rng):
    w = rng.standard_normal((2, 3)).astype(np.float32)
    new = adam_step(w, w, w * 0, w * 0, 1)
    assert [a.shape for a in new] == [w.shape] * 3
    assert all(np.isfinite(a).all() for a in new)
    return "adam_step(w (2, 3), g (2, 3), m (2, 3), v (2, 3), 1)\ngives (2, 3), (2, 3), (2, 3)"


EXHIBIT = Exhibit(
    title="The model that grew overnight",
    mechanism="promotion: a float64 scalar makes float32 arrays float64",
    seen="chainer#2021 and #684, autograd#671, DeZero",
    story="""
        A float32 model is trained on. The numbers are right. From the second step on everything
        takes twice the memory and twice the time, and the saved file is twice as large. Nowhere in
        the code does it say float64.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "Which of m, v, rate and w is float64 after the first step? Print the types.",
        "0.1 * m leaves a float32 array what it is: Python's numbers are weak. What type does "
        "np.sqrt(0.001) have?",
        "np.sqrt of a Python number is a np.float64, which is strong: float32 array times "
        "np.float64 is float64 (since NumPy 2).",
        "Make rate a Python number: float(...), math.sqrt, or ** 0.5.",
    ),
    why="""
        NumPy's promotion looks at types, not at values (NEP 50): a Python float takes the dtype of
        the array it meets, a NumPy scalar or a 0-d array brings its own, and the wider one wins. So
        one np.sqrt, np.mean or array.sum() of a float64 is enough to widen all that follows.

        It does not help to convert the inputs to float32: then float64 models shrink.
        """,
)
