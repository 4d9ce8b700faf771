"""Another mask: what is computed again on the way back draws other random numbers."""

import copy

import numpy as np

import tinygrad_mha as tg

from .exhibit import Exhibit
from .judging import Failed, array_of, certify, lifted, same


def broken():
    class Recomputed:
        """A layer that keeps its input, and is computed again on the way back.

        layer(x, rng) gives y; what it drops it draws from rng, as others do.
        """

        def __init__(self, layer):
            self.layer = layer

        def forward(self, x, rng):
            self.x, self.rng = x, rng
            return self.layer(tg.Tensor(x), rng).numpy()

        def backward(self, g):
            x = tg.Tensor(self.x, requires_grad=True)
            [dx] = tg.grad(self.layer(x, self.rng), [x], g)
            return dx.numpy()

    return Recomputed


def solution():
    import copy

    class Recomputed:
        """A layer that keeps its input, and is computed again on the way back.

        layer(x, rng) gives y; what it drops it draws from rng, as others do.
        """

        def __init__(self, layer):
            self.layer = layer

        def forward(self, x, rng):
            self.x, self.rng = x, copy.deepcopy(rng)
            return self.layer(tg.Tensor(x), rng).numpy()

        def backward(self, g):
            x = tg.Tensor(self.x, requires_grad=True)
            [dx] = tg.grad(self.layer(x, copy.deepcopy(self.rng)), [x], g)
            return dx.numpy()

    return Recomputed


def layer(x, rng):
    """tanh, then dropout of a half, by the next numbers of ``rng``."""
    return tg.tanh(x) * ((rng.random(x.shape) < 0.5) * 2.0)


def judge(Recomputed, rng):
    shape, seed = (int(rng.integers(2, 5)), 4), int(rng.integers(1 << 31))
    generators = {}  # of the latest call

    def forward(x):
        generators["now"] = np.random.default_rng(seed)
        block = generators["block"] = Recomputed(layer)
        return array_of("forward", block.forward(x, generators["now"]))

    def backward(x, y, g):
        return array_of("backward", generators["block"].backward(g))

    def reference(x):
        return layer(x, np.random.default_rng(seed))

    x = rng.standard_normal(shape)
    certify(lifted("Recomputed", forward, backward, reference), [x], rng)
    ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
    blocks = [Recomputed(layer), Recomputed(layer)]
    for k, block in enumerate(blocks):  # two layers of one network, one generator
        same(f"forward of layer {k}", block.forward(x, theirs), layer(tg.Tensor(x), ours).numpy())
    state = copy.deepcopy(theirs.bit_generator.state)
    for block in reversed(blocks):
        block.backward(np.ones(shape))
    if theirs.bit_generator.state != state:
        raise Failed(
            "Recomputed: the backward pass moved the generator, which is not its own: what is "
            "drawn next depends on whether there was one"
        )


def looks_fine(Recomputed, rng):
    block = Recomputed(layer)
    y = block.forward(rng.standard_normal((2, 3)), rng)
    d = block.backward(np.ones((2, 3)))
    assert y.shape == d.shape == (2, 3)
    assert np.isfinite(d).all()
    return "Recomputed(layer).forward(x (2, 3), rng) gives (2, 3)\n.backward(g (2, 3)) gives (2, 3)"


EXHIBIT = Exhibit(
    title="The layer that forgets what it dropped",
    mechanism="what is computed again draws other random numbers",
    seen="guided-diffusion#167, OLMo-core PR#828; pytorch PR#14253 keeps the generator's state",
    story="""
        To save memory, a layer keeps only its input and is computed again when the gradient
        arrives. Without dropout the gradients are those of before, bit for bit. With dropout the
        network trains as if its gradients were half noise. They are.
        """,
    broken=broken,
    solution=solution,
    looks_fine=looks_fine,
    judge=judge,
    hints=(
        "The layer is called twice with the same x. What else does it depend on?",
        "rng has moved on since the first call. Which numbers does the second call draw?",
        "The second call needs a generator in the state that the first one found. But the others "
        "who use rng must not notice: it may be neither moved nor set back.",
        "Keep copy.deepcopy(rng) before the forward call, and give the backward call a copy of "
        "that copy: it may be asked twice.",
    ),
    why="""
        y = m · tanh x with a mask m that is drawn has the gradient dx = g m (1 − tanh² x) with
        *that* m. A fresh m' agrees with it in half the places, and the expectation of the product
        of the two is not the gradient.

        The cleaner way makes m a function of (seed, step, layer), as tinygrad_mha does: then there
        is no state to put back.
        """,
)
