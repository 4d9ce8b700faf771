"""Its own tail: a closure that holds the object that holds it."""

import gc
import weakref

import numpy as np

from .exhibit import Exhibit
from .judging import Failed, certify, lifted


def broken():
    class Number:
        """A number; send(g) hands g = dL/dself on to what it was made of."""

        def __init__(self, value):
            self.value, self.grad = value, 0.0
            self.send = lambda g: None

        def receive(self, g):
            self.grad += g

        def __mul__(self, other):
            y = Number(self.value * other.value)

            def send(g):
                self.receive(g * other.value)
                other.receive(g * self.value)

            y.send = send
            return y

        def tanh(self):
            y = Number(np.tanh(self.value))
            y.send = lambda g: self.receive(g * (1 - y.value**2))
            return y

    return Number


def solution():
    class Number:
        """A number; send(g) hands g = dL/dself on to what it was made of."""

        def __init__(self, value):
            self.value, self.grad = value, 0.0
            self.send = lambda g: None

        def receive(self, g):
            self.grad += g

        def __mul__(self, other):
            y = Number(self.value * other.value)

            def send(g):
                self.receive(g * other.value)
                other.receive(g * self.value)

            y.send = send
            return y

        def tanh(self):
            t = np.tanh(self.value)
            y = Number(t)
            y.send = lambda g: self.receive(g * (1 - t**2))
            return y

    return Number


def judge(Number, rng):
    kinds = rng.random(int(rng.integers(2, 6))) < 0.5
    kinds[rng.integers(len(kinds))] = True

    def run(a, b):
        """The numbers that are made on the way: a product with a or b, or a tanh, at each step."""
        made = [a * b]
        for k, tanh in enumerate(kinds):
            made.append(made[-1].tanh() if tanh else made[-1] * (a, b)[k % 2])
        return made

    def backward(x, y, g):
        a, b = Number(float(x[0])), Number(float(x[1]))
        made = run(a, b)
        made[-1].receive(float(g))
        for number in reversed(made):
            number.send(number.grad)
        return np.array([a.grad, b.grad], dtype=float)

    def value(x):
        return np.asarray(run(Number(float(x[0])), Number(float(x[1])))[-1].value)

    def reference(x):
        return run(x[0], x[1])[-1]

    certify(lifted("Number", value, backward, reference), [rng.uniform(0.4, 1, 2)], rng)
    enabled = gc.isenabled()
    gc.disable()
    try:
        a, b = Number(0.5), Number(0.7)
        alive = [weakref.ref(number) for number in run(a, b)]
        left = sum(r() is not None for r in alive)
    finally:
        if enabled:
            gc.enable()
    if left:
        raise Failed(
            f"Number: {left} of {len(alive)} numbers are still in memory after the last name for "
            "them is gone; only the garbage collector will find them"
        )


def looks_fine(Number, rng):
    a, b = Number(0.5), Number(-0.8)
    y = (a * b).tanh()
    y.send(1.0)
    assert y.value == np.tanh(-0.4)
    return f"(Number(0.5) * Number(-0.8)).tanh() gives {y.value:.3g}; y.send(1) passes a number on"


EXHIBIT = Exhibit(
    title="Memory that comes back some day",
    mechanism="a reference cycle: a closure holds the result that holds the closure",
    seen="micrograd, NeuralForge, neunet's LSTM; related: pytorch#7343, chainer#5935",
    story="""
        All gradients are right. Training on long sequences needs five times the memory that the
        arithmetic explains, in a saw tooth: up, up, up, and down at once. With gc.disable(), up.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "When does Python free an object at once, and when only at the next garbage collection?",
        "y holds y.send. Which names from outside does each of the two functions `send` hold?",
        "The one of __mul__ holds self and other: the inputs, which are older. The one of tanh "
        "holds self and y.",
        "It needs the number y.value, not the object y. Keep that in a local name, and let the "
        "lambda use the name.",
    ),
    why="""
        y → y.send → (closure) → y is a cycle: its count of references never falls to 0. References
        from young to old make no cycles, so a pullback may hold inputs and arrays, and never its
        own output.

        dx = g (1 − tanh² x) needs the value of the output, which is a number of its own.
        """,
)
