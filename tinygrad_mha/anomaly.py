"""Chapter 20: detect_anomaly, which finds where a number went wrong.

In a debug run every recorded call is *watched*: the line of code it came from is noted, the arrays
that its backward pass relies on are made read-only, and a checksum of each is kept. The backward
pass then has three questions. Is the loss a number? Are the saved arrays what they were? Is every
gradient a number? The first "no" stops it, with the call that is to blame.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from .backend import is_array, to_host
from .tensor import Node, Op, Tensor, is_floating, setting, value


class AnomalyError(RuntimeError):
    """A NaN or an infinity, or a saved array that was overwritten; the message says whose."""


class detect_anomaly(setting):
    """Find the first NaN or infinity, and every write into an array that backward still needs.

    Inside ``with tg.detect_anomaly():`` (or a function decorated with it)

    - a NaN or infinite loss makes ``backward()`` raise an :class:`AnomalyError` with the birth
      certificate of the value: the op, the line of *your* code that called it, the shapes, dtypes
      and ranges of its operands, and the index;
    - so does a gradient that turns NaN or infinite on the way back: the certificate is that of the
      forward call whose derivative it is;
    - a NaN in a result that no gradient flows to is reported at once, since no backward pass would;
    - arrays that a backward pass relies on are read-only until it is over: a write into one fails
      at its own line. A write through another view of the memory is noticed in the backward pass,
      by its checksum. Optimizers and ``load_state_dict`` may still write: they mean to.

    Infinities on the way, as in a mask of -inf, are no anomaly as long as the loss and all
    gradients are finite. The mode belongs to the thread that enters it. It makes everything several
    times slower, and a GPU is waited for at every call.

    Examples
    --------
    >>> import numpy as np
    >>> x = Tensor([0.5, -2.0], requires_grad=True)
    >>> with detect_anomaly(), np.errstate(invalid="ignore"):
    ...     loss = (x * x.log()).sum()
    ...     loss.backward()
    Traceback (most recent call last):
        ...
    tinygrad_mha.anomaly.AnomalyError: the output () has NaN at index ():
    log gave NaN at index (1,), from operands without any NaN
      <doctest ...>, line 2, in <module>: loss = (x * x.log()).sum()
      x (2,) float32, from -2 to 0.5
    """

    def __init__(self) -> None:
        super().__init__("watcher", Watcher())


class Watcher:
    """What the machine of chapter 1 calls in a debug run."""

    def called(
        self, op: Op, inputs: Sequence, params: dict, ys: Sequence, node: Node | None
    ) -> None:
        """After ``ys = op(*inputs, **params)``; ``node`` is None if it was not recorded."""
        if node is not None:
            node.record = Record(node, ys)
            return
        for y in ys:
            if has_nan(y) and not any(map(has_nan, [*inputs, *params.values()])):
                call = Call(op, named(op, inputs) | params, calling_line())
                raise AnomalyError(call.birth(y))

    def forgets(self, inputs: Sequence, outputs: Sequence[Tensor]) -> None:
        """Before a checkpoint lets go of the calls that led to its outputs."""
        if any(map(has_nan, inputs)):
            return
        for y in filter(has_nan, outputs):
            told = "\n".join(births(y))
            raise AnomalyError(f"an output {y.shape} of checkpoint has NaN:\n{told}")

    def starts(self, y: Tensor, g: Any) -> None:
        """Before a backward pass from y, whose gradient is g."""
        if has_nan(y.data) or (y.size == 1 and has_inf(y.data)):
            told = "\n".join(births(y))
            raise AnomalyError(f"the output {y.shape} has {trouble(y.data)}:\n{told}")
        if not is_finite(g):
            raise AnomalyError(f"backward was given a gradient with {trouble(g)}")

    def pulls(self, node: Node, g: Any) -> None:
        """Before the backward pass of one node."""
        if node.record is not None:
            node.record.check()
        for d in g if isinstance(g, tuple) else (g,):
            if not is_finite(d):
                raise AnomalyError(
                    f"the gradient of the output of {node.op.name} has {trouble(d)}, as the "
                    f"sum of the finite gradients of its uses\n  {origin(node)}"
                )

    def pulled(self, node: Node, ds: Sequence, wants: Sequence[bool]) -> None:
        """After it: ``ds`` are the gradients of the node's inputs, of which some are wanted."""
        for k, d in enumerate(ds):
            if wants[k] and not is_finite(d):
                call = Call(node.op, named(node.op, node.inputs) | node.params, origin(node))
                name = node.op.argument_name(k)
                raise AnomalyError(
                    call.told(
                        f"has a backward pass that gave {trouble(d)} as the gradient "
                        f"of {name}, from a finite gradient of its output"
                    )
                )

    def ends(self, gradients: dict[Tensor, Any]) -> None:
        """After the whole pass: ``gradients`` of the leaves."""
        for x, d in gradients.items():
            if not is_finite(d):
                raise AnomalyError(
                    f"the gradient of a Tensor {x.shape} has {trouble(d)}, as the sum of the"
                    " finite gradients of its uses"
                )


