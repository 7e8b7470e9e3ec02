"""What `w2sd-video eval` does: scores under a progress bar, then a table, and the files beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from w2sd_video.runs import Refused, writable

from . import report
from .evaluate import evaluate
from .results import Summary
from .videos import Video, read_prompts


def run(
    out: Console,
    err: Console,
    videos: list[str],
    dimensions: list[str],
    results: Path,
    prompts: Path | None,
    weights: Path | None,
    device: str,
    official: str | None,
    images: bool,
    references: list[str],
) -> bool:
    """Scores, prints and writes; whether every video was scored.

    Raises:
        Refused: an argument cannot be used.
        FileNotFoundError: the weights of every dimension are missing.
    """
    if results.suffix != ".json":
        raise Refused("out", str(results), "give the name of a .json file")
    if weights and not weights.is_dir():
        raise Refused("weights", str(weights), "give a folder")
    writable(results.parent)
    texts = read_prompts(prompts) if prompts else None
    columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    columns += (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("videos", total=None)

        def show(done: int, total: int, video: Video) -> None:
            bar.update(task, completed=done, total=total, description=video.path.name[-40:])

        rows = results.with_suffix(".jsonl")
        scores = evaluate(videos, dimensions, rows, texts, weights, device, official, images, references, progress=show)
    summary = Summary(scores)
    files = summary.write(results, ["w2sd-video", *sys.argv[1:]])
    try:
        report.write(results.with_suffix(".html"), summary)
        files.append(results.with_suffix(".html"))
    except ModuleNotFoundError:
        err.print("No page of plots: matplotlib is missing; pip install matplotlib", markup=False)

    out.print(table(summary))
    for group, totals in summary.totals.items():
        for name, value in totals.items():
            out.print(f"{group}: VBench {name} score {value:.4f}", markup=False)
    for file in files:
        out.print(str(file), markup=False)
    for note in summary.notes:
        err.print(note, markup=False)
    for each in scores.skipped:
        err.print(f"{each.name} skipped: {each.reason}", markup=False)
    for video, dimension, problem in scores.problems:
        err.print(f"{video.path}{f', {dimension}' * bool(dimension)}: {problem}", markup=False)
    return not scores.problems


def table(summary: Summary) -> Table:
    """A row a column of scores, a column a group: the mean, its interval, and how it compares with the first group."""
    compared = {(c.group, c.column): c for c in summary.comparisons}
    shown = Table(Column("", overflow="fold"), *summary.groups, box=None, header_style="bold")
    for column in summary.scales:
        cells = []
        for group in summary.groups:
            mean, c = summary.means[group][column], compared.get((group, column))
            cell = str(mean)
            if c:
                verdict = {True: " [green]better[/]", False: " [red]worse[/]", None: ""}[c.better]
                cell += f"  ({c.said}{verdict})"
            cells.append(cell)
        if any(cells):
            shown.add_row(summary.label(column), *cells)
    return shown
