"""Kill trainings, and see that nothing is lost: ``python -m tests.kill [--moments 50]``.

Two ways. At random moments: a training is killed, goes on, is killed again … and at last may end.
At every step of every write: whatever touches the disk is counted, and for each count there is a
training that is killed at just that operation (in a write, when half is written). After every kill
the folder must hold a checkpoint or a model that can be read; in the end there must be the weights,
bit for bit, of a training that nobody touched.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tinygrad_mha.models import checkpoint, files
from tinygrad_mha.models.trained import TrainedClassifier

SMALL = ["--d-model", "8", "--heads", "2", "--batch-size", "8", "--workers", "1"]
COLORS = ("red", "green", "blue")


def write_data(path, rows=240, seed=1):
    """Texts in which a color tells the label."""
    rng = random.Random(seed)
    lines = ["text,label"]
    for k in range(rows):
        words = [rng.choice(["one", "two", "three", COLORS[k % 3]]) for _ in range(5)]
        lines.append(f"{' '.join(words)} {k},{COLORS[k % 3]}")
    Path(path).write_text("\n".join(lines) + "\n")


def command(*arguments):
    return [sys.executable, "-m", "tinygrad_mha", "train", *map(str, arguments)]


def whole(folder):
    """The folder holds a checkpoint that can be read, or a model, or nothing yet: which."""
    if (saved := checkpoint.read(folder)) is not None:
        assert saved.arrays()
        return "checkpoint"
    if (Path(folder) / "config.json").exists():
        TrainedClassifier.load(folder)
        return "model"
    return "nothing"


def at_random_moments(place, moments, seed=0, more=("--epochs", "12")):
    """A chain of kills; what there was at each of them."""
    place = Path(place)
    write_data(data := place / "data.csv")
    arguments = [data, *SMALL, *more, "--checkpoint-every", 1]
    began = time.monotonic()
    subprocess.run(command(*arguments, "--out", place / "calm"), check=True, capture_output=True)
    lasts = time.monotonic() - began
    want = (place / "calm" / "model.safetensors").read_bytes()
    rng = random.Random(seed)
    found, killed, rounds = Counter(), 0, 0
    while killed < moments:
        rounds += 1
        out = place / f"killed{rounds}"
        out.mkdir()
        while True:
            patience = None if killed >= moments else lasts * rng.uniform(0.3, 1)
            process = subprocess.Popen(
                command(*arguments, "--out", out, "--resume", out),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                assert process.wait(patience) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
                unfinished = (out / checkpoint.UNFINISHED).exists()
                found[f"{whole(out)}{', in a write' if unfinished else ''}"] += 1
        assert (out / "model.safetensors").read_bytes() == want, "other weights"
        left = [p.name for p in place.iterdir() if p.name.startswith(files.MARK)]
        assert not left, left
    return found


OPERATIONS = ("mkdir", "write", "fsync", "replace", "rename", "exchanged", "rmtree", "unlink")


def killed_at(k, before):
    """From now on, the k-th operation on the disk kills this process, before or after it is done.

    A list that counts the operations. What a write writes first may reach the disk in part.
    """
    done = [0]

    def counted(name, f):
        def g(*a, **b):
            done[0] += 1
            now = done[0] == k
            if now and name == "write":
                f(a[0][: len(a[0]) // 2]) if before else f(*a)
                a[1].flush()
            elif now and not before:
                f(*a, **b)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return f(*a, **b)

        return g

    class File:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, part):
            part = memoryview(part).cast("B") if len(memoryview(part).shape) else bytes(part)
            counted("write", lambda p, *_: self.file.write(p))(part, self.file)

        def flush(self):
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

    files.open = lambda path, mode: File(open(path, mode))  # noqa: SIM115
    files.os.fsync = counted("fsync", os.fsync)
    files.exchanged = counted("exchanged", files.exchanged)
    files.shutil.rmtree = counted("rmtree", files.shutil.rmtree)
    for name in ("mkdir", "replace", "rename", "unlink"):
        setattr(Path, name, counted(name, getattr(Path, name)))
    return done


def in_a_fork(f):
    """The wait status of a child that calls ``f``."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            status = f()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def at_every_operation(place, stride=1):
    """How many operations on the disk there are, and what there was after a kill at each."""
    from tinygrad_mha.models import cli

    place = Path(place)
    write_data(data := place / "data.csv", rows=60)
    arguments = [data, *SMALL, "--max-steps", 4, "--checkpoint-every", 2]

    def run(*more, kill=0, before=False, count=None):
        """The wait status of a training in a child."""

        def train():
            done = killed_at(kill, before)
            status = cli.main([str(a) for a in ("train", *arguments, *more)])
            if count is not None:
                count.write_text(str(done[0]))
            return status

        return in_a_fork(train)

    # the second training replaces a model: an exchange of folders
    assert run("--out", place / "calm") == 0
    assert run("--out", place / "calm", count=place / "count") == 0
    total = int((place / "count").read_text())
    want = (place / "calm" / "model.safetensors").read_bytes()
    found: Counter = Counter()
    for k in range(1, total + 1, stride):
        out = place / f"at{k}"
        if k % 2:  # there is an old model
            assert run("--out", out, "--seed", 1) == 0
        status = run("--out", out, kill=k, before=k % 4 < 2)
        if status == 0:  # this one has fewer operations
            assert not k % 2
            break
        assert status == signal.SIGKILL, (k, status)
        found[whole(out)] += 1
        again = ["--out", out] + (["--resume", out] if out.exists() else [])
        assert run(*again) == 0, k
        assert (out / "model.safetensors").read_bytes() == want, f"other weights after {k}"
        names = {p.name for p in out.iterdir()}
        assert names == {"model.safetensors", "config.json", "vocab.json", "metrics.json"}, names
        left = [p.name for p in place.iterdir() if p.name.startswith(files.MARK)]
        assert not left, (k, left)
    return total, found


KINDS = {"checkpoint": "a checkpoint", "model": "a model", "nothing": "nothing yet"}


def main():
    p = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__.split(":")[0])
    p.add_argument("--moments", type=int, default=50)
    p.add_argument("--seed", type=int, default=0)
    o = p.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        total, found = at_every_operation(place)
        told = ", ".join(f"{v} left {KINDS[k]}" for k, v in sorted(found.items()))
        print(f"killed at each of {total} operations on the disk: {told}; same weights each time")
    with tempfile.TemporaryDirectory() as place:
        found = at_random_moments(place, o.moments, o.seed)
        told = ", ".join(f"{v}: {k}" for k, v in sorted(found.items()))
        print(f"killed at {o.moments} random moments ({told}); same weights each time")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
