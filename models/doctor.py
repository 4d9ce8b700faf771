"""``tinygrad-mha doctor``: does this machine compute the right numbers, where, and how fast?

Whoever buys or borrows a GPU wants to know within a minute whether it works. So the doctor lets
the device and the CPU compute the same things, says how far apart they are, and times both:

1. one kernel and one matrix product, which is all that the flag itself tries (device_check.py);
2. every op of the registry on its own sample, results and gradients, in float32 and float64;
3. ten training steps of the classifier at a size that people train.

On the CPU alone the fused ops are compared with their references.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import backend, device_check
from tinygrad_mha.tensor import value

from .errors import one_line
from .parallel import Workers, cores, shards_for

EPS = {t.__name__: float(np.finfo(t).eps) for t in (np.float32, np.float64)}  # a rounding error
SHOWN = 10  # ops in the table, those that differ most

# How far two right answers may be apart, in units of the dtype's rounding error, relative to the
# largest number in the array (or to 1, if that is smaller). The samples have at most some hundred
# numbers, so sums in another order and functions that are off by a few roundings stay far below
# it; a product in TF32 (11 bits) or a wrong formula lies far above.
ROUNDINGS = 1000

# The same for a training step: its gradients are sums over B · T tokens through T steps of an LSTM,
# and Adam's first steps have full size however small a gradient is.
GRADIENTS_APART, LOSSES_APART = 1e-3, 1e-3


# ------------------------------------------------------------------------------- the whole


def examine(
    choose: Callable[[], str], report: Path | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Everything, told as it goes. A RuntimeError at the end names what is wrong.

    Parameters
    ----------
    choose : callable
        Gives the device to look at, or raises what is wrong with it.
    report : Path, optional
        Where to write what was found, as one JSON object: also if the device does not work.
    as_json : bool
        End with the same object on one line.
    """
    found: dict[str, Any] = {"passed": False, "problems": []}
    try:
        found |= environment()
        found["device"] = choose()
        with default_device("cpu"):  # where each thing is computed is said each time
            look_at(found)
        found["passed"] = not found["problems"]
    except Exception as e:
        found["problems"].append(str(e))
        raise
    finally:
        found = without_paths(found)
        if report is not None:
            report.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
            print(f"the report is in {one_line(str(report))}")
        if as_json:
            print(json.dumps(found))
    if problems := found["problems"]:
        more = f"; and {len(problems) - 5} more, all in --report" if len(problems) > 5 else ""
        raise RuntimeError("; ".join(problems[:5]) + more)
    return found


def look_at(found: dict[str, Any]) -> None:
    """The checks of one device; what is wrong is added to ``found["problems"]``."""
    device, problems = found["device"], found["problems"]
    for name in dict.fromkeys(("cpu", device)):
        if not product_is_right(name):
            problems.append(f"{name}: a matrix product is wrong: install NumPy or CuPy again")
    if device == "cpu":
        found["ops"] = compare_ops(fused_against_reference, "cpu", problems)
        tell_ops(found["ops"], "cpu: {} fused ops against their references")
        print("cuda: not tried; try it with --device cuda")
        return
    found["gpu"] = about = device_check.facts(backend.ready(device), device)
    found["kernels"] = own_kernels(device)
    tell_gpu(device, about, found["kernels"])
    found["ops"] = compare_ops(device_against_cpu, device, problems)
    tell_ops(found["ops"], f"{device}: {{}} ops against the CPU")
    found["training"] = compare_training(device, problems)
    if not problems:
        print(f"{device} works: it computes what the CPU computes")


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Inside, what is not placed anywhere is made on ``device``."""
    before = backend._default_device
    backend._default_device = device
    try:
        yield
    finally:
        backend._default_device = before


# ------------------------------------------------------------------------- the environment


def environment() -> dict[str, Any]:
    """The versions of what is below us; printed and returned."""
    from threadpoolctl import threadpool_info

    found: dict[str, Any] = {
        "tinygrad_mha": tg.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
    }
    print(f"tinygrad_mha {tg.__version__}, Python {found['python']}, {found['system']}")
    for name in ("numpy", "tqdm", "threadpoolctl", "safetensors", "faker"):
        try:
            found[name] = metadata.version(name)
            print(f"{name} {found[name]}")
        except metadata.PackageNotFoundError:
            found[name] = None
            print(f"{name} is not installed")
    found["blas"] = []
    for pool in threadpool_info():
        told = f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
        found["blas"].append(told)
        print(f"BLAS: {told}")
    print(f"cores: {found['cores']}")
    return found


def cpu_name() -> str:
    """The model of the processor, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def own_kernels(device: str) -> list[str]:
    """The ops that a CUDA kernel of this package computes; none if kernels are switched off."""
    from tinygrad_mha.kernels.launch import usable
    from tinygrad_mha.kernels.table import KERNELS

    x = backend.to_device(np.zeros(1, np.float32), device)
    return sorted(KERNELS) if usable(x) else []


