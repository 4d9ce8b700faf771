"""Chapter 16: layers, as plain classes that keep their weights in attributes.

A :class:`Module` has no registration and no magic. Whoever wants its parameters walks its
attributes, and the lists, tuples and dicts among them: see :func:`members`, a dozen lines on which
everything else here rests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .anomaly import locks
from .backend import Array, check_device, default_device, place_like, to_device, to_host, xp
from .dropout import dropout
from .embedding import embedding, padding_row
from .layernorm import add_layer_norm, layer_norm
from .linear import linear
from .lstm import lstm
from .movement import concatenate, expand_dims, stack, swapaxes
from .random import normal, threshold, uniform
from .tensor import Tensor, default_dtype, modes, value


class Parameter(Tensor):
    """A Tensor that is learned: it requires a gradient, and its memory is nobody else's.

    Parameters
    ----------
    data : array, number, nested list or Tensor of floating-point numbers
        Copied, so that an optimizer may write to it. An array keeps its dtype; Python numbers get
        the default one.
    requires_grad : bool
        False freezes it: no gradient is computed and no optimizer changes it.
    dtype : optional
        Cast to this dtype.
    device : str, optional
        Where it lives; by default where the data is, and for host data the default device.

    Raises
    ------
    TypeError
        If ``data`` is not floating-point.

    Examples
    --------
    >>> Parameter([1.0, 2.0])
    Parameter([1., 2.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(
        self,
        data: Any,
        requires_grad: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        if device is None and xp(value(data)) is np:
            device = default_device()
        super().__init__(data, dtype=dtype, device=device)
        self.data = xp(self.data).array(self.data, order="C")
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return "Parameter" + super().__repr__().removeprefix("Tensor")


# ------------------------------------------------------------------------- walking attributes


def members(module: Module) -> Iterator[tuple[str, Any]]:
    """The parameters and modules that a module holds itself: (name, member), in order.

    A member of a list, tuple or dict is named by its place in it: ``layers.0``.
    """

    def inside(name: str, x: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(x, Parameter | Module):
            yield name, x
        elif isinstance(x, list | tuple | dict):
            for key, item in x.items() if isinstance(x, dict) else enumerate(x):
                yield from inside(f"{name}.{key}", item)

    for name, x in vars(module).copy().items():  # another thread may call train() or eval()
        yield from inside(name, x)


def descend(module: Module, prefix: str = "", above: tuple = ()) -> Iterator[tuple[str, Any]]:
    """(name, member) of a module and of all modules inside it, under *every* name they have.

    ``above`` holds the modules on the way down: one that refers back to its parent is no loop.
    """
    above = (*above, module)
    for name, x in members(module):
        if any(x is m for m in above):
            continue
        yield prefix + name, x
        if isinstance(x, Module):
            yield from descend(x, f"{prefix}{name}.", above)


class Module:
    """What has parameters: assign them, and other modules, to attributes and write ``forward``.

    Attributes
    ----------
    training : bool
        True at first; :meth:`eval` switches it off, in the modules inside as well. (It reads False
        in a thread that is inside ``tensor.evaluating()``, whatever other threads switch.)

    Examples
    --------
    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter([2.0])
    ...
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(Tensor([1.0, 3.0])).numpy()
    array([2., 6.], dtype=float32)
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; calling the module calls this."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # ---- what is inside

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """(name, parameter), each parameter once: under its first name if it has several."""
        return _once((name, x) for name, x in descend(self) if isinstance(x, Parameter))

    def parameters(self) -> list[Parameter]:
        """The parameters, each once, in the order of the attributes."""
        return [p for _, p in self.named_parameters()]

    def named_modules(self) -> list[tuple[str, Module]]:
        """(name, module) of this module (its name is empty) and of all inside it, each once."""
        inside = ((name, x) for name, x in descend(self) if isinstance(x, Module))
        return [("", self), *_once(inside)]

    def modules(self) -> list[Module]:
        """This module and all modules inside it, each once."""
        return [m for _, m in self.named_modules()]

    # ---- modes

    @property
    def training(self) -> bool:
        return vars(self).get("training", True) and not modes.evaluating

    @training.setter
    def training(self, mode: bool) -> None:
        vars(self)["training"] = mode

    def train(self, mode: bool = True) -> Module:
        """Switch training behaviour (dropout) on, here and in all modules inside; returns self."""
        for m in self.modules():
            m.training = bool(mode)
        return self

    def eval(self) -> Module:
        """Switch training behaviour off. Gradients are recorded all the same."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients: ``p.grad = None`` for every parameter."""
        for p in self.parameters():
            p.grad = None

    # ---- moving

    def to(self, device: str) -> Module:
        """Move the parameters (and gradients) to a device, ``"cpu"`` or ``"cuda"``; returns self.

        The Parameter objects stay the same. Move before the optimizer's first step: its moments
        live where the parameters were when they were made.
        """
        device = check_device(device)
        return self._convert(lambda a: to_device(a, device))

    def astype(self, dtype: Any) -> Module:
        """Convert the parameters (and gradients) to a floating-point dtype; returns self."""
        dtype = np.dtype(dtype)
        if dtype.kind != "f":
            raise TypeError(f"parameters are floating-point numbers, not {dtype}")
        return self._convert(lambda a: a.astype(dtype, copy=False))

    def _convert(self, change: Callable[[Array], Array]) -> Module:
        for p in self.parameters():
            p.data = change(p.data)
            p.grad = None if p.grad is None else Tensor(change(p.grad.data))
        return self

    # ---- saving and loading

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters on the host, by name.

        A parameter with several names is listed under each of them, as PyTorch does.

        Examples
        --------
        >>> {name: a.shape for name, a in Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        named = ((name, x) for name, x in descend(self) if isinstance(x, Parameter))
        return {name: np.array(to_host(p.data), order="C") for name, p in named}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True
    ) -> tuple[list[str], list[str]]:
        """Overwrite the parameters with those of ``state``; dtypes and devices stay as they are.

        Parameters
        ----------
        state : mapping from names to arrays, Tensors or PyTorch's CPU tensors
            Copied, not shared.
        strict : bool
            Whether every name has to be there and no other. Shapes have to fit in any case.

        Returns
        -------
        (missing, unexpected) : two lists of names, both empty if ``strict``

        Raises
        ------
        ValueError
            That names everything that does not fit. Nothing has been changed then.

        Examples
        --------
        >>> Linear(3, 2).load_state_dict({"weight": np.ones((2, 4)), "b": np.ones(2)})
        Traceback (most recent call last):
        ...
        ValueError: this state does not fit Linear(3, 2):
          missing: bias
          unexpected: b
          wrong: weight is (2, 4), should be (2, 3)
        """
        wanted = {name: x for name, x in descend(self) if isinstance(x, Parameter)}
        missing = [name for name in wanted if name not in state]
        unexpected = [name for name in state if name not in wanted]
        arrays: dict[str, np.ndarray] = {}
        wrong = []
        for name in (name for name in wanted if name in state):
            try:
                arrays[name] = a = _host_array(state[name])
            except (TypeError, ValueError) as e:
                wrong.append(f"{name} cannot be read: {e}")
                continue
            if a.shape != wanted[name].shape:
                wrong.append(f"{name} is {a.shape}, should be {wanted[name].shape}")
        problems = [f"wrong: {'; '.join(wrong)}"] if wrong else []
        if strict and unexpected:
            problems.insert(0, f"unexpected: {', '.join(map(str, unexpected))}")
        if strict and missing:
            problems.insert(0, f"missing: {', '.join(missing)}")
        if problems:
            whose = f"{type(self).__name__}{self.describe()}"
            raise ValueError("\n  ".join([f"this state does not fit {whose}:", *problems]))
        with locks.lifted(p.data for p in wanted.values()):
            for name, a in arrays.items():
                p = wanted[name]  # keeps its array, and so its dtype
                p.data[...] = place_like(a, p.data)
        return missing, unexpected

    # ---- printing

    def describe(self) -> str:
        """The arguments in brackets, for ``repr``: ``(3, 2)``."""
        return ""

    def __repr__(self) -> str:
        """The tree of modules, each with its number of parameters.

        >>> Sequential(Linear(3, 2), Dropout(0.5), LayerNorm(2))
        Sequential  12 parameters
        ├─ 0: Linear(3, 2)  8
        ├─ 1: Dropout(0.5)
        └─ 2: LayerNorm(2)  4
        """
        return "\n".join(_tree("", self, " parameters"))


def _once(named: Iterator[tuple[str, Any]]) -> list[tuple[str, Any]]:
    first: dict[int, tuple[str, Any]] = {}
    for name, x in named:
        first.setdefault(id(x), (name, x))
    return list(first.values())


def _tree(label: str, module: Module, unit: str = "", above: tuple = ()) -> list[str]:
    size = sum(p.size for p in module.parameters())
    count = f"  {size:,}{unit}" if size else ""
    lines = [f"{label}{type(module).__name__}{module.describe()}{count}"]
    above = (*above, module)
    inside = [(name, x) for name, x in members(module) if isinstance(x, Module)]
    inside = [(name, x) for name, x in inside if not any(x is m for m in above)]
    for k, (name, x) in enumerate(inside):
        first, rest = ("└─ ", "   ") if k == len(inside) - 1 else ("├─ ", "│  ")
        head, *tail = _tree(f"{name}: ", x, above=above)
        lines += [first + head, *(rest + line for line in tail)]
    return lines


def _host_array(x: Any) -> np.ndarray:
    """An array, a Tensor or a tensor of PyTorch as a NumPy array of numbers."""
    a = to_host(value(x.detach() if hasattr(x, "detach") else x))
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{a.dtype} is no real number")
    return a


def _check_sizes(**sizes: int) -> None:
    for name, n in sizes.items():
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"{name} should be a positive integer, not {n!r}")


def _uniform(shape: tuple[int, ...], bound: float) -> Parameter:
    """Drawn on the host in float64 and then rounded: the same on every device, in every dtype."""
    numbers = uniform(shape, -bound, bound) if drawing() else np.zeros(shape, default_dtype())
    return Parameter(numbers, dtype=default_dtype())


class _Drawing(threading.local):
    wanted = True


_drawing = _Drawing()


def drawing() -> bool:
    """Whether new layers draw their weights: everywhere but inside :func:`undrawn`."""
    return _drawing.wanted


@contextmanager
def undrawn() -> Iterator[None]:
    """Inside, new layers get zeros, for weights that are loaded next: drawing takes a while.

    >>> with undrawn():
    ...     layer = Linear(2, 1)
    >>> layer.weight.numpy()
    array([[0., 0.]], dtype=float32)
    """
    before = _drawing.wanted
    _drawing.wanted = False
    try:
        yield
    finally:
        _drawing.wanted = before


# ------------------------------------------------------------------------------------ layers


class Linear(Module):
    """y = x Wᵀ + b, along the last axis.

    x: (..., in_features)    weight: (out_features, in_features)    bias: (out_features,)
    y: (..., out_features)

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Without it, ``self.bias`` is None.

    Notes
    -----
    Both are drawn uniformly from ±1/√in_features, PyTorch's default. Source: LeCun et al.,
    Efficient BackProp, §4.6, up to the factor.

    Examples
    --------
    >>> layer = Linear(3, 2)
    >>> layer(Tensor(np.ones((4, 5, 3), np.float32))).shape
    (4, 5, 2)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        _check_sizes(in_features=in_features, out_features=out_features)
        bound = in_features**-0.5
        self.weight = _uniform((out_features, in_features), bound)
        self.bias = _uniform((out_features,), bound) if bias else None

    def forward(self, x: Any) -> Tensor:
        return linear(x, self.weight, self.bias)

    def describe(self) -> str:
        n_out, n_in = self.weight.shape
        return f"({n_in}, {n_out}{'' if self.bias is not None else ', bias=False'})"


class Embedding(Module):
    """A table of vectors, one for each id.

    ids: (...) integers    weight: (num_embeddings, embedding_dim)    y: (..., embedding_dim)

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        This row begins as zeros and gets no gradient. A negative one counts from the end.

    Notes
    -----
    Rows are drawn from the standard normal distribution, PyTorch's default.

    Examples
    --------
    >>> table = Embedding(10, 3, padding_idx=0)
    >>> table(np.array([[4, 2, 0]]))[0, 2].numpy()
    array([0., 0., 0.], dtype=float32)
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        _check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        shape = num_embeddings, embedding_dim
        rows = normal(shape) if drawing() else np.zeros(shape, default_dtype())
        self.padding_idx = padding_row(padding_idx, num_embeddings)
        if padding_idx is not None:
            rows[padding_idx] = 0
        self.weight = Parameter(rows, dtype=default_dtype())

    def forward(self, ids: Any) -> Tensor:
        return embedding(ids, self.weight, padding_idx=self.padding_idx)

    def describe(self) -> str:
        rows, d = self.weight.shape
        pad = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"({rows}, {d}{pad})"


class LayerNorm(Module):
    """Each row brought to mean 0 and variance 1, then scaled by ``weight``, shifted by ``bias``.

    x, y: (..., d)    weight, bias: (d,), ones and zeros at first

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last axis (or axes) of x, which make up a row.
    eps : float
        Added to the variance, inside the root.

    Notes
    -----
    Source: Ba, Kiros, Hinton, Layer Normalization, §3.

    Examples
    --------
    >>> LayerNorm(2)(Tensor([[1.0, 3.0]])).numpy().round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5) -> None:
        sizes: Any = normalized_shape
        shape = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
        for n in shape:
            _check_sizes(normalized_shape=n)
        self.eps = eps
        self.weight = Parameter(np.ones(shape), dtype=default_dtype())
        self.bias = Parameter(np.zeros(shape), dtype=default_dtype())

    def forward(self, x: Any, residual: Any = None) -> Tensor:
        """Of ``x``, or of ``x + residual``, which then are one op."""
        if residual is not None:
            return add_layer_norm(x, residual, self.weight, self.bias, eps=self.eps)
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def describe(self) -> str:
        eps = "" if self.eps == 1e-5 else f", eps={self.eps}"
        return f"({', '.join(map(str, self.weight.shape))}{eps})"


class Dropout(Module):
    """While training, zero each element with probability p and scale the rest by 1 / (1 − p).

    Parameters
    ----------
    p : float
        Between 0 and 1. The masks follow :func:`tinygrad_mha.manual_seed`.

    Notes
    -----
    Source: Srivastava et al., Dropout, §4 (the "inverted" form, §10).

    Examples
    --------
    >>> x = Tensor([1.0, 2.0])
    >>> Dropout(0.5).eval()(x) is x
    True
    """

    def __init__(self, p: float = 0.5) -> None:
        threshold(p)  # an error if p is no probability
        self.p = p

    def forward(self, x: Any) -> Any:
        return dropout(x, p=self.p) if self.training and self.p else x

    def describe(self) -> str:
        return f"({self.p})"


class LSTM(Module):
    """Layers of LSTM over a padded batch, in one direction or in both.

    x: (B, T, input_size), or (T, B, input_size) unless ``batch_first``
    output: (B, T, D · hidden_size) or (T, B, …) likewise, D = 2 if bidirectional, else 1
    h0, c0, h_n, c_n: (num_layers · D, B, hidden_size), whatever ``batch_first`` is

    Layer k has ``weight_ih_l{k}`` (4H, ·), ``weight_hh_l{k}`` (4H, H), ``bias_ih_l{k}`` and
    ``bias_hh_l{k}`` (4H,), gates in the order i f g o, and the same with ``_reverse`` for the way
    back: PyTorch's names and layout.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias : bool
    bidirectional : bool
        Read the text backwards as well; the outputs stand side by side, forwards first.
    dropout : float
        Between layers (not after the last one), while training.
    batch_first : bool
        Whether the batch is the first axis of x and of the output (PyTorch's default is not).

    Notes
    -----
    All weights are drawn uniformly from ±1/√hidden_size, PyTorch's default. Source: Hochreiter,
    Schmidhuber, Long Short-Term Memory, §4; both directions: Schuster, Paliwal, Bidirectional
    Recurrent Neural Networks, §II.

    Examples
    --------
    >>> rnn = LSTM(3, 4, bidirectional=True)
    >>> y, (h, c) = rnn(np.ones((2, 5, 3), np.float32), lengths=[5, 2])
    >>> y.shape, h.shape
    ((2, 5, 8), (2, 2, 4))
    >>> bool((y.data[1, 2:] == 0).all()), bool((y.data[1, 1, :4] == h.data[0, 1]).all())
    (True, True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = True,
    ) -> None:
        _check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        threshold(dropout)  # an error if it is no probability
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.bidirectional = bias, bidirectional
        self.dropout, self.batch_first = dropout, batch_first
        bound, rows = hidden_size**-0.5, 4 * hidden_size
        for layer in range(num_layers):
            width = hidden_size * self.directions if layer else input_size
            for name in self._names(layer):
                setattr(self, "weight_ih" + name, _uniform((rows, width), bound))
                setattr(self, "weight_hh" + name, _uniform((rows, hidden_size), bound))
                if bias:
                    setattr(self, "bias_ih" + name, _uniform((rows,), bound))
                    setattr(self, "bias_hh" + name, _uniform((rows,), bound))

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def _names(self, layer: int) -> list[str]:
        """How the parameters of a layer end: one ending for each direction."""
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    def forward(
        self, x: Any, state: tuple[Any, Any] | None = None, lengths: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over a batch of sequences.

        Parameters
        ----------
        x : Tensor or array of the shape above
        state : (h0, c0), optional
            What each layer and direction starts from; zeros if left out.
        lengths : B integers in [0, T], optional
            How many steps of each sequence are real; the rest are pads at its end, and nothing
            depends on them.

        Returns
        -------
        output : Tensor
            Of the last layer; zero at the pads.
        (h_n, c_n) : Tensors
            After the last real step (the first one, for the direction that reads backwards).

        Raises
        ------
        ValueError
            If a shape does not fit, or a length is not between 0 and T.
        """
        if x.ndim != 3 or x.shape[2] != self.input_size:
            axes = "(batch, steps" if self.batch_first else "(steps, batch"
            raise ValueError(f"LSTM: x {tuple(x.shape)} should be {axes}, {self.input_size})")
        if self.batch_first:
            x = swapaxes(x, 0, 1)
        h0, c0 = self._initial(x) if state is None else self._checked(state, x.shape[1])
        if lengths is not None:
            lengths = to_host(value(lengths))  # once, not once a layer
        h_n: list[Tensor] = []
        c_n: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                # a mask belongs to a row of the batch, so the batch goes first
                x = swapaxes(dropout(swapaxes(x, 0, 1), p=self.dropout), 0, 1)
            outputs = []
            for name in self._names(layer):
                k = len(h_n)
                weights = [getattr(self, w + name) for w in ("weight_ih", "weight_hh")]
                if self.bias:
                    weights += [getattr(self, b + name) for b in ("bias_ih", "bias_hh")]
                reverse = name.endswith("reverse")
                y, h, c = lstm(x, h0[k], c0[k], *weights, lengths=lengths, reverse=reverse)
                outputs.append(y)
                h_n.append(h)
                c_n.append(c)
            x = concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        output = swapaxes(x, 0, 1) if self.batch_first else x
        return output, (_side_by_side(h_n), _side_by_side(c_n))

    def _initial(self, x: Any) -> tuple[Array, Array]:
        shape = self.num_layers * self.directions, x.shape[1], self.hidden_size
        zeros = xp(value(x)).zeros(shape, x.dtype)
        return zeros, zeros

    def _checked(self, state: tuple[Any, Any], batch: int) -> tuple[Any, Any]:
        shape = self.num_layers * self.directions, batch, self.hidden_size
        if not isinstance(state, list | tuple) or len(state) != 2:
            raise TypeError("LSTM: the state should be a pair (h0, c0)")
        h0, c0 = state
        for name, s in (("h0", h0), ("c0", c0)):
            given = tuple(getattr(s, "shape", ()))
            if given != shape:
                raise ValueError(
                    f"LSTM: {name} {given} should be (layers · directions, batch, hidden_size) = "
                    f"{shape}"
                )
        return h0, c0

    def describe(self) -> str:
        given = [str(self.input_size), str(self.hidden_size)]
        if self.num_layers != 1:
            given.append(f"num_layers={self.num_layers}")
        usual = {"bias": True, "bidirectional": False, "dropout": 0.0, "batch_first": True}
        given += [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v]
        return f"({', '.join(given)})"


def _side_by_side(states: list[Tensor]) -> Tensor:
    """(B, H) of each layer and direction -> (num_layers · D, B, H)"""
    return stack(states) if len(states) > 1 else expand_dims(states[0], 0)


class Sequential(Module):
    """One module after another; the parameters are named ``0.weight``, ``1.weight``, …

    Parameters
    ----------
    *steps : Module or function
        Each is called with what the one before returned.

    Examples
    --------
    >>> import tinygrad_mha as tg
    >>> net = Sequential(Linear(3, 8), tg.relu, Linear(8, 2))
    >>> net(Tensor([[1.0, 2.0, 3.0]])).shape
    (1, 2)
    >>> [name for name, _ in net.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *steps: Callable[[Any], Any]) -> None:
        for k, step in enumerate(steps):
            if not callable(step):
                raise TypeError(f"Sequential: step {k} is no module: {type(step).__name__}")
            setattr(self, str(k), step)
        self.length = len(steps)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int | slice) -> Any:
        """A step; or, given a slice, a Sequential of some of them, which are the same modules."""
        if isinstance(k, slice):
            return Sequential(*(self[i] for i in range(self.length)[k]))
        return getattr(self, str(range(self.length)[k]))

    def forward(self, x: Any) -> Any:
        for k in range(self.length):
            x = self[k](x)
        return x
