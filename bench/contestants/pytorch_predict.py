"""``predict`` in PyTorch: ``echo text | python bench/contestants/pytorch_predict.py FOLDER``.

FOLDER holds ``model.pt``, ``vocab.json`` and ``config.json``. Words are cut by a plain regular
expression, which does less than ours does.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from pytorch_classifier import TextClassifier


def main(folder: str) -> None:
    place = Path(folder)
    config = json.loads((place / "config.json").read_text())
    number = {token: i for i, token in enumerate(json.loads((place / "vocab.json").read_text()))}
    model = TextClassifier(len(number), len(config["labels"]), **config["shape"]).eval()
    model.load_state_dict(torch.load(place / "model.pt", weights_only=True))
    for line in sys.stdin:
        tokens = re.findall(r"\w+|[^\w\s]", line.casefold())
        ids = torch.tensor([[number.get(token, 1) for token in tokens] or [0]])
        with torch.inference_mode():
            logits = model(ids, torch.tensor([len(tokens)]))
        print(config["labels"][int(logits.argmax())])


main(*sys.argv[1:])
