"""The style of all figures: one colour per method, and sizes that fit a paper's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Okabe & Ito's colours, which readers with any colour vision can tell apart.
COLOURS = {
    "ideal": "#000000",
    "strong": "#0072B2",
    "weak": "#999999",
    "w2sd": "#D55E00",
    "s2wd": "#CC79A7",
    "auto_guidance": "#009E73",
    "optimistic": "#E69F00",
    "other": "#56B4E9",
}
NAMES = {
    "ideal": "ideal",
    "strong": "strong",
    "weak": "weak",
    "w2sd": "W2SD",
    "s2wd": "S2WD",
    "auto_guidance": "auto-guidance",
    "optimistic": "optimistic",
}


LOOK = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
}


def figure(rows: int = 1, columns: int = 1, width: float = 7.2, height: float = 2.6, **how: Any) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), `width` by `height` inches."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return drawn, drawn.subplots(rows, columns, squeeze=False, **how)


def colours(count: int) -> list[Any]:
    """`count` distinct colours, for things that COLOURS lacks."""
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * n / max(1, count - 1)) for n in range(count)]


def legend_below(drawn: Any, axes: Any, columns: int = 6) -> None:
    """Draws one legend below the figure, with the labels of `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns)


def bars_and_dots(ax: Any, places: Sequence[float], bars: Sequence[float], dots: Sequence[Any], colours: Any) -> None:
    """Draws bars, each with a dot for every unit."""
    for place, bar, each, colour in zip(places, bars, dots, colours, strict=True):
        ax.bar(place, bar, color=colour, alpha=0.55)
        if len(each):
            offsets = [0.5 * n / max(1, len(each) - 1) - 0.25 for n in range(len(each))]
            ax.plot([place + offset for offset in offsets], each, ".", color=colour, markersize=4)
