"""A page to look at: the scores as a table, VBench's radar, and what differs between groups, in one HTML file."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.runs import whole
from w2sd_video.verdicts import failure_value, numbers_of

from . import vbench
from .dimensions import VBENCH
from .results import printable

if TYPE_CHECKING:
    from w2sd_video.columns import Column
    from w2sd_video.verdicts import Comparison, Interval

    from .results import Summary

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .9rem; text-align: right }
th { vertical-align: bottom } td { vertical-align: top }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #ddd }
small { color: #666; font-weight: normal } td { min-width: 9rem } .mean { white-space: nowrap }
.wide { overflow-x: auto }
.notes { max-width: 52rem; color: #444; font-size: 13px }
.better { color: #14713d; font-weight: 600 } .worse { color: #a3261c; font-weight: 600 }
.prompts th { text-align: left } .prompts td:first-child { max-width: 40rem; overflow-wrap: anywhere }
.differs { color: #1d5fa8; font-weight: 600 } .notes li { margin: .2rem 0 }
"""
# What bars are drawn in, by verdict.
COLOURS = {"better": "#14713d", "worse": "#a3261c", "differs": "#1d5fa8", "": "#8a8a8a"}
# What groups are drawn in, none of which is a verdict's colour.
GROUPS = ("#222222", "#d98200", "#7b3fa0", "#00a0b0", "#8c5a3c", "#e07bb5", "#9a9a00")


def write(path: Path, summary: Summary) -> None:
    """Writes the page.

    Raises:
        ModuleNotFoundError: matplotlib, which draws, is not installed.
    """
    text = page(summary)
    with whole({"page": path}) as staged:
        staged["page"].write_text(text, encoding="utf-8", errors="backslashreplace")


def page(summary: Summary) -> str:
    """The page's text; the same of the same scores.

    Raises:
        ModuleNotFoundError: matplotlib, which draws, is not installed.
    """
    parts = [f"<h1>Scores of {len(summary.scores.videos)} {summary.thing}s</h1>", _table(summary), _totals(summary)]
    dimensions = [d for d in VBENCH if d in summary.columns]
    if len(dimensions) >= 3:
        parts += ["<h2>VBench, normalised</h2>", _radar(summary, dimensions)]
    for group in list(summary.groups)[1:]:
        compared = [c for c in summary.comparisons if c.group == group]
        if compared:
            base = html.escape(compared[0].base)
            parts += [f"<h2>{html.escape(group)} against {base}</h2>", _bars(summary, compared), _worse(summary, group)]
    parts += _problems(summary)
    return f"<!doctype html><meta charset='utf-8'><title>Scores</title><style>{STYLE}</style>{''.join(parts)}"


def _table(summary: Summary) -> str:
    compared = {(c.group, c.column): c for c in summary.comparisons}
    head = "".join(f"<th>{html.escape(g)}<br><small>{summary.counted(g)}</small>" for g in summary.groups)
    rows = []
    for name, column in summary.columns.items():
        cells = [_cell(summary.means[group][name], compared.get((group, name)), column) for group in summary.groups]
        if any(cells):
            rows.append(f"<tr><td>{html.escape(column.label)}" + "".join(f"<td>{cell}" for cell in cells))
    lines = "".join(f"<li>{html.escape(line)}" for line in [*summary.legend, *summary.notes])
    return f"<ul class=notes>{lines}</ul><div class=wide><table><tr><th>{head}{''.join(rows)}</table></div>"


def _cell(mean: Interval, c: Comparison | None, column: Column) -> str:
    if not mean.n:
        return ""
    lines = [f"<span class=mean>{mean} <small>({mean.counted})</small></span>"]
    if c:
        lines.append(f"<small>{html.escape(c.beside(mean, column))}</small>")
        decision = html.escape(c.decision)
        if decision:
            lines.append(f"<span class={c.verdict}>{decision}</span>" if c.verdict else f"<small>{decision}</small>")
    return "<br>".join(lines)


