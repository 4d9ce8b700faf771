"""The pictures of the book's chapters 1 to 6; ``python -m tinygrad_mha.study.pictures`` redraws.

A picture is two functions. The first computes, with the package alone, and is tested; the second,
whose name starts with ``draw``, puts that on paper, and is the only one that needs matplotlib. The
same numbers give the same file, so that a commit shows what has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.packing import Plan, plan_steps
from tinygrad_mha.tensor import history

FOLDER = Path(__file__).parent / "book" / "pictures"
GREY = "#808890"  # what can be read on white and on black
BLUE, ORANGE, GREEN, PURPLE, RED = COLOURS = "#2f81f7", "#e0823d", "#3fa36b", "#a371f7", "#d1495b"

# ---------------------------------------------------------------------- chapter 1: a graph


class Place(NamedTuple):
    """One result of a program, and where it stands in the picture."""

    value: float
    gradient: float
    slopes: dict[str, float]  # of this result, by the name of the input
    at: tuple[float, float]


def graph_of_the_loss() -> dict[str, Place]:
    """L = (w x + b − t)², run once and walked back once.

    >>> graph_of_the_loss()["p"]
    Place(value=6.0, gradient=4.0, slopes={'w': 3.0, 'x': 2.0}, at=(1.0, 0.0))
    """
    w, x, b, t = (tg.Tensor(v, requires_grad=True) for v in (2.0, 3.0, 1.0, 5.0))
    p = w * x
    s = p + b
    e = s - t
    loss = e**2
    names = {w: "w", x: "x", b: "b", t: "t", p: "p", s: "s", e: "e", loss: "L"}
    at = {"w": (0.0, 0.6), "x": (0.0, -0.6), "b": (1.0, 1.1), "t": (2.0, 1.1)}
    at |= {"p": (1.0, 0.0), "s": (2.0, 0.0), "e": (3.0, 0.0), "L": (4.0, 0.0)}
    slopes: dict[Any, dict[str, float]] = {y: {} for y in names}
    for y in history([loss]):
        wants = [isinstance(a, tg.Tensor) for a in y.node.inputs]
        parts = y.node.op.pull(y.node, y, np.float32(1), wants, create_graph=False)
        for a, part in zip(y.node.inputs, parts, strict=True):
            if isinstance(a, tg.Tensor):
                slopes[y][names[a]] = float(part)
    gradients = tg.grad(loss, list(names))
    return {
        name: Place(y.item(), g.item(), slopes[y], at[name])
        for (y, name), g in zip(names.items(), gradients, strict=True)
    }


def draw_graph(path: Path) -> None:
    """Boxes from left to right; values above, gradients below, slopes at the arrows."""
    figure, axes = blank(8.4, 3)
    places = graph_of_the_loss()
    formulas = {"p": "p = w x", "s": "s = p + b", "e": "e = s − t", "L": "L = e²"}
    boxes = {}
    for name, place in places.items():
        x, y = place.at
        style = {"boxstyle": "round,pad=0.45", "facecolor": "none", "edgecolor": GREY}
        middle: dict[str, Any] = {"ha": "center", "va": "center"}
        text = axes.text(x, y, formulas.get(name, name), color=GREY, bbox=style, zorder=1, **middle)
        boxes[name] = text.get_bbox_patch()
        axes.text(x, y + 0.31, f"{place.value:g}", color=GREY, **middle)
        axes.text(x, y - 0.33, f"{place.gradient:g}".replace("-", "−"), color=BLUE, **middle)
    for name, place in places.items():
        for a, slope in place.slopes.items():
            arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 3, "shrinkB": 3}
            arrow |= {"patchA": boxes[a], "patchB": boxes[name]}
            axes.annotate("", place.at, places[a].at, arrowprops=arrow, zorder=2)
            x, y = np.add(place.at, places[a].at) / 2
            upwards = 0.16 if places[a].at[1] >= place.at[1] else -0.16
            shift = 0.04 if a in formulas else 0.08
            text = f"×{slope:g}".replace("-", "−")
            axes.text(x + shift, y + upwards, text, color=ORANGE, fontsize=9, **middle)
    axes.set_xlim(-0.3, 4.4)
    axes.set_ylim(-1.05, 1.55)
    save(figure, path)


# ------------------------------------------------------------- chapter 2: derivatives for free


def tanh_and_derivatives(x: np.ndarray, order: int = 4) -> list[np.ndarray]:
    """tanh x, and its derivatives up to the order, each by a backward pass through the last.

    >>> [y.round(3).item() for y in tanh_and_derivatives(np.array([0.5]), 2)]
    [0.462, 0.786, -0.727]
    """
    at = tg.Tensor(x, requires_grad=True)
    y, found = tg.tanh(at), []
    for _ in range(order + 1):
        found.append(y.numpy())
        [y] = tg.grad(y.sum(), [at], create_graph=True)
    return found


def draw_tanh(path: Path) -> None:
    figure, axes = plot(6, 3.2)
    x = np.linspace(-3, 3, 181)
    for k, y in enumerate(tanh_and_derivatives(x)):
        axes.plot(x, y, color=COLOURS[k], label="tanh" + "′" * k, linewidth=2 if k < 2 else 1.4)
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.legend(frameon=False, labelcolor=GREY)
    save(figure, path)


# --------------------------------------------------------- chapter 3: linear ops and adjoints

LINEAR: dict[str, tuple[Any, tuple[int, ...]]] = {  # a linear op, and the shape of its input
    "broadcast_to": (lambda x: tg.broadcast_to(x, (3, 3)), (3,)),
    "sum(axis=1)": (lambda x: tg.sum(x, axis=1), (3, 3)),
    "x[[2, 0, 2, 2]]": (lambda x: x[[2, 0, 2, 2]], (4,)),
    "transpose": (tg.transpose, (2, 3)),
    "pad": (lambda x: tg.pad(x, (1, 2)), (4,)),
    "cumsum": (tg.cumsum, (5,)),
}


def matrix_and_adjoint(name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a linear op does to unit vectors, and what its backward pass does to them.

    >>> matrix_and_adjoint("x[[2, 0, 2, 2]]")[0]
    array([[0., 0., 1., 0.],
           [1., 0., 0., 0.],
           [0., 0., 1., 0.],
           [0., 0., 1., 0.]])
    """
    f, shape = LINEAR[name]
    x = tg.Tensor(np.zeros(shape), requires_grad=True)
    y = f(x)
    there = [f(tg.Tensor(u.reshape(shape))).numpy().reshape(-1) for u in np.eye(x.size)]
    back = [tg.grad(y, x, v.reshape(y.shape))[0].numpy().reshape(-1) for v in np.eye(y.size)]
    return np.stack(there, axis=1), np.stack(back, axis=1)


