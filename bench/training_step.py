"""A training step of the text classifier (or a forward pass) beside PyTorch's.

    python bench/training_step.py                 # needs torch; about six minutes
    python bench/training_step.py --what infer
    python bench/training_step.py --others --sizes small middle
                                # pip install autograd mygrad jax: those three as well
    python bench/training_step.py --picture bench/pictures/training_step.svg

Same model, sizes, batches, dtype, threads and optimizer (see work.py). PyTorch runs eagerly, once
with its scaled_dot_product_attention and once with softmax written out; HIPS autograd and MyGrad
run once with all threads and once with one, which is often faster. Each round counts the faster
way of each. A ratio above 1 means that we are faster, or take less memory.
"""

from __future__ import annotations

import argparse
import statistics

from side_by_side import ratio, rounds, table
from work import SIZES

OTHERS = {"autograd": "hips_autograd.py", "MyGrad": "mygrad_lib.py", "JAX": "jax_jit.py"}
BLAS_ONLY = ("autograd", "MyGrad")


def contestants(size: str, what: str, threads: int, others: list[str]) -> dict[str, list[str]]:
    """How each is started; what stands after a comma is another way to run the same library."""
    given = [size, what, str(threads)]
    chosen = {
        "ours": ["ours.py", *given],
        "torch": ["pytorch.py", *given, "sdpa"],
        "torch, softmax": ["pytorch.py", *given, "softmax"],
    }
    for name in others:
        chosen[name] = [OTHERS[name], *given]
        if name in BLAS_ONLY and threads > 1:
            chosen[f"{name}, 1 thread"] = [OTHERS[name], size, what, "1"]
    return chosen


def best(said: dict[str, dict], library: str, what: str) -> float:
    """The lowest figure of a library in one round."""
    return min(figures[what] for name, figures in said.items() if name.split(",")[0] == library)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--what", choices=("train", "infer"), default="train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", nargs="*", choices=list(OTHERS))
    parser.add_argument("--picture", metavar="PATH", help="draw the ratios as SVG")
    options = parser.parse_args()
    others = list(OTHERS) if options.others == [] else options.others or []
    libraries = ["torch", *others]
    times, memory, drawn = [], [], {f"{name} / ours": [] for name in libraries}
    for size in options.sizes:
        chosen = contestants(size, options.what, options.threads, others)
        said = rounds(chosen, options.rounds, options.threads)

        def middle(what: str, digits: int, chosen=chosen, said=said) -> list[str]:
            return [f"{statistics.median(r[n][what] for r in said):.{digits}f}" for n in chosen]

        for name in libraries:
            slower = ratio(said, lambda r, n=name: best(r, n, "ms"), lambda r: r["ours"]["ms"])
            drawn[f"{name} / ours"].append(slower)
        times.append([SIZES[size], *middle("ms", 1), *(d[-1] for d in drawn.values())])
        less = ratio(said, lambda r: best(r, "torch", "peak_mb"), lambda r: r["ours"]["peak_mb"])
        memory.append([SIZES[size], *middle("peak_mb", 0), less])
    title = "V, d, batch, T"
    print(table([title, *(f"{n}, ms" for n in chosen), *drawn], times))
    print()
    print(table([title, *(f"{n}, MB" for n in chosen), "torch / ours"], memory))
    if options.picture:
        from chart import bars

        what = {"train": "Training step", "infer": "Forward pass"}[options.what]
        whose = "time" if len(drawn) > 1 else "PyTorch's time"
        bars(options.picture, f"{what}: {whose} ÷ ours", list(map(str, options.sizes)), drawn)


if __name__ == "__main__":
    main()
