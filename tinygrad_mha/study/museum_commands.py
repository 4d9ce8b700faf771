"""The commands of the museum: list, show, start, check and solution."""

from __future__ import annotations

import argparse
import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np

from . import progress
from .museum import NAMES, ROOMS, exhibit
from .museum.exhibit import HEADER, Exhibit, code_of
from .museum_text import WIDTH, paint, wrapped
from .referee import trial

PROGRAM = "python -m tinygrad_mha.study"


class BadArgument(Exception):
    """What the user wrote cannot be meant; the message is one line, with the remedy."""


def add_commands(commands: Any) -> None:
    """Add the museum's commands to the sub-parsers of ``python -m tinygrad_mha.study``."""
    which = f"1 to {len(NAMES)}"
    p = commands.add_parser("list", help="the exhibits, and which of them you have solved")
    p.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="where your files are")
    p.set_defaults(run=list_command)
    p = commands.add_parser("show", help="one exhibit: what happened, and the broken code")
    p.add_argument("number", metavar="N", help=which)
    p.set_defaults(run=show_command)
    p = commands.add_parser("start", help="write the broken code into a file, for you to repair")
    p.add_argument("number", metavar="N", help=which)
    p.add_argument("file", nargs="?", metavar="FILE", help="default: exhibit_N.py")
    p.set_defaults(run=start_command)
    p = commands.add_parser("check", help="judge a repair, on cases that are drawn anew each time")
    p.add_argument("number", metavar="N", help=which)
    p.add_argument("file", nargs="?", metavar="FILE", help="your file (default: exhibit_N.py)")
    p.add_argument("--seed", metavar="S", help="draw the cases of an earlier check first")
    p.add_argument(
        "--limit", default="30", metavar="SECONDS", help="how long it may take (default: 30)"
    )
    p.set_defaults(run=check_command)
    p = commands.add_parser("solution", help="the repair, and why it is right")
    p.add_argument("number", metavar="N", help=which)
    p.set_defaults(run=solution_command)


# ------------------------------------------------------------------------------------ commands


def list_command(options: argparse.Namespace) -> int:
    folder = Path(options.folder)
    if not folder.is_dir():
        raise BadArgument(f"{folder} is no folder: name the one that your files are in")
    solved = set(progress.load(folder)["solved"])
    print(paint("title", f"The museum of broken backprop: {len(NAMES)} bugs that happened"))
    for room, names in ROOMS.items():
        print(f"\n{paint('head', room)}")
        for name in names:
            mark = paint("good", "✓") if name in solved else " "
            print(f"  {NAMES.index(name) + 1:2d} {mark} {exhibit(name).title}")
    count = len(solved & set(NAMES))
    print(f"\nsolved: {count} of {len(NAMES)}", end="")
    rest = [k for k, name in enumerate(NAMES, 1) if name not in solved]
    print(f".  next: {PROGRAM} show {rest[0]}" if rest else ". All of them!")
    return 0


def show_command(options: argparse.Namespace) -> int:
    number, case = chosen(options.number)
    with np.errstate(all="ignore"):
        looked = case.looks_fine(case.broken(), np.random.default_rng(number))
    print(heading(number, case))
    print(f"\n{wrapped(case.story)}\n\n{paint('faint', wrapped('Seen in: ' + case.seen))}")
    print(f"\n{paint('head', 'The code')}\n\n{indented(HEADER + code_of(case.broken))}")
    if case.play:
        print(f"\n{paint('head', 'To try it, put this under it')}\n\n{indented(case.play)}")
    print(f"\n{paint('head', 'What its test looked at, and found fine')}\n")
    print("\n".join(wrapped(line, "    ") for line in looked.splitlines()))
    print(
        f"\n{paint('head', 'Repair it')}\n\n"
        f"    {PROGRAM} start {number}\n"
        f"    {PROGRAM} check {number} {default_file(number)}"
    )
    return 0


def start_command(options: argparse.Namespace) -> int:
    number, case = chosen(options.number)
    path = options.file or default_file(number)
    text = (
        f"# The museum of broken backprop, {number}: {case.title}.\n"
        f"# Repair it, and ask for a verdict as often as you like:\n"
        f"#     {PROGRAM} check {number} {path}\n\n{HEADER}{code_of(case.broken)}"
    )
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadArgument(
            f"{path} is there already, and stays as it is: name another file"
        ) from None
    except OSError as e:
        raise BadArgument(f"{path} cannot be written ({e.strerror}): name another file") from None
    print(f"The broken code is in {path}. Repair it, then:\n    {PROGRAM} check {number} {path}")
    return 0


