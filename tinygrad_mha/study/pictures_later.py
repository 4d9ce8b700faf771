"""The pictures of the book's chapters 7 to 12, each drawn from what the project computes.

    python -m tinygrad_mha.study.pictures_later            # all of them; needs matplotlib

The same numbers give the same file, so that a commit shows what changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.attention import attention_weights
from tinygrad_mha.tensor import history

FOLDER = Path(__file__).with_name("book") / "pictures"
GREY = "#808890"  # text that can be read on white and on black
BLUE, ORANGE, GREEN, VIOLET, RED = "#2f81f7", "#e0823d", "#3fa36b", "#a371f7", "#d1495b"

PICTURES: dict[str, Callable[[], Any]] = {}  # file -> what draws it


def picture(draw: Callable[[], Any]) -> Callable[[], Any]:
    """Enter a function in the list; the picture's file has its name."""
    PICTURES[f"{draw.__name__}.svg"] = draw
    return draw


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        tg.set_default_dtype(np.float32)
        tg.manual_seed(0)
        figure = draw()
        figure.savefig(
            FOLDER / name,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            metadata={"Date": None},
        )
        pyplot().close(figure)
        print(FOLDER / name)


def pyplot() -> Any:
    """matplotlib's, without anything that changes from run to run."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "book", "font.size": 10, "text.color": GREY}
    from matplotlib import pyplot as plt

    return plt


def panels(count: int, width: float = 4.0, height: float = 3.0) -> tuple[Any, list[Any]]:
    """A figure with so many axes beside each other, in colours that suit any page."""
    plt = pyplot()
    figure, grid = plt.subplots(1, count, figsize=(width * count, height), squeeze=False)
    for axes in grid[0]:
        axes.tick_params(colors=GREY, which="both")
        axes.spines[:].set_color(GREY)
        axes.spines[["top", "right"]].set_visible(False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(GREY)
    figure.subplots_adjust(wspace=0.3)
    return figure, list(grid[0])


# ----------------------------------------------------------------------------- 7: attention


@picture
def attention_scale() -> Any:
    """The largest of 16 weights, and the gradient of the scores, with and without 1/√d."""
    widths = 4 ** np.arange(6)
    figure, (left, right) = panels(2)
    cases = ("without the scale", RED, lambda d: 1), ("with 1/√d", BLUE, lambda d: d**-0.5)
    for name, colour, scale in cases:
        peak, slope = zip(*(look(int(d), scale(int(d))) for d in widths), strict=True)
        left.plot(widths, peak, "o-", color=colour, label=name)
        right.plot(widths, slope, "o-", color=colour, label=name)
    for axes, title in (left, "largest of 16 weights (mean)"), (right, "length of ds (median)"):
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(d) for d in widths])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("d", color=GREY)
        axes.set_title(title)
    left.set_ylim(0, 1.05)
    left.legend(frameon=False, loc="center right", bbox_to_anchor=(1.03, 0.42))
    return figure


def look(d: int, scale: float, keys: int = 16, rows: int = 1000) -> tuple[float, float]:
    """As in the chapter: a query's largest weight, and what comes back to its scores."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((rows, 1, d)), rng.standard_normal((rows, keys, d))
    p = tg.softmax((q @ k.swapaxes(-1, -2))[:, 0] * scale)
    g = rng.standard_normal(p.shape)
    ds = p * (g - (g * p).sum(axis=-1, keepdims=True))
    return float(p.max(axis=-1).mean()), float(np.median(np.linalg.norm(ds, axis=-1)))


