"""Chapter 1, the machine: a Tensor, two kinds of op, one registry, one backward pass.

Read :class:`Tensor`, then :class:`Op`, then :func:`backpropagate`; the rest is detail. A forward
pass leaves a trail: every Tensor that an op makes remembers the :class:`Node` that made it, and a
node remembers its inputs. The backward pass walks that trail from the newest node to the oldest
and hands every node the gradient of its output; the node answers with the gradients of its inputs.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ContextDecorator, ExitStack
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import (
    ARRAYS,
    Array,
    DeviceError,
    default_device,
    device_of,
    explained,
    is_array,
    to_device,
    to_host,
    xp,
)

if TYPE_CHECKING:
    from .operators import Operators  # what primitives.py attaches, spelled out for type checkers
else:
    Operators = object


class Modes(threading.local):
    """What differs between threads, so that none disturbs another."""

    recording = True  # whether ops record
    watcher: Any = None  # who looks on: see detect_anomaly
    evaluating = False  # whether all modules behave as after eval()
    dtype: np.dtype | None = None  # of new Tensors, if this thread has chosen one

    def __init__(self) -> None:  # called once in every thread
        self.before: dict[str, list[Any]] = defaultdict(list)  # by name: see ``setting``


modes = Modes()
clock = count()
adding = threading.RLock()  # to .grad: of two threads that add to one leaf, neither is lost
REGISTRY: dict[str, Op] = {}  # name -> op: the package's own ops, every one of them certified


# ------------------------------------------------------------------------------------ Tensor


class Tensor(Operators):
    """An array that remembers how it was made.

    Parameters
    ----------
    data : array, number, nested list or Tensor
        An array is shared, not copied, and keeps its dtype. Python floats become the default
        dtype (float32 unless :func:`set_default_dtype` says otherwise).
    requires_grad : bool
        Whether gradients flow to this Tensor. Only floating-point data may ask for them.
    dtype, device : optional
        Cast to a dtype; place on ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    Tensor([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "data", "grad", "index", "node", "tracked")
    __array_ufunc__ = None  # so that ``ndarray * tensor`` asks Tensor.__rmul__
    __hash__ = object.__hash__  # comparisons are elementwise, so a Tensor is hashed by identity

    data: Array  # the values
    grad: Tensor | None  # filled by backward(), on leaves only
    node: Any  # the Node (the call) that made this Tensor; None for a leaf
    index: int  # which of the node's outputs this is
    tracked: bool  # requires_grad, without the check of the property

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.data = as_array(data, dtype, device)
        self.grad = self.node = None
        self.index = 0
        self.requires_grad = requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to (or through) this Tensor."""
        return self.tracked

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.dtype.kind != "f":
            raise TypeError(
                f"only floating-point Tensors can require a gradient, this one is {self.dtype}: a "
                "step of an integer is never small; convert it, as with .astype(np.float32)"
            )
        if self.node is not None and not wanted:
            raise ValueError("this Tensor was computed from others: use .detach() to cut it off")
        self.tracked = bool(wanted)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        return device_of(self.data)

    def detach(self) -> Tensor:
        """The same values, cut off from the graph (and from the gradient)."""
        return _wrap(self.data)

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (shared on the CPU, copied from the GPU)."""
        return to_host(self.data)

    def item(self) -> float:
        """The one value of a Tensor of size 1, as a Python number."""
        return self.data.item()

    def backward(
        self, gradient: Any = None, create_graph: bool = False, retain_graph: bool = False
    ) -> None:
        """Add d(self)/d(leaf) to ``leaf.grad`` for every leaf that requires it.

        Parameters
        ----------
        gradient : array or Tensor of this shape
            dL/d(self). Only a Tensor of a single value may leave it out: then it is 1.
        create_graph : bool
            Record the backward pass, so that the gradients can be differentiated again.
        retain_graph : bool
            Keep the graph for another backward pass; otherwise its memory is released on the way.
        """
        seed = _seed(self, gradient, "backward", create_graph)
        keep = retain_graph or create_graph
        gradients = backpropagate([(self, seed)], None, create_graph, release=not keep)
        if modes.watcher is not None:
            modes.watcher.ends(gradients)
        handed_out = {id(value(seed)), id(value(gradient))}
        with recording(create_graph), adding:
            for leaf, d in gradients.items():
                d = _own(d, leaf, handed_out)
                leaf.grad = d if leaf.grad is None else leaf.grad + d

    def __repr__(self) -> str:
        text = repr(to_host(self.data)).removeprefix("array(").removesuffix(")")
        text = text.replace(", dtype=float32", "").replace("\n     ", "\n      ")
        where = "" if self.device == "cpu" else f", device={self.device!r}"
        how = f", op={self.node.op.name}" if self.node else ""
        return f"Tensor({text}{where}{how or (', requires_grad=True' if self.tracked else '')})"

    def _repr_html_(self) -> str | None:
        """In a notebook: the explorer of the graph behind it, if there is one that is not large."""
        from .study.explorer import of_tensor  # the engine does not need it

        return of_tensor(self)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))  # so that a 0-d Tensor says that it has no rows

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.tracked:
            raise TypeError(
                "a Tensor that requires a gradient is not turned into an array silently (the "
                "gradient would be lost): use an op of tinygrad_mha, or .numpy() if it may be"
            )
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __reduce__(self) -> tuple:  # pickled and copied without the graph
        return type(self), (self.numpy(), self.tracked, None, self.device)


