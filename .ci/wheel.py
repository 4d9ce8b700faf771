"""What is shipped: built twice it is the same to the byte, holds the package alone, and runs.

    python .ci/wheel.py [FOLDER]        # leaves wheel and sdist in FOLDER

The two builds begin at different times, in folders of different names and depths, checked out under
different umasks. An sdist of setuptools tells when, by whom and with which rights its files were
made; it is packed again without that (see `plain`). The wheel needs no such help.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
IN_WHEEL = r"tinygrad_mha/|tinygrad_mha-[\d.]+\.dist-info/"
IN_SDIST = (
    r"(tinygrad_mha|models|tinygrad_mha\.egg-info)/|"
    r"(LICENSE|README\.md|CHANGELOG\.md|MANIFEST\.in|PKG-INFO|pyproject\.toml|setup\.cfg)$"
)
NEEDED_IN_SDIST = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.cfg"}
METADATA = (r"^Requires-Python: >=3\.10$", r"^License(-Expression)?: MIT$", r"^License-File: ")
COLOURS = "text,label\n" + "".join(f"{a} {b},{a}\n" for a in ("red", "blue") for b in "abcdefghij")


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """What the command prints; its errors, if it fails, and then we fail too."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def venv(folder: Path, *packages: object) -> Path:
    """The Python of a new environment with these packages."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if packages:
        run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def built(python: Path, tree: Path, epoch: str) -> tuple[Path, Path]:
    """(wheel, sdist) of a checkout; the sdist is packed again."""
    # A wheel holds the rights of the files that it is made of: of those that are checked out, and
    # of those that setuptools makes while it builds.
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = os.umask(0o022)
    try:
        out = tree.parent / "dist"
        options = ["--no-isolation", "--wheel", "--sdist", "--outdir", out]
        run(python, "-m", "build", *options, tree, SOURCE_DATE_EPOCH=epoch)
    finally:
        os.umask(before)
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    plain(sdist, int(epoch))
    return wheel, sdist


def plain(sdist: Path, epoch: int) -> None:
    """Pack it again: in the order of names, all of one time, of nobody, with plain rights."""
    made = io.BytesIO()
    with (
        tarfile.open(sdist) as old,
        gzip.GzipFile("", "wb", fileobj=made, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda m: m.name):
            member.mtime, member.uid, member.gid = epoch, 0, 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(made.getvalue())


def same(a: Path, b: Path) -> None:
    if a.name != b.name or a.read_bytes() != b.read_bytes():
        sys.exit(f"{a.name}: two builds differ; compare {a} and {b}")


def contents(archive: Path) -> dict[str, bytes]:
    """The files of a wheel or an sdist, by name; without the sdist's own folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            return {i.filename: z.read(i) for i in z.infolist() if not i.is_dir()}
    with tarfile.open(archive) as t:
        files = [m for m in t.getmembers() if m.isfile()]
        return {m.name.partition("/")[2]: t.extractfile(m).read() for m in files}  # type: ignore[union-attr]


def strangers(files: dict[str, bytes], allowed: str, places: list[str]) -> list[str]:
    """Names that do not belong there, and files that name a place on this machine."""
    found = [name for name in files if not re.match(allowed, name) or "__pycache__" in name]
    for name, content in files.items():
        found += [f"{name} (names {p})" for p in places if p.encode() in content]
    return found


def check_contents(wheel: Path, sdist: Path, work: Path) -> None:
    """The package, the whole package, and nothing but the package."""
    places = [
        p for p in (str(TREE), str(work), str(Path.home()), socket.gethostname()) if len(p) > 5
    ]
    shipped, sources = contents(wheel), contents(sdist)
    wrong = strangers(shipped, IN_WHEEL, places) + strangers(sources, IN_SDIST, places)
    tracked = run("git", "ls-files", "tinygrad_mha", "models", cwd=TREE).split()
    for name in tracked:
        there = name.replace("models/", "tinygrad_mha/models/", name.startswith("models/"))
        wrong += [f"{name} (is missing)"] if there not in shipped or name not in sources else []
    wrong += [f"{name} (is missing)" for name in NEEDED_IN_SDIST - sources.keys()]
    [metadata] = (text.decode() for name, text in shipped.items() if name.endswith("/METADATA"))
    wrong += [f"METADATA: no {p}" for p in METADATA if not re.search(p, metadata, re.MULTILINE)]
    if wrong:
        sys.exit("in wheel or sdist, but should not be so:\n  " + "\n  ".join(wrong))
    print(f"{wheel.name}: {len(shipped)} files; {sdist.name}: {len(sources)} files")


def check_installed(wheel: Path, folder: Path) -> None:
    """In an empty environment, outside the checkout: every command that a beginner would type."""
    folder.mkdir()
    python = venv(folder / "venv", wheel)
    run(python, "-m", "pip", "check")
    command = python.with_name("tinygrad-mha")
    (folder / "colours.csv").write_text(COLOURS)
    (folder / "texts.txt").write_text("red k\nblue k\n")
    version = run(command, "--version", cwd=folder)
    if version.split()[-1] != wheel.name.split("-")[1]:
        sys.exit(f"{wheel.name} says that it is version {version}")
    run(command, "doctor", cwd=folder)
    fast = ("--epochs", 2, "--d-model", 16, "--heads", 2, "--out", "model")
    run(command, "train", "colours.csv", *fast, cwd=folder)
    answers = run(command, "predict", "model", "texts.txt", cwd=folder).split()
    if len(answers) != 2 or not {*answers} <= {"red", "blue"}:
        sys.exit(f"predict answered {answers}")
    if "museum" not in run(python, "-m", "tinygrad_mha.study", "list", cwd=folder):
        sys.exit("study list shows no museum")


def main(out: Path) -> None:
    if run("git", "status", "--porcelain", "--", "tinygrad_mha", "models", "setup.cfg", cwd=TREE):
        print("what is not committed is not built")
    epoch = run("git", "log", "-1", "--format=%ct", cwd=TREE).strip()
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        python = venv(work / "builder", "build")
        asked = "import build, sys; print(*build.ProjectBuilder(sys.argv[1]).build_system_requires)"
        requires = run(python, "-c", asked, TREE).split()
        run(python, "-m", "pip", "install", "--quiet", *requires)
        results = []
        for place, mask in (("one", 0o022), ("a/second/place", 0o077)):
            before = os.umask(mask)
            (work / place).mkdir(parents=True)
            run("git", "clone", "--quiet", "--no-local", TREE, work / place / "tree")
            os.umask(before)
            results.append(built(python, work / place / "tree", epoch))
            time.sleep(2)  # a zip archive counts in steps of two seconds
        (wheel, sdist), (wheel2, sdist2) = results
        same(wheel, wheel2)
        same(sdist, sdist2)
        with tarfile.open(sdist) as t:
            t.extractall(work / "unpacked")
        [unpacked] = (work / "unpacked").iterdir()
        same(wheel, built(python, unpacked, epoch)[0])
        check_contents(wheel, sdist, work)
        check_installed(wheel, work / "empty")
        out.mkdir(parents=True, exist_ok=True)
        for file in (wheel, sdist):
            shutil.copy(file, out)
    print("built twice, the same to the byte; the sdist builds the same wheel; installed, it runs")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