def tell_gpu(device: str, about: dict[str, Any], kernels: list[str]) -> None:
    """One line about the GPU, one about its software."""
    print(
        f"{device}: {about['name']}, compute capability {about['compute_capability']}, "
        f"{device_check.amount(about['memory_free_bytes'])} of "
        f"{device_check.amount(about['memory_bytes'])} free"
    )
    own = f"for {len(kernels)} ops" if kernels else "off"
    print(
        f"{device}: driver {about['driver'] or 'unknown'} (CUDA {about['driver_cuda']}), "
        f"{about['cupy_package']} {about['cupy']} (CUDA {about['runtime_cuda']}), "
        f"kernels of our own: {own}"
    )


def product_is_right(device: str) -> bool:
    """Try a matrix product on a device, and tell."""
    a, b = np.random.default_rng(0).standard_normal((2, 64, 64))
    y = tg.matmul(tg.Tensor(a, device=device), tg.Tensor(b, device=device))
    right = np.allclose(y.numpy(), np.einsum("ij,jk->ik", a, b))  # not by BLAS
    print(f"{device}: a matrix product is {'right' if right else 'WRONG'}")
    return right


# ------------------------------------------------------------------------------- the ops

Differences = dict[str, dict[str, float]]  # op -> dtype -> largest difference
Compare = Callable[[tg.Op, str, str], "float | None"]


def compare_ops(compare: Compare, device: str, problems: list[str]) -> Differences:
    """What ``compare(op, dtype, device)`` says of every op of the registry."""
    found: Differences = {}
    for name, op in tg.REGISTRY.items():
        for dtype, eps in EPS.items():
            try:
                apart = compare(op, dtype, device)
            except Exception as e:  # the other ops should be looked at too
                problems.append(f"{device}: {name} fails in {dtype}: {device_check.first_line(e)}")
                continue
            if apart is None:
                continue
            found.setdefault(name, {})[dtype] = apart
            if not apart <= ROUNDINGS * eps:
                problems.append(f"{device}: {name} is wrong in {dtype}, by {apart:.1e}")
    return found


def device_against_cpu(op: tg.Op, dtype: str, device: str) -> float:
    """The largest difference between the op's results and gradients on two devices."""
    args, params = sample_of(op, dtype)
    return largest_difference(
        outcome(op, args, params, device), outcome(op, args, params, "cpu")
    )  # fmt: skip


def fused_against_reference(op: tg.Op, dtype: str, device: str) -> float | None:
    """The same between a fused op and its reference in primitives; None for a primitive."""
    if op.reference is None:
        return None
    args, params = sample_of(op, dtype)
    settled = op.resolve(**params) if op.resolve is not None else params
    return largest_difference(
        outcome(op, args, params, device), outcome(op.reference, args, settled, device)
    )  # fmt: skip


def sample_of(op: tg.Op, dtype: str) -> tuple[list, dict[str, Any]]:
    """The op's own example, in a dtype, with every parameter."""
    args, params = op.sample(np.random.default_rng(0))  # type: ignore[misc]
    return [a.astype(dtype) if is_float(a) else a for a in args], op.defaults | params


