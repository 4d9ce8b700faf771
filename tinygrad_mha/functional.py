"""Chapter 18, differential operators: the derivative of a function, where gradients are of Tensors.

The derivative of ``fn`` at a point is a linear map, the Jacobian matrix J: a small step d of the
inputs moves the outputs by J d. It is rarely worth writing J down, but cheap to multiply with:

    vjp       vᵀ J     one backward pass: what reverse mode computes
    jvp       J d      the same for the transposed map: two backward passes
    hvp       H d      the Jacobian of a gradient is the Hessian H: two backward passes
    jacobian  J        row after row: one backward pass for each element of the output

Every operator calls ``fn`` once, as ``fn(*inputs)``, and ``fn`` is made of the ops of this package.
Names and meaning are those of ``torch.autograd.functional``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backend import is_array, place_like, xp
from .movement import stack
from .primitives import identity
from .tensor import Tensor, backpropagate, is_floating, recording, setting, value, wanted


def vjp(fn: Callable, inputs: Any, v: Any = None, create_graph: bool = False) -> tuple[Any, Any]:
    """The output of ``fn`` and vᵀ J: the gradients of Σ v · output, for any cotangent v.

    Parameters
    ----------
    fn : callable
        Takes as many arguments as there are inputs; gives a Tensor or a flat tuple of Tensors.
    inputs : array or Tensor, or a list or tuple
        In a sequence, floating-point arrays and Tensors are differentiated. Everything else (ids,
        masks, numbers, None) is passed on as it is.
    v : array or Tensor of the output's shape, or a list or tuple of them for a tuple of outputs
        None stands for zeros. All of it may be left out when the output is a single value: then it
        is 1.
    create_graph : bool
        Make the results differentiable: with respect to inputs and v that are Tensors with
        ``requires_grad``, and to the Tensors that ``fn`` closes over.

    Returns
    -------
    output : Tensor or tuple of Tensors
        What ``fn`` returned.
    gradients : Tensor or tuple
        One for each input, with its shape and dtype: zeros where no output depends on it, None for
        what was passed on as it is. A single Tensor if ``inputs`` is no sequence.

        Without ``create_graph`` the results belong to no graph; in any case no ``.grad`` changes.

    Raises
    ------
    TypeError
        If ``fn`` returns something else than Tensors, if nothing can be differentiated, or if v has
        another structure than the output.
    ValueError
        If a part of v has the wrong shape or device, or is missing.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> y, dx = vjp(lambda x: x * x, x, v=[1.0, 0.0, 10.0])
    >>> y.numpy(), dx.numpy()
    (array([1., 4., 9.]), array([ 2.,  0., 60.]))

    Of several inputs, the row numbers are passed on:

    >>> import tinygrad_mha as tg
    >>> _, (nothing, dtable) = vjp(tg.embedding, [np.array([2, 0, 2]), np.eye(3)], np.ones((3, 3)))
    >>> dtable.numpy()[:, 0], nothing
    (array([1., 0., 2.]), None)
    """
    with recording(True):  # also inside no_grad(): who asks for a derivative needs the graph
        xs, one_in = _variables("vjp", inputs, create_graph)
        ys, one_out = _results("vjp", fn, xs)
        if v is None and len(ys) == 1 and ys[0].size == 1:
            v = _ones(ys[0]) if one_out else [_ones(ys[0])]
        vs = _vectors("vjp", v, ys, one_out, "output")
        ds = _pull(ys, vs, xs, create_graph)
    return _pack(ys, one_out, create_graph), _pack(ds, one_in, create_graph)


def jvp(fn: Callable, inputs: Any, v: Any, create_graph: bool = False) -> tuple[Any, Any]:
    """The output of ``fn`` and J v: how fast it moves when the inputs move along v.

    Reverse mode gives u -> Jᵀ u, which is a linear function of u. The vjp of *that* function, at
    whatever u, multiplies with its transpose: (Jᵀ)ᵀ v = J v. So two backward passes make one
    forward derivative, and no op needs a second set of rules.

    Parameters
    ----------
    fn, inputs, create_graph
        As for :func:`vjp`.
    v : array or Tensor of the input's shape, or a list or tuple of them for a sequence of inputs
        The direction. In a sequence, None stands for zeros, and for an input that is passed on.

    Returns
    -------
    output : Tensor or tuple of Tensors
    tangent : Tensor or tuple
        Of the shape and dtype of the output: d output(inputs + t v) / dt at t = 0. None beside a
        result that is not floating-point.

    Raises
    ------
    TypeError, ValueError
        As for :func:`vjp`.

    Notes
    -----
    The u of the inner pass is random and not zero. Its value plays no part, but a zero would be
    mistaken for "nobody asked": rules such as that of log leave a gradient of 0 at 0 even where
    the slope is infinite.

    Source: Townsend, A new trick for calculating Jacobian vector products, 2017,
    https://j-towns.github.io/2017/06/12/A-new-trick.html

    Examples
    --------
    >>> import numpy as np
    >>> y, dy = jvp(lambda a, b: a * b, [np.array([1.0, 2.0]), np.array(3.0)], [[1.0, 0.0], 0.5])
    >>> y.numpy(), dy.numpy()
    (array([3., 6.]), array([3.5, 1. ]))
    """
    with recording(True):
        xs, one_in = _variables("jvp", inputs, create_graph)
        vs = _vectors("jvp", v, xs, one_in, "input")
        ys, one_out = _results("jvp", fn, xs)
        us = [_dummy(y) for y in ys]
        # of this pass only the graph counts, not the numbers
        with np.errstate(all="ignore"), setting("watcher", None):
            ds = _pull(ys, us, xs, create_graph=True)  # Jᵀ u
        tangents = _pull(ds, vs, us, create_graph)
    return _pack(ys, one_out, create_graph), _pack(tangents, one_out, create_graph)


def hvp(fn: Callable, inputs: Any, v: Any, create_graph: bool = False) -> tuple[Any, Any]:
    """The output of ``fn``, a single value, and H v: how its gradient changes along v.

    Computed as the vjp of the gradient, vᵀ H, because the Hessian is symmetric: Σ v · gradient is
    a number, and H v is *its* gradient. The jvp of the gradient would be the same after three
    backward passes instead of two.

    Parameters
    ----------
    fn : callable
        As for :func:`vjp`, but it gives one Tensor of one value, such as a loss.
    inputs, create_graph
        As for :func:`vjp`.
    v : array or Tensor of the input's shape, or a list or tuple of them for a sequence of inputs
        As for :func:`jvp`.

    Returns
    -------
    output : Tensor
    product : Tensor or tuple
        H v in the shapes of the inputs, which count as one long vector: the part for an input is
        the sum of ∂²fn / ∂input ∂other · v_other over all others. None for what was passed on.

    Raises
    ------
    ValueError
        If ``fn`` gives more than a single value.
    TypeError, ValueError
        As for :func:`vjp`.

    Notes
    -----
    The cost is that of a few gradients, where H itself would take one for each element. At a kink
    (relu at 0) there is no second derivative, and what comes out is that of the rules.

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 6, 1994, whose
    operator R{·} is d/dt at inputs + t v; here reverse mode does it, as in Christianson, Automatic
    Hessians by Reverse Accumulation, IMA Journal of Numerical Analysis 12, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> y, hv = hvp(lambda x: (x * x * x).sum(), np.array([1.0, 2.0]), [1.0, 10.0])   # H = diag(6x)
    >>> y.numpy(), hv.numpy()
    (array(9.), array([  6., 120.]))
    """
    with recording(True):
        xs, one_in = _variables("hvp", inputs, create_graph)
        vs = _vectors("hvp", v, xs, one_in, "input")
        ys, one_out = _results("hvp", fn, xs)
        if not one_out or ys[0].size != 1:
            shapes = ", ".join(str(y.shape) for y in ys)
            raise ValueError(
                f"hvp: the Hessian is that of a single value, but {_name(fn)} gives {shapes}: "
                "reduce it, as with .sum(), or use jvp for the derivative of all elements"
            )
        ds = _pull(ys, [_ones(ys[0])], xs, create_graph=True)
        products = _pull(ds, vs, xs, create_graph)
    return _pack(ys, True, create_graph), _pack(products, one_in, create_graph)


def jacobian(fn: Callable, inputs: Any, create_graph: bool = False) -> Any:
    """All derivatives of every element of the output: d output[i] / d input[j].

    It takes one backward pass for each element of the output, and memory for output.size times
    input.size numbers. To multiply with the Jacobian, use :func:`vjp` or :func:`jvp`.

    Parameters
    ----------
    fn, inputs, create_graph
        As for :func:`vjp`.

    Returns
    -------
    Tensor of shape (*output.shape, *input.shape)
        For a sequence of inputs a tuple of them. For a tuple of outputs a tuple of all that: the
        derivative of output i by input j is ``result[i][j]``. None for an input that was passed on
        and for an output that is not floating-point.

    Raises
    ------
    TypeError
        As for :func:`vjp`.

    Examples
    --------
    >>> import numpy as np
    >>> import tinygrad_mha as tg
    >>> jacobian(tg.softmax, np.log([1.0, 1.0, 2.0])).numpy()       # diag(y) - y yᵀ
    array([[ 0.1875, -0.0625, -0.125 ],
           [-0.0625,  0.1875, -0.125 ],
           [-0.125 , -0.125 ,  0.25  ]])
    >>> a, b = jacobian(tg.matmul, [np.ones((2, 3)), np.ones(3)])
    >>> a.shape, b.shape
    ((2, 2, 3), (2, 3))

    The Hessian is the Jacobian of a gradient:

    >>> def gradient(x):
    ...     return vjp(lambda x: (x * x * x).sum(), x, create_graph=True)[1]
    >>> jacobian(gradient, np.array([1.0, 2.0])).numpy()
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    with recording(True):
        xs, one_in = _variables("jacobian", inputs, create_graph)
        ys, one_out = _results("jacobian", fn, xs)
        blocks = [_pack(_rows(y, xs, create_graph), one_in, create_graph) for y in ys]
    return blocks[0] if one_out else tuple(blocks)