# ------------------------------------------------------------------------- what is remembered


class Saved(NamedTuple):
    """An array that a backward pass relies on."""

    name: str
    array: Any
    checksum: int


class Record:
    """What a debug run remembers of one call. While it lives, the saved arrays are read-only."""

    def __init__(self, node: Node, ys: Sequence) -> None:
        self.op, self.line = node.op, calling_line()
        self.saved = [Saved(name, a, checksum(a)) for name, a in saved_arrays(node, ys)]
        locks.add(a for _, a, _ in self.saved)

    def check(self) -> None:
        """Every saved array is what it was."""
        for name, array, before in self.saved:
            if checksum(array) != before:
                raise AnomalyError(
                    f"{self.op.name}: {name} {array.shape} was overwritten between the forward "
                    "pass and the backward pass, which needs it as it was: write into a copy\n"
                    f"  {self.line}"
                )

    def __del__(self) -> None:
        locks.remove(a for _, a, _ in self.saved)


def saved_arrays(node: Node, ys: Sequence) -> Iterator[tuple[str, Any]]:
    """Names and arrays: inputs, parameters, outputs, and whatever the pullback closes over."""
    seen = set()

    def found(name: str, x: Any) -> Iterator[tuple[str, Any]]:
        x = value(x)
        if is_array(x) and id(x) not in seen:
            seen.add(id(x))
            yield name, x
        elif isinstance(x, tuple | list):
            for part in x:
                yield from found(name, part)

    for k, x in enumerate(node.inputs):
        yield from found(f"input {node.op.argument_name(k)}", x)
    for name, x in node.params.items():
        yield from found(f"argument {name}", x)
    for y in ys:
        yield from found("the output", y)
    if node.pullback is not None:
        for name, x in closure(node.pullback):
            yield from found(f"the saved array {name}", x)