def _wrap(data: Array, node: Node | None = None, index: int = 0) -> Tensor:
    """A Tensor around an op's result: no checks, no conversion."""
    t = Tensor.__new__(Tensor)
    t.data, t.grad, t.node, t.index, t.tracked = data, None, node, index, node is not None
    return t


def value(x: Any) -> Any:
    """The array in a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def wanted(x: Any) -> bool:
    """Whether ``x`` is a Tensor that gradients flow to."""
    return isinstance(x, Tensor) and x.tracked


_default_dtype = np.dtype(np.float32)


def set_default_dtype(dtype: Any) -> None:
    """The dtype of new Tensors made from Python numbers and of the parameters of new modules.

    What the main thread chooses holds everywhere; what another thread chooses, in that thread.
    """
    global _default_dtype
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(f"the default dtype is a floating-point one, not {dtype}")
    if threading.current_thread() is threading.main_thread():
        _default_dtype = dtype
    else:
        modes.dtype = dtype


def default_dtype() -> np.dtype:
    """The dtype that :func:`set_default_dtype` chose; float32 at first."""
    return _default_dtype if modes.dtype is None else modes.dtype


def number_dtype(dtype: Any) -> np.dtype:
    """``dtype``, if it is one that a Tensor can hold."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub":
        raise TypeError(f"a Tensor holds numbers, not {dtype}")
    return dtype


def as_array(data: Any, dtype: Any = None, device: str | None = None) -> Array:
    """The array that a Tensor is made of: see :class:`Tensor` for the rules."""
    data = value(data)
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError("a Tensor has no masked elements: fill them, as with .filled(0)")
    if isinstance(data, np.matrix):  # whose * is another product
        data = np.asarray(data)
    if not is_array(data):
        known = isinstance(data, np.generic) and not isinstance(data, float)
        try:
            data = np.asarray(data)
        except ValueError as e:
            raise ValueError(f"a Tensor needs rows of equal length: {e}") from None
        if not known and data.dtype.kind == "f":
            data = data.astype(default_dtype())
        device = default_device() if device is None else device
    number_dtype(data.dtype)
    if dtype is not None:
        data = data.astype(number_dtype(dtype), copy=False)
    return data if device is None else to_device(data, device)


# ---------------------------------------------------------------------------------------- Op


class Node:
    """One recorded call: ``outputs = op(*inputs, **params)``."""

    __slots__ = ("arrays", "born", "inputs", "op", "outputs", "params", "pullback", "record")

    def __init__(
        self,
        op: Op,
        inputs: tuple,
        arrays: list,
        params: dict,
        pullback: Callable | None,
        outputs: int,
    ) -> None:
        self.op, self.inputs, self.params, self.pullback = op, inputs, params, pullback
        self.arrays = arrays  # the values of the inputs then: their .data may be set to others
        self.outputs = outputs  # how many; 0 for an op that returns a bare array, not a tuple
        self.born = next(clock)
        self.record: Any = None  # what a debug run remembers of this call

    def release(self) -> None:
        """Forget the inputs and whatever the pullback saved, so that their memory comes back."""
        self.inputs = self.arrays = self.pullback = self.record = None  # type: ignore[assignment]


