"""What is done to backward code: small edits of its syntax tree, each a mistake people make.

An edit takes one node of the tree and proposes others to put in its place: ``a + b`` becomes ``a``,
``b`` or ``a - b``. Each function below is one kind of mistake; it sees one node at a time and knows
nothing about ops. What the same node may mean in different places is settled by a :class:`Scene`,
drawn up once for each :class:`~mutate_places.Place`.
"""

import ast
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mutate_places import Place, own_nodes

import tinygrad_mha as tg

# kind -> (what it means, the edit); filled by the decorator below, in the order of this page
KINDS: dict[str, tuple[str, Callable]] = {}


def kind(name: str, meaning: str) -> Callable:
    def decorate(edit: Callable) -> Callable:
        KINDS[name] = meaning, edit
        return edit

    return decorate


# ------------------------------------------------------------------------------------ the scene


class Slot(NamedTuple):
    """Where a node hangs in the tree, so that another can be hung there."""

    parent: ast.AST
    field: str
    index: int | None  # in a list of children; None for an only child

    @property
    def node(self) -> Any:
        child = getattr(self.parent, self.field)
        return child if self.index is None else child[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


class Scene:
    """What is worth knowing about a place before its nodes are edited."""

    def __init__(self, place: Place) -> None:
        self.place, self.node = place, place.node
        statement = isinstance(place.node, ast.stmt) and place.node is not place.tree
        self.slots = slot_of(place.node, place.tree) if statement else []
        self.slots += slots_below(place.node)
        arguments = getattr(place.node, "args", None)
        given = arguments.posonlyargs + arguments.args if arguments else []
        self.arguments = [a.arg for a in given if a.arg not in place.params]
        self.flowing = {a for a in self.arguments if a in ("g", "gs", "d", "gradient")}
        self.follow_gradient()
        self.results = list(self.find_results())
        self.groups = self.find_groups()
        # what is inside value(...), x.shape or a comparison is no part of what gets differentiated
        self.constant = inside_any(place.node, is_constant)
        # and which of two arrays tells the array module, the device or the dtype is all the same
        self.plumbing = inside_any(place.node, is_plumbing)

    def follow_gradient(self) -> None:
        """Add to ``flowing``, the names that hold gradients, whatever is computed from them."""
        if self.place.label == "pullback":
            self.flowing |= set(self.arguments[:1])
        size = 0
        while size != len(self.flowing):
            size = len(self.flowing)
            for n in ast.walk(self.node):
                if isinstance(n, ast.Assign | ast.AugAssign | ast.For):
                    source = n.iter if isinstance(n, ast.For) else n.value
                    if self.flows(source):
                        targets = n.targets if isinstance(n, ast.Assign) else [n.target]
                        self.flowing |= {name.id for t in targets for name in names(t)}

    def flows(self, node: ast.AST) -> bool:
        """Whether a gradient has a part in this expression."""
        return any(n.id in self.flowing for n in names(node))

    def find_results(self) -> Iterator[Slot]:
        """Where the gradients are that this code hands back, one by one."""
        todo = []
        if isinstance(self.node, ast.Lambda):
            todo = [Slot(self.node, "body", None)]
        elif isinstance(self.node, ast.FunctionDef):
            returns = [n for n in own_nodes(self.node) if isinstance(n, ast.Return) and n.value]
            todo = [Slot(n, "value", None) for n in returns if self.flows(n.value)]
        while todo:
            slot = todo.pop(0)
            node = slot.node
            if isinstance(node, ast.Tuple):
                todo += [Slot(node, "elts", k) for k in range(len(node.elts))]
            elif isinstance(node, ast.Lambda):
                todo.append(Slot(node, "body", None))
            elif isinstance(node, ast.ListComp):
                todo.append(Slot(node, "elt", None))
            elif isinstance(node, ast.IfExp):
                todo += [Slot(node, "body", None), Slot(node, "orelse", None)]
            elif not is_none(node):
                yield slot

    def find_groups(self) -> list[list[str]]:
        """Names that stand side by side and are therefore easily confused: i, f, g, o or a, b."""
        groups = [["y", *(a for a in self.arguments if a not in ("g", "y"))]]
        if not self.place.is_rule:
            groups = [self.arguments]
        for n in ast.walk(self.place.tree):
            targets = n.targets if isinstance(n, ast.Assign) else []
            groups += [[e.id for e in t.elts if isinstance(e, ast.Name)]
                       for t in targets if isinstance(t, ast.Tuple)]  # fmt: skip
        if self.place.tree is not self.node:  # a pullback reads the arguments of its forward
            groups.append([a.arg for a in self.place.tree.args.args])
        return [group for group in groups if len(group) > 1]


def slot_of(node: ast.AST, tree: ast.AST) -> list[Slot]:
    """Where ``node`` hangs in ``tree``: for a statement that is a place of its own."""
    return [slot for slot in slots_below(tree) if slot.node is node]


def slots_below(node: ast.AST) -> Iterator[Slot]:
    """Every place in a tree where an edit makes sense, in the order of the source."""
    for field, child in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(
            node, ast.Call
        ):
            continue
        many = isinstance(child, list)
        for k, n in enumerate(child if many else [child]):
            if not isinstance(n, ast.AST) or is_beside_the_point(n):
                continue
            yield Slot(node, field, k if many else None)
            yield from slots_below(n)


def is_beside_the_point(node: ast.AST) -> bool:
    """Docstrings, errors, which array module it is, plain zeros, and who only looks on."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.expr_context):
        return True
    if isinstance(node, ast.ExceptHandler):
        return all(isinstance(s, ast.Raise) for s in node.body)
    if isinstance(node, ast.If):
        watching = any("watcher" in vars(n).values() for n in ast.walk(node.test))
        return watching or all(isinstance(s, ast.Raise) for s in node.body)
    if isinstance(node, ast.Assign):  # m = xp(a) if is_array(a) else xp(b)
        return all(called_name(way) == "xp" for way in ways(node.value))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):  # g * 0.0
        return isinstance(node.right, ast.Constant) and node.right.value == 0
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def ways(node: ast.AST) -> list[ast.AST]:
    """What ``a if c else b`` may be."""
    return [*ways(node.body), *ways(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def names(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name))


def called_name(call: ast.AST) -> str:
    """``f`` of ``f(x)`` and of ``x.f()``"""
    f = getattr(call, "func", None)
    return getattr(f, "id", None) or getattr(f, "attr", "")


def is_constant(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ("shape", "ndim", "size", "dtype")
    if isinstance(node, ast.Compare):
        return True
    return called_name(node) in ("value", "xp", "isinstance", "device_of", "is_array", "len")


def is_plumbing(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "dtype"
    return called_name(node) in ("xp", "device_of")


def inside_any(tree: ast.AST, test: Callable) -> set[int]:
    """The ids of all nodes inside a node that passes the test."""
    return {id(below) for n in ast.walk(tree) if test(n) for below in ast.walk(n)}


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def is_sequence(node: ast.AST) -> bool:
    """(a, b), or (a,) * n: a sum of those is no arithmetic."""
    inside = (node.left, node.right) if isinstance(node, ast.BinOp) else (node,)
    return any(isinstance(n, ast.Tuple | ast.List | ast.ListComp) for n in inside)


def minus(node: ast.AST) -> ast.AST:
    return ast.UnaryOp(ast.USub(), node)


def plus_one(node: ast.AST) -> ast.AST:
    return ast.BinOp(node, ast.Add(), ast.Constant(1))


def replaced(node: ast.AST, **fields: Any) -> ast.AST:
    """The same node with other children."""
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


# ------------------------------------------------------------------------------- the arithmetic

# products and quotients that are written as calls
FACTORS = {"times", "over", "mul", "div", "multiply"}


@kind("drop-term", "a term is forgotten")
def drop_term(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Add | ast.Sub | ast.BitAnd | ast.BitOr):
        yield n.left
        yield minus(n.right) if isinstance(n.op, ast.Sub) else n.right
    elif isinstance(n, ast.BoolOp):
        yield from n.values
    elif isinstance(n, ast.AugAssign) and not isinstance(n.op, ast.Mult | ast.Div):
        yield ast.Pass()


@kind("drop-factor", "a factor, a quotient or the 1/n of a mean is forgotten")
def drop_factor(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mult | ast.Div | ast.Pow):
        if not is_copy(n) and not is_sequence(n):
            yield n.left
            if isinstance(n.op, ast.Mult):
                yield n.right
    elif isinstance(n, ast.AugAssign) and isinstance(n.op, ast.Mult | ast.Div):
        yield ast.Pass()
    elif isinstance(n, ast.Attribute) and n.attr in ("mean", "sum"):
        yield replaced(n, attr="sum" if n.attr == "mean" else "mean")
    elif called_name(n) in FACTORS and len(n.args) == 2:
        yield from (x for x in n.args if scene.flows(x))


@kind("sign", "a sign is wrong")
def sign(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.BinOp | ast.AugAssign) and isinstance(n.op, ast.Add | ast.Sub):
        if not (isinstance(n, ast.BinOp) and (is_sequence(n.left) or is_sequence(n.right))):
            yield replaced(n, op=ast.Sub() if isinstance(n.op, ast.Add) else ast.Add())
    elif isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub) and not is_number(n.operand):
        yield n.operand
    if slot in scene.results:
        yield minus(n)


@kind("assign", "= for +=")
def assign(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.AugAssign) and isinstance(n.op, ast.Add | ast.Sub):
        yield ast.Assign([n.target], n.value if isinstance(n.op, ast.Add) else minus(n.value))


# ----------------------------------------------------------------------------- what is mixed up

# in whatever order: these take their first two arguments
SYMMETRIC = {"add", "multiply", "maximum", "minimum", "swapaxes", "vdot", "isclose", "times"}


@kind("swap", "two arguments or operands are exchanged")
def swap(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Sub | ast.Div | ast.Pow | ast.MatMult):
        yield replaced(n, left=n.right, right=n.left)
    if not isinstance(n, ast.Call) or any(isinstance(a, ast.Starred) for a in n.args):
        return
    name, args = called_name(n), n.args
    if name in ("isinstance", "getattr", "slice", "range", "zip"):
        return
    if len(args) > 1 and name not in SYMMETRIC and name != "where":
        yield replaced(n, args=[args[1], args[0], *args[2:]])
    if len(args) > 2:
        yield replaced(n, args=[args[0], args[2], args[1], *args[3:]])


@kind("wrong-name", "a neighbour's name: i for f, a for b, x for y")
def wrong_name(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if not (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)) or id(n) in scene.plumbing:
        return
    for group in scene.groups:
        if n.id in group and n.id != "m":  # the array module
            yield ast.Name(group[(group.index(n.id) + 1) % len(group)], ast.Load())


@kind("exchange", "two gradients change places")
def exchange(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.Tuple) and isinstance(slot.parent, ast.Return | ast.Lambda):
        for k, (a, b) in enumerate(itertools.pairwise(n.elts)):
            yield replaced(n, elts=[*n.elts[:k], b, a, *n.elts[k + 2 :]])


@kind("lost", "a gradient does not arrive")
def lost(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    if slot in scene.results:
        yield ast.Constant(None)


# ---------------------------------------------------------------------- shapes, axes and places


# How a gradient is brought back to the shape of its input.
SUMS_AND_COPIES = {"sum", "sum_to", "spread", "broadcast_to"}
TURNS = {"reshape", "mT", "T", "swapaxes", "transpose", "expand_dims", "squeeze"}
# What has nothing to do with shapes, and what would fail at once.
NO_WRAPPING = {"copy", "astype", "asarray", "ascontiguousarray", "value", "len", "range", "list",
               "tuple", "zip", "isinstance", "enumerate", "reversed", "id", "dict", "set", "all",
               "any", "mean", "get", "pop", "items", *FACTORS}  # fmt: skip


def inside_of(slot: Slot, scene: Scene) -> Iterator[tuple[str, ast.AST]]:
    """(f, x) if this is f(x, …), x.f(…), x[f] or x.f, and x carries the gradient."""
    n = slot.node
    if isinstance(n, ast.Attribute) and n.attr in ("T", "mT"):
        yield n.attr, n.value
    elif isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Load) and scene.flows(n.value):
        yield "[]", n.value
    elif isinstance(n, ast.Call) and called_name(n) not in NO_WRAPPING:
        name = called_name(n)
        wrapped = list(n.args)
        if isinstance(n.func, ast.Attribute):
            wrapped.insert(0, n.func.value)
        for x in wrapped:
            turned = name in TURNS and x is wrapped[0]
            if (turned or scene.flows(x)) and not isinstance(x, ast.Starred):
                yield name, x


@kind("unbroadcast", "a sum over copies, or a copy back, is left out")
def unbroadcast(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    yield from (x for name, x in inside_of(slot, scene) if name in SUMS_AND_COPIES)


@kind("unwrap", "a transpose, a reshape, a mask or an index is left out")
def unwrap(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    yield from (x for name, x in inside_of(slot, scene) if name not in SUMS_AND_COPIES)


@kind("axis", "the wrong axis, or all of them")
def axis(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.keyword) and n.arg and n.arg.startswith("axis"):
        number = whole(n.value)
        if number is not None:
            yield replaced(n, value=ast.Constant(number + 1))
        yield replaced(n, value=ast.Constant(None))
    elif isinstance(n, ast.keyword) and n.arg == "keepdims":
        yield replaced(n, value=ast.Constant(False))


def whole(node: ast.AST) -> int | None:
    """The whole number that is written here, if one is."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = whole(node.operand)
        return None if number is None else -number
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


@kind("off-by-one", "a number, a bound or a point in time is off by one")
def off_by_one(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    negative = isinstance(slot.parent, ast.UnaryOp)
    if whole(n) is not None and not negative and not isinstance(slot.parent, ast.keyword):
        yield ast.Constant(whole(n) + 1)
    elif is_number(n) and type(n.value) is float:
        yield ast.Constant(n.value + 1)
    elif isinstance(slot.parent, ast.Slice) and whole(n) is None:
        yield plus_one(n)
    elif called_name(n) == "range" or (
        isinstance(n, ast.Call) and called_name(n) == "slice" and len(n.args) > 1
    ):
        yield replaced(n, args=[*n.args[:-1], plus_one(n.args[-1])])
    elif called_name(n) == "reversed":
        yield n.args[0]
    elif isinstance(n, ast.For):
        for part in (ast.Slice(lower=ast.Constant(1)), ast.Slice(upper=minus(ast.Constant(1)))):
            steps = ast.Call(ast.Name("list", ast.Load()), [n.iter], [])
            yield replaced(n, iter=ast.Subscript(steps, part, ast.Load()))


# ------------------------------------------------------------------------------ cases and memory


@kind("comparison", "a comparison is turned round or includes its bound")
def comparison(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if not isinstance(n, ast.Compare):
        return
    turned = {"Eq": "NotEq", "Lt": "Gt", "LtE": "GtE", "Is": "IsNot", "In": "NotIn"}
    turned |= {new: old for old, new in turned.items()}
    bound = {"Lt": "LtE", "LtE": "Lt", "Gt": "GtE", "GtE": "Gt"}
    for k, op in enumerate(n.ops):
        for table in (turned, bound):
            new = table.get(type(op).__name__)
            if new:
                yield replaced(n, ops=[*n.ops[:k], getattr(ast, new)(), *n.ops[k + 1 :]])


@kind("branch", "one case is treated like the other")
def branch(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if isinstance(n, ast.IfExp):
        yield from (n.body, n.orelse)
    elif isinstance(n, ast.If):
        yield from (replaced(n, test=ast.Constant(flag)) for flag in (True, False))


@kind("stale", "a buffer keeps its old contents")
def stale(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    called = isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
    stored = isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Subscript)
    if called or stored:
        yield ast.Pass()


@kind("alias", "what should be a copy is not one, or is overwritten in place")
def alias(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n = slot.node
    if is_copy(n):
        yield n.left if isinstance(n, ast.BinOp) else n.func.value
    elif isinstance(n, ast.Assign) and isinstance(n.value, ast.BinOp):
        target, old = n.targets[0], n.value.left
        both = isinstance(target, ast.Name) and isinstance(old, ast.Name)
        if both and target.id != old.id and old.id in scene.flowing and not scene.place.is_rule:
            work = ast.AugAssign(ast.Name(old.id, ast.Store()), n.value.op, n.value.right)
            yield ast.If(ast.Constant(True), [work, ast.Assign([target], old)], [])


def is_copy(node: ast.AST) -> bool:
    """``x * 1`` or ``x.copy()``"""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return whole(node.right) == 1
    return isinstance(node, ast.Call) and called_name(node) == "copy" and not node.args


@kind(
    "detach", "a constant where a variable should be: right once, wrong when differentiated again"
)
def detach(slot: Slot, scene: Scene) -> Iterator[ast.AST]:
    n, above = slot.node, slot.parent
    if not scene.place.is_rule or id(n) in scene.constant:
        return
    # g itself, or another array in an expression; elsewhere only its shape is asked for
    computed = isinstance(above, ast.BinOp | ast.UnaryOp | ast.Attribute)
    computed |= called_name(above) in {*tg.REGISTRY, *FACTORS}
    variable = isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in scene.arguments
    if variable and (computed or n.id in scene.flowing):
        yield ast.Call(ast.Name("__value__", ast.Load()), [n], [])