def closure(f: Callable) -> Iterator[tuple[str, Any]]:
    """The variables that a function defined inside another one has taken from there."""
    code, cells = getattr(f, "__code__", None), getattr(f, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def checksum(a: Any) -> int:
    return zlib.crc32(to_host(a).tobytes())


class Locks:
    """Arrays that are read-only for the time being, and how many records want them to be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, list] = {}  # id -> [array, count]
        self._ended: deque = deque()  # what records that are gone had locked
        self._views: list = []  # of arrays that are still locked: they have to wait for those

    def add(self, arrays: Iterable) -> None:
        with self._lock:
            self._settle()
            for a in arrays:
                if id(a) in self._held:
                    self._held[id(a)][1] += 1
                elif isinstance(a, np.ndarray) and (a.flags.writeable or id(a.base) in self._held):
                    self._held[id(a)] = [a, 1]  # (a CuPy array has no such flag)
                    a.flags.writeable = False

    def remove(self, arrays: Iterable) -> None:
        # The garbage collector may free a graph at any moment, also while this thread is inside
        # add(). So nobody waits here: what has ended is written down, and settled when possible.
        self._ended.extend(arrays)
        while self._ended and self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        while self._ended:
            a = self._ended.popleft()
            held = self._held.get(id(a))
            if held is not None:
                held[1] -= 1
                if not held[1]:
                    del self._held[id(a)]
                    self._views.append(a)
        while self._views:  # a view waits until its base is free
            waiting = [a for a in self._views if not make_writeable(a)]
            if len(waiting) == len(self._views):
                break
            self._views = waiting

    @contextmanager
    def lifted(self, arrays: Iterable) -> Iterator[None]:
        """Inside, these arrays may be written to: by an optimizer, which means to."""
        with self._lock:
            self._settle()
            held = [a for a in arrays if id(a) in self._held] if self._held else []
        for a in held:
            make_writeable(a)
        try:
            yield
        finally:
            for a in held:
                a.flags.writeable = id(a) not in self._held


def make_writeable(a: np.ndarray) -> bool:
    """False for a view of an array that is still read-only."""
    try:
        a.flags.writeable = True
    except ValueError:
        return False
    return True


locks = Locks()


# ------------------------------------------------------------------------ the birth certificate


def births(t: Tensor) -> Iterator[str]:
    """Where the NaN (or else the infinity) in t was born, and the infinity that led to the NaN."""
    has = has_nan if has_nan(t.data) else has_inf
    while True:
        if t.node is None:
            yield f"it came with the data: {describe('a Tensor', t.data)}"
            return
        node = t.node
        if node.inputs is None:
            yield f"it came out of {node.op.name}, whose graph was released\n  {origin(node)}"
            return
        call = Call(node.op, named(node.op, node.inputs) | node.params, origin(node))
        name = next((n for n, x in call.operands.items() if has(value(x))), None)
        if name is not None:
            x = call.operands[name]
            if isinstance(x, Tensor) and x.node is not None:
                t = x
                continue
            yield call.told(f"was given {trouble(x)} as {name}")
            return
        yield call.birth(t.data)
        if has is has_inf:
            return
        # inf - inf and 0 · inf are NaN: then the infinity is the beginning of the story
        infinite = [x for x in call.operands.values() if isinstance(x, Tensor) and has_inf(x.data)]
        if not infinite:
            return
        yield "where an operand was infinite before:"
        t, has = infinite[0], has_inf


class Call(NamedTuple):
    """A forward call, as a certificate describes it."""

    op: Op
    operands: dict[str, Any]  # by name: inputs and parameters
    line: str

    def birth(self, y: Any) -> str:
        """The certificate of the first NaN or infinity, which no operand has."""
        what = "NaN" if has_nan(y) else "infinity"
        return self.told(f"gave {trouble(y)}, from operands without any {what}")

    def told(self, what: str) -> str:
        """The op and what it did; the user's line; and the operands with their ranges."""
        operands = {n: value(x) for n, x in self.operands.items()}
        ranges = [describe(n, x) for n, x in operands.items() if is_array(x) or type(x) is float]
        return "\n  ".join([f"{self.op.name} {what}", self.line, *ranges])


def named(op: Op, inputs: Sequence) -> dict[str, Any]:
    return {op.argument_name(k): x for k, x in enumerate(inputs)}


def describe(name: str, a: Any) -> str:
    """``x (2, 3) float32, from -1 to 4, 1 NaN``"""
    if not is_array(a):
        return f"{name} = {a!r}"
    text = f"{name} {tuple(a.shape)} {a.dtype}"
    if not is_floating(a):
        return text
    host = to_host(a)
    finite = host[np.isfinite(host)]
    if finite.size:
        text += f", from {finite.min():.6g} to {finite.max():.6g}"
    for what, bad in (("NaN", np.isnan(host)), ("infinite", np.isinf(host))):
        text += f", {bad.sum()} {what}" if bad.any() else ""
    return text


def trouble(a: Any) -> str:
    """``NaN at index (0, 1)``: the first NaN, or else the first infinity."""
    host = np.asarray(to_host(value(a)))
    bad = np.isnan(host) if np.isnan(host).any() else np.isinf(host)
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    what = "NaN" if np.isnan(host[index]) else str(host[index])
    return f"{what} at index {index}" + (f" (and {bad.sum() - 1} more)" if bad.sum() > 1 else "")


def is_finite(a: Any) -> bool:
    return not has_nan(a) and not has_inf(a)


def has_nan(a: Any) -> bool:
    a = value(a)
    return a != a if type(a) is float else is_floating(a) and bool(np.isnan(to_host(a)).any())


def has_inf(a: Any) -> bool:
    a = value(a)
    if type(a) is float:
        return abs(a) == np.inf
    return is_floating(a) and bool(np.isinf(to_host(a)).any())


# -------------------------------------------------------------------------------- the user's line


def origin(node: Node) -> str:
    if node.record is None:
        return "(called outside detect_anomaly(), so the line is not known)"
    return node.record.line


def calling_line() -> str:
    """The line of the user's code that is being executed; of a model of this package too."""
    frames = [f for f in stack() if not in_package(f, "") or in_package(f, ".models")]
    theirs = [f for f in frames if not in_package(f, "")]
    shown = dict.fromkeys([*frames[:1], *theirs[:1]])
    return "\n  ".join(map(spell, shown)) or "(the line is not known)"


def stack() -> Iterator[FrameType]:
    """The frames of the calls that led here, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def in_package(frame: FrameType, part: str) -> bool:
    name, package = frame.f_globals.get("__name__", ""), __package__ + part
    inside = name == package or name.startswith(package + ".")
    return inside and not frame.f_code.co_filename.startswith("<")  # an example in a docstring


def spell(frame: FrameType) -> str:
    """``train.py, line 12, in step: y = tg.log(x)``"""
    path, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(path, number, frame.f_globals).strip()
    near = os.path.relpath(path) if os.path.isabs(path) else path
    path = path if near.startswith("..") else near
    return f"{path}, line {number}, in {frame.f_code.co_name}: {text}"
