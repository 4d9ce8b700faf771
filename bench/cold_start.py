"""How long a process takes that does next to nothing: to import, and to label one line.

    python bench/cold_start.py          # pip install torch for the second table; two minutes

Import: `import tinygrad_mha` less `import numpy`, whole processes, alternating; once with all
bytecode in its caches and once with ours still to be compiled, as on the first start after an
installation. The modules it brings beyond NumPy's are listed.

Predict: `tinygrad-mha predict` on one line, from the start of the process to its end, beside a
PyTorch script that loads the same weights, cuts the line into words and prints the label. 10,000
words, d_model 128, both directions; a ratio above 1 means that we are faster. Both have to print
the same label.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from side_by_side import Ratio, contestant, finish, ratio, spread, table

import tinygrad_mha as tg
from tinygrad_mha.models import TrainedClassifier
from tinygrad_mha.models.text import Vocabulary
from tinygrad_mha.models.trained import build_model

SHAPE = {
    "d_model": 128,
    "h": 8,
    "num_layers": 1,
    "bidirectional": True,
    "dropout": 0.2,
    "pooling": "mean",
}
WORDS, LABELS = 9_998, [f"class {k}" for k in range(10)]
LINE = "word17 word4 word901 , word3 word3 word77 unheard word5 word2026 !\n"
NEW_MODULES = """
import sys, numpy
before = set(sys.modules)
import tinygrad_mha
print(*sorted(set(sys.modules) - before))
"""


def import_times(rounds: int, caches: Path, forget: bool) -> tuple[float, float, Ratio]:
    """Medians of NumPy's and our import in ms, and the spread of the difference.

    The bytecode goes to a folder of its own, where ``forget`` can remove ours.
    """
    env = {"PYTHONPYCACHEPREFIX": str(caches)}
    ours = caches.joinpath(*Path(tg.__file__).parts[1:-2])
    times: dict[str, list[float]] = {"numpy": [], "tinygrad_mha": []}
    for name in times:
        finish([sys.executable, "-c", f"import {name}"], env=env)
    for k in range(rounds):
        for name in list(times)[:: -1 if k % 2 else 1]:
            if forget:
                for folder in ("tinygrad_mha", "models"):
                    shutil.rmtree(ours / folder, ignore_errors=True)
            seconds, _ = finish([sys.executable, "-c", f"import {name}"], env=env)
            times[name].append(seconds * 1e3)
    numpy, mine = times.values()
    differences = spread([b - a for a, b in zip(numpy, mine, strict=True)])
    return statistics.median(numpy), statistics.median(mine), differences


def save_models(ours: Path, theirs: Path) -> None:
    """The same random weights for both."""
    import torch

    tg.manual_seed(0)
    vocabulary = Vocabulary([f"word{k}" for k in range(WORDS - 2)] + [",", "!"])
    config = {**SHAPE, "level": "word", "max_len": 256, "training": {}}
    model = build_model(config, len(vocabulary), len(LABELS))
    TrainedClassifier(model, vocabulary, LABELS, config).save(ours)
    theirs.mkdir()
    weights = {k: torch.from_numpy(np.array(v)) for k, v in model.state_dict().items()}
    torch.save(weights, theirs / "model.pt")
    (theirs / "vocab.json").write_text(json.dumps(vocabulary.tokens))
    (theirs / "config.json").write_text(json.dumps({"labels": LABELS, "shape": SHAPE}))


def predict_times(rounds: int, folder: Path) -> list[dict[str, float]]:
    """Seconds of whole processes; the first round, which fills the caches, is not counted."""
    save_models(folder / "ours", folder / "theirs")
    commands = {
        "ours": [sys.executable, "-m", "tinygrad_mha", "predict", str(folder / "ours")],
        "torch": [*contestant("pytorch_predict.py"), str(folder / "theirs")],
    }
    said = []
    for k in range(rounds + 1):
        names = list(commands)[:: -1 if k % 2 else 1]
        done = {name: finish(commands[name], input=LINE) for name in names}
        answers = {answer.strip() for _, answer in done.values()}
        if len(answers) != 1:
            raise SystemExit(f"the answers differ: {answers}")
        said.append({name: seconds for name, (seconds, _) in done.items()})
    return said[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", metavar="PATH", help="draw the ratio of predict as SVG")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for forget, name in ((False, "bytecode cached"), (True, "ours not yet compiled")):
            numpy, mine, more = import_times(options.rounds, Path(folder), forget)
            rows.append([name, f"{numpy:.0f}", f"{mine:.0f}", more])
    print(table(["import", "numpy, ms", "tinygrad_mha, ms", "difference, ms"], rows))
    _, printed = finish([sys.executable, "-c", NEW_MODULES])
    names = [name for name in printed.split() if not name.startswith("tinygrad_mha")]
    print(f"\n{len(names)} modules beyond NumPy's and its own: {', '.join(names) or 'none'}\n")
    with tempfile.TemporaryDirectory() as folder:
        said = predict_times(options.rounds, Path(folder))
    slower = ratio(said, lambda r: r["torch"], lambda r: r["ours"])
    times = [f"{statistics.median(r[n] for r in said) * 1e3:.0f}" for n in ("ours", "torch")]
    print(table(["predict one line", "ours, ms", "torch, ms", "torch / ours"],
                [["whole process", *times, slower]]))  # fmt: skip
    if options.picture:
        from chart import bars

        bars(options.picture, "predict: torch ÷ ours", ["one line"], {"torch / ours": [slower]})


if __name__ == "__main__":
    main()