def outcome(f: Callable, args: list, params: dict, device: str) -> list[np.ndarray]:
    """The results of a call, and the gradients of what it got, for a random cotangent."""
    xs = [
        tg.Tensor(a, requires_grad=is_float(a), device=device) if backend.is_array(a) else a
        for a in args
    ]
    params = {k: placed(v, device) for k, v in params.items()}
    if "device" in params:  # the op that crosses
        params["device"] = device
    ys = f(*xs, **params)
    ys = ys if isinstance(ys, tuple) else (ys,)
    if astray := {y.device for y in ys} - {device}:
        raise RuntimeError(f"a result is on {', '.join(astray)}")
    rng = np.random.default_rng(1)  # not ones: a softmax that sends nothing back would pass
    roots = [y for y in ys if y.requires_grad]
    found = [y.numpy() for y in ys]
    if roots:
        vs = [rng.standard_normal(y.shape).astype(y.dtype) for y in roots]
        leaves = [x for x in xs if isinstance(x, tg.Tensor) and x.requires_grad]
        total = sum(
            (y * tg.Tensor(v, device=y.device)).sum() for y, v in zip(roots, vs, strict=True)
        )
        ds = tg.grad(total, leaves, allow_unused=True)
        found += [np.zeros(()) if d is None else d.numpy() for d in ds]
    return found


def placed(x: Any, device: str) -> Any:
    """A parameter for a call on ``device``: a mask or an index goes there, also in a tuple."""
    if type(x) is tuple:
        return tuple(placed(part, device) for part in x)
    return backend.to_device(value(x), device) if backend.is_array(value(x)) else x


def is_float(x: Any) -> bool:
    """Whether gradients flow to it."""
    return backend.is_array(x) and x.dtype.kind == "f"


