"""One of the page's plots as a file for documents: each group's mean of one column against another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video.errors import Refused, did_you_mean
from w2sd_video.figures import check, save
from w2sd_video.runs import whole

from ..results import printable
from .data import COLOURS, Data, Experiment

if TYPE_CHECKING:
    from ..results import Summary


def sweep(
    path: Path, summary: Summary, experiment: Experiment, across: str | None = None, up: str | None = None
) -> None:
    """Draws quality against motion: one point per group, and lines along the first axis whose labels are numbers.

    Args:
        across, up: the columns on the x and the y axis. None: the first column of motion, and the first one in which
            higher is better.

    Raises:
        Refused: there is no such column, or the file cannot be drawn.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    check(path)
    data = Data(summary, experiment, {}, {})
    x, y = across or data.motion or data.quality, up or data.quality
    for option, name in (("--across", x), ("--up", y)):
        if name not in data.columns:
            raise Refused(option, name, did_you_mean(name, data.columns) if name else "nothing is scored")
    along = next((axis for axis, labels in experiment.axes.items() if all(map(_is_number, labels))), None)
    lines: dict[str, list[str]] = {}
    for group in summary.groups:
        labels = experiment.labels.get(group, {})
        rest = ", ".join(f"{axis} {label}" for axis, label in labels.items() if axis != along)
        lines.setdefault(rest if along else group, []).append(group)
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes: Any = figure.add_subplot()
    for n, (name, groups) in enumerate(lines.items()):
        if along:
            groups.sort(key=lambda group: float(experiment.labels[group][along]))
        points = [(summary.means[group][x], summary.means[group][y]) for group in groups]
        style = {"color": COLOURS[n % len(COLOURS)], "marker": "osD^vX"[n // len(COLOURS) % 6]}
        axes.plot(
            [a.mean for a, _ in points], [b.mean for _, b in points], label=_drawable(name), markersize=5, **style
        )
        for group, (a, b) in zip(groups, points, strict=True):
            if along:
                label = _drawable(experiment.labels[group][along])
                axes.annotate(label, (a.mean, b.mean), (4, 4), textcoords="offset points", fontsize=7, color="#666")
    axes.set_xlabel(_drawable(data.columns[x].label))
    axes.set_ylabel(_drawable(data.columns[y].label))
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1 or not along:
        title = f"along a line: {_drawable(along)}" if along else None
        axes.legend(title=title, fontsize=8, title_fontsize=8, frameon=False)
    with whole({"figure": path}) as staged:
        save(figure, staged["figure"], dpi=160)


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _drawable(text: str) -> str:
    """A text for matplotlib, escaped so that none of it is drawn as mathematics."""
    return printable(text).replace("$", r"\$")
