"""A learner's file: loaded, looked over, and found again in an exception."""

from __future__ import annotations

import ast
import inspect
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from ..tensor import REGISTRY, Op
from .museum.exhibit import Exhibit

PLAYGROUND = "tinygrad_mha.study.museum.graph"  # whose nodes a file may be tried out with


class Refused(Exception):
    """What cannot be judged at all: a file that does not run, or one that leaves the work out."""


# ------------------------------------------------------------------------------ loading a file


def load(path: str, exhibit: Exhibit) -> Any:
    """What the file defines under the name that the exhibit has."""
    try:
        with open(path, encoding="utf-8") as file:
            source = file.read()
    except (OSError, UnicodeDecodeError) as e:
        raise Refused(f"{path} cannot be read: {e}") from None
    try:
        tree = ast.parse(source, path)
        code = compile(tree, path, "exec")
    except SyntaxError as e:
        text = (e.text or "").strip()
        raise Refused(f"{path}, line {e.lineno}: {e.msg}" + (f": {text}" if text else "")) from None
    except (ValueError, RecursionError, MemoryError) as e:
        raise Refused(f"{path} is no Python: {e}") from None
    only_public_names(tree, path)
    module = types.ModuleType("the_file_under_trial")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except SystemExit as e:
        raise Refused(f"{where(e, path)}: sys.exit() ends the check: take it out") from None
    except BaseException as e:
        raise Refused(told(e, path)) from None
    model = exhibit.broken()
    name = model.__name__
    if name not in module.__dict__:
        raise Refused(f"{path} defines no {name}: keep the name that it had")
    thing = module.__dict__[name]
    keeps_its_kind(thing, model, name, path)
    return thing


def only_public_names(tree: ast.AST, path: str) -> None:
    """What lies inside the package (the solutions, for one) is not for the file to import."""
    for node in ast.walk(tree):
        inside = ""
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
            inside = next((name for name in names if name.startswith("tinygrad_mha.")), "")
        elif isinstance(node, ast.ImportFrom):
            inside = str(node.module)
            if inside == "tinygrad_mha" and any(a.name == "study" for a in node.names):
                inside = "tinygrad_mha.study"
            elif not inside.startswith("tinygrad_mha."):
                inside = ""
        elif isinstance(node, ast.Attribute) and node.attr == "study":
            inside = "tinygrad_mha.study"
        if inside and inside != PLAYGROUND:
            raise Refused(
                f"{path}, line {node.lineno}: {inside} is inside the package; "  # type: ignore[attr-defined]
                "`import numpy as np` and `import tinygrad_mha as tg` are enough here"
            )


def keeps_its_kind(thing: Any, model: Any, name: str, path: str) -> None:
    """An op stays an op, a class a class, and all of them keep their arguments."""
    if isinstance(model, Op):
        if not isinstance(thing, Op):
            raise Refused(
                f"{path}: {name} should stay an op with a backward pass of its own, made by "
                "@tg.primitive or @tg.fused: that is what is to be repaired"
            )
        if REGISTRY.get(thing.name) is thing:
            raise Refused(
                f"{path}: {name} is the package's own op here: repair the one in the file"
            )
    elif inspect.isclass(model) != inspect.isclass(thing) or not callable(thing):
        kind = "a class" if inspect.isclass(model) else "a function"
        raise Refused(f"{path}: {name} should stay {kind}")
    if not inspect.isclass(model):
        wanted, got = (_arguments(f) for f in (model, thing))
        if got != wanted:
            raise Refused(
                f"{path}: {name} takes ({', '.join(got)}) and should keep ({', '.join(wanted)})"
            )


def _arguments(f: Callable) -> list[str]:
    try:
        return list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        return []


# --------------------------------------------------------------------- what the file did wrong


def their_frame(error: BaseException, path: str) -> tuple[int, str] | None:
    """The line and the function in the learner's file where ``error``, or its cause, came up."""
    e: BaseException | None = error
    seen: set[int] = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        found = None
        for frame, line in traceback.walk_tb(e.__traceback__):
            if frame.f_code.co_filename == path:
                found = line, frame.f_code.co_name
        if found:
            return found
        e = e.__cause__ or e.__context__
    return None


def where(error: BaseException, path: str) -> str:
    """``fix.py, line 12, in pullback``."""
    found = their_frame(error, path)
    return place(path, *found) if found else path


def place(path: str, line: int, function: str) -> str:
    inside = "" if function.startswith("<") else f", in {function}"
    return f"{path}, line {line}{inside}"


def told(error: BaseException, path: str) -> str:
    """One line about an exception in the learner's file."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{where(error, path)}: {type(error).__name__}" + (f": {first}" if first else "")
