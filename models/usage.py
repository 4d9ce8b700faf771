"""How much memory this run has taken at most."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from tinygrad_mha import backend


def peak_mb(device: str) -> float | None:
    """MB, with what worker processes do not share; on a GPU, what CuPy holds of its memory.

    None where the system does not say.
    """
    if device != "cpu":
        return backend.held_bytes(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return (own + sum(map(private_bytes, multiprocessing.active_children()))) / 2**20


def private_bytes(child: multiprocessing.process.BaseProcess) -> int:
    """What a worker has for itself; one of ours never gives memory back."""
    try:
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private"))
