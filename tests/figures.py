"""What a run of the tests has looked at, in numbers, printed at its end.

    python -m pytest -q tests/test_ops.py          the certificate
    python -m pytest -q -m torch tests             agreement with PyTorch

Tests call :func:`seen`; conftest.py prints the :func:`lines`, also when pytest-xdist has spread the
tests over several processes.
"""

from __future__ import annotations

from typing import Any

# subject -> part (a check, or "values") -> op -> [cases, largest difference]
Figures = dict[str, dict[str, dict[str, list]]]
figures: Figures = {}


def seen(subject: str, part: str, op: str, difference: float = 0.0) -> None:
    """One more case of an op was looked at, and it was off by this much."""
    entry = figures.setdefault(subject, {}).setdefault(part, {}).setdefault(op, [0, 0.0])
    entry[0] += 1
    entry[1] = max(entry[1], float(difference))


def merge(others: Figures) -> None:
    """Add what another process has seen."""
    for subject, parts in others.items():
        for part, ops in parts.items():
            for op, (cases, difference) in ops.items():
                mine = figures.setdefault(subject, {}).setdefault(part, {})
                entry = mine.setdefault(op, [0, 0.0])
                entry[0] += cases
                entry[1] = max(entry[1], difference)


def lines() -> list[str]:
    """``certificate: 76 ops, 15 checks, 31,042 cases`` and so on."""
    out = []
    for subject, parts in sorted(figures.items()):
        ops = {op for found in parts.values() for op in found}
        cases = sum(n for found in parts.values() for n, _ in found.values())
        out.append(f"{subject}: {len(ops)} ops, {len(parts)} checks, {cases:,} cases")
        for part, found in parts.items():
            worst: Any = max(found, key=lambda op: found[op][1])
            if found[worst][1] > 0:
                out.append(f"  {part}: largest difference {found[worst][1]:.1e} (in {worst})")
    return out