class Op:
    """A differentiable function. Given arrays it just computes; given Tensors it also records.

    A *primitive* is defined by ``forward`` and one ``rule(g, y, *inputs, **params)`` per argument,
    written in operators that mean the same on arrays and on Tensors. Hand a rule arrays and it
    returns a gradient; hand it Tensors and it returns a gradient that can be differentiated again.
    (One of any number of arrays has a single rule, for all of them: see primitive_of_many.)

    A *fused* op is fast array code: ``forward`` returns ``(y, pullback)``, where ``pullback(g)``
    gives one entry per argument: an array, None, or a function of no arguments that computes the
    array if anybody wants it. It names a ``reference``, the same function composed of primitives,
    which explains it, checks it, and stands in for it when somebody wants the gradient of its
    gradient. With several outputs, ``y`` is a tuple, and so is ``g`` (None: nobody used that one).

    Arrays come first, parameters after them: the signature of ``forward`` says
    ``(a, b, *, axis=-1)``. Callers may write either by position or by keyword.
    """

    def __init__(
        self,
        forward: Callable,
        rules: Any = (),
        reference: Callable | None = None,
        sample: Callable | None = None,
        resolve: Callable | None = None,
        casts: bool = False,
        without_way_back: Callable | None = None,
        registry: dict[str, Op] | None = None,
    ) -> None:
        self.name = self.__name__ = forward.__name__
        self.__doc__, self.__module__ = forward.__doc__, forward.__module__
        self.forward, self.rules, self.reference = forward, rules, reference
        self.sample = sample  # rng -> (args, params): an example to try the op on
        self.resolve = resolve  # params -> params, once per call: draws a seed, say
        self.without_way_back = without_way_back  # forward, but it returns y alone
        self.casts = casts  # whether the dtype of the result is the op's own business
        self._read_signature()
        registry = REGISTRY if registry is None else registry
        if registry is REGISTRY and self.name in registry:
            raise ValueError(f"op {self.name!r} is already defined")
        registry[self.name] = self

    def _read_signature(self) -> None:
        self.__signature__ = inspect.signature(self.forward)
        parameters = self.__signature__.parameters
        arrays = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.array_names = [p.name for p in arrays]
        self.optional = {p.name for p in arrays if p.default is None}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
        self.arity = -1 if self.variadic else len(arrays)
        named = [p for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
        self.param_names = {p.name: None for p in named}
        self.defaults = {p.name: p.default for p in named if p.default is not p.empty}
        self.known = self.param_names.keys()
        self.required = self.known - self.defaults.keys()
        self.needed = {*self.array_names, *self.required} - self.optional
        self.names = [*self.array_names, *self.param_names]
        self.simple = not (self.reference or self.variadic or self.resolve or self.casts)
        if self.reference is not None:
            if list(inspect.signature(self.reference).parameters) != list(parameters):
                raise TypeError(f"{self.name}: the reference takes other arguments")
        elif not self.variadic and len(self.rules) != self.arity:
            raise TypeError(f"{self.name}: {self.arity} arguments but {len(self.rules)} rules")

    def __repr__(self) -> str:
        return f"<{'fused' if self.reference else 'primitive'} op {self.name}{self.__signature__}>"

    def __call__(self, *args: Any, **params: Any) -> Any:
        if len(args) != self.arity or (
            (params or self.required) and not self.required <= params.keys() <= self.known
        ):
            args, params = self._bind(args, params)
        if self.defaults:
            params = self.defaults | params
        if self.simple:
            quick = self._of_tensors(args, params)
            if quick is not None:
                return quick
        if self.resolve is not None:
            params = self.resolve(**params)
        tensors = tracked = odd = some = False
        arrays = []
        for a in args:
            if isinstance(a, Tensor):
                tensors, tracked, a = True, tracked or a.tracked, a.data
            elif type(a) is np.ndarray:
                some = True
            elif type(a) not in PLAIN:
                odd = True
            arrays.append(a)
        if not (tensors or some or odd):  # nothing but Python numbers
            args = tuple(None if a is None else as_array(a, device="cpu") for a in args)
            arrays = list(args)
        if odd:  # a list, a NumPy scalar, a CuPy array
            weak = tensors or any(is_array(a) and is_floating(a) for a in arrays)
            args = tuple(a if isinstance(a, Tensor) else constant(a, self, weak) for a in args)
            arrays = [value(a) for a in args]
        given = arrays
        forward, records = self.forward, tracked and modes.recording
        kernel = None
        if self.reference is not None:
            arrays = in_one_dtype(arrays)
            if self.without_way_back is not None and not records:
                forward = self.without_way_back
            if not HOST.issuperset(map(type, arrays)):
                kernel = kernel_of(self)
        try:
            if getattr(arrays[0], "itemsize", 0) == 1 or getattr(arrays[-1], "itemsize", 0) == 1:
                arrays = self._not_in_half(arrays, params)
            y = None if kernel is None else kernel(*arrays, **params)
            if kernel is None or y is None:  # the kernel leaves some calls to the array code
                y, kernel = forward(*arrays, **params), None
        except EXPLAINED as e:
            raise self._explain(e, arrays, params) from None
        except MemoryError as e:  # of the GPU
            raise explained(e, self.name)  # noqa: B904  # it names its cause, if it has one
        pullback = None
        if kernel is not None or (self.reference is not None and forward is self.forward):
            if type(y) is not tuple or len(y) != 2 or not callable(y[1]):
                raise TypeError(f"{self.name}: a fused op's forward returns (y, pullback)")
            y, pullback = y
        inputs = args if records else None
        return self._finish(y, inputs, given, arrays, params, pullback, tensors)

    def _of_tensors(self, args: tuple, params: dict) -> Any:
        """The usual case in few steps: a primitive of Tensors, all of one dtype, in one place.

        None if it is not that usual; then the general case, in :meth:`__call__`, has its turn.
        """
        arrays: list = []
        tracked = False
        dtype: Any = None
        kind: Any = None
        for a in args:
            if not isinstance(a, Tensor):
                return None
            x = a.data
            if type(x) is not kind:
                if kind is not None or type(x) not in ARRAYS:
                    return None
                kind = type(x)
            if x.dtype is not dtype:
                if dtype is not None:
                    return None
                dtype = x.dtype
            tracked = tracked or a.tracked
            arrays.append(x)
        if dtype.kind != "f" or modes.watcher is not None:
            return None
        try:
            y = self.forward(*arrays, **params) if params else self.forward(*arrays)
        except EXPLAINED as e:
            raise self._explain(e, arrays, params) from None
        except MemoryError as e:
            raise explained(e, self.name)  # noqa: B904
        records = tracked and modes.recording
        if isinstance(y, np.generic):  # NumPy makes scalars of 0-d results
            y = np.asarray(y)
        if type(y) is not kind or y.dtype is not dtype:
            return self._finish(y, args if records else None, arrays, arrays, params, None, True)
        if not records:
            return _wrap(y)
        kept = {name: frozen(x) for name, x in params.items()} if params else NOTHING
        return _wrap(y, Node(self, args, arrays, kept, None, 0))

    def _finish(
        self,
        y: Any,
        inputs: tuple | None,
        given: list,
        arrays: list,
        params: dict,
        pullback: Callable | None,
        tensors: bool,
    ) -> Any:
        """What the op returns for ``y``: settled, wrapped, recorded (unless ``inputs`` is None)."""
        several = len(y) if type(y) is tuple else 0
        node = None
        if inputs is not None:
            kept = {name: frozen(x) for name, x in params.items()} if params else NOTHING
            node = Node(self, inputs, given, kept, pullback, several)
        if several:
            y = tuple(self._settle(k, arrays) for k in y)
        elif not (type(y) is type(arrays[0]) is np.ndarray and y.dtype is arrays[0].dtype):
            y = self._settle(y, arrays)  # the usual case is settled
        kind = "f" if several else y.dtype.kind
        if kind != "f":
            node = None  # x.astype(int): a staircase, no gradient flows through it
            if tensors and kind not in "iub":
                raise TypeError(
                    f"{self.name}: the result has dtype kind {kind!r}, and a Tensor holds "
                    "real numbers"
                )
        if not tensors:
            return y
        if modes.watcher is not None:
            modes.watcher.called(self, arrays, params, y if several else (y,), node)
        return tuple(_wrap(a, node, k) for k, a in enumerate(y)) if several else _wrap(y, node)

    def argument_name(self, k: int) -> str:
        """The name of the k-th array; its number, where the op takes any number of them."""
        return f"number {k}" if self.variadic else self.array_names[k]

    def _not_in_half(self, arrays: list, params: dict) -> list:
        """Floating arrays in place of bytes and booleans, of which NumPy's functions would make
        numbers in half precision."""
        if self.reference is not None or any(map(is_floating, arrays)):
            return arrays
        ones = [xp(a).ones(1, a.dtype) if is_array(a) else a for a in arrays]
        try:
            half = getattr(self.forward(*ones, **params), "dtype", None) == np.float16
        except EXPLAINED:  # an op that is no function of each number
            return arrays
        return [floating(a) if is_array(a) else a for a in arrays] if half else arrays

    def _settle(self, y: Any, arrays: list) -> Array:
        """Keep two promises about a result: it is an array, and float32 in gives float32 out."""
        if isinstance(y, np.generic | float | int):  # NumPy makes scalars of 0-d results
            y = np.asarray(y)
        elif not is_array(y):
            raise TypeError(f"{self.name}: forward gave a {type(y).__name__}, not an array")
        for a in arrays:
            if hasattr(a, "dtype") and a.dtype == y.dtype:  # None == np.dtype(float) is True
                return y
        if self.casts or y.dtype.kind != "f":
            return y
        floats = [a.dtype for a in arrays if is_floating(a)]
        return y.astype(np.result_type(*floats) if floats else default_dtype(), copy=False)

    def _bind(self, args: tuple, params: dict) -> tuple[tuple, dict]:
        """Sort what the caller wrote into arrays by position and parameters by keyword."""
        if not (params or self.variadic) and self.arity <= len(args) <= len(self.names):
            by_name = dict(zip(self.param_names, args[self.arity :], strict=False))
            if self.required <= by_name.keys():  # all by position, the usual case
                return args[: self.arity], by_name

        def fail(why: str) -> TypeError:
            return TypeError(f"{self.name}: {why}; it takes ({', '.join(self.names)})")

        many: tuple = ()
        if self.variadic:  # f(a, b, axis=1), or as NumPy has it, f([a, b], 1) or f(xs=[a, b])
            if "xs" in params and not args:
                params = dict(params)
                args = (params.pop("xs"),)
            listed = bool(args) and isinstance(args[0], list | tuple)
            many, args = (tuple(args[0]), args[1:]) if listed else (args, ())
            if not many:
                raise ValueError(f"{self.name}: nothing to join, the sequence is empty")
        if len(args) > len(self.names):
            raise TypeError(
                f"{self.name}: {len(args)} arguments, but it takes ({', '.join(self.names)})"
            )
        given = dict(zip(self.names, args, strict=False))
        if twice := given.keys() & params.keys():
            raise fail(f"{', '.join(sorted(twice))} given twice")
        params = given | params
        if missing := self.needed - params.keys():
            raise fail(f"missing argument {', '.join(n for n in self.names if n in missing)}")
        args = many or tuple(params.pop(name, None) for name in self.array_names)
        if unknown := params.keys() - self.known:
            raise fail(f"unknown argument {', '.join(sorted(unknown))}")
        return args, params

    def _explain(self, error: Exception, arrays: list, params: dict) -> Exception:
        """The error of a forward pass, with the op and the shapes that caused it."""
        kinds = (IndexError, ValueError, TypeError, OverflowError, AttributeError)
        kind = next(k for k in kinds if isinstance(error, k))
        if str(error).startswith(f"{self.name}:"):
            return kind(str(error))
        given = {self.argument_name(k): a for k, a in enumerate(arrays)}
        numbers = {n: a for n, a in given.items() if isinstance(a, int | float)}
        if kind is AttributeError:  # a number has no shape
            if not numbers:
                return error
            name, x = next(iter(numbers.items()))
            return TypeError(f"{self.name}: {name} is the number {x}, and should be an array here")
        told = {n: a for n, a in (given | params).items() if is_array(a)}
        places = {n: device_of(a) for n, a in told.items()}
        unknown = re.search("numpy|cupy|ufunc|'out'", str(error), re.IGNORECASE)  # their complaints
        if unknown and len(set(places.values())) > 1:
            where = " and ".join(f"{n} {tuple(a.shape)} on {places[n]}" for n, a in told.items())
            there = max(places.values())
            return DeviceError(f"{self.name}: {where}: bring them together, as with .to({there!r})")
        why = str(error)
        if why.startswith("operands could not be broadcast together with shapes"):
            why = misfit({n: a.shape for n, a in told.items()}) or why
        shapes = ", ".join(f"{n} {tuple(a.shape)} {a.dtype}" for n, a in told.items())
        return kind(f"{self.name}: {why} [{shapes}]")

    def pull(
        self, node: Node, y: Tensor, g: Any, wants: list[bool], create_graph: bool
    ) -> Sequence:
        """dL/dinput for each input that is wanted, given ``g`` = dL/doutput of ``node``."""
        if self.reference is None:
            if create_graph:
                self._check_data(node)
            y, xs = (y, node.inputs) if create_graph else (y.data, node.arrays)
            if self.variadic:
                return self._of_wanted(self.rules(g, y, *xs, **node.params), wants)
            if self.arity == 2 and not node.params:  # what follows, without the loop
                (da, db), (a, b) = self.rules, xs
                return da(g, y, a, b) if wants[0] else None, db(g, y, a, b) if wants[1] else None
            return [
                rule(g, y, *xs, **node.params) if w else None
                for rule, w in zip(self.rules, wants, strict=True)
            ]
        if not create_graph:
            return self._of_wanted(node.pullback(g), wants)  # type: ignore[misc]
        self._check_data(node)
        # The gradient of the gradient: play the reference on aliases, one per argument, so that a
        # Tensor used as query and as key at once still gets two separate gradients here; and in one
        # dtype, as in the forward pass. (Ops of chapter 2 go by their names in this chapter.)
        alias, cast, wide = REGISTRY["identity"], REGISTRY["astype"], y.dtype
        xs = [
            cast(x, dtype=wide) if is_floating(x) and x.dtype != wide else alias(x) if w else x
            for x, w in zip(node.inputs, wants, strict=True)
        ]
        outputs = self.reference(*xs, **node.params)
        roots = zip(outputs, g, strict=True) if node.outputs else [(outputs, g)]
        roots = [(o, d) for o, d in roots if d is not None and wanted(o)]
        found = backpropagate(roots, [x for x, w in zip(xs, wants, strict=True) if w], True)
        # What the reference had no use for, such as the weights of an LSTM that takes no step.
        return [_found(found, x) if w else None for x, w in zip(xs, wants, strict=True)]

    def _check_data(self, node: Node) -> None:
        """To record a backward pass, the inputs themselves have to be what they were."""
        for k, (x, a) in enumerate(zip(node.inputs, node.arrays, strict=True)):
            if isinstance(x, Tensor) and x.data is not a:
                raise RuntimeError(
                    f"{self.name}: the .data of {self.argument_name(k)} {x.shape} was set to "
                    "another array since the forward pass, so its gradient can be computed, but "
                    "not recorded"
                )

    def __reduce__(self) -> Any:
        """Pickled by name: an op of the package is one and the same everywhere."""
        if REGISTRY.get(self.name) is not self:
            raise TypeError(f"{self.name} is no op of the package, and cannot be pickled by name")
        return _op_named, (self.name,)

    def __deepcopy__(self, memo: dict) -> Op:
        return self

    def __copy__(self) -> Op:
        return self

    def _of_wanted(self, ds: Sequence, wants: list[bool]) -> Sequence:
        """One gradient for each argument; of those that are functions, only the wanted ones run."""
        if len(ds) != len(wants):
            raise TypeError(
                f"{self.name}: the pullback gave {len(ds)} gradients for {len(wants)} arguments"
            )
        return [d() if w and callable(d) else d for d, w in zip(ds, wants, strict=True)]


def _found(gradients: dict[Tensor, Any], x: Tensor) -> Tensor:
    """The gradient of x; zeros where the reference had no use for x, as an LSTM without a step has
    none for its weights."""
    d = gradients.get(x)
    return _wrap(xp(x.data).zeros_like(x.data)) if d is None else d


def _op_named(name: str) -> Op:
    return REGISTRY[name]


def primitive(*rules: Callable | None, **options: Any) -> Callable[[Callable], Op]:
    """Decorate ``forward`` to make a primitive op: one rule per argument, None for a constant."""
    return lambda forward: Op(forward, rules=rules, **options)


def primitive_of_many(rule: Callable, **options: Any) -> Callable[[Callable], Op]:
    """A primitive of any number of arrays: ``rule(g, y, *xs, **params)`` gives all the gradients.

    A list of them, since a rule for each would be handed n arguments n times. One that is costly
    may be a function of no arguments, which computes it if anybody wants it.
    """
    return lambda forward: Op(forward, rules=rule, **options)


def fused(reference: Callable, **options: Any) -> Callable[[Callable], Op]:
    """Decorate fast ``forward -> (y, pullback)`` code whose definition is ``reference``."""
    return lambda forward: Op(forward, reference=reference, **options)


# what a forward pass may raise about its arguments; it gets the op's name and their shapes
EXPLAINED = (ValueError, TypeError, IndexError, OverflowError, AttributeError)
NOTHING: dict[str, Any] = {}  # the parameters of an op that has none; nobody writes to it
PLAIN = {np.ndarray, float, int, bool, type(None)}  # what an op takes as it is, beside Tensors
HOST = frozenset(PLAIN)


def kernel_of(op: Op) -> Callable | None:
    """What runs ``op`` on a GPU in place of its forward, as :mod:`tinygrad_mha.kernels` has it."""
    if not _kernels:
        from .kernels.table import KERNELS  # not before somebody has a GPU

        _kernels.update(KERNELS)
    return _kernels.get(op.name) if REGISTRY.get(op.name) is op else None


_kernels: dict[str, Callable] = {}


def constant(a: Any, op: Op, weak: bool) -> Any:
    """An argument that is neither Tensor, array nor Python number, made into one of those.

    Beside a Tensor or a floating array (``weak``), a NumPy scalar becomes a Python number: a
    constant such as ``np.sqrt(64)`` is a float64, and would otherwise turn a float32 model into a
    float64 one. Alone it is a 0-d array, such as a rule meets where NumPy made a scalar of one.
    """
    if type(a) in PLAIN or is_array(a):
        return a
    if isinstance(a, np.generic):
        return a.item() if weak else np.asarray(a)
    if isinstance(a, list | tuple):
        return as_array(a, device="cpu")
    raise TypeError(f"{op.name}: cannot compute with {type(a).__name__}; pass a Tensor or an array")


def frozen(x: Any) -> Any:
    """Lists, however deep, as tuples: what a node remembers must not change."""
    return tuple(map(frozen, x)) if type(x) is list else x


def in_one_dtype(arrays: list) -> list:
    """Floating arrays in the widest of their dtypes, which a fused op then uses for its buffers."""
    dtypes = {a.dtype for a in arrays if hasattr(a, "dtype")}
    if len(dtypes) < 2:
        return arrays
    dtypes = {dtype for dtype in dtypes if dtype.kind == "f"}
    if len(dtypes) < 2:
        return arrays
    widest = np.result_type(*dtypes)
    return [a.astype(widest, copy=False) if is_floating(a) else a for a in arrays]


def misfit(shapes: dict[str, tuple[int, ...]]) -> str:
    """Why these shapes, given by name, do not broadcast; "" if they do.

    >>> misfit({"a": (2, 3), "b": (4, 1)})
    'axis -2 is 2 in a and 4 in b: equal lengths broadcast, and a length of 1 does'
    """
    for axis in range(-1, -1 - max(map(len, shapes.values()), default=0), -1):
        long = {s[axis]: n for n, s in shapes.items() if len(s) >= -axis and s[axis] != 1}
        if len(long) > 1:
            several = " and ".join(f"{length} in {name}" for length, name in long.items())
            return f"axis {axis} is {several}: equal lengths broadcast, and a length of 1 does"
    return ""


def is_floating(x: Any) -> bool:
    """Whether x is an array or a Tensor of floating-point numbers."""
    return hasattr(x, "dtype") and x.dtype.kind == "f"


def floating(x: Array) -> Array:
    """Array x, or, if it holds integers, its values in the default dtype."""
    if x.dtype.kind == "c":
        raise TypeError(f"numbers are real here, not {x.dtype}: take .real, .imag or abs() of them")
    return x if x.dtype.kind == "f" else x.astype(default_dtype())


# ------------------------------------------------------------------------------ the way back


def backpropagate(
    roots: Iterable[tuple[Tensor, Any]],
    targets: Sequence[Tensor] | None,
    create_graph: bool,
    release: bool = False,
    since: int = -1,
    ready: Callable[[Tensor, Any], None] | None = None,
) -> dict[Tensor, Any]:
    """Gradients of ``sum(<g, y> for y, g in roots)`` with respect to ``targets``.

    ``targets=None`` means every leaf. The gradients come as arrays, or as Tensors when
    ``create_graph``; a target that the roots do not depend on is missing from the answer. What was
    born before ``since`` counts as a leaf. ``ready(target, gradient)`` is called for each target as
    soon as nothing more can be added to its gradient (None, if there is none).

    A Tensor is always younger than the Tensors it was made from. So "newest first" is an order in
    which every gradient is complete before it is passed on, and no topological sort is needed.
    """
    gradients: dict[Tensor, Any] = {}
    owned: set[Tensor] = set()  # whose sum we allocated, and may therefore add to in place

    def accumulate(x: Tensor, d: Any, op: Op | None = None) -> None:
        if not hasattr(d, "shape"):
            name = op.name if op is not None else "backward"
            raise TypeError(f"{name}: a gradient is an array, not a {type(d).__name__}")
        if d.shape != x.data.shape:  # x was broadcast on the way in: the adjoint of a copy is a sum
            if op is not None and not _covers(d.shape, x.data.shape):
                raise ValueError(
                    f"{op.name}: the gradient of an input of shape {x.data.shape} came back with "
                    f"shape {d.shape}, which is neither that shape nor a broadcast of it"
                )
            d = REGISTRY["sum_to"](d, shape=x.data.shape)
        if d.dtype != x.data.dtype:
            d = d.astype(x.data.dtype)
        if x not in gradients:
            gradients[x] = d
        elif x in owned:
            gradients[x] += d
        else:
            gradients[x] = gradients[x] + d
            if not create_graph:
                owned.add(x)

    roots, watcher = list(roots), modes.watcher
    oldest = min((-1 if t.node is None else t.node.born for t in targets or ()), default=-1)
    trail = history([y for y, _ in roots], after=max(oldest, since))
    useful = None if targets is None else _useful(trail, targets)
    keep = set(targets or ())
    final = {} if ready is None else _last_to_add(trail, targets or ())

    def announce(node: Node | None) -> None:
        for x in final.pop(node, ()):
            ready(x, gradients.get(x))  # type: ignore[misc]

    with recording(create_graph):
        for y, g in roots:
            accumulate(y, g)
        del roots
        announce(None)
        while trail:
            y = trail.pop()
            node = y.node
            g = gradients.get(y) if y in keep else gradients.pop(y, None)
            if node.outputs:  # y is one of several: collect its sisters, which are as old as it
                by_index = {y.index: g}
                while trail and trail[-1].node is node:
                    o = trail.pop()
                    by_index[o.index] = gradients.get(o) if o in keep else gradients.pop(o, None)
                g = tuple(by_index.get(k) for k in range(node.outputs))
                nothing = all(d is None for d in g)
            else:
                nothing = g is None
            if nothing:
                if final:
                    announce(node)
                continue
            wants = []
            for x in node.inputs:
                w = isinstance(x, Tensor) and x.tracked and (useful is None or x in useful)
                wants.append(w)
            if True in wants:
                if watcher is not None:
                    watcher.pulls(node, g)
                try:
                    ds = node.op.pull(node, y, g, wants, create_graph)
                except (ValueError, TypeError, IndexError) as e:
                    raise _in_backward(e, node) from e
                except MemoryError as e:
                    raise explained(e, f"the backward of {node.op.name}")  # noqa: B904
                if watcher is not None:
                    watcher.pulled(node, ds, wants)
                for x, d, w in zip(node.inputs, ds, wants):  # noqa: B905  # as many
                    if not w or d is None:
                        continue
                    a = x.data
                    if getattr(d, "shape", None) == a.shape and d.dtype is a.dtype:
                        before = gradients.get(x)
                        if before is None:
                            gradients[x] = d  # the usual case
                            continue
                        if x in owned:
                            before += d
                            gradients[x] = before  # a NumPy scalar is not changed in place
                            continue
                    accumulate(x, d, node.op)
            if release:
                node.release()
            if final:
                announce(node)
    if targets is None:
        return gradients
    return {x: gradients[x] for x in targets if x in gradients}


def _in_backward(error: Exception, node: Node) -> Exception:
    """The error of a rule or pullback, with the op it belongs to and what that was called with."""
    kind = next(k for k in (IndexError, ValueError, TypeError) if isinstance(error, k))
    if str(error).startswith("backward of "):  # of a reference, inside another op's
        return kind(str(error))
    shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in node.inputs if hasattr(x, "shape"))
    return kind(f"backward of {node.op.name}: {error} [inputs {shapes}]")


