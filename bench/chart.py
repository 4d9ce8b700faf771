"""Bars of ratios, and dots of accuracies, for the benches' ``--picture PATH``; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from side_by_side import Ratio

GREY = "#808890"  # text that can be read on white and on black
COLOURS = ("#2f81f7", "#e0823d", "#3fa36b", "#a371f7", "#d1495b")


def pyplot() -> Any:
    """matplotlib's, drawing the same picture for the same numbers: a commit shows what changed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "bench", "font.size": 10, "text.color": GREY}
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, path: str | os.PathLike[str]) -> None:
    """On a page of any colour."""
    figure.savefig(
        path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    pyplot().close(figure)


def accuracies(
    path: str | os.PathLike[str], places: Sequence[str], series: Mapping[str, Sequence[Ratio]]
) -> None:
    """A panel for each series: a dot at each place, whiskers from the lowest to the highest."""
    plt = pyplot()
    size = (3.6 * len(series) + 1.4, 0.8 + 0.3 * len(places))
    figure, panels = plt.subplots(1, len(series), figsize=size, sharey=True, squeeze=False)
    for k, (axes, (name, found)) in enumerate(zip(panels[0], series.items(), strict=True)):
        down = range(len(places))
        middle = [r.median for r in found]
        whiskers = [[r.median - r.low for r in found], [r.high - r.median for r in found]]
        axes.errorbar(middle, down, xerr=whiskers, fmt="o", color=COLOURS[k], capsize=3)
        axes.axvline(middle[0], color=GREY, linewidth=0.5)
        axes.set_yticks(down, places)
        axes.invert_yaxis() if k == 0 else None
        axes.tick_params(colors=GREY)
        axes.locator_params(axis="x", nbins=4)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{name}: accuracy")
    save(figure, path)


def bars(
    path: str | os.PathLike[str],
    title: str,
    places: Sequence[str],
    series: Mapping[str, Sequence[Ratio]],
) -> None:
    """A group of bars at each place, one of each series; whiskers from the lowest to the highest.

    Bars stand on the line at 1, where both are equally fast, and hang from it below. The axis is
    logarithmic: half as fast is as far from the line as twice as fast.
    """
    plt = pyplot()
    width = 0.8 / len(series)
    figure, axes = plt.subplots(figsize=(2 + 0.8 * len(series) * len(places), 3.4))
    for k, (name, ratios) in enumerate(series.items()):
        at = [i + (k - (len(series) - 1) / 2) * width for i in range(len(places))]
        middle = [r.median for r in ratios]
        whiskers = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
        axes.bar(
            at, [m - 1 for m in middle], 0.9 * width, 1, color=COLOURS[k % len(COLOURS)], label=name
        )
        axes.errorbar(at, middle, whiskers, fmt="none", ecolor=GREY, capsize=3)
        for x, r in zip(at, ratios, strict=True):
            end, off = (r.high, 4) if r.median >= 1 else (r.low, -12)
            axes.annotate(
                f"{r.median:.2f}", (x, end), (0, off), textcoords="offset points", ha="center"
            )
    values = [v for ratios in series.values() for r in ratios for v in (r.low, r.high)]
    axes.set_yscale("log", base=2)
    axes.set_ylim(min(0.5, 0.7 * min(values)), max(2, 1.4 * max(values)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set_xticks(range(len(places)), places)
    axes.tick_params(colors=GREY)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    if len(series) > 1:
        axes.legend(frameon=False)
    save(figure, path)
