"""Where the backward code is: found from the registry, with no list of ops to keep.

A mutation must change a gradient and never a value, so only code that runs *backward only* may be
touched. That is

- every rule of a primitive;
- the pullback of a fused op: the function, nested in ``forward``, that it returns beside y;
- the statements of such a ``forward`` that prepare something for the pullback alone;
- helpers that only these call. ``spread`` copies a gradient back to where it came from and is used
  by rules only; ``mT`` is used by forward passes too, and stays as it is;
- the engine's own way back, under the name ``engine``: ``backpropagate`` and what it calls.

Which helper is called from where is read off the names in the source: a helper whose name occurs
anywhere else in the package is not touched.
"""

import ast
import inspect
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import tinygrad_mha as tg
from tinygrad_mha import tensor

PACKAGE = tg.__name__
ENGINE = "engine"
ENGINE_ROOTS = [tensor.backpropagate, tensor.grad, tensor.Tensor.backward, tensor.Op.pull]


class Place(NamedTuple):
    """A piece of backward code, and the function that has to be recompiled to change it."""

    ops: tuple[str, ...]  # the op whose certificate has to notice; for a helper, several
    label: str  # "da" for the rule of argument a, "pullback", or the name of a helper
    function: types.FunctionType
    tree: ast.AST  # the syntax of the whole function
    node: ast.AST  # the part that runs backward only: the tree itself, or something inside it
    params: frozenset  # names that a rule is handed as parameters, not as arrays; see edits.py
    is_rule: bool  # written for arrays and for Tensors alike, so that it can be differentiated


# ------------------------------------------------------------------------- source and syntax


@cache
def module_tree(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))


def positions(code: types.CodeType) -> set:
    """The (line, column) of everything that a code object computes."""
    return {(p[0], p[2]) for p in code.co_positions() if p[2] is not None and p[1:] != (p[0], 0, 0)}