def largest_difference(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """max |got − want| over all arrays, each in units of its largest number or 1.

    >>> largest_difference([np.array([100.0, 1.0])], [np.array([100.0, 2.0])])
    0.01
    >>> largest_difference([np.array([np.nan])], [np.array([1.0])])
    inf
    """
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        same = (a == b) | ((a != a) & (b != b))  # inf and NaN belong to the answer
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
        scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
        largest = float(apart.max(initial=0.0)) / float(scale)
        worst = max(worst, largest if largest == largest else float("inf"))
    return worst


def tell_ops(found: Differences, title: str) -> None:
    """The ops that differ most, and the largest difference of each dtype."""
    ranked = sorted(found, key=lambda n: -max(d / EPS[t] for t, d in found[n].items()))
    print(f"{title.format(len(found))}, results and gradients: largest relative differences")
    print(f"  {'op':36}" + "".join(f"{t:>10}" for t in EPS))
    for name in ranked[:SHOWN]:
        apart = (found[name].get(t, float("nan")) for t in EPS)
        print(f"  {name:36}" + "".join(f"{d:10.1e}" for d in apart))
    if len(ranked) > SHOWN:
        print(f"  … the other {len(ranked) - SHOWN} differ no more")


# ------------------------------------------------------------------------------ training


@dataclass
class Load:
    """What is trained: the classifier of bench/training_step.py in its middle size."""

    vocabulary: int = 10_000
    d_model: int = 128
    batch: int = 32
    tokens: int = 64
    classes: int = 4
    steps: int = 10


LOAD = Load()


@dataclass
class Training:
    """What a few training steps gave, and how long they took."""

    losses: list[float]
    gradients: dict[str, np.ndarray]  # of the first step, by parameter
    first_seconds: float  # of a step before the others: on a GPU it compiles
    tokens_per_second: float  # of the others


def train_steps(device: str, load: Load) -> Training:
    """One step to warm up, and ``load.steps`` that are timed: what ``train`` does, and no more."""
    from .text import BucketedBatches, Vocabulary
    from .text_classifier import TextClassifier
    from .train import Run, Settings
    from .trained import TrainedClassifier

    rng = np.random.default_rng(0)
    rows = load.batch * (load.steps + 1)
    texts = list(rng.integers(2, load.vocabulary, (rows, load.tokens), dtype=np.int32))
    batches = BucketedBatches(texts, rng.integers(0, load.classes, rows), load.batch, seed=0)
    words = Vocabulary([str(k) for k in range(2, load.vocabulary)])
    settings = Settings(
        d_model=load.d_model,
        batch_size=load.batch,
        epochs=1,
        word_dropout=0.0,
        workers=cores() if device == "cpu" else 1,
        device=device,
    )
    tg.manual_seed(0)
    model = TextClassifier(load.vocabulary, load.d_model, load.classes)
    model.to(device)
    labels = [str(k) for k in range(load.classes)]
    run = Run(TrainedClassifier(model, words, labels, {}), settings, batches, None)
    losses: list[Any] = []
    cut = shards_for(load.batch, load.d_model, settings.workers)
    with Workers(settings.workers, [run.loss_of], run.parameters, shards=cut) as workers:
        began = now(device)
        for ids, lengths, targets, _ in cast(Any, batches.epoch(0)):
            losses.append(run.train_step(ids, lengths, targets, workers)[0])
            if len(losses) == 1:
                first = now(device) - began
                gradients = {n: value(p.grad) for n, p in model.named_parameters()}
                gradients = {n: np.array(backend.to_host(d)) for n, d in gradients.items()}
                began = now(device)
        seconds = now(device) - began
    tokens = load.batch * load.tokens * load.steps
    return Training([float(x) for x in losses], gradients, first, tokens / seconds)


def now(device: str) -> float:
    """The time when the device has done all that it was asked for."""
    backend.synchronize(device)
    return time.perf_counter()


def compare_training(device: str, problems: list[str]) -> dict[str, Any]:
    """Train on the CPU and on the device; tell how fast, and how far apart they are."""
    load = LOAD
    print(
        f"{load.steps} training steps (vocabulary {load.vocabulary:,}, d {load.d_model}, batch "
        f"{load.batch}, {load.tokens} tokens; the step before them compiles)"
    )
    print(f"  {'':10}{'first step':>12}{'tokens/s':>12}{'first loss':>12}{'last loss':>12}")
    found: dict[str, Any] = {}
    done = []
    for name in ("cpu", device):
        t = train_steps(name, load)
        done.append(t)
        found[name] = {
            "first_step_seconds": round(t.first_seconds, 4),
            "tokens_per_second": round(t.tokens_per_second),
            "losses": t.losses,
        }
        print(
            f"  {name:10}{t.first_seconds:10.2f} s{t.tokens_per_second:12,.0f}"
            f"{t.losses[0]:12.5f}{t.losses[-1]:12.5f}"
        )
    here, there = done
    ratio = there.tokens_per_second / here.tokens_per_second
    print(f"  {device} is {ratio:.1f} times as fast as {cores()} cores of the CPU")
    parameter, apart = gradients_apart(there.gradients, here.gradients)
    losses = largest_difference([np.array(there.losses)], [np.array(here.losses)])
    found |= {"largest_gradient_difference": apart, "largest_loss_difference": losses}
    print(f"  largest difference: of a gradient {apart:.1e} ({parameter}), of a loss {losses:.1e}")
    tf32 = "; CUPY_TF32 is set: unset CUPY_TF32" if os.environ.get("CUPY_TF32") else ""
    if not apart <= GRADIENTS_APART:
        problems.append(f"{device}: the gradient of {parameter} is wrong, by {apart:.1e}{tf32}")
    if not losses <= LOSSES_APART:
        problems.append(f"{device}: the losses of training are wrong, by {losses:.1e}{tf32}")
    return found


def gradients_apart(
    got: dict[str, np.ndarray], want: dict[str, np.ndarray]
) -> tuple[str, float]:  # fmt: skip
    """The parameter whose gradients differ most, and by how much of its largest gradient.

    Some gradients are zero but for rounding (attention does not see the keys' bias): no parameter
    is measured by less than a thousandth of the largest gradient of all.
    """
    largest = max(float(np.abs(d).max()) for d in want.values())
    apart = {}
    for name, d in want.items():
        scale = max(float(np.abs(d).max()), 1e-3 * largest)
        apart[name] = float(np.abs(got[name] - d).max()) / scale
    return max(apart.items(), key=lambda item: (item[1] != item[1], item[1]))


# ------------------------------------------------------------------------------ the report


def without_paths(found: Any) -> Any:
    """The same, with only the last part of every path: a report is shown to others.

    >>> without_paths({"problems": ["/home/ada/env/lib/libcublas.so.12: not found"]})
    {'problems': ['libcublas.so.12: not found']}
    """
    if isinstance(found, dict):
        return {k: without_paths(v) for k, v in found.items()}
    if isinstance(found, list):
        return [without_paths(v) for v in found]
    if isinstance(found, str):
        return re.sub(r"(?<![\w.])([A-Za-z]:)?([/\\][^/\\\n'\":;,]+)*[/\\](?=[^/\\\s])", "", found)
    return found