@picture
def attention_masks() -> Any:
    """The weights of one head of eight tokens under three masks."""
    q, k = np.random.default_rng(3).standard_normal((2, 8, 16)) * 1.3
    figure, axes = panels(3, 2.7, 2.6)
    real = np.arange(8) < 6
    cases: list[tuple[str, dict]] = [
        ("no mask", {}),
        ("causal", {"is_causal": True}),
        ("the last two are pads", {"mask": real}),
    ]
    for each, (title, masked) in zip(axes, cases, strict=True):
        weights = attention_weights(q, k, **masked)
        for (i, j), weight in np.ndenumerate(weights):
            cell = (j - 0.5, i - 0.5), 1, 1
            each.add_patch(pyplot().Rectangle(*cell, facecolor=BLUE, alpha=float(weight)))
        seen = np.broadcast_to(weights > 0, (8, 8))
        for i, j in np.argwhere(~seen):
            each.plot(j, i, ".", color=RED, markersize=3)
        each.set(xlim=(-0.5, 7.5), ylim=(7.5, -0.5), aspect="equal", title=title)
        each.set_xlabel("key")
        each.set_ylabel("query")
        each.set_xticks(range(8))
        each.set_yticks(range(8))
        each.spines[:].set_visible(True)
    return figure


# ---------------------------------------------------------------------- 8: checking gradients


@picture
def gradcheck_step() -> Any:
    """The error of a measured slope of the softmax against the step: median of 1,000 points."""
    x, d, w = np.random.default_rng(0).standard_normal((3, 1000, 8))
    y = tg.softmax(x)
    exact = ((y * (w - (w * y).sum(axis=-1, keepdims=True))) * d).sum(axis=-1)

    def f(x: Any) -> Any:
        return (tg.softmax(x) * w.astype(x.dtype)).sum(axis=-1).astype(np.float64)

    def central(h: float, dtype: Any = np.float64) -> Any:
        a, b = ((x + s * h * d).astype(dtype) for s in (1, -1))
        return (f(a) - f(b)) / (2 * h)

    def complex_step(h: float) -> Any:
        e = np.exp(x + 1j * h * d)
        return (e / e.sum(axis=-1, keepdims=True) * w).sum(axis=-1).imag / h

    cases: list[tuple[str, str, Callable]] = [
        ("central, float32", RED, lambda h: central(h, np.float32)),
        ("one-sided, float64", ORANGE, lambda h: (f(x + h * d) - f(x)) / h),
        ("central, float64", BLUE, central),
        ("complex step, float64", GREEN, complex_step),
    ]
    steps = 10.0 ** np.arange(-12, -0.9, 0.25)
    figure, [axes] = panels(1, 6.4, 4.0)
    for name, colour, slope in cases:
        errors = [np.median(np.abs(slope(h) - exact)) for h in steps]
        axes.loglog(steps, errors, color=colour, label=name)
    axes.axvline(1e-6, color=GREY, linewidth=0.7, linestyle=":")
    axes.annotate("tg.gradcheck", (1e-6, 1.5e-1), (4, 0), textcoords="offset points")
    axes.set_xlabel("step h")
    axes.set_ylabel("error")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 0.8))
    return figure


# ---------------------------------------------------------------------------- 9: making it fast


@picture
def fusion() -> Any:
    """Nodes, calls of NumPy, and what is kept: four ops as compositions, and fused."""
    heads: list[tuple[int, ...]] = [(16, 8, 32, 8)] * 3
    ops: Any = tg  # of an op only some have a reference, says mypy
    cases: dict[str, tuple[Any, Any, list[tuple[int, ...]]]] = {
        "LSTM": (ops.lstm.reference, ops.lstm, lstm_shapes(32, 16, 64)),
        "attention": (
            ops.scaled_dot_product_attention.reference,
            ops.scaled_dot_product_attention,
            heads,
        ),
        "layer norm": (ops.layer_norm.reference, ops.layer_norm, [(512, 64), (64,), (64,)]),
        "cross-entropy": (
            lambda x: ops.cross_entropy.reference(x, np.arange(512) % 100),
            lambda x: ops.cross_entropy(x, np.arange(512) % 100),
            [(512, 100)],
        ),
    }
    found = {k: (measure(a, s), measure(b, s)) for k, (a, b, s) in cases.items()}
    figure, axes = panels(3, 3.2, 3.0)
    for k, (each, title) in enumerate(
        zip(axes, ("nodes", "calls of NumPy", "MB kept"), strict=True)
    ):
        for j, (label, colour) in enumerate((("composed", RED), ("fused", BLUE))):
            at = np.arange(len(found)) + 0.4 * j - 0.2
            values = [pair[j][k] for pair in found.values()]
            each.barh(at, values, 0.36, color=colour, label=label)
            for place, number in zip(at, values, strict=True):
                told = f"{number:,.2g}" if k == 2 else f"{number:,}"
                each.annotate(
                    told, (number, place), (3, 0), textcoords="offset points", va="center"
                )
        each.set_xscale("log")
        each.set_xlim(right=each.get_xlim()[1] * 4)
        each.set_yticks(range(len(found)), found if k == 0 else [""] * len(found))
        each.invert_yaxis()
        each.tick_params(length=0)
        each.minorticks_off()
        each.set_xticks([])
        each.spines["bottom"].set_visible(False)
        each.set_title(title)
    axes[1].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0))
    return figure