def check_command(options: argparse.Namespace) -> int:
    number, case = chosen(options.number)
    path = options.file or default_file(number)
    limit = positive("--limit", options.limit)
    if not os.path.isfile(path):
        raise BadArgument(f"{path} is no file: `{PROGRAM} start {number}` makes one to begin with")
    seeds = [int(np.random.default_rng().integers(1 << 32))]
    if options.seed is not None:  # what is drawn anew is judged too: a fixed seed could be learned
        seeds = [whole("--seed", options.seed), *seeds]
    for seed in seeds:
        result = trial(case.slug, path, seed, limit)
        if result["printed"].strip():
            print_noise(path, result["printed"])
        if result["verdict"] != "passed":
            return not_yet(number, case, path, seed, result)
    return passed(number, case, path)


def solution_command(options: argparse.Namespace) -> int:
    number, case = chosen(options.number)
    before, after = (code_of(f).splitlines() for f in (case.broken, case.solution))
    print(f"{heading(number, case)}\n")
    print(wrapped(f"The bug: {case.mechanism}."))
    print(f"\n{paint('head', 'The repair')}\n")
    for line in difflib.ndiff(before, after):
        if not line.startswith("?"):
            style = {"-": "bad", "+": "good"}.get(line[0])
            print(f"  {paint(style, line) if style else line}".rstrip())
    print(f"\n{paint('head', 'Why')}\n\n{wrapped(case.why)}")
    return 0


# ------------------------------------------------------------------------------------ verdicts


def passed(number: int, case: Exhibit, path: str) -> int:
    folder = Path(path).resolve().parent
    state = progress.load(folder)
    if case.slug not in state["solved"]:
        state["solved"].append(case.slug)
    kept = progress.save(folder, state)
    print(paint("good", f"{number}  {case.title}: repaired."))
    print(f"\n{wrapped(f'You have met: {case.mechanism}.')}\n\n{wrapped(case.why)}\n")
    todo = [k for k, name in enumerate(NAMES, 1) if name not in state["solved"]]
    after = [k for k in todo if k > number] or todo
    if after:
        print(f"  Next: {exhibit(NAMES[after[0] - 1]).title}\n    {PROGRAM} show {after[0]}")
    else:
        print("  That was the last one. The museum is yours.")
    if not kept:
        print(forgotten(folder))
    return 0


def not_yet(number: int, case: Exhibit, path: str, seed: int, result: dict[str, Any]) -> int:
    print(paint("bad", f"{number}  {case.title}: not yet."))
    print(f"\n{fitted(result['reason'])}")
    if result["verdict"] == "refused":
        return 1
    folder = Path(path).resolve().parent
    state = progress.load(folder)
    attempt = state["attempts"].get(case.slug, 0) + 1
    state["attempts"][case.slug] = attempt
    kept = progress.save(folder, state)
    level = min(attempt, len(case.hints))
    print(f"\n{paint('head', f'Hint {level} of {len(case.hints)}')}\n")
    print(wrapped(case.hints[level - 1]))
    if attempt > len(case.hints):
        print(f"\n  The repair itself: {PROGRAM} solution {number}")
    print(f"\n{paint('faint', f'  The same cases again: --seed {seed}')}")
    if not kept:
        print(forgotten(folder))
    return 1


def print_noise(path: str, printed: str) -> None:
    lines = printed.rstrip().splitlines()
    print(paint("faint", f"{path} printed:"))
    for line in lines[:12]:
        print(paint("faint", f"  | {line[: WIDTH - 4]}"))
    if len(lines) > 12:
        print(paint("faint", "  | ..."))
    print()


def forgotten(folder: Path) -> str:
    return wrapped(f"(This is not remembered: {folder} cannot be written to.)")


# ------------------------------------------------------------------------------------ details


def chosen(text: str) -> tuple[int, Exhibit]:
    """The number and the exhibit that the user means, by number or by name."""
    if text in NAMES:
        return NAMES.index(text) + 1, exhibit(text)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= len(NAMES)):
        raise BadArgument(
            f"there is no exhibit {text!r}: they are 1 to {len(NAMES)}, see {PROGRAM} list"
        )
    return int(text), exhibit(NAMES[int(text) - 1])


def whole(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise BadArgument(f"{option} {text}: write a whole number, as in the message of the check")
    return int(text)


def positive(option: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise BadArgument(f"{option} {text}: write a number of seconds, such as 30")
    return seconds


def default_file(number: int) -> str:
    return f"exhibit_{number:02d}.py"


def heading(number: int, case: Exhibit) -> str:
    return f"{paint('title', f'{number}  {case.title}')}\n{'─' * WIDTH}"


def indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip().splitlines())


def fitted(text: str) -> str:
    """A reason, its lines wrapped where they are too long."""
    return "\n".join(
        wrapped(line.strip(), "    " if line.startswith(" ") else "  ")
        for line in text.splitlines()
    )