# ------------------------------------------------------------------------ what they are made of


def _variables(caller: str, inputs: Any, create_graph: bool) -> tuple[list, bool]:
    """The arguments for fn, and whether it is a single one.

    What is to be differentiated becomes a new Tensor: no other graph can be reached from it, or,
    with ``create_graph``, that of the caller's Tensor behind one ``identity``.
    """
    one = not isinstance(inputs, list | tuple)
    xs = [_variable(x, create_graph) for x in ([inputs] if one else inputs)]
    if not any(wanted(x) for x in xs):
        raise TypeError(
            f"{caller}: no input is a floating-point array or Tensor ({_kinds(xs)}), so there is "
            "nothing to differentiate: convert it, as with .astype(np.float32) or np.array(2.0)"
        )
    return xs, one


def _variable(x: Any, create_graph: bool) -> Any:
    if not (isinstance(x, Tensor) or is_array(x)) or not is_floating(x):
        return x
    return identity(x if create_graph and wanted(x) else Tensor(value(x), requires_grad=True))


def _results(caller: str, fn: Callable, xs: list) -> tuple[list, bool]:
    """What fn returns, and whether that is a single Tensor."""
    ys = fn(*xs)
    one = not isinstance(ys, list | tuple)
    ys = [ys] if one else list(ys)
    if not ys or not all(isinstance(y, Tensor) for y in ys):
        raise TypeError(
            f"{caller}: {_name(fn)} should return a Tensor or a flat tuple of them, not "
            f"{_kinds(ys) or 'an empty tuple'}: compute with the ops of tinygrad_mha, on the "
            "Tensors it is given and not on their .data"
        )
    if not any(map(is_floating, ys)):
        raise TypeError(
            f"{caller}: {_name(fn)} returns {_kinds(ys)}: only floating-point results have a "
            "derivative"
        )
    return ys, one


