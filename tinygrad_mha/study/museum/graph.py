"""A graph of numbers, for the exhibits about the machine that walks it.

The learner's functions are handed nodes and read three things of them: ``inputs``, one of the
``slopes`` for each input, and ``born``, a number that is larger for a younger node.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from .judging import Failed, certify, lifted

clock = count()


class Node:
    """A number that remembers what it was computed from."""

    def __init__(self, value: float, inputs: tuple = (), slopes: tuple = ()) -> None:
        self.value, self.slopes, self.born = value, slopes, next(clock)
        self._inputs, self.looks = inputs, 0
        self.users, self.grad = 0, 0.0
        for x in inputs:
            x.users += 1

    @property
    def inputs(self) -> tuple:
        """The nodes it was computed from; how often they were asked for is counted."""
        self.looks += 1
        if self.looks > 1000:
            raise Failed(
                "one node was asked for its inputs 1000 times: that walks every path through the "
                "graph, and their number grows exponentially; visit each node once"
            )
        return self._inputs

    def __add__(self, other: Node) -> Node:
        return Node(self.value + other.value, (self, other), (1.0, 1.0))

    def __mul__(self, other: Any) -> Node:
        if isinstance(other, Node):
            return Node(self.value * other.value, (self, other), (other.value, self.value))
        return Node(self.value * other, (self,), (other,))


def program(rng: np.random.Generator) -> tuple[int, Callable]:
    """How many numbers a random function takes, and the function: of Nodes, or of Tensors.

    Every one has a node that is used twice, at the ends of a short and of a long path; a node that
    does not lead to the result; and then some more steps at random. All values stay within ±1.
    """
    n = int(rng.integers(2, 5))
    long, swap, spare = int(rng.integers(2, 5)), rng.random() < 0.5, rng.random() < 0.5
    steps = [
        (rng.random() < 0.5, *(int(k) for k in rng.integers(0, n, 2)))
        for _ in range(int(rng.integers(0, 4)))
    ]

    def f(*xs: Any) -> Any:
        xs = xs[:n]
        shared = xs[0] * xs[1]
        if spare:
            _unused = shared * xs[-1]
        far = shared
        for k in range(long):
            far = (far + xs[k % n]) * 0.5
        if not spare:
            _unused = shared * xs[0]
        y = (shared + far if swap else far + shared) * 0.5
        for product, i, j in steps:
            y = y * xs[i] if product else (y * 0.5 + (xs[i] * xs[j]) * 0.5)
        return y * 1.0

    f.__name__ = "f"
    return n, f


def certify_walk(gradients: Callable, rng: np.random.Generator) -> None:
    """The certificate of a random function, with the learner's ``gradients(root)`` as way back."""
    n, f = program(rng)

    def forward(x):
        return np.asarray(f(*(Node(float(v)) for v in x)).value)

    def backward(x, y, g):
        leaves = [Node(float(v)) for v in x]
        root = f(*leaves)
        found = gradients(root)
        if not isinstance(found, dict):
            raise Failed(f"{gradients.__name__} should return a dict, node -> gradient")
        return g * np.array([found.get(leaf, 0.0) for leaf in leaves], dtype=float)

    def reference(x):
        return f(*(x[k] for k in range(n)))

    x = rng.uniform(0.4, 1, n) * rng.choice([-1, 1], n)
    certify(lifted("f", forward, backward, reference), [x], rng)
    foot = top = Node(1.0)
    for _ in range(40):  # 2^40 paths, 81 nodes
        top = (top + top) * 0.5
    if abs(gradients(top).get(foot, 0.0) - 1) > 1e-9:
        raise Failed(
            f"{gradients.__name__}: y = x, written as (x + x) / 2 forty times: dx is not 1"
        )


def walk_looks_fine(gradients: Callable, rng: np.random.Generator) -> str:
    """The shape check of a walk: a number for every leaf of a small chain."""
    a, b = Node(0.5), Node(-0.8)
    found = gradients((a * b + b) * 0.5)
    assert all(np.isfinite(found[leaf]) for leaf in (a, b))
    return (
        f"{gradients.__name__}(root of (a b + b) / 2)\n"
        f"gives a number for a, {found[a]:.3g}, and one for b, {found[b]:.3g}"
    )