@cache
def syntax_of(function: types.FunctionType) -> ast.AST:
    """The ``def`` or ``lambda`` that ``function`` was made from."""
    code = function.__code__
    for node in ast.walk(module_tree(function.__module__)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if min(n.lineno for n in (node, *node.decorator_list)) == code.co_firstlineno:
                return node
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            begin = (node.body.lineno, node.body.col_offset)
            end = (node.body.end_lineno, node.body.end_col_offset)
            if node.lineno == code.co_firstlineno and all(
                begin <= place <= end for place in positions(code)
            ):
                return node
    raise LookupError(f"no source for {function}")


def plain(f: object) -> object:
    """The function in a property or behind a cache."""
    return inspect.unwrap(f) if callable(f) else getattr(f, "fget", f)


def functions_of(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """The functions and the methods that a module of the package defines."""
    for thing in list(vars(module).values()):
        inside = vars(thing).values() if isinstance(thing, type) else [thing]
        for f in map(plain, inside):
            if isinstance(f, types.FunctionType) and f.__module__ == module.__name__:
                yield f


def modules() -> list[types.ModuleType]:
    inside = f"{PACKAGE}."
    return [m for name, m in sorted(sys.modules.items()) if m and name.startswith(inside)]


def names_in(node: ast.AST, without: set[ast.AST] = frozenset()) -> set[str]:
    """Every ``name`` and ``.attribute`` that is read below ``node``, but not inside ``without``."""
    found, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node in without:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(f".{node.attr}")
        todo += ast.iter_child_nodes(node)
    return found


# --------------------------------------------------------------------- what an op does backward


def rule_places(op) -> Iterator[Place]:
    rules = [op.rules] if op.variadic else op.rules
    names = [*op.array_names, "many"][: len(rules)]
    for rule, name in zip(rules, names, strict=True):
        if rule is None:
            continue
        code, tree = rule.__code__, syntax_of(rule)
        given = code.co_varnames[: code.co_argcount]  # g, y, arrays, parameters
        constants = [n for n, r in zip(given[2:], rules, strict=False) if r is None]
        params = frozenset({"k", *op.param_names, *given[2 + len(rules) :], *constants})
        yield Place((op.name,), f"d{name}", rule, tree, tree, params, True)


def pullback_places(op) -> Iterator[Place]:
    """What ``forward`` returns beside y, whether it says so itself or calls a function that does"""
    todo, seen = [op.forward], set()
    while todo:
        f = todo.pop()
        if f in seen:
            continue
        seen.add(f)
        tree, pullbacks = syntax_of(f), []
        nested = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        for node in own_nodes(tree):
            if not isinstance(node, ast.Return):
                continue
            if isinstance(node.value, ast.Tuple):
                for n in ast.walk(node.value.elts[-1]):
                    if isinstance(n, ast.Lambda):
                        pullbacks.append(n)
                    elif isinstance(n, ast.Name) and n.id in nested:
                        pullbacks.append(nested[n.id])
            elif isinstance(node.value, ast.Call):
                called = f.__globals__.get(getattr(node.value.func, "id", None))
                todo += [called] if isinstance(called, types.FunctionType) else []
        pullbacks = list(dict.fromkeys(pullbacks))
        for n in pullbacks:
            yield Place((op.name,), "pullback", f, tree, n, frozenset(), False)
        for n in statements_for(pullbacks, tree):
            yield Place((op.name,), "saved", f, tree, n, frozenset(), False)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Everything in a function, but not what lies in functions nested in it."""
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop(0)
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            todo[:0] = ast.iter_child_nodes(node)


def base(target: ast.AST) -> str | None:
    """``x`` of ``x`` and of ``x[k]``"""
    while isinstance(target, ast.Subscript):
        target = target.value
    return getattr(target, "id", None)


def statements_for(pullbacks: list[ast.AST], forward: ast.AST) -> list[ast.AST]:
    """The assignments of ``forward`` to names that nothing but the pullbacks reads."""
    if not pullbacks:
        return []
    own = list(own_nodes(forward))
    stores = {n: t for n in own if isinstance(n, ast.Assign) for t in n.targets}
    written = {id(n) for t in stores.values() for n in ast.walk(t) if getattr(n, "id", 0)}
    read = {n.id for n in own if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
            and not (id(n) in written and n.id in {base(t) for t in stores.values()})}  # fmt: skip
    inside = set().union(*map(names_in, pullbacks))

    def saved(target: ast.AST) -> bool:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        return all(base(p) in inside - read for p in parts)

    return [n for n, target in stores.items() if saved(target)]


# ------------------------------------------------------------------------------------- helpers


def called(place: Place, methods: dict[str, list]) -> Iterator[types.FunctionType]:
    """The functions and methods of the package that a place names."""
    home = sys.modules[place.function.__module__]
    errors = {n for n in ast.walk(place.node) if isinstance(n, ast.Raise)}
    for name in sorted(names_in(place.node, without=errors)):
        f = plain(vars(home).get(name))
        if isinstance(f, types.FunctionType) and f.__module__.startswith(PACKAGE):
            yield f
        yield from (m for m in methods.get(name, []) if knows(home, m.__module__))


def reachable(places: list[Place]) -> dict:
    """Helpers that backward code names, and those that these name: {function: place}."""
    methods: dict[str, list] = {}
    for f in (f for module in modules() for f in functions_of(module)):
        if "." in f.__qualname__:
            methods.setdefault(f".{f.__name__}", []).append(f)
    roots, found = {p.function for p in places}, {}
    all_params = frozenset().union(*(op.param_names for op in tg.REGISTRY.values()))
    for root in places:
        todo, seen = [root], set(roots)
        while todo:
            for f in called(todo.pop(0), methods):
                foreign = root.ops == (ENGINE,) and f.__module__ != tensor.__name__
                if f in seen or foreign:  # what is foreign only looks on
                    continue
                seen.add(f)
                tree = syntax_of(f)
                old = found.get(f, root._replace(ops=(), params=all_params))
                ops = tuple(dict.fromkeys(old.ops + root.ops))
                found[f] = old._replace(ops=ops, label=f.__name__, function=f, tree=tree, node=tree)
                todo.append(found[f])
    return found


def knows(module: types.ModuleType, home: str) -> bool:
    """Whether a module is ``home`` or has imported something from there."""
    things = vars(module).values()
    return module.__name__ == home or any(getattr(t, "__module__", "") == home for t in things)


def mentions(module: types.ModuleType, names: set[str], f: types.FunctionType) -> bool:
    """Whether these names of a module can mean ``f``: as a function, or as an attribute."""
    if f.__name__ in names and plain(vars(module).get(f.__name__)) is f:
        return True
    return f".{f.__name__}" in names and knows(module, f.__module__)


def backward_only(places: list[Place], helpers: dict) -> list[Place]:
    """Those helpers that are named nowhere but in backward code."""
    helpers = dict(helpers)
    while True:
        backward = {p.node for p in [*places, *helpers.values()]}
        rest = {m: names_in(module_tree(m.__name__), without=backward) for m in modules()}
        shared = [f for f in helpers if any(mentions(m, names, f) for m, names in rest.items())]
        if not shared:
            return list(helpers.values())
        for f in shared:
            del helpers[f]


def find_places() -> list[Place]:
    """All backward code of the package; a helper is named after the first op that needs it."""
    places = []
    for op in tg.REGISTRY.values():
        places += pullback_places(op) if op.reference else rule_places(op)
    for f in ENGINE_ROOTS:
        tree = syntax_of(f)
        places.append(Place((ENGINE,), f.__name__, f, tree, tree, frozenset(), False))
    return places + backward_only(places, reachable(places))
