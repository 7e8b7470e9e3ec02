"""A page to look at: the scores as a table, VBench's radar, and what differs between groups, in one HTML file."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.runs import whole

from . import vbench
from .dimensions import VBENCH
from .results import ENOUGH, printable

if TYPE_CHECKING:
    from .results import Comparison, Summary

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #ddd }
.better { color: #14713d; font-weight: 600 } .worse { color: #a3261c; font-style: italic } small { color: #666 }
"""
BETTER, WORSE, EITHER = "#14713d", "#a3261c", "#8a8a8a"


def write(path: Path, summary: Summary) -> None:
    """Writes the page.

    Raises:
        ModuleNotFoundError: matplotlib, which draws, is not installed.
    """
    parts = [f"<h1>Scores of {len(summary.scores.videos)} videos</h1>", _table(summary), _totals(summary)]
    dimensions = [d for d in VBENCH if d in summary.scales]
    if len(dimensions) >= 3:
        parts += ["<h2>VBench, normalised</h2>", _radar(summary, dimensions)]
    for group in list(summary.groups)[1:]:
        compared = [c for c in summary.comparisons if c.group == group]
        if compared:
            base = html.escape(compared[0].base)
            parts += [f"<h2>{html.escape(group)} against {base}</h2>", _bars(summary, compared)]
    parts += _problems(summary)
    page = f"<!doctype html><meta charset='utf-8'><title>Scores</title><style>{STYLE}</style>{''.join(parts)}"
    with whole({"page": path}) as staged:
        staged["page"].write_text(page, encoding="utf-8", errors="backslashreplace")


def _table(summary: Summary) -> str:
    compared = {(c.group, c.column): c for c in summary.comparisons}
    head = "".join(f"<th>{html.escape(group)}" for group in summary.groups)
    rows = []
    for column in summary.scales:
        cells = []
        for group in summary.groups:
            mean, c = summary.means[group][column], compared.get((group, column))
            if not mean.n:
                cells.append("<td>")
                continue
            kind = "" if c is None or c.better is None else " class=better" if c.better else " class=worse"
            cells.append(f"<td{kind}>{mean}" + (f"<br><small>{c.said}</small>" if c else ""))
        if "<td>" * len(summary.groups) != "".join(cells):
            rows.append(f"<tr><td>{summary.label(column)}{''.join(cells)}")
    note = "Mean and half-width of its 95 % bootstrap interval over videos."
    if summary.comparisons:
        base = summary.comparisons[0].base
        note += f" Under it the mean paired difference from {base}, coloured where it"
        note += f" is of at least {ENOUGH} pairs and its interval excludes 0."
    notes = "<br>".join(html.escape(line) for line in [note, *summary.notes])
    return f"<table><tr><th>{head}{''.join(rows)}</table><p><small>{notes}</small>"


def _totals(summary: Summary) -> str:
    found = [f"{html.escape(g)}: {n} {v:.4f}" for g, t in summary.totals.items() for n, v in t.items()]
    return f"<p>VBench's totals: {'; '.join(found)}" if found else ""


def _problems(summary: Summary) -> list[str]:
    scores = summary.scores
    lines = [f"{v.path}{f', {d}' * bool(d)}: {problem}" for v, d, problem in scores.problems]
    lines += [f"{each.name} was skipped: {each.reason}" for each in scores.skipped]
    items = "".join(f"<li>{html.escape(line)}" for line in lines)
    return [f"<h2>Not scored</h2><ul>{items}</ul>"] if items else []


def _radar(summary: Summary, dimensions: list[str]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes: Any = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(dimensions), endpoint=False)
    lines = []
    for aggregates in summary.aggregates.values():
        values = [vbench.normalise(d, aggregates[d][0]) if d in aggregates else np.nan for d in dimensions]
        lines += axes.plot([*angles, angles[0]], [*values, values[0]], marker="o", markersize=3)
    axes.set_theta_offset(np.pi / 2)
    axes.set_xticks(angles, [d.replace("_", "\n") for d in dimensions], fontsize=8)
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.tick_params(axis="x", pad=18)
    axes.tick_params(axis="y", labelsize=7)
    groups = [printable(group).replace("$", r"\$") for group in summary.groups]  # not mathematics
    figure.legend(lines, groups, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _svg(figure)


def _bars(summary: Summary, compared: list[Comparison]) -> str:
    """Paired differences in units of the columns' standard deviation over videos, so that they share an axis."""
    from matplotlib.figure import Figure

    shown = []
    for c in compared:
        spread = float(np.nanstd(summary.values(c.base, c.column)))
        if spread > 0:
            shown.append((c, spread))
    if not shown:
        return "<p>No column differs from video to video."
    figure = Figure(figsize=(7.5, 0.8 + 0.32 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for row, (c, spread) in enumerate(reversed(shown)):
        colour = EITHER if c.better is None else BETTER if c.better else WORSE
        low, mean, high = (value / spread for value in (c.difference.low, c.difference.mean, c.difference.high))
        axes.barh(row, mean, color=colour, alpha=0.45)
        axes.plot([low, high], [row, row], color=colour)
    axes.axvline(0, color="#444", linewidth=0.8)
    names = [summary.label(c.column) for c, _ in reversed(shown)]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set_xlabel("paired difference, in standard deviations over videos, with its 95 % interval", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _svg(figure)


def _svg(figure: Any) -> str:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