def _covers(large: tuple[int, ...], small: tuple[int, ...]) -> bool:
    """Whether an array of shape ``small`` can be broadcast to ``large``."""
    lead = len(large) - len(small)
    return lead >= 0 and all(n in (1, m) for n, m in zip(small, large[lead:], strict=True))


def history(roots: Iterable[Tensor], after: int = -1) -> list[Tensor]:
    """The computed Tensors behind ``roots`` (themselves included), oldest first.

    Only those born later than ``after``: what is older is not in the answer and not walked through.
    """
    found = dict.fromkeys(roots)  # in the order given, each once
    todo, trail = list(found), []
    while todo:
        t = todo.pop()
        node = t.node
        if node is None or node.born <= after:
            continue
        if node.inputs is None:
            raise RuntimeError(
                f"the graph behind this {node.op.name} was released by an earlier backward(); "
                "to go through it twice, call backward(retain_graph=True) the first time"
            )
        trail.append(t)
        for x in node.inputs:
            if isinstance(x, Tensor) and x.tracked and x not in found:
                found[x] = None
                todo.append(x)
    trail.sort(key=attrgetter("node.born"))
    return trail


def _useful(trail: list[Tensor], targets: Sequence[Tensor]) -> set[Tensor]:
    """The targets and every Tensor computed from them: only these need a gradient."""
    useful = set(targets)
    for t in trail:
        for x in t.node.inputs:
            if isinstance(x, Tensor) and x in useful:
                useful.add(t)
                break
    return useful