def lstm_shapes(steps: int, batch: int, width: int) -> list[tuple[int, ...]]:
    n = width
    return [(steps, batch, n), (batch, n), (batch, n), (4 * n, n), (4 * n, n), (4 * n,), (4 * n,)]


class Counted(np.ndarray):
    """As in the chapter: an array that counts what NumPy is asked to do with it."""

    __module__ = "numpy"  # the package asks an array's type whose it is
    calls = 0

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: tuple = (), **options: Any
    ) -> Any:
        plain = [np.asarray(x) if isinstance(x, Counted) else x for x in inputs]
        if out:
            options["out"] = tuple(np.asarray(x) for x in out)
        y = getattr(ufunc, method)(*plain, **options)
        Counted.calls += 1
        return out[0].view(Counted) if out else np.asarray(y).view(Counted)

    def __array_function__(self, f: Any, types: Any, args: Any, options: Any) -> Any:
        y = super().__array_function__(f, types, args, options)
        return y.view(Counted) if type(y) is np.ndarray else y


def measure(op: Any, shapes: list[tuple[int, ...]]) -> tuple[int, int, float]:
    """Nodes, calls of NumPy in one pass each way, and MB kept between the two."""
    from tinygrad_mha.models.recompute import kept_bytes

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32).view(Counted) for s in shapes]
    xs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    Counted.calls = 0
    y = op(*xs)
    y = y[0] if isinstance(y, tuple) else y
    nodes, kept = len(history([y])), kept_bytes(y, xs)
    y.backward(rng.standard_normal(y.shape).astype(np.float32).view(Counted))
    return nodes, Counted.calls, kept / 2**20


# ---------------------------------------------------------------------------------- 10: the GPU


