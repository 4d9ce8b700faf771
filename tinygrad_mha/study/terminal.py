"""In the terminal: the graph behind a Tensor as a tree, and all there is to know about an op."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import numpy as np

from ..gradcheck import GradientError, gradcheck
from ..nn import Parameter
from ..tensor import REGISTRY, Op, Tensor, recording, setting, value
from .trace import spelled


class graph:
    """The graph behind a Tensor, as a tree to print: what it was made from, with shapes.

    Parameters
    ----------
    y : Tensor
    lines : int
        A larger graph is cut off, and what is left is counted.
    names : Module, optional
        Whose parameters are called by their names.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> h = x * 3.0
    >>> print(graph((h * h).sum()))
    sum ()
    └─ mul (2,)
       ├─ mul (2,)  [1]
       │  ├─ input (2,)
       │  └─ 3.0
       └─ [1] again
    """

    def __init__(self, y: Tensor, lines: int = 60, names: Any = None) -> None:
        if not isinstance(y, Tensor):
            raise TypeError(f"graph: a Tensor has a graph, a {type(y).__name__} has none")
        self.text = "\n".join(_tree(y, lines, names))

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def _tree(root: Tensor, most: int, names: Any) -> list[str]:
    """Depth first, without recursion: a graph may be deeper than Python's stack."""
    known = {} if names is None else {id(p): name for name, p in names.named_parameters()}
    uses = _uses(root)
    numbers: dict[Tensor, int] = {}
    lines: list[str] = []
    todo: list[tuple[Any, str, str]] = [(root, "", "")]  # what, before it, before what is under it
    while todo:
        x, here, under = todo.pop()
        if len(lines) == most:
            lines.append(f"… {len(todo) + 1} more branches")
            break
        if not isinstance(x, Tensor):
            lines.append(f"{here}{spelled(x)}")
            continue
        if x in numbers:
            lines.append(f"{here}[{numbers[x]}] again")
            continue
        mark = ""
        if uses.get(x, 0) > 1:
            numbers[x] = len(numbers) + 1
            mark = f"  [{numbers[x]}]"
        lines.append(f"{here}{_name(x, known)} {_shape(x)}{mark}")
        inputs = [] if x.node is None else x.node.inputs
        if inputs is None:
            lines.append(f"{under}└─ (released by backward)")
            continue
        for k, child in reversed(list(enumerate(inputs))):
            last = k == len(inputs) - 1
            branch, bar = ("└─ ", "   ") if last else ("├─ ", "│  ")
            todo.append((child, under + branch, under + bar))
    return lines


def _uses(root: Tensor) -> dict[Tensor, int]:
    """How often each Tensor is an input."""
    counts, todo = {root: 1}, [root]
    while todo:
        x = todo.pop()
        for child in (x.node.inputs or ()) if x.node is not None else ():
            if isinstance(child, Tensor):
                counts[child] = counts.get(child, 0) + 1
                if counts[child] == 1:
                    todo.append(child)
    return counts


def _name(x: Tensor, known: dict[int, str]) -> str:
    if x.node is not None:
        several = f"[{x.index}]" if x.node.outputs else ""
        return x.node.op.name + several
    if id(x) in known:
        return known[id(x)]
    return "parameter" if isinstance(x, Parameter) else "input" if x.tracked else "constant"


def _shape(x: Tensor) -> str:
    plain = x.dtype == np.float32
    return f"{tuple(x.shape)}" + ("" if plain else f" {x.dtype}")


def explain_op(name: str | Op) -> None:
    """Print what an op means: formulas and derivation, both definitions, and whether it is right.

    Parameters
    ----------
    name : str or Op
        A name in ``tg.REGISTRY``, or an op of your own.

    Raises
    ------
    ValueError
        If there is no such op: the message has the names that are like it.

    Examples
    --------
    >>> explain_op("neg")
    neg(x): a primitive, defined by one formula for each argument
    <BLANKLINE>
      y = -x           dx = -g
    <BLANKLINE>
    Forward, and the rules for the way back
    <BLANKLINE>
      @primitive(lambda g, y, x: -g, sample=normal((2, 3)))
      def neg(x):
          \"""y = -x           dx = -g\"""
          return -x
    <BLANKLINE>
    Certificate, on example arguments just now: gradients right to order 2
    """
    print("\n".join(explained(name)))


def explained(name: str | Op) -> list[str]:
    """The lines of :func:`explain_op`."""
    op = name if isinstance(name, Op) else REGISTRY.get(name)
    if op is None:
        from difflib import get_close_matches

        near = get_close_matches(str(name), REGISTRY, 5, 0.5)
        told = f"do you mean {', '.join(near)}?" if near else "see tg.REGISTRY for all names"
        own = "for an op of your own, pass the op itself"
        raise ValueError(f"explain_op: there is no op {name!r}; {told}; {own}")
    if op.reference is None:
        kind = "a primitive, defined by one formula for each argument"
    else:
        kind = "a fused op, defined by its reference and computed in one go"
    lines = [f"{op.name}{_plain_signature(op)}: {kind}", ""]
    lines += [*_indented(inspect.getdoc(op) or "(it has no docstring)"), ""]
    if op.reference is not None:
        lines += ["Reference: what it means", "", *_source(op.reference), ""]
        lines += ["Fast: what is computed, and its way back", "", *_source(op.forward, True), ""]
    else:
        lines += ["Forward, and the rules for the way back", "", *_source(op.forward), ""]
        rules = [op.rules] if callable(op.rules) else op.rules  # one for all of many arrays
        named = [r for r in rules if getattr(r, "__name__", "") not in ("<lambda>", "")]
        for rule in dict.fromkeys(named):
            lines += [*_source(rule), ""]
    return [*lines, _certificate(op)]


def _plain_signature(op: Op) -> str:
    names = [f"*{n}" if op.variadic else n for n in (op.array_names or ["xs"])]
    options = [f"{n}={op.defaults[n]!r}" if n in op.defaults else n for n in op.param_names]
    return f"({', '.join([*names, *options])})"


def _indented(text: str) -> list[str]:
    return textwrap.indent(text, "  ").split("\n")


def _source(function: Any, without_docstring: bool = False) -> list[str]:
    try:
        code = textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):
        return _indented("(its source is not to be had)")
    if without_docstring and function.__doc__:
        text = ast.parse(code).body[0].body[0]  # type: ignore[attr-defined]
        lines = code.split("\n")
        del lines[text.lineno - 1 : text.end_lineno]
        code = "\n".join(lines)
    return _indented(code)


def _certificate(op: Op) -> str:
    """The verdict of gradcheck on the op's own example."""
    if op.sample is None:
        return "Certificate: the op has no sample; call tg.gradcheck(op, inputs, order=2)"
    args, params = op.sample(np.random.default_rng(0))
    args = tuple(value(a) for a in args)
    try:
        with setting("watcher", None), recording(True):
            gradcheck(lambda *xs: op(*xs, **params), list(args), order=2)
    except GradientError as e:
        return f"Certificate: NOT RIGHT\n{e}"
    except TypeError as e:
        return f"Certificate: {e}"
    return "Certificate, on example arguments just now: gradients right to order 2"
