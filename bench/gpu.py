"""What a GPU makes of it: the training step beside PyTorch's, and each kernel beside the ceilings.

    python bench/gpu.py                    # on a machine with a GPU; a minute or two
    python bench/gpu.py --rounds 0         # without PyTorch

A ratio above 1 means that we are faster. The ceilings are measured: a large copy inside the device
memory, a large matrix product in float32. A kernel is run many times in a row behind a long one,
so that it is its own time that counts and not the launch. Its bytes are those of its arguments,
each once: what it reads again comes from a cache, and small tables are there from the start, so
that more than 100 % is possible.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

from side_by_side import rounds, spread, table
from work import CLASSES, DROPOUT, HEADS, RATE, SIZES, Size, batches


def device_ms(
    f: Callable[[], Any], busy: Callable[[], Any] | None = None, count: int = 30
) -> float:
    """The device's time for f: the host has queued all calls before the first one begins."""
    import cupy

    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    f()
    times = []
    for _ in range(5):
        if busy is not None:
            busy()
        first.record()
        for _ in range(count):
            f()
        last.record()
        last.synchronize()
        times.append(cupy.cuda.get_elapsed_time(first, last) / count)
    return statistics.median(times)


def ceilings() -> tuple[float, float, Callable[[], Any]]:
    """GB/s of a copy, TFLOP/s of a product in float32, and a product that takes a while."""
    import cupy

    big = cupy.ones(1 << 27, "f4")
    other = cupy.empty_like(big)
    rate = 2 * big.nbytes / device_ms(lambda: cupy.copyto(other, big), count=5) / 1e6
    n = 8192
    a = cupy.asarray(cupy.random.rand(n, n), dtype="f4")
    b = cupy.empty_like(a)

    def product() -> None:
        cupy.dot(a, a, out=b)

    return rate, 2 * n**3 / device_ms(product, count=2) / 1e9, product


def launches(size: Size) -> list[tuple[str, tuple, dict]]:
    """Every launch of one training step, as it was called."""
    import tinygrad_mha as tg
    import tinygrad_mha.kernels.optim
    import tinygrad_mha.kernels.table
    from tinygrad_mha.kernels import launch as launching
    from tinygrad_mha.models import TextClassifier

    tg.manual_seed(0)
    model = TextClassifier(size.vocabulary, size.d_model, CLASSES, h=HEADS, dropout=DROPOUT)
    model.to("cuda")
    adam = tg.optim.Adam(model.parameters(), lr=RATE)
    seen: list[tuple[str, tuple, dict]] = []
    users = [m for n, m in sys.modules.items() if n.startswith("tinygrad_mha.kernels.")]
    users = [m for m in users if getattr(m, "launch", None) is launching.launch and m != launching]
    original = launching.launch

    def recorded(file: str, name: str, *args: Any, **options: Any) -> None:
        seen.append((name, (file, name, *args), options))
        original(file, name, *args, **options)

    [(ids, targets)] = batches(size, 1)
    for turn in range(2):
        for m in users:
            m.launch = recorded if turn else original
        loss = tg.cross_entropy(model(ids), targets)
        adam.zero_grad()
        loss.backward()
        tg.optim.clip_grad_norm(adam.params, 1.0)
        adam.step()
    for m in users:
        m.launch = original
    return seen


def work_of(name: str, args: tuple, size: Size) -> tuple[float, float]:
    """Bytes and floating-point operations of one launch."""
    tokens, d = size.batch * size.tokens, size.d_model
    # the parameters: embedding, LSTM, four projections, norm, last layer
    numbers = size.vocabulary * d + 8 * d * d + 8 * d + 4 * (d * d + d) + 2 * d + CLASSES * (d + 1)
    moved = {"adam": 7, "grad_norm": 1, "scale": 2}  # times that a number is read or written
    if name in moved:
        return 4.0 * numbers * moved[name], 0.0
    if name in ("embedding", "embedding_back"):  # not the whole table
        return 4.0 * tokens * (2 * d + 2), 0.0
    size_of = sum(a.nbytes for a in args if hasattr(a, "nbytes") and hasattr(a, "data"))
    pairs = size.batch * size.tokens**2 * d
    flops = {
        "lstm_forward": 2 * tokens * 4 * d * d,
        "lstm_backward": 2 * tokens * 4 * d * d,
        "attention": 4 * pairs,
        "attention_dq": 6 * pairs,
        "attention_dkv": 8 * pairs,
    }
    return float(size_of), float(flops.get(name, 0))


def kernels(size: Size, rate: float, tflops: float, busy: Callable) -> list[list[Any]]:
    """A row for each kernel: how often, its time, what it moves and computes."""
    from tinygrad_mha.kernels import launch as launching

    by_name: dict[str, list[tuple[float, float, float]]] = {}
    for name, args, options in launches(size):
        ms = device_ms(lambda a=args, o=options: launching.launch(*a, **o), busy)  # type: ignore[misc]
        by_name.setdefault(name, []).append((ms, *work_of(name, args[3:], size)))
    rows = []
    for name, all_of_it in by_name.items():
        ms, moved, flops = (sum(column) for column in zip(*all_of_it, strict=True))
        gb, tf = moved / ms / 1e6, flops / ms / 1e9
        rows.append(
            [name, len(all_of_it), f"{ms * 1e3:.1f}", f"{gb:,.0f} ({gb / rate:.0%})"]
            + [f"{tf:.2f} ({tf / tflops:.0%})" if flops else ""]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="beside PyTorch; 0: not at all")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--sizes", nargs="+", default=["middle", "large"], choices=list(SIZES))
    options = parser.parse_args()

    import cupy

    import tinygrad_mha as tg

    tg.set_default_device("cuda")  # explains what is missing, if anything is
    tg.set_default_device("cpu")
    about = cupy.cuda.runtime.getDeviceProperties(0)
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    print(
        f"{about['name'].decode()}, driver {driver}, runtime {runtime}, CuPy {cupy.__version__}\n"
    )

    who = ["ours", "torch"] if options.rounds else ["ours"]
    commands = {name: ["gpu_step.py", name, str(options.steps)] for name in who}
    said = rounds(commands, max(options.rounds, 1))
    rows = []
    for name, size in SIZES.items():
        row = [str(size)]
        for key in ("ms", "reading_ms"):
            row.append(f"{statistics.median(r['ours'][name][key] for r in said):.2f}")
        if options.rounds:
            row.append(f"{statistics.median(r['torch'][name]['ms'] for r in said):.2f}")
            row.append(said[0]["torch"][name]["variant"])
            row.append(str(spread([r["torch"][name]["ms"] / r["ours"][name]["ms"] for r in said])))
        rows.append(row)
    heads = ["vocabulary, d, batch, tokens", "ours, ms", "reading the loss, ms"]
    print(table([*heads, "torch, ms", "how", "torch / ours"][: len(rows[0])], rows))

    rate, tflops, busy = ceilings()
    print(f"\nceilings: {rate:,.0f} GB/s, {tflops:.1f} TFLOP/s in float32")
    for name in options.sizes:
        print(f"\nkernels of a step at {SIZES[name]}:\n")
        rows = kernels(SIZES[name], rate, tflops, busy)
        print(table(["kernel", "launches", "µs", "GB/s", "TFLOP/s"], rows))


if __name__ == "__main__":
    main()