def _worse(summary: Summary, group: str) -> str:
    """The prompts on which a group is worse than the first, by column, with their seeds and scores."""
    listed = [each for each in summary.worse if each.group == group]
    if not listed:
        return ""
    base, own = html.escape(summary.base), html.escape(group)
    if not any(each.count for each in listed):
        return f"<p>{own} is worse than {base} on no prompt."
    rows = []
    for each in (each for each in listed if each.count):
        label = html.escape(summary.columns[each.column].label)
        rows.append(f"<tr><th colspan=3>{label} <small>worse on {each.count} of {each.of} prompts</small>")
        for prompt in each.prompts:
            pairs = "<br>".join(html.escape(str(pair)) for pair in prompt.pairs)
            rows.append(f"<tr><td>{html.escape(prompt.prompt)}<td>{prompt.difference:+.4g}<td>{pairs}")
    head = f"<tr><th>prompt<th>difference<th>{base} → {own}"
    about = f"Prompts on which {own} is worse than {base}, {html.escape(summary.listing)}"
    table = f"<div class=wide><table class=prompts>{head}{''.join(rows)}</table></div>"
    return f"<details open><summary class=notes>{about}</summary>{table}</details>"


def _totals(summary: Summary) -> str:
    texts = [f"{html.escape(g)}: {n} {v:.4f}" for g, t in summary.totals.items() for n, v in t.items()]
    return f"<p>VBench's totals: {'; '.join(texts)}" if texts else ""


def _problems(summary: Summary) -> list[str]:
    scores = summary.scores
    lines = [f"{v.path}{f', {d}' * bool(d)}: {problem}" for v, d, problem in scores.problems]
    lines += [f"{each.name} was skipped: {each.reason}" for each in scores.skipped]
    items = "".join(f"<li>{html.escape(line)}" for line in lines)
    return [f"<h2>Not scored</h2><ul>{items}</ul>"] if items else []


def _radar(summary: Summary, dimensions: list[str]) -> str:
    from cycler import cycler
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes: Any = figure.add_subplot(projection="polar")
    axes.set_prop_cycle(cycler(linestyle=("-", "--", ":")) * cycler(color=GROUPS))
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
    figure.legend(
        lines, list(map(_drawable, summary.groups)), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    return _svg(figure)


def _bars(summary: Summary, compared: list[Comparison]) -> str:
    """Paired differences in units of the columns' standard deviation over videos, so that they share an axis."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bars = []
    for c in compared:
        groups = [summary.values(group, c.column) for group in (c.base, c.group)]
        failure = failure_value(summary.columns[c.column])
        numbers = [v for group in groups for seeds in numbers_of(group, failure).values() for v in seeds.values()]
        values = [v for v in numbers if v == v]
        spread = float(np.std(values)) if values else 0.0
        if spread > 0:
            bars.append((c, spread))
    constant = [c.column for c in compared if not any(c is drawn for drawn, _ in bars)]
    names = html.escape(", ".join(constant))
    note = f"<p class=notes>Not drawn, as all videos have the same score: {names}." if constant else ""
    if not bars:
        return note
    figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    for row, (c, spread) in enumerate(reversed(bars)):
        colour = COLOURS[c.verdict]
        low, mean, high = (value / spread for value in (c.difference.low, c.difference.mean, c.difference.high))
        axes.barh(row, mean, color=colour, alpha=0.45)
        axes.plot([low, high], [row, row], color=colour)
    axes.axvline(0, color="#444", linewidth=0.8)
    labels = [_drawable(summary.columns[c.column].label) for c, _ in reversed(bars)]
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    axes.set_xlabel("difference in standard deviations over videos, and its 95 % interval, not adjusted", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    kinds = [verdict for verdict in COLOURS if any(c.verdict == verdict for c, _ in bars)]
    labels = [verdict or "not decided" for verdict in kinds]
    patches = [Patch(color=COLOURS[verdict], alpha=0.6) for verdict in kinds]
    figure.legend(patches, labels, loc="outside upper right", ncols=len(kinds), fontsize=8, frameon=False)
    return _svg(figure) + note


def _drawable(text: str) -> str:
    """A text as matplotlib draws it, none of it as mathematics."""
    return printable(text).replace("$", r"\$")


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "w2sd-video"}):  # its identifiers are random otherwise
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
