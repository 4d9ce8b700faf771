"""Bars of ratios, for the benches' ``--picture PATH``; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from side_by_side import Ratio

GREY = "#808890"  # text that can be read on white and on black
COLOURS = ("#2f81f7", "#e0823d", "#3fa36b", "#a371f7", "#d1495b")


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
    import matplotlib

    matplotlib.use("svg")
    # the same picture for the same numbers, so that a commit shows what changed
    matplotlib.rcParams |= {"svg.hashsalt": "bench", "font.size": 10, "text.color": GREY}
    from matplotlib import pyplot as plt

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
    figure.savefig(
        path, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
    )
    plt.close(figure)
