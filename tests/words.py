"""Small words that several test files share."""

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import Tensor


def leaf(data, dtype=np.float64):
    """A Tensor that wants a gradient."""
    return Tensor(np.array(data, dtype), requires_grad=True)


def grads(y, *xs, g=None, create_graph=False):
    """The gradients as arrays."""
    return [d.numpy() for d in tg.grad(y, list(xs), g, create_graph=create_graph)]


def close(a, b, rtol=1e-12, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
