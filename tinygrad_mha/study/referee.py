"""Start the trial of a file in a process of its own, wait for the verdict, and never for ever."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import IO, Any

GRACE = 10.0  # seconds for the process to start, and to say itself that its time is over
NOISE = 4000  # bytes that are kept of what a file prints


def trial(name: str, path: str, seed: int, limit: float) -> dict[str, Any]:
    """The ``verdict`` on the file, the ``reason``, and what it ``printed``."""
    command = [sys.executable, "-m", "tinygrad_mha.study.trial", name, path, str(seed), str(limit)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    answer, printed = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_read, args=(process.stdout, answer, 1 << 20), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, printed, NOISE), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        process.wait(limit + GRACE)
        late = False
    except subprocess.TimeoutExpired:
        late = True
    finally:
        process.kill()
        process.wait()
    for reader in readers:
        reader.join(1)  # a process that the file has started may hold the pipe open
    result = _verdict(bytes(answer))
    if result is None:
        if late:
            reason = f"{path}: still running after {limit:g} s"
        else:
            reason = f"{path}: it ended the check before there was a result"
        result = {"verdict": "failed" if late else "refused", "reason": reason}
    return {**result, "printed": printed.decode("utf-8", "replace")}


def _verdict(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "verdict" in found else None


def _read(pipe: IO[bytes], into: bytearray, most: int) -> None:
    """Read to the end, so that nobody waits for us, and keep the beginning."""
    with pipe:
        while piece := pipe.read1(1 << 16):  # type: ignore[attr-defined]
            into += piece[: max(0, most - len(into))]
