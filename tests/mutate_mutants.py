"""The mutants: every place times every edit, named, compiled, and cut down to a useful number."""

import ast
import contextlib
import difflib
import itertools
import types
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from mutate_edits import KINDS, Scene, Slot
from mutate_places import Place, find_places

from tinygrad_mha.tensor import value


class Mutant(NamedTuple):
    """One edit of one place.

    ``id`` reads op:place:line:kind:number, as in ``layer_norm:pullback:5:drop-term:1``. The line is
    counted from the beginning of the function, so that it survives what happens elsewhere.
    """

    id: str
    kind: str
    place: Place
    slot: Slot
    new: ast.AST
    before: str  # the line that is edited, and what becomes of it
    after: str

    @property
    def op(self) -> str:
        return self.place.ops[0]

    @contextlib.contextmanager
    def installed(self) -> Iterator[types.CodeType]:
        """Inside, everybody who calls the function runs the mutated code. Gives the original."""
        function, old = self.place.function, self.place.function.__code__
        function.__globals__.setdefault("__value__", value)  # what the kind "detach" calls
        with self.edited():
            new = recompiled(self.place)
        swap_code(function, new)
        try:
            yield old
        finally:
            swap_code(function, old)

    @contextlib.contextmanager
    def edited(self) -> Iterator[None]:
        old = self.slot.node
        self.slot.put(self.new)
        try:
            yield
        finally:
            self.slot.put(old)


def swap_code(function: types.FunctionType, code: types.CodeType) -> None:
    """Let ``function`` run other code, whoever calls it; and let no cache remember the results."""
    function.__code__ = code
    for thing in list(function.__globals__.values()):
        if hasattr(thing, "cache_clear"):
            thing.cache_clear()


def recompiled(place: Place) -> types.CodeType:
    """The code of a place's function, as its syntax is now."""
    tree, old = place.tree, place.function.__code__
    bare = ast.arguments(
        **{**dict(ast.iter_fields(tree.args)), "defaults": [],
           "kw_defaults": [None] * len(tree.args.kwonlyargs)}
    )  # fmt: skip
    if isinstance(tree, ast.Lambda):
        source = ast.Assign([ast.Name("mutant", ast.Store())], ast.Lambda(bare, tree.body))
    else:
        source = ast.FunctionDef("mutant", without_annotations(bare), tree.body, [])
    module = ast.fix_missing_locations(ast.copy_location(ast.Module([source], []), tree))
    namespace: dict = {}
    exec(compile(module, old.co_filename, "exec", dont_inherit=True), namespace)
    return namespace["mutant"].__code__.replace(co_name=old.co_name, co_qualname=old.co_qualname)


def without_annotations(arguments: ast.arguments) -> ast.arguments:
    """Annotations are evaluated where a function is defined, and here nothing is imported."""
    fields = {}
    for field, child in ast.iter_fields(arguments):
        if isinstance(child, ast.arg):
            child = ast.arg(child.arg)
        elif isinstance(child, list):
            child = [ast.arg(c.arg) if isinstance(c, ast.arg) else c for c in child]
        fields[field] = child
    return ast.arguments(**fields)


# --------------------------------------------------------------------------------- all of them


@cache
def all_mutants() -> list[Mutant]:
    numbers: Counter[str] = Counter()
    return [m for place in find_places() for m in mutants_of(place, numbers)]


def mutants_of(place: Place, numbers: Counter[str]) -> Iterator[Mutant]:
    """Every edit that leads to another program, each once."""
    scene = Scene(place)
    old = ast.unparse(place.node)
    seen = {old}
    for slot, (kind, (_, edit)) in itertools.product(scene.slots, KINDS.items()):
        for new in list(edit(slot, scene)):
            bare = Mutant("", kind, place, slot, new, "", "")
            with bare.edited():
                text = ast.unparse(ast.fix_missing_locations(place.node))
            if text in seen or not compiles(bare):
                continue
            seen.add(text)
            line = getattr(slot.node, "lineno", place.node.lineno) - place.node.lineno
            name = f"{place.ops[0]}:{place.label}:{line}:{kind}"
            numbers[name] += 1
            before, after = changed_lines(old, text)
            yield bare._replace(id=f"{name}:{numbers[name]}", before=before, after=after)


def changed_lines(old: str, new: str) -> tuple[str, str]:
    """The lines in which two texts differ, each side as one."""
    diff = list(difflib.ndiff(old.splitlines(), new.splitlines()))
    sides = ([line[2:].strip() for line in diff if line[0] == side] for side in "-+")
    before, after = map("; ".join, sides)
    return before, after.removeprefix("if True:; ")


def compiles(mutant: Mutant) -> bool:
    try:
        with mutant.edited():
            recompiled(mutant.place)
    except SyntaxError:  # an index assigned to a call, say
        return False
    return True


# ------------------------------------------------------------------------------ a useful number

FEW, MANY = 6, 30  # mutants of one op: at least so many (if there are any), and at most


def capped(mutants: list[Mutant]) -> list[Mutant]:
    """A fixed choice: a fifth of each op's mutants, between FEW and MANY, of as many kinds as can
    be, so that an op with a long pullback gets more of them than one whose rule is a single g."""
    chosen = []
    for _, group in itertools.groupby(sorted(mutants, key=op_of), op_of):
        group = list(group)
        limit = min(MANY, max(FEW, len(group) // 5))
        chosen += in_turn(group, key=lambda m: m.kind)[:limit]
    return chosen


def sample(mutants: list[Mutant], count: int) -> list[Mutant]:
    """A fixed choice of ``count``, from all ops in turn."""
    return in_turn(mutants, key=op_of)[:count]


def op_of(mutant: Mutant) -> str:
    return mutant.op


def in_turn(mutants: list[Mutant], key) -> list[Mutant]:
    """One of each kind, then another of each, and so on; which one, a checksum of its id says."""
    piles: dict = {}
    for m in sorted(mutants, key=lambda m: zlib.crc32(m.id.encode())):
        piles.setdefault(key(m), []).append(m)
    rounds = itertools.zip_longest(*(piles[k] for k in sorted(piles)))
    return [m for r in rounds for m in r if m is not None]
