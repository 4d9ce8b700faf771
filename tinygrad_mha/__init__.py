"""tinygrad_mha: reverse-mode automatic differentiation in NumPy, with CuPy behind a flag.

>>> import tinygrad_mha as tg
>>> x = tg.Tensor([[1.0, 2.0, 3.0]], requires_grad=True)
>>> (tg.softmax(x) * [[0.0, 0.0, 1.0]]).sum().backward()
>>> x.grad.numpy().round(3)
array([[-0.06 , -0.163,  0.223]], dtype=float32)
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from . import nn, optim
from .anomaly import AnomalyError, detect_anomaly
from .attention import scaled_dot_product_attention
from .backend import DeviceError, set_default_device
from .checkpoint import checkpoint
from .dropout import dropout
from .einsum import einsum
from .embedding import embedding
from .functional import hvp, jacobian, jvp, vjp
from .gelu import erf, gelu
from .gradcheck import GradientError, gradcheck
from .layernorm import add_layer_norm, layer_norm, rms_norm
from .linear import linear
from .linear_gelu import linear_gelu
from .losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from .lstm import lstm
from .movement import (
    astype,
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    pad,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    take,
    take_along_axis,
    tile,
    transpose,
    tril,
    triu,
)
from .primitives import (
    abs,
    add,
    clip,
    cos,
    div,
    exp,
    expm1,
    log,
    log1p,
    masked_fill,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    silu,
    sin,
    softplus,
    sqrt,
    sub,
    tanh,
    where,
)
from .products import matmul, outer
from .random import manual_seed
from .reductions import (
    cumsum,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from .softmax import log_softmax, logsumexp, softmax
from .tensor import (
    REGISTRY,
    Op,
    Tensor,
    fused,
    grad,
    no_grad,
    primitive,
    primitive_of_many,
    set_default_dtype,
)

if TYPE_CHECKING:
    from .study.terminal import explain_op, graph
    from .study.trace import trace

# what is only for looking on is imported when somebody looks
LATER = {"trace": "trace", "graph": "terminal", "explain_op": "terminal"}


def __getattr__(name: str) -> object:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.study.{LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *LATER])