def _vectors(caller: str, v: Any, beside: list, one: bool, what: str) -> list:
    """``v`` as a list of Tensors, one beside each input or output; None for zeros."""
    if one:
        vs, names = [v], ["v"]
    elif isinstance(v, list | tuple) and len(v) == len(beside):
        vs, names = list(v), [f"v[{k}]" for k in range(len(v))]
    else:
        got = f"a {type(v).__name__}" + (f" of {len(v)}" if isinstance(v, list | tuple) else "")
        raise TypeError(
            f"{caller}: v should be a tuple of {len(beside)}, one for each {what}, not {got}"
        )
    if one and v is None:
        raise ValueError(f"{caller}: pass a v of the {what}'s shape {beside[0].shape}")
    names = [f"{caller}: {name}" for name in names]
    return [_vector(*three, what) for three in zip(names, vs, beside, strict=True)]


def _vector(name: str, v: Any, t: Any, what: str) -> Tensor | None:
    """One part of v, checked against the Tensor that it stands beside."""
    if v is None:
        return None
    if not isinstance(t, Tensor) or not is_floating(t):
        raise TypeError(f"{name} should be None: that {what} ({_kinds([t])}) has no derivative")
    if not isinstance(v, Tensor):
        v = Tensor(v if is_array(v) else xp(t.data).asarray(v))
    if v.shape != t.shape:
        raise ValueError(f"{name} has shape {v.shape}, the {what} {t.shape}")
    if v.device != t.device:
        raise ValueError(f"{name} is on {v.device}, the {what} on {t.device}: move it with .to()")
    return v


