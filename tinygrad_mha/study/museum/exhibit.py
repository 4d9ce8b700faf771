"""What an exhibit of the museum is: a bug that happened, its judge, hints and the repair."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

HEADER = "import numpy as np\n\nimport tinygrad_mha as tg\n\n\n"  # of every file that is judged


@dataclass(frozen=True)
class Exhibit:
    """One bug. ``broken`` and ``solution`` are functions whose bodies are the code to be shown.

    ``looks_fine`` is the shape check that the broken code passes; it says what it looked at.
    ``judge`` raises :class:`~.judging.Failed` unless what it is given is right on one random case.
    """

    title: str
    mechanism: str  # what goes wrong, in a few words; no two exhibits share one
    seen: str  # where it happened
    story: str
    broken: Callable[[], Any]
    solution: Callable[[], Any]
    looks_fine: Callable[[Any, np.random.Generator], str]
    judge: Callable[[Any, np.random.Generator], None]
    hints: tuple[str, ...]
    why: str  # the mathematics of the repair
    withheld: tuple[str, ...] = ()  # the package's ops that would do the work
    play: str = ""  # lines to try the code with, where it is not plain how
    cases: int = 20

    @property
    def slug(self) -> str:
        """The name of the file that the exhibit stands in."""
        return self.judge.__module__.rpartition(".")[2]


def code_of(factory: Callable[[], Any]) -> str:
    """The body of ``factory`` without its return: what stands in the learner's file."""
    _, *body, last = inspect.getsource(factory).rstrip().splitlines()
    if not last.strip().startswith("return "):
        raise ValueError(f"{factory.__module__}: {factory.__name__} should end with a return")
    return textwrap.dedent("\n".join(body)).strip() + "\n"
