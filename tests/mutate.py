"""The mutation score: how many mistakes in the gradients would the tests notice?

A test suite that passes proves little unless it would fail if the code were wrong. So the code is
made wrong, mechanically and one small mistake at a time: a term is dropped from a backward rule, a
sign is flipped, ``=`` is written for ``+=``, a sum over broadcast axes is left out, the gates of
the LSTM are exchanged. On each of these *mutants* the certificate (tests/test_ops.py, and then the
tests by hand) must fail: it *kills* the mutant. One that survives shows a hole in the tests, unless
it is *equivalent*: another way to write the same gradient.

    python -m tests.mutate                      a fixed choice of mutants of every op, and the score
    python -m tests.mutate --sample 100         the same, of 100 mutants from all ops: for CI
    python -m tests.mutate --ops lstm,softmax   of these ops; "engine" is the backward pass itself
    python -m tests.mutate --all                every mutant that can be made
    python -m tests.mutate --list               only name them
    python -m tests.mutate --json FILE          write every verdict to a file as well
    python -m tests.mutate --markdown           print the table of the README

Exit status 1: a mutant survives, more than 3 % are equivalent, or an op has fewer than two mutants.

The work is done by four files: mutate_places.py finds the backward code, mutate_edits.py holds the
kinds of mistakes, mutate_mutants.py applies the one to the other, mutate_trial.py runs the tests.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it
from mutate_edits import KINDS
from mutate_equivalent import EQUIVALENT
from mutate_mutants import Mutant, all_mutants, capped, sample
from mutate_places import ENGINE
from mutate_trial import Court, Verdict

import tinygrad_mha as tg

OUTCOMES = ("killed", "survived", "equivalent")
FEWEST = 2  # mutants of an op
MOST_EQUIVALENT = 0.03


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no trial outlives this
    options = read(arguments)
    mutants = chosen(options)
    if options.list:
        for m in mutants:
            print(f"{m.id}\n    - {m.before}\n    + {m.after}")
        print(f"{len(mutants)} mutants of {len({m.op for m in mutants})} ops")
        return 0
    started = time.monotonic()
    with threadpool_limits(1):
        verdicts, sick = trial(mutants, options)
    seconds = time.monotonic() - started
    if options.json:
        write_json(options.json, mutants, verdicts)
    print(by_kind(mutants, verdicts) if options.markdown else by_op(mutants, verdicts))
    print(f"\n{totals(verdicts)}; {seconds / 60:.1f} minutes, {options.workers} at a time")
    print(details(mutants, verdicts))
    complete = not (options.ops or options.only or options.sample)
    faults = list(faults_of(mutants, verdicts, complete))
    notes = list(notes_of(verdicts, sick, gone=complete))
    print("\n".join(["", *(f"FAULT: {f}" for f in faults), *(f"note: {n}" for n in notes)]))
    return 1 if faults else 0


def read(arguments: list[str] | None) -> argparse.Namespace:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=lines[0])
    parser.add_argument("--ops", help="names, separated by commas; also 'engine'")
    parser.add_argument("--sample", type=int, help="so many mutants, from all ops")
    parser.add_argument("--all", action="store_true", help="every mutant, not a choice of each op")
    parser.add_argument("--only", help="ids that begin like this")
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    parser.add_argument("--json", type=Path, help="a file for the verdicts")
    parser.add_argument("--markdown", action="store_true", help="a table by kind, for the README")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patience", type=float, default=60, help="seconds for one test")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> list[Mutant]:
    mutants = all_mutants() if options.all or options.only else capped(all_mutants())
    if options.only:
        mutants = [m for m in mutants if m.id.startswith(options.only)]
    if options.ops:
        names = options.ops.split(",")
        unknown = set(names) - {*tg.REGISTRY, ENGINE}
        if unknown:
            raise SystemExit(f"no such op: {', '.join(sorted(unknown))}")
        mutants = [m for m in mutants if m.op in names]
    if not options.sample:
        return mutants
    # to look at those that are known to be equivalent takes a minute each: left to the full run
    return sample([m for m in mutants if m.id not in EQUIVALENT], options.sample)


def trial(
    mutants: list[Mutant], options: argparse.Namespace
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """The verdict on each mutant, and the tests that fail without one."""
    verdicts: dict[str, Verdict] = {}

    def heard(verdict: Verdict) -> None:
        verdicts[verdict.id] = verdict
        count = f"{len(verdicts)}/{len(mutants)}"
        line = f"{count:>9} {verdict.seconds:5.1f} s  {verdict.outcome:<10} {verdict.id}"
        print(f"{line}  {verdict.by}", file=sys.stderr, flush=True)

    court = Court(options.workers, options.patience, heard)
    court.judge(mutants)
    return {m.id: verdicts[m.id] for m in mutants}, court.sick


# ------------------------------------------------------------------------------------ the report


def count(verdicts: list[Verdict]) -> list[int]:
    """How many in all, killed, survived, equivalent."""
    valid = Counter(v.outcome for v in verdicts if v.outcome in OUTCOMES)
    return [valid.total(), *(valid[outcome] for outcome in OUTCOMES)]


def by_op(mutants: list[Mutant], verdicts: dict[str, Verdict]) -> str:
    rows = [f"{'op':<32}{'mutants':>9}{'killed':>9}{'survived':>9}{'equivalent':>12}"]
    for op in sorted({m.op for m in mutants}):
        numbers = count([verdicts[m.id] for m in mutants if m.op == op])
        rows.append("{:<32}{:>9}{:>9}{:>9}{:>12}".format(op, *numbers))
    return "\n".join(rows)


def by_kind(mutants: list[Mutant], verdicts: dict[str, Verdict]) -> str:
    rows = ["| mistake | mutants | killed | equivalent | surviving |", "|---|--:|--:|--:|--:|"]
    for kind, (meaning, _) in KINDS.items():
        some = count([verdicts[m.id] for m in mutants if m.kind == kind])
        if some[0]:
            rows.append(
                "| {} | {} | {} | {} | {} |".format(meaning, *(some[k] for k in (0, 1, 3, 2)))
            )
    numbers = count(list(verdicts.values()))
    ops = len({m.op for m in mutants} - {ENGINE})
    rows.append("| **{} ops and the engine** | **{}** | **{}** | **{}** | **{}** |".format(
        ops, *(numbers[k] for k in (0, 1, 3, 2))))  # fmt: skip
    return "\n".join(rows)


def totals(verdicts: dict[str, Verdict]) -> str:
    n, killed, survived, equivalent = count(list(verdicts.values()))
    score = killed / max(n - equivalent, 1)
    return (
        f"{n} mutants: {killed} killed, {survived} survived, {equivalent} equivalent "
        f"({equivalent / max(n, 1):.1%}); {score:.1%} of those that differ are killed"
    )


def details(mutants: list[Mutant], verdicts: dict[str, Verdict]) -> str:
    """Every survivor, and every equivalent mutant with its reason."""
    text = []
    for m in mutants:
        verdict = verdicts[m.id]
        if verdict.outcome == "killed":
            continue
        reason = EQUIVALENT.get(m.id, "NO REASON GIVEN") if verdict.outcome == "equivalent" else ""
        why = reason or " ".join(verdict.why.split())[:300]
        text.append(f"\n{verdict.outcome}: {m.id}\n    - {m.before}\n    + {m.after}\n    {why}")
    return "\n".join(text)


def faults_of(mutants: list[Mutant], verdicts: dict[str, Verdict], complete: bool) -> Iterator[str]:
    """What is wrong with the score, or with the tool."""
    n, _, survived, equivalent = count(list(verdicts.values()))
    if survived:
        yield f"mutants that survive: {survived}"
    for verdict in verdicts.values():
        if verdict.outcome not in (*OUTCOMES, "invalid"):
            yield f"{verdict.outcome}: {verdict.id}: {verdict.by}: {verdict.why}"
    if not complete:
        return
    if equivalent > MOST_EQUIVALENT * n:
        yield f"{equivalent} of {n} mutants are equivalent, more than {MOST_EQUIVALENT:.0%}"
    of_op = Counter(m.op for m in mutants if verdicts[m.id].outcome in OUTCOMES)
    poor = [op for op in [*tg.REGISTRY, ENGINE] if of_op[op] < FEWEST]
    if poor:
        yield f"fewer than {FEWEST} mutants: {', '.join(sorted(poor))}"


def notes_of(verdicts: dict[str, Verdict], sick: dict[str, str], gone: bool) -> Iterator[str]:
    """What is not in order in the tool's own books."""
    for v in verdicts.values():
        if v.outcome == "invalid":
            yield f"{v.id} changes values, not only gradients, and does not count"
        elif v.outcome == "equivalent" and v.id not in EQUIVALENT:
            yield f"{v.id} is equivalent, and mutate_equivalent.py does not say why"
        elif v.outcome != "equivalent" and v.id in EQUIVALENT:
            yield f"{v.id} is in mutate_equivalent.py, but {v.outcome}"
    if gone:
        for name in EQUIVALENT.keys() - {m.id for m in all_mutants()}:
            yield f"{name} is in mutate_equivalent.py, but no such mutant is made any more"
    for name, why in sick.items():
        yield f"{name} fails on the original too and was left out: {why.splitlines()[0]}"


def write_json(path: Path, mutants: list[Mutant], verdicts: dict[str, Verdict]) -> None:
    rows = [
        {
            **verdicts[m.id]._asdict(),
            "op": m.op,
            "kind": m.kind,
            "before": m.before,
            "after": m.after,
        }
        for m in mutants
    ]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
