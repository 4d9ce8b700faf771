"""The targets, and the folder in memory that they need, while somebody uses them."""

import contextlib
import shutil
from collections.abc import Iterator

from . import targets
from .verdict import Target


@contextlib.contextmanager
def all_targets() -> Iterator[dict[str, Target]]:
    try:
        yield {target.name: target for target in targets.all_targets()}
    finally:
        while targets.PLACES:
            shutil.rmtree(targets.PLACES.pop(), ignore_errors=True)


@contextlib.contextmanager
def target_called(name: str) -> Iterator[Target]:
    with all_targets() as found:
        yield found[name]
