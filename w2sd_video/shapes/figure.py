"""The table of a bench as a picture: by how much each method differs from plain sampling, and what of it is decided."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..columns import Column
from ..figures import check, save
from ..runs import whole

LETTER = 0.058  # inches of width, of a label's letters on average
FILLS = {"better": "#0072B2", "worse": "#D55E00", "differs": "#999999"}  # of Okabe & Ito's colours


def draw(path: Path, summary: Mapping[str, Any], labels: Mapping[str, str], columns: Sequence[Column]) -> None:
    """Draws the comparisons with `strong`: a row per method, by its network evaluations, and a column per measure.

    A cell has the difference of means over prompts. It is filled where that is decided, else it is grey. The last row
    has the means of `strong`.

    Args:
        summary: what `table.summarise` returns; `strong` is in it.
        labels: the methods' labels.

    Raises:
        Refused, OSError, ModuleNotFoundError: the file cannot be drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    check(path)
    compared = (name for name in labels if "against strong" in summary.get(name, {}))
    names = sorted(compared, key=lambda name: summary[name]["evaluations"])
    shown = [c for c in columns if any(c.name in summary[n]["against strong"] for n in names)]
    rows = [f"{labels[name]}  ({summary[name]['evaluations']})" for name in (*names, "strong")]
    width = 0.5 + LETTER * max(map(len, rows)) + 0.52 * len(shown)  # inches
    figure = Figure(figsize=(width, 1.8 + 0.24 * len(rows)), dpi=150, layout="constrained")
    axes: Any = figure.add_subplot()
    for x, column in enumerate(shown):
        cells = {y: c for y, name in enumerate(names) if (c := summary[name]["against strong"].get(column.name))}
        largest = max(abs(each.difference.mean) for each in cells.values())
        decimals = 2 if largest >= 0.1 else 3 if largest >= 0.01 else 4
        for y, each in cells.items():
            if fill := FILLS.get(each.verdict):
                axes.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, color=fill, linewidth=0))
            text, colour = f"{each.difference.mean:+.{decimals}f}", "white" if fill else "#767676"
            axes.text(x, y, text, color=colour, ha="center", va="center", fontsize=7)
        mean = summary["strong"]["columns"][column.name].mean
        axes.text(x, len(names), f"{mean:.{decimals}f}", ha="center", va="center", fontsize=7)
    axes.axhline(len(names) - 0.5, color="#767676", linewidth=0.6)
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(len(names) + 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    heads = [column.name + {1: "", 0: " (neither)", -1: " ↓"}[column.sign] for column in shown]
    axes.set_xticks(range(len(shown)), heads, rotation=45, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    samples, prompts = summary["strong"]["samples"], summary["strong"]["prompts"]
    of = f"{samples} samples of {prompts} prompts" if samples > prompts else f"{prompts} prompts"
    differs = any(c.verdict == "differs" for name in names for c in summary[name]["against strong"].values())
    caption = (
        f"Difference from strong, {of}. Blue: decided better, orange: decided worse,"
        f"{' grey box: decided to differ,' * differs} no box: not decided."
        " ↓: lower is better. Last row: strong's means. In parentheses: network evaluations."
    )
    figure.supxlabel(textwrap.fill(caption, int(width / LETTER)), x=0.01, ha="left", fontsize=7)
    with whole({"figure": path}) as staged:
        save(figure, staged["figure"])
