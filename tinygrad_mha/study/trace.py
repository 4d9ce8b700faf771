"""``tg.trace()``: write down a computation and the way back through it, to be looked at later.

While it is active, the machine of chapter 1 reports each recorded call and each step of a backward
pass, as it does to ``detect_anomaly``. Values are summed up at once, for they may be written over.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ..anomaly import calling_line, in_package, saved_arrays, spell, stack
from ..backend import is_array, to_host
from ..nn import Module, Parameter, members
from ..tensor import (
    Node,
    Op,
    Tensor,
    backpropagate,
    history,
    is_floating,
    recording,
    setting,
    value,
)
from .numeric import measure
from .summary import short, summary

OPENED = 400  # calls at most of a reference that a fused op opens into
IN_ALL = 2000  # calls at most of all of them
DEEP = 3  # references in references
LADDER = 150  # calls: a larger graph is measured with one step, not with twelve
WORK = 3e8  # numbers that the measurements of one pass may compute


@dataclass
class Call:
    """One recorded call: what went in, what came out, and later what came back."""

    node: Node
    op: Op
    inputs: list[dict[str, Any]]  # name; "call" and "output", or "leaf", or "constant"
    outputs: list[int | None]  # their places among the arrays
    params: dict[str, str]
    group: int  # the innermost module or function it was made in; -1: none
    line: str
    kept: list[tuple[str, list[int], int]]  # name, shape, bytes of what waits for the way back
    arrays: list[Any]
    options: dict[str, Any]
    step: int = -1  # in the order of the backward pass; -1: no gradient came by
    g: list[int | None] = field(default_factory=list)  # of each output
    ds: list[int | None] = field(default_factory=list)  # of each input
    back: tuple[Any, tuple] | None = None  # g and ds themselves
    checks: list[dict | None] = field(default_factory=list)
    inside: int = -1  # its reference, as a picture of its own


@dataclass
class Leaf:
    """A Tensor that no call has made."""

    tensor: Tensor
    name: str
    kind: str  # "parameter", "input", or "constant" if no gradient flows to it
    values: int
    gradient: int | None = None


@dataclass
class Group:
    """One run of a module's forward, or of a function."""

    name: str
    kind: str
    parent: int


class TooMany(Exception):
    """More calls than somebody wants to see."""