def _pull(ys: Sequence, vs: Sequence, xs: Sequence, create_graph: bool) -> list:
    """Σ vᵀ (dy/dx) for each x: a new Tensor; None for an x that is not differentiated."""
    roots = [
        (y, v if create_graph else v.data)
        for y, v in zip(ys, vs, strict=True)
        if v is not None and wanted(y)
    ]
    found = backpropagate(roots, [x for x in xs if wanted(x)], create_graph)
    return [_own(found.get(x), x) if wanted(x) else None for x in xs]


def _own(d: Any, x: Tensor) -> Tensor:
    """A gradient of x, or zeros, in memory of its own: a rule may have handed out one twice."""
    if isinstance(d, Tensor):
        return d * 1.0
    m = xp(x.data)
    return Tensor(m.zeros_like(x.data) if d is None else m.array(d))


def _rows(y: Tensor, xs: list, create_graph: bool) -> list:
    """dy/dx for each x, of shape (*y.shape, *x.shape)."""
    if not is_floating(y):
        return [None] * len(xs)
    rows = [_pull([y], [_one_hot(y, i)], xs, create_graph) for i in range(y.size)]
    return [_block([row[k] for row in rows], y, x) for k, x in enumerate(xs)]


def _block(rows: list, y: Tensor, x: Any) -> Tensor | None:
    if not wanted(x):
        return None
    shape = (*y.shape, *x.shape)
    return stack(rows).reshape(shape) if rows else Tensor(xp(x.data).zeros(shape, x.dtype))


def _one_hot(y: Tensor, i: int) -> Tensor:
    e = xp(y.data).zeros(y.size, y.dtype)
    e[i] = 1
    return Tensor(e.reshape(y.shape))


def _ones(y: Tensor) -> Tensor:
    return Tensor(xp(y.data).ones_like(y.data))


def _dummy(y: Tensor) -> Tensor | None:
    """A cotangent that stands for all of them: any will do that is not zero by accident."""
    if not is_floating(y):
        return None
    u = np.random.default_rng(0).uniform(1, 2, y.shape)
    # behind an ``identity``, like the inputs: so that the way back need not look further than this
    return identity(Tensor(place_like(np.asarray(u, y.dtype), y.data), requires_grad=True))


def _pack(ts: list, one: bool, create_graph: bool) -> Any:
    """As the caller will see them: single or in a tuple, and without a graph unless he wants it."""
    if not create_graph:
        ts = [t.detach() if isinstance(t, Tensor) else t for t in ts]
    return ts[0] if one else tuple(ts)


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _kinds(xs: Sequence) -> str:
    """``int64 (2, 3), float``: what these are, for messages."""
    return ", ".join(
        f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) or is_array(x) else type(x).__name__
        for x in xs
    )