@picture
def launches() -> Any:
    """What host and device do when, for many small kernels and for the same work in a few."""
    plt = pyplot()
    figure, rows = plt.subplots(2, 1, figsize=(7.2, 3.2), sharex=True)
    cases = ("24 kernels of 2 µs", [2.0] * 24), ("3 kernels of 16 µs", [16.0] * 3)
    for axes, (title, kernels) in zip(rows, cases, strict=True):
        host = device = 0.0
        for takes in kernels:
            axes.barh(1, 9.4, 0.7, host, color=BLUE)
            host += 10.0
            begins = max(device, host)
            axes.barh(0, takes, 0.7, begins, color=ORANGE)
            device = begins + takes
        axes.axvline(device, color=GREY, linewidth=0.7, linestyle=":")
        told = f"done at {device:.0f} µs"
        axes.annotate(told, (device, 0.5), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks([0, 1], ["device", "host"])
        axes.tick_params(colors=GREY)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left")
        axes.set_xlim(0, 290)
    rows[0].tick_params(bottom=False)
    rows[1].set_xlabel("µs", color=GREY)
    figure.subplots_adjust(hspace=0.6)
    return figure


# ----------------------------------------------------------------------- 11: training a classifier


@picture
def training() -> Any:
    """Sixty epochs of the chapter's classifier: both losses, and the learning rate."""
    from tinygrad_mha.models.train import Settings, split, train

    settings = Settings(
        d_model=32, h=4, bidirectional=False, dropout=0.1, word_dropout=0.0, batch_size=32,
        epochs=60, lr=5e-3, early_stopping=0, workers=1,
    )  # fmt: skip
    parts = split(reviews(600))
    history = train(parts, settings).metrics["history"]
    fit, stop = ([h[k] for h in history] for k in ("train_loss", "valid_loss"))
    epochs = np.arange(1, len(history) + 1)
    figure, [left, right] = panels(2, 4.2, 3.0)
    left.plot(epochs, fit, color=ORANGE, label="rows that train")
    left.plot(epochs, stop, color=BLUE, label="rows to stop by")
    left.axhline(np.log(2), color=GREY, linewidth=0.7, linestyle=":")
    left.annotate("log 2", (60, np.log(2)), (0, 3), textcoords="offset points", ha="right")
    left.axvline(1 + int(np.argmin(stop)), color=BLUE, linewidth=0.7, linestyle=":")
    left.set(xlabel="epoch", ylim=(0, 0.95), title="loss")
    left.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    total = 60 * -(-len(parts.fit) // 32)
    weight = tg.nn.Parameter([0.0])
    optimizer = tg.optim.SGD([weight], lr=settings.lr)
    warmup = int(settings.warmup * total)
    schedule = tg.optim.WarmupCosine(optimizer, warmup=warmup, total=total, start=1 / warmup)
    rates = []
    for _ in range(total):
        rates.append(optimizer.lr)
        schedule.step()
    right.plot(np.arange(total) * 60 / total, rates, color=GREEN)
    right.set(xlabel="epoch", ylim=(0, 1.05 * settings.lr), title="learning rate")
    return figure


def reviews(n: int, wrong: float = 0.1, seed: int = 0) -> Any:
    """As in the chapter: sentences whose label no single word decides, one in ten wrong."""
    from tinygrad_mha.models.dataset import Dataset

    things = ["film", "story", "ending", "music", "cast", "book", "plot", "song", "scene"]
    things += ["dialogue"]
    fine = ["fine", "great", "lovely", "clever", "moving"]
    sad = ["dull", "poor", "awful", "silly", "tired"]
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        kind, negated = (rng.random(2) < 0.5).tolist()
        adjective = rng.choice(fine if kind else sad)
        how = rng.choice(["", "really ", "very ", "quite ", "so "])
        texts.append(f"the {rng.choice(things)} was {'not ' * negated}{how}{adjective}")
        good = kind != negated
        labels.append("good" if good != (rng.random() < wrong) else "bad")
    return Dataset(texts, labels, list(range(1, n + 1)), "reviews")


# -------------------------------------------------------------------------------- 12: fine-tuning


@picture
def layer_rates() -> Any:
    """The learning rate of each layer of the chapter's encoder over its 80 steps."""
    from tinygrad_mha.models import TransformerEncoder
    from tinygrad_mha.models.encoder_classifier import EncoderClassifier
    from tinygrad_mha.models.finetune import FinetuneRun

    encoder = TransformerEncoder(30, d_model=32, h=4, num_layers=2, max_positions=16)
    model = EncoderClassifier(encoder, num_classes=2)
    steps, top = 80, 1 + len(encoder.layers)
    levels: dict[int, list[Any]] = {}
    for name, p in model.named_parameters():
        levels.setdefault(FinetuneRun.level(name, top), []).append(p)
    groups = [{"params": ps, "lr": 1e-2 * 0.9 ** (top - k)} for k, ps in levels.items()]
    optimizer = tg.optim.AdamW(groups, lr=1e-2)
    schedule = tg.optim.WarmupCosine(optimizer, warmup=steps // 10, total=steps, start=0.1)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()
    figure, [axes] = panels(1, 5.2, 3.2)
    names = {top: "head", 0: "embeddings"}
    found = dict(zip(levels, np.transpose(rates), strict=True))
    for level, colour in zip(sorted(found, reverse=True), (RED, VIOLET, BLUE, GREEN), strict=True):
        axes.plot(found[level], color=colour, label=names.get(level, f"layer {level}"))
    axes.set(xlabel="step", title="learning rate", ylim=(0, 0.0105))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