def _last_to_add(trail: list[Tensor], targets: Sequence[Tensor]) -> dict[Node | None, list[Tensor]]:
    """Each target under the call after which its gradient is final; under None, if no call uses it.

    The way back is from the newest call to the oldest, so it is the oldest that uses a target.
    """
    waiting = dict.fromkeys(targets)
    final: dict[Node | None, list[Tensor]] = {}
    for t in trail:
        for x in t.node.inputs:
            if isinstance(x, Tensor) and x in waiting:
                del waiting[x]
                final.setdefault(t.node, []).append(x)
    return {**final, None: list(waiting)}


def grad(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    grad_output: Any = None,
    create_graph: bool = False,
    allow_unused: bool = False,
    retain_graph: bool = True,
    ready: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Gradients of ``sum(grad_output * output)`` with respect to each of ``inputs``.

    Unlike :meth:`Tensor.backward` it changes nothing: no ``.grad`` is touched, and the graph stays
    unless ``retain_graph`` is False.

    Parameters
    ----------
    output : Tensor
    inputs : Tensor or sequence of Tensors
        Leaves or intermediate results.
    grad_output : array or Tensor of output's shape
        May be left out when output is a single value: then it is 1.
    create_graph : bool
        Make the gradients differentiable themselves.
    allow_unused : bool
        Give None for an input that output does not depend on, instead of an error.
    retain_graph : bool
        False if the graph will not be needed again: its memory is released on the way.
    ready : function, optional
        ``ready(k, gradient)`` is called once for each input, as soon as nothing more can be added
        to the gradient of ``inputs[k]``: what is to be done with it need not wait for the rest.
        The gradient is an array (with ``create_graph``, a Tensor) to read and not to write to;
        None, if output does not depend on that input.

    Returns
    -------
    list of Tensor, one for each input, with its shape and dtype

    Examples
    --------
    >>> x = Tensor([3.0], requires_grad=True)
    >>> (dx,) = grad((x * x * x).sum(), [x], create_graph=True)   # 3 x^2
    >>> dx.item(), grad(dx.sum(), [x])[0].item()                  # and 6 x
    (27.0, 18.0)
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for k, x in enumerate(inputs):
        if not wanted(x):
            raise ValueError(f"grad: input {k} is no Tensor with requires_grad=True")
    seed = _seed(output, grad_output, "grad", create_graph)
    keep = retain_graph or create_graph
    if ready is None:
        found = backpropagate([(output, seed)], inputs, create_graph, release=not keep)
    else:
        found = backpropagate(
            [(output, seed)], inputs, create_graph, not keep, ready=_by_number(inputs, ready)
        )
    if modes.watcher is not None:
        modes.watcher.ends(found)
    handed_out = {id(value(seed)), id(value(grad_output))}
    answer: list[Any] = []
    for k, x in enumerate(inputs):
        if x in found:
            answer.append(_own(found[x], x, handed_out))
        elif allow_unused:
            answer.append(None)
        else:
            raise ValueError(
                f"grad: the output does not depend on input {k} {x.shape}; "
                "pass allow_unused=True to get None for it"
            )
    return answer


def _by_number(
    inputs: Sequence[Tensor], ready: Callable[[int, Any], None]
) -> Callable[[Tensor, Any], None]:
    """``ready`` for an input itself; it may have several numbers."""
    numbers: dict[Tensor, list[int]] = {}
    for k, x in enumerate(inputs):
        numbers.setdefault(x, []).append(k)

    def call(x: Tensor, g: Any) -> None:
        for k in numbers[x]:
            ready(k, g)

    return call


def _seed(y: Tensor, g: Any, caller: str, create_graph: bool) -> Any:
    """The gradient that a backward pass starts from, of y's shape and dtype.

    An array; or, when the backward pass is recorded, a Tensor: the caller's own, if he gave one,
    because the gradients depend on it too.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"{caller}: the output should be a Tensor, not a {type(y).__name__}")
    if not y.tracked:
        raise ValueError(
            f"{caller}: this Tensor does not require a gradient and was not computed from one that "
            "does (or it was computed inside no_grad())"
        )
    m = xp(y.data)
    if g is None:
        if y.size != 1:
            raise ValueError(
                f"{caller}: only a single value has a default gradient; this Tensor has shape "
                f"{y.shape}, so pass a gradient of that shape (or reduce it, as with .sum())"
            )
        g = m.ones_like(y.data)
    elif not isinstance(g, Tensor):
        g = g if is_array(g) else m.asarray(g)
        if g.dtype.kind not in "fiub":
            raise TypeError(f"{caller}: a gradient holds real numbers, not {g.dtype}")
    if g.shape != y.shape:
        raise ValueError(f"{caller}: the gradient has shape {g.shape}, the Tensor {y.shape}")
    if device_of(value(g)) != y.device:
        raise DeviceError(
            f"{caller}: the gradient is on {device_of(value(g))}, the Tensor {y.shape} on "
            f"{y.device}: bring them together, as with .to({y.device!r})"
        )
    if modes.watcher is not None:
        modes.watcher.starts(y, g)
    if not create_graph:
        return value(g).astype(y.dtype, copy=False)
    g = g if isinstance(g, Tensor) else _wrap(g)
    with recording(True):  # also inside no_grad(): the gradients depend on g
        return g if g.dtype == y.dtype else REGISTRY["astype"](g, dtype=y.dtype)


def _own(d: Any, leaf: Tensor, handed_out: set[int]) -> Tensor:
    """``d`` as a Tensor whose memory is nobody else's.

    A rule may return its ``g`` or a view of it, so two leaves may have been handed one array.
    """
    if isinstance(d, Tensor):
        if id(d.data) in handed_out or d.data.base is not None:
            d = d * 1.0
        handed_out.add(id(d.data))
        return d
    if not is_array(d):
        d = xp(leaf.data).asarray(d)
    if id(d) in handed_out or d.base is not None:
        d = d.copy()
    handed_out.add(id(d))
    return _wrap(d)


# ------------------------------------------------------------------------------------- modes


class setting(ContextDecorator):
    """Inside, one of the ``modes`` is set; afterwards it is as before. Each thread has its own."""

    def __init__(self, name: str, to: Any) -> None:
        self.name, self.to = name, to

    def __enter__(self) -> None:
        # One object may be entered twice, and by several threads.
        modes.before[self.name].append(getattr(modes, self.name))
        setattr(modes, self.name, self.to)

    def __exit__(self, *exception: object) -> None:
        setattr(modes, self.name, modes.before[self.name].pop())


def inherit(f: Callable) -> Callable:
    """``f``, for another thread to call in the modes that this thread has now."""
    mine = {name: getattr(modes, name) for name in ("recording", "watcher", "evaluating", "dtype")}

    def run(*args: Any) -> Any:
        with ExitStack() as stack:
            for name, to in mine.items():
                stack.enter_context(setting(name, to))
            return f(*args)

    return run


class recording(setting):
    """Inside, ops record, or do not."""

    def __init__(self, mode: bool) -> None:
        super().__init__("recording", mode)


class evaluating(setting):
    """Inside, modules behave as after ``eval()``, for this thread: nothing is written into them.

    So a model may answer in one thread while another one trains it, or answers too.
    """

    def __init__(self) -> None:
        super().__init__("evaluating", True)


class no_grad(recording):
    """Compute without recording: for evaluation, where nobody will call ``backward()``.

    Works as ``with tg.no_grad():`` and as a decorator, for the thread it is used in.

    >>> x = Tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     y = x * 2.0
    >>> y.requires_grad
    False
    """

    def __init__(self, *given: Any) -> None:
        if given:
            raise TypeError("no_grad takes no argument; as a decorator, write @no_grad()")
        super().__init__(False)