def draw_adjoints(path: Path) -> None:
    """A filled square for each 1."""
    plt = pyplot()
    figure, rows = plt.subplots(2, len(LINEAR), figsize=(9.5, 3.6))
    for k, name in enumerate(LINEAR):
        for axes, matrix, colour in zip(rows[:, k], matrix_and_adjoint(name), (GREY, BLUE),
                                        strict=True):  # fmt: skip
            height, width = matrix.shape
            for i, j in np.argwhere(matrix):
                axes.add_patch(plt.Rectangle((j + 0.06, i + 0.06), 0.88, 0.88, color=colour))
            axes.add_patch(plt.Rectangle((0, 0), width, height, fill=False, edgecolor=GREY))
            axes.set_xlim(-0.1, 9.1)
            axes.set_ylim(9.1, -0.1)
            axes.set_aspect("equal")
            axes.axis("off")
        rows[0, k].set_title(name, fontsize=9, color=GREY, loc="left", family="monospace")
    save(figure, path)


# ------------------------------------------------------------------ chapter 4: two losses


def losses_and_slopes(lead: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cross-entropy and squared error for two classes, by the lead of the right one.

    >>> {name: slope.item() for name, (_, slope) in losses_and_slopes(np.zeros(1)).items()}
    {'cross-entropy': -0.5, 'squared error': -0.25}
    """
    u = tg.Tensor(lead, requires_grad=True)
    logits = tg.stack([u, u * 0.0], axis=-1)
    right = np.zeros(lead.shape, int)
    found = {
        "cross-entropy": tg.cross_entropy(logits, right, reduction="none"),
        "squared error": (1.0 - tg.softmax(logits)[..., 0]) ** 2,
    }
    return {name: (y.numpy(), tg.grad(y.sum(), u)[0].numpy()) for name, y in found.items()}


def draw_cross_entropy(path: Path) -> None:
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9))
    lead = np.linspace(-8, 8, 161)
    for k, (name, (y, slope)) in enumerate(losses_and_slopes(lead).items()):
        left.plot(lead, y, color=COLOURS[k], label=name, linewidth=2)
        right.plot(lead, slope, color=COLOURS[k], linewidth=2)
    for axes, title in ((left, "loss"), (right, "slope")):
        tidy(axes)
        axes.set_title(title, color=GREY)
        axes.axhline(0, color=GREY, linewidth=0.5)
        axes.set_xlabel("lead of the right class", color=GREY)
    left.legend(frameon=False, labelcolor=GREY)
    save(figure, path)


# ----------------------------------------------------------- chapter 5: the variance in float32


def errors_of_the_variance(means: np.ndarray) -> dict[str, np.ndarray]:
    """How wrong the variance of 64 float32 numbers is, in one pass and in two, by their mean."""
    rows = np.random.default_rng(0).standard_normal((200, 64))
    found: dict[str, list] = {"E[x²] − E[x]²": [], "mean of (x − mean)²": []}
    for mean in means:
        x = (rows + mean).astype(np.float32)
        true = x.astype(np.float64).var(axis=1)
        once = (x * x).mean(axis=1) - x.mean(axis=1) ** 2
        twice = tg.var(x, axis=1)
        for errors, v in zip(found.values(), (once, twice), strict=True):
            errors.append(np.median(np.abs(v - true) / true))
    return {name: np.array(errors) for name, errors in found.items()}


def draw_variance(path: Path) -> None:
    figure, axes = plot(6, 3.2)
    means = 10 ** np.linspace(0, 5, 41)
    for k, (name, errors) in enumerate(errors_of_the_variance(means).items()):
        axes.loglog(means, errors, color=(RED, GREEN)[k], label=name, linewidth=2)
    axes.axhline(1, color=GREY, linewidth=0.5)
    axes.set_xlabel("mean of the numbers (their standard deviation is 1)", color=GREY)
    axes.set_ylabel("relative error", color=GREY)
    axes.legend(frameon=False, labelcolor=GREY, loc="center right", bbox_to_anchor=(1, 0.42))
    save(figure, path)


# -------------------------------------------------------------- chapter 6: what reaches back

NETS = {
    "tanh network, s = 2": 2.0,
    "tanh network, s = 1": 1.0,
    "tanh network, s = 0.5": 0.5,
    "LSTM, forget bias 3": 3.0,
    "LSTM, forget bias 1": 1.0,
    "LSTM, forget bias 0": 0.0,
}


def what_reaches_back(steps: int = 60, units: int = 64, draws: int = 8) -> dict[str, np.ndarray]:
    """How long the gradient of the last state is at the token k steps earlier, over that at k = 0.

    Geometric means over random weights and tokens. A tanh network is given by s, the factor by
    which its matrix stretches, an LSTM by its forget bias.
    """
    found = {}
    for name, setting in NETS.items():
        logs = []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            tokens = tg.Tensor(rng.standard_normal((steps, 1, units)), requires_grad=True)
            net = _tanh_network if name.startswith("tanh") else _lstm
            last = net(rng, tokens, units, setting)
            [d] = tg.grad(last, tokens, rng.standard_normal((1, units)))
            logs.append(np.log(np.linalg.norm(d.numpy(), axis=(1, 2))[::-1]))
        middle = np.mean(logs, axis=0)
        found[name] = np.exp(middle - middle[0])
    return found


def _tanh_network(rng: np.random.Generator, x: tg.Tensor, n: int, stretch: float) -> tg.Tensor:
    w_x, w_h = rng.standard_normal((2, n, n)) / n**0.5
    h = tg.Tensor(np.zeros((1, n)))
    for t in range(len(x)):
        h = tg.tanh(x[t] @ (0.1 * w_x) + h @ (stretch * w_h))
    return h


def _lstm(rng: np.random.Generator, x: tg.Tensor, n: int, forget_bias: float) -> tg.Tensor:
    w_ih, w_hh = rng.uniform(-(n**-0.5), n**-0.5, (2, 4 * n, n))
    bias = np.zeros(4 * n)
    bias[n : 2 * n] = forget_bias
    zeros = np.zeros((1, n))
    return tg.lstm(x, zeros, zeros, w_ih, w_hh, bias)[1]


def draw_vanishing(path: Path) -> None:
    figure, axes = plot(6.4, 3.4)
    for k, (name, lengths) in enumerate(what_reaches_back().items()):
        colour, dashes = (RED, ORANGE, PURPLE, GREEN, BLUE, GREY)[k], "--" if k < 3 else "-"
        axes.semilogy(lengths, dashes, color=colour, label=name, linewidth=2)
    axes.axhline(1, color=GREY, linewidth=0.5)
    axes.set_ylim(1e-10, 1e5)
    axes.set_xlabel("how many tokens earlier", color=GREY)
    axes.set_ylabel("length of the gradient", color=GREY)
    axes.legend(frameon=False, labelcolor=GREY, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


LENGTHS = [6, 2, 4, 1]


def packed_batch() -> Plan:
    """The plan for four texts of these lengths.

    >>> [count for rows, count in packed_batch().steps]
    [4, 3, 2, 2, 1, 1]
    """
    return plan_steps(np.zeros((max(LENGTHS), len(LENGTHS), 1)), LENGTHS, False)


def draw_packing(path: Path) -> None:
    """A row for each text and a column for each step; then the same places as they are packed."""
    plt = pyplot()
    figure, axes = blank(8, 2.3)
    plan, (steps, batch) = packed_batch(), (max(LENGTHS), len(LENGTHS))

    def cell(x: float, y: float, text: int | None) -> None:
        colour = "none" if text is None else COLOURS[text]
        edge = GREY if text is None else colour
        axes.add_patch(
            plt.Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, facecolor=colour, edgecolor=edge)
        )
        if text is not None:
            axes.text(x + 0.5, y + 0.52, str(text), color="white", ha="center", va="center")

    for t in range(steps):
        for b in range(batch):
            cell(t, b, b if t < LENGTHS[b] else None)
    flat = np.asarray(plan.flat)
    for t, (rows, count) in enumerate(plan.steps):
        for row in range(rows.start, rows.stop):
            cell(steps + 1.5 + t * 1.25, row - rows.start, int(flat[row] % batch))
        axes.text(
            steps + 2 + t * 1.25, count + 0.4, f"{count}", color=GREY, ha="center", va="center"
        )
    axes.text(steps + 1.3, -0.5, "rows of each step", color=GREY)
    axes.text(0, -0.5, "texts, padded to six steps", color=GREY)
    axes.set_xlim(-0.2, steps + 1.5 + steps * 1.25)
    axes.set_ylim(batch + 0.9, -1)
    axes.set_aspect("equal")
    save(figure, path)


# -------------------------------------------------------------------------------- paper and pen


def pyplot() -> Any:
    """matplotlib's, set up so that the same numbers give the same file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "book", "font.size": 10, "text.color": GREY}
    from matplotlib import pyplot as plt

    return plt


def plot(width: float, height: float) -> tuple[Any, Any]:
    """A figure with a pair of axes."""
    figure, axes = pyplot().subplots(figsize=(width, height))
    return figure, tidy(axes)


def blank(width: float, height: float) -> tuple[Any, Any]:
    """A figure for shapes and words, without axes."""
    figure, axes = pyplot().subplots(figsize=(width, height))
    axes.axis("off")
    return figure, axes


def tidy(axes: Any) -> Any:
    """Grey numbers, and no frame."""
    axes.tick_params(colors=GREY, which="both")
    axes.spines[:].set_visible(False)
    return axes


def save(figure: Any, path: Path) -> None:
    """For a page of any colour."""
    figure.savefig(
        path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    pyplot().close(figure)


PICTURES = {
    "graph": draw_graph,
    "tanh": draw_tanh,
    "adjoints": draw_adjoints,
    "cross_entropy": draw_cross_entropy,
    "variance": draw_variance,
    "vanishing": draw_vanishing,
    "packing": draw_packing,
}


def main(folder: Path = FOLDER) -> None:
    """Draw all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        draw(folder / f"{name}.svg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
