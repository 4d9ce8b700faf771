"""The built-in mutator on one target, in a process of its own: NAME INPUTS SEED FOLDER."""

import sys

from .engines import Notes, tried
from .places import target_called


def main(name: str, count: str, seed: str, folder: str) -> int:
    notes = Notes(f"{folder}/notes")
    with target_called(name) as target:
        report = tried(target, int(count), int(seed), notes)
    if report.failure:
        print(report.failure)
        return 1
    notes.write(report.inputs, report.results, b"")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