class Recorder:
    """What is called by the machine: see ``anomaly.Watcher`` for the same interface."""

    def __init__(self, frame: FrameType | None = None, step: int = 0, limit: int | None = None):
        self.frame, self.wanted, self.limit = frame, step, limit
        self.calls: list[Call] = []
        self.leaves: list[Leaf] = []
        self.groups: list[Group] = []
        self.arrays: list[dict[str, Any]] = []
        self.order: list[int] = []  # of the calls, on the way back
        self.root: tuple[int, int] | None = None
        self.passes: list[dict[str, Any]] = []  # of training: norms by name
        self.pictures: list[dict[str, Any]] = []  # of references
        self.views: dict[str, list[dict]] = {"lstm": [], "attention": []}
        self.done = False
        self.work = 0.0
        self._places: dict[int, int] = {}  # id of an array -> its summary
        self._held: list[Any] = []  # so that no id is given to another array
        self._numbers: dict[int, int] = {}  # id of a Node -> its call
        self._leaves: dict[Tensor, int] = {}
        self._names: dict[Tensor, str] = {}  # of parameters
        self._frames: list[tuple[FrameType, int]] = []
        self._modules: list[Module] = []
        self._kept: set[int] = set()  # ids of the arrays that wait for the way back
        self._g: Any = None
        self.thread = threading.get_ident()
        self.deep = 0  # in how many references we are

    @property
    def active(self) -> bool:
        """Whether this is the pass that is drawn, in the thread that asked for it."""
        if self.done or len(self.passes) != self.wanted:
            return False
        return threading.get_ident() == self.thread

    # ---- the machine reports

    def called(
        self, op: Op, inputs: Sequence, params: dict, ys: Sequence, node: Node | None
    ) -> None:
        """A call was made."""
        if node is not None and self.active and not in_gradcheck():
            self.note(node, params, ys, calling_line() if self.frame else reference_line())

    def forgets(self, inputs: Sequence, outputs: Sequence[Tensor]) -> None:
        """A checkpoint lets go of its calls, which are in the picture all the same."""

    def starts(self, y: Tensor, g: Any) -> None:
        """A backward pass begins."""
        if not self.active or y.node is None or in_gradcheck():
            return
        for t in history([y]):  # what was made before we looked is written down now
            if id(t.node) not in self._numbers:
                self.note(t.node, t.node.params, (), "")
            self.fill(t)
        self.root = self._numbers[id(y.node)], y.index

    def pulls(self, node: Node, g: Any) -> None:
        """It comes to a call, with the gradient of its output."""
        if self.active:
            self._g = g

    def pulled(self, node: Node, ds: Sequence, wants: Sequence[bool]) -> None:
        """The call has answered with the gradients of its inputs."""
        if not self.active or id(node) not in self._numbers:
            return
        g, self._g = self._g, None
        k = self._numbers[id(node)]
        call = self.calls[k]
        call.step = len(self.order)
        self.order.append(k)
        gs = g if isinstance(g, tuple) else (g,)
        ds = [d if w else None for d, w in zip(ds, wants, strict=True)]
        call.g = [None if d is None else self.place(value(d)) for d in gs]
        call.ds = [None if d is None else self.place(value(d)) for d in ds]
        call.back = g, tuple(ds)

    def ends(self, gradients: dict[Tensor, Any]) -> None:
        """The backward pass is over."""
        if threading.get_ident() != self.thread or in_gradcheck():
            return
        norms = {}
        for x, d in gradients.items():
            if x.node is None:
                kind = "parameter" if isinstance(x, Parameter) else "input"
                name = self._names.get(x) or f"{kind} {tuple(x.shape)}"
                norms[name] = [short(norm(d)), short(norm(x.data))]
        if not self.done and len(self.passes) == self.wanted:
            for x, d in gradients.items():
                if x.node is None:
                    self.leaves[self.leaf(x)].gradient = self.place(value(d))
            with setting("watcher", None):
                self.finish()
        self.passes.append(norms)
        self._frames, self._modules = [], []

    # ---- what is written down

    def note(self, node: Node, params: dict, ys: Sequence, line: str) -> None:
        """Write a call down."""
        if self.limit is not None and len(self.calls) >= self.limit:
            raise TooMany
        inputs = [
            {"name": node.op.argument_name(k), **self.source(x)} for k, x in enumerate(node.inputs)
        ]
        kept = []
        for name, a in saved_arrays(node, ()):
            new = id(a) not in self._kept  # an array may wait for several calls
            self._kept.add(id(a))
            self._held.append(a)
            kept.append((name.removeprefix("the saved array "), list(a.shape), a.nbytes * new))
        told = {name: spelled(x) for name, x in params.items() if x is not None}
        self.calls.append(
            Call(
                node,
                node.op,
                inputs,
                [self.place(y) for y in ys] or [None] * max(node.outputs, 1),
                told,
                self.group(),
                line,
                kept,
                list(node.arrays),
                dict(node.params),
            )
        )
        self._numbers[id(node)] = len(self.calls) - 1

    def source(self, x: Any) -> dict[str, Any]:
        """Where an input comes from."""
        if isinstance(x, Tensor):
            if x.node is not None and id(x.node) in self._numbers:
                return {"call": self._numbers[id(x.node)], "output": x.index}
            return {"leaf": self.leaf(x)}
        return {"constant": spelled(x), **({"values": self.place(x)} if is_array(x) else {})}

    def fill(self, x: Tensor) -> None:
        """The value of an output, if the call was made before we looked."""
        self.calls[self._numbers[id(x.node)]].outputs[x.index] = self.place(x.data)

    def leaf(self, x: Tensor) -> int:
        if x not in self._leaves:
            kind = "input" if x.tracked else "constant"
            kind = "parameter" if isinstance(x, Parameter) else kind
            if kind == "input" and (called := self.variable(x)):
                self._names.setdefault(x, called)
            name = self._names.get(x) or ("" if kind == "parameter" else kind)
            self.leaves.append(Leaf(x, name, kind, self.place(x.data)))
            self._leaves[x] = len(self.leaves) - 1
        return self._leaves[x]

    def variable(self, x: Tensor) -> str:
        """What the user calls a Tensor: the variable that holds it, if one does."""
        if self.frame is None:
            return ""
        for frame in stack():
            if not in_package(frame, ""):
                for name, held in frame.f_locals.items():
                    if held is x and not name.startswith("_"):
                        return name
            if frame is self.frame:
                break
        return ""

    def place(self, a: Any) -> int:
        """The number of an array's summary."""
        if id(a) not in self._places:
            self._held.append(a)
            self.arrays.append(summary(a, 24 if len(self.arrays) < 2000 else 8))
            self._places[id(a)] = len(self.arrays) - 1
        return self._places[id(a)]

    def group(self) -> int:
        """The module's or function's run that the current call belongs to."""
        if self.frame is None:
            return -1
        now = list(self.frames())[::-1]  # the outermost first
        shared = 0
        for (old, _), new in zip(self._frames, now, strict=False):
            if old is not new:
                break
            shared += 1
        del self._frames[shared:]
        for frame in now[shared:]:
            parent = self._frames[-1][1] if self._frames else -1
            self.groups.append(self.named(frame, parent))
            self._frames.append((frame, len(self.groups) - 1))
        return self._frames[-1][1] if self._frames else -1

    def frames(self) -> Iterator[FrameType]:
        """The runs that the call is made in, the innermost first, up to where we were entered."""
        for frame in stack():
            if frame is self.frame:
                return
            name = frame.f_code.co_name
            own = not in_package(frame, "") and not name.startswith("<")
            if own or module_of(frame) is not None:
                yield frame

    def named(self, frame: FrameType, parent: int) -> Group:
        """What a run is called: by its module's place in the one around it, or by the function."""
        module = module_of(frame)
        if module is None:
            return Group(frame.f_code.co_name, "function", parent)
        kind = type(module).__name__
        for around, _ in reversed(self._frames):
            outer = module_of(around)
            for name, x in members(outer) if outer is not None else ():
                if x is module:
                    return Group(name, kind, parent)
        if module not in self._modules:
            self._modules.append(module)
            for name, p in module.named_parameters():
                self._names.setdefault(p, name)
        return Group(kind, kind, parent)

    # ---- at the end of the pass that is drawn

    def finish(self) -> None:
        """Measure, open fused ops, draw the views; then let go of all arrays."""
        if self.done:
            return
        self.done = True
        from .views import attention_view, lstm_view

        for leaf in self.leaves:
            leaf.name = leaf.name or self._names.get(leaf.tensor, leaf.kind)
        opened = 0
        for k, call in enumerate(self.calls):
            if call.back is None:
                continue
            g, ds = call.back
            self.check(call, g, ds)
            if call.op.reference is not None and opened < IN_ALL:
                picture = self.opened(call, g)
                if picture is not None:
                    call.inside = len(self.pictures)
                    self.pictures.append(picture)
                    opened += len(picture["calls"])
            if self.limit is None:  # a reference has no views of its own
                if call.op.name == "lstm":
                    self.views["lstm"] += lstm_view(k, call.arrays, call.options, g)
                if call.op.name == "scaled_dot_product_attention":
                    self.views["attention"] += attention_view(k, call.arrays, call.options)
        for call in self.calls:
            call.node = call.arrays = call.options = call.back = None  # type: ignore[assignment]
        for leaf in self.leaves:
            leaf.tensor = None  # type: ignore[assignment]
        self._held, self._places, self._leaves, self._numbers = [], {}, {}, {}
        self._frames, self._modules, self._kept = [], [], set()

    def check(self, call: Call, g: Any, ds: Sequence) -> None:
        """Measure the call's gradients, if that is not too much work."""
        ladder = len(self.order) <= LADDER and self.limit is None
        size = sum(int(getattr(a, "size", 1)) for a in call.arrays)
        self.work += size * len(call.arrays) * (26 if ladder else 2)
        if self.work > WORK:
            return
        wants = [d is not None for d in ds]
        with suppress(NotImplementedError):  # a checkpoint is no function of arrays
            call.checks = measure(call.op, call.arrays, call.options, g, ds, wants, ladder)

    def opened(self, call: Call, g: Any) -> dict[str, Any] | None:
        """The reference of a fused op, run on the same numbers; None if it is too long."""
        from .explorer import picture

        if self.deep >= DEEP:
            return None
        inner = Recorder(limit=OPENED)
        inner.deep = self.deep + 1
        xs: list[Any] = []
        for a, d in zip(call.arrays, call.back[1], strict=True):  # type: ignore[index]
            if is_array(a):
                # a copy: the same array may be given twice, and is two inputs then
                xs.append(Tensor(a.copy(), requires_grad=d is not None and is_floating(a)))
            else:
                xs.append(a)
        for name, x in zip([i["name"] for i in call.inputs], xs, strict=True):
            if isinstance(x, Tensor):
                inner.leaves[inner.leaf(x)].name = name
        try:
            with recording(True), setting("watcher", inner):
                y = call.op.reference(*xs, **call.options)  # type: ignore[misc]
                ys = y if isinstance(y, tuple) else (y,)
                gs = g if isinstance(g, tuple) else (g,)
                roots = [
                    (t, value(d))
                    for t, d in zip(ys, gs, strict=True)
                    if d is not None and t.node is not None
                ]
                if not roots:
                    return None
                inner.starts(*roots[0])
                gradients = backpropagate(roots, None, False)
                inner.ends(gradients)
        except TooMany:
            return None
        return picture(inner)


