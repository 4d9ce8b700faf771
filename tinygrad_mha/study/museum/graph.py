"""A graph of numbers, for the exhibits about the machine that walks it.

The learner's functions are handed nodes and read three things of them: ``inputs``, one of the
``slopes`` for each input, and ``born``, a number that is larger for a younger node. To try one out:

>>> from tinygrad_mha.study.museum.graph import Node
>>> a, b = Node(2.0), Node(3.0)
>>> (a * b).slopes
(3.0, 2.0)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

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

    def __repr__(self) -> str:
        made_of = ", ".join(str(x.born) for x in self._inputs)
        return f"<node {self.born}: {self.value:.4g}{made_of and f', of {made_of}'}>"

    def __add__(self, other: Node) -> Node:
        return Node(self.value + other.value, (self, other), (1.0, 1.0))

    def __mul__(self, other: Any) -> Node:
        if isinstance(other, Node):
            return Node(self.value * other.value, (self, other), (other.value, self.value))
        return Node(self.value * other, (self,), (other,))


PLAY = """\
from tinygrad_mha.study.museum.graph import Node

a, b = Node(2.0), Node(3.0)
y = a * b + a
"""


class Program(NamedTuple):
    """A random function of ``n`` numbers, which are Nodes or Tensors, and what it computes."""

    n: int
    steps: list[tuple[str, str, str]]  # an operation and the names of its two operands
    told: str

    def __call__(self, *xs: Any) -> Any:
        """Run the steps; the last one gives the result."""
        found = dict(zip("abcd", xs[: self.n], strict=False))
        for k, (op, i, j) in enumerate(self.steps, 1):
            x, z = found[i], found[j]
            found[f"u{k}"] = x * z if op == "*" else (x + z) * 0.5
        return found[f"u{len(self.steps)}"]


def program(rng: np.random.Generator) -> Program:
    """One in which a node is used at the ends of a short and of a long path, and beside them.

    That node is u1; u2 does not lead to the result. Then some more steps follow at random. All
    values stay within ±1.
    """
    n, long = (int(k) for k in rng.integers(2, 5, 2))
    letters = "abcd"[:n]
    steps = [("*", "a", "b"), ("*", "u1", str(rng.choice(list(letters))))]
    far = "u1"
    for k in range(long):
        steps.append(("+", far, letters[k % n]))
        far = f"u{len(steps)}"
    steps.append(("+", "u1", far) if rng.random() < 0.5 else ("+", far, "u1"))
    for _ in range(int(rng.integers(0, 4))):
        steps.append(
            (str(rng.choice(["*", "+"])), f"u{len(steps)}", str(rng.choice(list(letters))))
        )
    lines = [f"u{k} = " + (f"{i} {j}" if op == "*" else f"({i} + {j})/2")
             for k, (op, i, j) in enumerate(steps, 1)]  # fmt: skip
    told = f"f({', '.join(letters)}) = u{len(steps)}, where {', '.join(lines)}"
    return Program(n, steps, told)


def certify_program(
    name: str, f: Program, way_back: Callable[[list[Node], Node], Any], rng: np.random.Generator
) -> None:
    """The certificate of ``f``, with ``way_back(leaves, result)`` as its gradient."""

    def forward(x):
        return np.asarray(f(*(Node(float(v)) for v in x)).value)

    def backward(x, y, g):
        leaves = [Node(float(v)) for v in x]
        return g * np.array(way_back(leaves, f(*leaves)), dtype=float)

    def reference(x):
        return f(*(x[k] for k in range(f.n)))

    x = rng.uniform(0.4, 1, f.n) * rng.choice([-1, 1], f.n)
    try:
        certify(lifted(name, forward, backward, reference), [x], rng)
    except Failed as e:
        lines = [line for line in str(e).splitlines() if not line.startswith("  inputs")]
        raise Failed("\n".join([*lines, f"  {f.told}"])) from e.__cause__


def certify_walk(gradients: Callable, rng: np.random.Generator) -> None:
    """The certificate of a random function, with the learner's ``gradients(root)`` as way back."""

    def way_back(leaves, root):
        found = gradients(root)
        if not isinstance(found, dict):
            raise Failed(f"{gradients.__name__} should return a dict, node -> gradient")
        return [found.get(leaf, 0.0) for leaf in leaves]

    certify_program("f", program(rng), way_back, rng)
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
