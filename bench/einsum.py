"""Our einsum beside np.einsum(optimize=True), and beside the same thing composed by hand.

    python bench/einsum.py
    python bench/einsum.py --random 5000     # expressions and sizes drawn by lot

Each line is measured in pairs, ours and the other in turn, in one process, with BLAS on one thread,
in processor time; the ratio is the median of the pairs, with the lowest and the highest. Below 1:
we are faster. A call costs about 8 µs whatever the size, NumPy's about 20.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

import tinygrad_mha as tg

EXPRESSIONS: list[tuple[str, str, tuple]] = [
    ("matrix product", "ij,jk->ik", ((300, 300), (300, 300))),
    ("matrix product, tiny", "ij,jk->ik", ((4, 4), (4, 4))),
    ("transposed", "ji,kj->ik", ((300, 300), (300, 300))),
    ("result transposed", "ij,jk->ki", ((300, 300), (300, 300))),
    ("matrix times vector", "ij,j->i", ((1000, 1000), (1000,))),
    ("batched product", "bij,bjk->bik", ((64, 50, 50), (64, 50, 50))),
    ("batch on the last axis", "ijb,jkb->ikb", ((50, 50, 64), (50, 50, 64))),
    ("one weight for a batch", "bti,ij->btj", ((32, 50, 64), (64, 64))),
    ("attention, scores", "bhqd,bhkd->bhqk", ((8, 8, 64, 32), (8, 8, 64, 32))),
    ("attention, heads inside", "bqhd,bkhd->bhqk", ((8, 64, 8, 32), (8, 64, 8, 32))),
    ("attention, values", "bhqk,bkhd->bqhd", ((8, 8, 64, 64), (8, 64, 8, 32))),
    ("attention, tiny", "bhqd,bhkd->bhqk", ((2, 2, 5, 4), (2, 2, 5, 4))),
    ("heads to one", "bhtd,hdo->bto", ((8, 8, 64, 32), (8, 32, 256))),
    ("outer product", "i,j->ij", ((1000,), (1000,))),
    ("outer product, tiny", "i,j->ij", ((4,), (4,))),
    ("batched outer product", "bi,bj->bij", ((256, 64), (256, 64))),
    ("trace", "ii->", ((1000, 1000),)),
    ("trace, tiny", "ii->", ((4, 4),)),
    ("diagonal", "ii->i", ((1000, 1000),)),
    ("row sums", "ij->i", ((1000, 1000),)),
    ("row sums, tiny", "ij->i", ((4, 4),)),
    ("column sums", "ij->j", ((1000, 1000),)),
    ("transpose", "ij->ji", ((1000, 1000),)),
    ("dot product", "i,i->", ((1000,), (1000,))),
    ("products of rows, short", "bi,bi->b", ((10000, 8), (10000, 8))),
    ("products of rows, long", "bi,bi->b", ((1000, 1000), (1000, 1000))),
    ("products of columns", "ib,ib->b", ((1000, 1000), (1000, 1000))),
    ("products of rows and columns", "bi,ib->b", ((1000, 1000), (1000, 1000))),
    ("labels that are only summed", "bij,bik->b", ((100, 60, 200), (100, 60, 200))),
    ("sum over one", "ij,jk->ik", ((1000, 1), (1, 1000))),
    ("elementwise", "ij,ij->ij", ((500, 500), (500, 500))),
    ("elementwise, transposed", "ij,ji->ij", ((500, 500), (500, 500))),
    ("full contraction", "ijk,ijk->", ((100, 100, 50), (100, 100, 50))),
    ("full, transposed", "ij,ji->", ((500, 500), (500, 500))),
    ("ellipsis", "...ij,jk->...ik", ((8, 16, 32, 32), (32, 32))),
    ("ellipsis that broadcasts", "...ij,...jk->...ik", ((8, 1, 32, 32), (16, 32, 32))),
    ("bilinear", "bi,ij,bj->b", ((64, 100), (100, 100), (64, 100))),
    ("bilinear, tiny", "bi,ij,bj->b", ((4, 3), (3, 3), (4, 3))),
    ("chain of three", "ij,jk,kl->il", ((200, 200), (200, 200), (200, 10))),
    ("chain of four", "ij,jk,kl,lm->im", ((10, 300), (300, 20), (20, 300), (300, 10))),
    ("chain of four, tiny", "ij,jk,kl,lm->im", ((3, 3),) * 4),
    ("three vectors of a batch", "bi,bi,bi->b", ((1000, 64),) * 3),
]

# By hand: the ops that one would write instead.
BY_HAND: list[tuple[str, str, tuple, Callable]] = [
    ("matrix product", "ij,jk->ik", ((300, 300), (300, 300)), lambda a, b: a @ b),
    ("one weight for a batch", "bti,ij->btj", ((32, 50, 64), (64, 64)), lambda a, b: a @ b),
    (
        *("attention, scores", "bhqd,bhkd->bhqk", ((8, 8, 64, 32), (8, 8, 64, 32))),
        lambda q, k: q @ k.mT,
    ),
    (
        *("attention, heads inside", "bqhd,bkhd->bhqk", ((8, 64, 8, 32), (8, 64, 8, 32))),
        lambda q, k: q.swapaxes(1, 2) @ k.transpose(0, 2, 3, 1),
    ),
    (
        *("heads to one", "bhtd,hdo->bto", ((8, 8, 64, 32), (8, 32, 256))),
        lambda x, w: x.swapaxes(1, 2).reshape(8, 64, 256) @ w.reshape(256, 256),
    ),
    ("row sums", "ij->i", ((1000, 1000),), lambda x: x.sum(axis=1)),
    (
        *("products of rows", "bi,bi->b", ((1000, 100), (1000, 100))),
        lambda a, b: (a * b).sum(axis=1),
    ),
    (
        *("bilinear", "bi,ij,bj->b", ((64, 100), (100, 100), (64, 100))),
        lambda x, w, y: ((x @ w) * y).sum(axis=1),
    ),
    (
        *("chain of three", "ij,jk,kl->il", ((200, 200), (200, 200), (200, 10))),
        lambda a, b, c: a @ (b @ c),
    ),
    (
        *("chain of four", "ij,jk,kl,lm->im", ((10, 300), (300, 20), (20, 300), (300, 10))),
        lambda a, b, c, d: (a @ b) @ (c @ d),
    ),
]


def seconds(f: Callable, times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        f()
    return (time.process_time() - start) / times


def in_pairs(ours: Callable, other: Callable, pairs: int, enough: float = 0.01) -> tuple:
    """The median time of each, and median, lowest and highest of the ratio."""
    seconds(ours, 2)  # plans are made, caches filled
    times = max(1, math.ceil(enough / seconds(other, 2)))
    both = [(seconds(ours, times), seconds(other, times)) for _ in range(pairs)]
    ratios = [a / b for a, b in both]
    a, b = (statistics.median(column) for column in zip(*both, strict=True))
    return a, b, statistics.median(ratios), min(ratios), max(ratios)


def show(rows: list[tuple], title: str, other: str) -> None:
    print(f"\n{title}\n")
    print(f"{'':30}{'subscripts':19}{'ours':>9}{other:>10}   ratio (lowest – highest)")
    for name, subscripts, a, b, ratio, low, high in rows:
        print(
            f"{name:30}{subscripts:19}{a * 1e6:7.0f}µs{b * 1e6:8.0f}µs"
            f"{ratio:8.2f} ({low:.2f} – {high:.2f})"
        )
    name, _, _, _, ratio, *_ = max(rows, key=lambda row: row[4])
    print(f"\nworst: {ratio:.2f}, {name}")


def forward_and_backward(f: Callable, xs: list, g: np.ndarray) -> Callable:
    xs = [tg.Tensor(x, requires_grad=True) for x in xs]

    def step() -> None:
        f(*xs).backward(g)
        for x in xs:
            x.grad = None

    return step


LENGTHS = (1, 2, 3, 5, 10, 30, 60, 100, 200, 300)


def expression(draw: random.Random) -> tuple[str, list]:
    """One to four operands, up to six labels in any order, now and then one of them twice."""
    while True:
        labels = "abcdef"[: draw.randint(2, 6)]
        sizes = {l: draw.choice(LENGTHS) for l in labels}
        terms = []
        for _ in range(draw.choice((1, 2, 2, 2, 2, 3, 4))):
            term = draw.sample(labels, draw.randint(1, min(4, len(labels))))
            if draw.random() < 0.05:
                term.append(draw.choice(term))
            draw.shuffle(term)
            terms.append("".join(term))
        used = sorted(set("".join(terms)))
        output = "".join(draw.sample(used, draw.randint(0, min(len(used), 5))))
        numbers = [math.prod(sizes[l] for l in part) for part in (*terms, output)]
        if max(numbers) <= 1e6 and math.prod(sizes[l] for l in used) <= 2e7:
            shapes = [tuple(sizes[l] for l in term) for term in terms]
            return f"{','.join(terms)}->{output}", shapes


def by_lot(count: int, seed: int, arrays: Callable) -> None:
    """Measured briefly, and what seems slow once more, at length."""
    draw = random.Random(seed)
    ratios = []
    for _ in range(count):
        subscripts, shapes = expression(draw)
        xs = arrays(shapes)
        ours = partial(tg.einsum, subscripts, *xs)
        numpys = partial(np.einsum, subscripts, *xs, optimize=True)
        ratio = in_pairs(ours, numpys, 3, enough=0.002)[2]
        if ratio > 1.3:
            ratio = in_pairs(ours, numpys, 9)[2]
        ratios.append((ratio, subscripts, shapes))
    slow = sorted((r for r in ratios if r[0] > 1.5), reverse=True)
    print(f"\n{count} expressions by lot (seed {seed})\n")
    for ratio, subscripts, shapes in slow:
        print(f"{ratio:6.2f}  {subscripts}  {shapes}")
    print(
        f"\nabove 1.5: {len(slow)}; median {statistics.median(r for r, *_ in ratios):.2f}, "
        f"worst {max(r for r, *_ in ratios):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--random", type=int, metavar="N", help="N expressions drawn by lot")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    def arrays(shapes: tuple) -> list[np.ndarray]:
        return [rng.standard_normal(s).astype(options.dtype) for s in shapes]

    with threadpool_limits(1):
        if options.random:
            by_lot(options.random, options.seed, arrays)
            return
        rows = []
        for name, subscripts, shapes in EXPRESSIONS:
            xs = arrays(shapes)
            measured = in_pairs(
                lambda s=subscripts, xs=xs: tg.einsum(s, *xs),
                lambda s=subscripts, xs=xs: np.einsum(s, *xs, optimize=True),
                options.pairs,
            )
            rows.append((name, subscripts, *measured))
        show(rows, f"forward, {options.dtype} arrays", "NumPy")
        rows = []
        for name, subscripts, shapes, by_hand in BY_HAND:
            xs = arrays(shapes)
            g = tg.einsum(subscripts, *xs)
            measured = in_pairs(
                forward_and_backward(lambda *xs, s=subscripts: tg.einsum(s, *xs), xs, g),
                forward_and_backward(by_hand, xs, g),
                options.pairs,
            )
            rows.append((name, subscripts, *measured))
        show(rows, f"forward and backward, {options.dtype} Tensors", "by hand")


if __name__ == "__main__":
    main()
