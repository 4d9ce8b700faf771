"""``python -m tests.fuzz``: see the package."""

import argparse
import importlib.util
import signal
import sys
import tempfile

from . import engines
from .places import all_targets

ENGINES = {"mutate": "mutate_child", "atheris": "atheris_child"}


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no child outlives this
    options = read(arguments)
    with all_targets() as found:
        names = [*found]
    if strange := {*options.target} - {*names}:
        print(f"no target {', '.join(sorted(strange))}; there are {', '.join(names)}")
        return 2
    failed = 0
    for name in options.target or names:
        report = engines.in_a_child(ENGINES[options.engine], name, options.inputs, options.seed)
        print(report.line(), flush=True)
        if report.failure:
            failed += 1
            print(f"    {report.failure.strip()}\n    reproduce it with {kept(report)}", flush=True)
    return 1 if failed else 0


def read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument(
        "--target", action="append", default=[], help="one of them; may be repeated"
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="of each target")
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser.add_argument("--engine", choices=ENGINES, default="atheris" if has_atheris else "mutate")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def kept(report: engines.Report) -> str:
    """The input that failed, in a file."""
    with tempfile.NamedTemporaryFile(prefix="fuzz-", suffix=".bin", delete=False) as file:
        file.write(report.data)
    return file.name


if __name__ == "__main__":
    sys.exit(main())
