"""What a training step of the classifier costs a GPU: launches, products, copies, waits, memory.

Counted, not timed, by the emulator of a GPU that the real CuPy runs on; skipped without it.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.run import READ_EVERY, Run
from tinygrad_mha.models.settings import Settings
from tinygrad_mha.models.text import BucketedBatches, Vocabulary
from tinygrad_mha.models.trained import TrainedClassifier, build_model

emu = pytest.importorskip("emu_counters", reason="nobody counts launches here")
if not emu.available():
    pytest.skip("nobody counts launches on a real GPU", allow_module_level=True)

BUDGET = 80  # launches and products of one step
WORDS, WIDTH, BATCH, STEPS = 10_000, 128, 32, 64
# the kernels that a step cannot do without, and how often each is launched
EXPECTED = {
    "embedding": 1,
    "embedding_back": 1,
    "lstm_forward": 1,
    "lstm_backward": 1,
    "attention": 1,
    "attention_dq": 1,
    "attention_dkv": 1,
    "row_norm": 1,
    "row_norm_back": 1,
    "cross_entropy": 1,
    "cross_entropy_back": 1,
    "dropout": 6,  # after the embedding, after the heads' projection and before the last layer
    "add_bias": 5,  # three projections to the heads, one back, the last layer
    "column_sum": 7,  # the gradients of those, of the LSTM's bias, and of the norm
    "grad_norm": 1,
    "scale": 1,
    "adam": 1,
}


def batches(pads, count=3):
    rng = np.random.default_rng(0)
    steps = 16 if pads else STEPS  # the emulator is slow, and the counts are the same
    for _ in range(count):
        ids = rng.integers(2, WORDS, (BATCH, steps))
        lengths = rng.integers(1, steps + 1, BATCH) if pads else np.full(BATCH, steps)
        lengths[0] = steps
        ids[np.arange(steps) >= lengths[:, None]] = 0
        yield ids, lengths, rng.integers(0, 10, BATCH)


@pytest.fixture(scope="module", params=["full", "padded"])
def counted(request):
    """Three steps of ``tinygrad-mha train``, counted. The first one compiles kernels."""
    settings = Settings(
        d_model=WIDTH, bidirectional=False, dropout=0.1, epochs=1, batch_size=BATCH, device="cuda"
    )
    config = {k: getattr(settings, k) for k in ("d_model", "h", "num_layers", "bidirectional")}
    tg.manual_seed(0)
    model = build_model({**config, "dropout": 0.1, "pooling": "mean"}, WORDS, 10).to("cuda")
    vocabulary = Vocabulary(list(map(str, range(WORDS - 2))))
    trained = TrainedClassifier(model, vocabulary, list("abcdefghij"), {})
    shape = BucketedBatches([np.ones(STEPS, np.int32)] * BATCH, np.zeros(BATCH, int), BATCH, seed=0)
    run = Run(trained, settings, shape, None)
    costs, losses = [], []
    with Workers(1, parameters=run.parameters) as workers:
        for ids, lengths, targets in batches(request.param == "padded"):
            with emu.count() as c:
                losses.append(run.train_step(ids, lengths, targets, workers)[0])
            costs.append(c)
    assert np.isfinite([x.item() for x in losses]).all()
    return request.param, costs


def test_launches_and_products(counted):
    _, costs = counted
    assert costs[1].launches == costs[2].launches <= BUDGET, "\n".join(costs[2].trace)


def test_nobody_waits_and_nothing_comes_back(counted):
    _, costs = counted
    for c in costs[1:]:
        assert (c.d2h, c.syncs) == (0, 0)
        assert c.h2d <= 3, "\n".join(c.trace)


def test_every_kernel_is_launched(counted):
    """So that a fault in any of them is a fault of the model."""
    kind, costs = counted
    names = Counter(k.name for k in costs[2].launched)
    expected = EXPECTED | ({"without_pads": 1} if kind == "padded" else {})
    assert {name: names[name] for name in expected} == expected
    ours = sum(expected.values())
    assert sum(names.values()) - ours <= 14, names  # CuPy's own: sums where paths meet, copies


def test_products_are_in_full_float32(counted):
    """Not in TF32, which has ten bits: CUPY_TF32=1 is for the user to set."""
    _, costs = counted
    assert {b.compute for b in costs[2].blas_calls} == {68}  # CUBLAS_COMPUTE_32F


def test_tf32_by_an_environment_variable():
    code = """
import emu_counters, numpy as np, tinygrad_mha as tg
x = tg.Tensor(np.ones((4, 4), np.float32), device="cuda")
with emu_counters.count() as c:
    tg.linear(x, x)
print([b.compute for b in c.blas_calls])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CUPY_TF32": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[77]"  # CUBLAS_COMPUTE_32F_FAST_TF32


def test_memory_does_not_grow(counted):
    """After the second step CuPy's pool answers every request: none reaches the driver."""
    _, costs = counted
    assert costs[2].mallocs == 0


def test_the_numbers_in_the_readme(counted):
    kind, costs = counted
    c = costs[2]
    print(f"{kind}: {c.kernels} launches, {c.blas} products, {c.h2d} copies to the device")
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    if kind == "full":
        assert f"{c.kernels} launches and {c.blas} matrix products" in readme
        assert f"the loss is read every {READ_EVERY} steps" in readme
    times = {2: "copies twice", 3: "three times if there are"}[c.h2d]
    assert times in readme