def in_gradcheck() -> bool:
    """Whether somebody is certifying a gradient: what that computes is nobody's graph."""
    return any(f.f_globals.get("__name__") == GRADCHECK for f in stack())


def plural(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


GRADCHECK = f"{__package__.rpartition('.')[0]}.gradcheck"
MACHINE = {f"{__package__.rpartition('.')[0]}.{m}" for m in ("tensor", "operators", "primitives")}


def reference_line() -> str:
    """The line of the package that made the call, below the machine."""
    for frame in stack():
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name not in MACHINE:
            return spell(frame)
    return ""


def module_of(frame: FrameType) -> Module | None:
    """The module whose forward a frame is, if it is one."""
    if frame.f_code.co_name != "forward":
        return None
    module = frame.f_locals.get("self")
    return module if isinstance(module, Module) else None


def norm(a: Any) -> float:
    return float(np.linalg.norm(np.asarray(to_host(value(a)), np.float64)))


def spelled(x: Any) -> str:
    """A parameter or a constant in a few words."""
    x = value(x)
    if is_array(x) and x.size == 1:
        return f"{x.item():.6g}"
    if is_array(x):
        return f"{x.dtype} {tuple(x.shape)}"
    text = getattr(x, "__name__", None) or repr(x)
    return text if len(text) <= 60 else text[:57] + "…"


# ------------------------------------------------------------------------------------ tg.trace


class trace(setting):
    """Record what is computed inside, and the way back, as a page to look at.

    Parameters
    ----------
    step : int
        Which backward pass is drawn, 0 for the first. Of all passes the norms of the parameters'
        gradients are kept, so that a trace around a training shows how they move.

    Notes
    -----
    Values are summed up when they are computed, and each gradient on the drawn pass is measured
    with central differences, so everything is many times slower; a GPU is waited for at each call.
    The mode belongs to the thread that enters it. A trace cannot be used inside
    :func:`detect_anomaly`, nor around it: the innermost of the two is told.

    Examples
    --------
    >>> import tinygrad_mha as tg
    >>> x = tg.Tensor([1.0, 2.0], requires_grad=True)
    >>> with tg.trace() as t:
    ...     (x * x).sum().backward()
    >>> t
    <trace of 2 calls: mul, sum; 3 gradients measured, all right>
    >>> page = t.html()
    >>> page.startswith("<!doctype html>"), "<link" in page, " src=" in page
    (True, False, False)
    """

    def __init__(self, step: int = 0) -> None:
        if step < 0:
            raise ValueError(f"trace: step {step} should be 0 or more")
        self.recorder = Recorder(step=step)
        super().__init__("watcher", self.recorder)

    def __enter__(self) -> trace:  # type: ignore[override]
        self.recorder.frame = sys._getframe(1)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.recorder.finish()
        self.recorder.frame = None
        self.recorder._frames, self.recorder._names = [], {}

    @property
    def data(self) -> dict[str, Any]:
        """Everything that was recorded, as JSON has it."""
        from .explorer import data

        return data(self.recorder)

    def html(self, title: str = "backward, step by step") -> str:
        """The explorer: one page that needs no network."""
        from .explorer import html

        return html(self.data, title)

    def to_html(self, path: str | os.PathLike[str], title: str | None = None) -> None:
        """Write the explorer to a file.

        Raises
        ------
        OSError
            If the place cannot be written to.
        """
        text = self.html(title or Path(path).stem)
        Path(path).write_text(text, encoding="utf-8")

    def _repr_html_(self) -> str:
        from .explorer import framed

        return framed(self.html())

    def __repr__(self) -> str:
        calls = self.recorder.calls
        if not calls:
            return "<trace of nothing>"
        names = list(dict.fromkeys(c.op.name for c in calls))
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        parts = [f"{plural(len(calls), 'call')}: {shown}"]
        checks = [(call.op.name, c) for call in calls for c in call.checks if c]
        measured = [(name, c) for name, c in checks if c["finite"]]
        if measured:
            wrong = dict.fromkeys(name for name, c in measured if not c["fine"])
            verdict = f"NOT RIGHT: {', '.join(wrong)}" if wrong else "all right"
            parts.append(f"{plural(len(measured), 'gradient')} measured, {verdict}")
        if len(measured) < len(checks):
            odd = next(name for name, c in checks if not c["finite"])
            parts.append(f"{len(checks) - len(measured)} not finite, that of {odd} for one")
        return f"<trace of {'; '.join(parts)}>"


def trace_of(y: Tensor, limit: int = 200) -> Recorder | None:
    """A recording of a graph that is there already; None if it is too large or was released."""
    try:
        trail = history([y])
    except RuntimeError:
        return None
    if len(trail) > limit:
        return None
    recorder = Recorder()
    rng = np.random.default_rng(0)
    g: Any = np.ones(y.shape) if y.size == 1 else rng.standard_normal(y.shape)
    g = type_as(g, y)
    with setting("watcher", recorder), recording(False):
        recorder.starts(y, g)
        recorder.ends(backpropagate([(y, g)], None, False))
    return recorder


def type_as(g: np.ndarray, y: Tensor) -> Any:
    from ..backend import place_like

    return place_like(g.astype(y.dtype), y.data)
