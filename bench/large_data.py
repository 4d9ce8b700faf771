"""Data larger than memory should be: ``python bench/large_data.py [--rows 5000000] [--steps 200]``.

Writes a table of generated rows, trains on it for a few steps from the command line, in a process
of its own, and prints the largest memory that the process ever had, beside the size of the file and
of what reading all of it into memory would take (measured on a part of it). One row in a hundred
thousand is broken, and one in twenty is there twice.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import resource, sys
from tinygrad_mha.models.cli import main
status = main(sys.argv[1:])
kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"PEAK {kb * 1024}")
sys.exit(status)
"""
IN_MEMORY = """
import resource, sys
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.text import tokenize
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = read_dataset(sys.argv[1])
tokens = [tokenize(text, "word") for text in data.texts]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(data))
"""


def write(path: Path, rows: int, broken_every: int, seed: int = 0) -> int:
    """A table of `rows` rows, each of 6 to 18 words; how many of them are broken."""
    rng = random.Random(seed)
    words = [
        f"{a}{b}{c}" for a in "bdgklmnprst" for b in ("a", "ei", "o", "u") for c in range(1200)
    ]
    broken, row = 0, ""
    with open(path, "w", buffering=1 << 20) as file:
        file.write("text,label\n")
        for k in range(rows):
            if k % 20 or not row:
                # the cube makes a few words frequent and most of them rare
                count = rng.randrange(6, 19)
                chosen = [words[int(rng.random() ** 3 * len(words))] for _ in range(count)]
                row = f"{' '.join(chosen)},{'abcd'['bdgk'.find(chosen[0][0])]}\n"
            if broken_every and k % broken_every == broken_every - 1:
                file.write("no label here\n")
                broken += 1
            else:
                file.write(row)
    return broken


def main() -> None:
    """Write, train, tell."""
    p = argparse.ArgumentParser(description=__doc__.split(":")[0])
    p.add_argument("--rows", type=int, default=5_000_000)
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--d-model", type=int, default=32)
    p.add_argument("--folder", default=None, help="where there is room for the file")
    o = p.parse_args()
    with tempfile.TemporaryDirectory(dir=o.folder) as place:
        path = Path(place, "rows.csv")
        broken = write(path, o.rows, 100_000)
        size = path.stat().st_size
        print(f"{o.rows:,} rows, {broken} of them broken: {size / 1e6:,.0f} MB", flush=True)
        part = Path(place, "part.csv")
        write(part, min(o.rows, 200_000), 0)
        said = subprocess.run(
            [sys.executable, "-c", IN_MEMORY, part], capture_output=True, text=True, check=True
        )
        print(f"texts and tokens in memory would take {float(said.stdout) * o.rows / 1e6:,.0f} MB")
        command = [sys.executable, "-c", CHILD, "train", str(path), "--out", f"{place}/model"]
        command += ["--max-steps", str(o.steps), "--d-model", str(o.d_model)]
        command += ["--on-bad-row", "skip", "--workers", "1"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        sys.stderr.write("\n".join(done.stderr.splitlines()[-9:]) + "\n")
        assert done.returncode == 0, done.stderr
        *_, told, peak = done.stdout.splitlines()
        print(told)
        print(
            f"largest memory of the process: {int(peak.split()[1]) / 1e6:,.0f} MB; {seconds:.0f} s"
        )
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"(of any child: {children * 1024 / 1e6:,.0f} MB)")


if __name__ == "__main__":
    main()
