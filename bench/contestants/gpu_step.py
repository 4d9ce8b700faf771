"""A training step on a GPU: ``python bench/contestants/gpu_step.py ours|torch STEPS``.

Prints the time of a step of each size as JSON: of many steps in a row, none of which waits for the
GPU, and of steps that read the loss. PyTorch is the fastest of its variants: attention fused or by
softmax, Adam fused or not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from work import CLASSES, DROPOUT, HEADS, RATE, SIZES, Size, batches


def ours(size: Size) -> tuple[dict[str, Callable], Callable]:
    """Steps by the name of the variant, and what waits for the GPU."""
    import cupy

    import tinygrad_mha as tg
    from tinygrad_mha.models import TextClassifier
    from tinygrad_mha.random import mask_stream

    tg.manual_seed(0)
    model = TextClassifier(size.vocabulary, size.d_model, CLASSES, h=HEADS, dropout=DROPOUT)
    model.to("cuda")
    adam = tg.optim.Adam(model.parameters(), lr=RATE)
    count = 0

    def step(ids: np.ndarray, targets: np.ndarray) -> Any:
        nonlocal count
        count += 1
        with mask_stream(0, count):
            loss = tg.cross_entropy(model(ids), targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss

    return {"": step}, cupy.cuda.Device().synchronize


def pytorch(size: Size) -> tuple[dict[str, Callable], Callable]:
    import torch
    from pytorch import Classifier
    from torch.nn import functional as F

    def variant(how: str, fused: bool) -> Callable:
        torch.manual_seed(0)
        model = Classifier(size.vocabulary, size.d_model, how).cuda()
        adam = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)

        def step(ids: np.ndarray, targets: np.ndarray) -> Any:
            adam.zero_grad()
            logits = model(torch.from_numpy(ids).cuda())
            loss = F.cross_entropy(logits, torch.from_numpy(targets).cuda())
            loss.backward()
            adam.step()
            return loss

        return step

    steps = {
        f"{how}, {'fused' if fused else 'plain'} Adam": variant(how, fused)
        for how in ("sdpa", "softmax")
        for fused in (True, False)
    }
    return steps, torch.cuda.synchronize


def timed(step: Callable, wait: Callable, rows: list, count: int) -> dict[str, Any]:
    for k in range(5):
        step(*rows[k % len(rows)])
    wait()
    start = time.perf_counter()
    for k in range(count):
        loss = step(*rows[k % len(rows)])
    host = time.perf_counter() - start
    wait()
    ms = (time.perf_counter() - start) / count * 1e3
    start = time.perf_counter()
    for k in range(count):
        loss = step(*rows[k % len(rows)]).item()
    reading = (time.perf_counter() - start) / count * 1e3
    return {"ms": ms, "host_ms": host / count * 1e3, "reading_ms": reading, "loss": loss}


def main(who: str, count: str) -> None:
    answer = {}
    for name, size in SIZES.items():
        steps, wait = {"ours": ours, "torch": pytorch}[who](size)
        rows = batches(size, 4)
        found = {variant: timed(s, wait, rows, int(count)) for variant, s in steps.items()}
        best = min(found, key=lambda variant: found[variant]["ms"])
        answer[name] = found[best] | {"variant": best}
    print(json.dumps(answer))


main(*sys.argv[1:])
