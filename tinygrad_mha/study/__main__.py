"""``python -m tinygrad_mha.study``: the command line of the room for those who study.

A module that offers commands has a function ``add_commands(subparsers)``, and each command sets a
default ``run(options) -> exit status``. It is listed in MODULES.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import museum_commands

MODULES = (museum_commands,)


class Parser(argparse.ArgumentParser):
    """argparse, with one line instead of the whole usage for a mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    p = Parser(
        prog="python -m tinygrad_mha.study",
        description="The museum of broken backprop: real bugs of backward passes, to be repaired.",
    )
    commands: Any = p.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        module.add_commands(commands)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0 fine, 1 not repaired yet, 2 bad arguments."""
    p = parser()
    options = p.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # Σ and ∂ on a terminal that has none become ?
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        return options.run(options)
    except museum_commands.BadArgument as e:
        print(f"{p.prog}: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `list | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
