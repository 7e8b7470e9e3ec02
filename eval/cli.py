"""What `w2sd-video eval` does: scores under a progress bar, then a table, and the files beside it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
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

from w2sd_video.errors import Refused

from . import report
from .evaluate import evaluate
from .results import Summary, printable
from .videos import Video, read_prompts

MANY = 6  # groups, of which a terminal's width holds no more
# What near its start tells a file of this command's from another one.
SIGNS = {
    ".json": b'"command": [',
    ".jsonl": b'{"key": ',
    ".csv": b"column,group,n,mean",
    ".html": b"<title>Scores</title>",
}


def run(
    out: Console,
    err: Console,
    videos: list[str],
    dimensions: str,
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
    free(results)
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

    def say(console: Console, line: object) -> None:
        console.print(printable(str(line)), markup=False)

    out.print(table(summary))
    for group, totals in summary.totals.items():
        for name, value in totals.items():
            say(out, f"{group}: VBench {name} score {value:.4f}")
    for file in files:
        say(out, file)
    try:
        report.write(results.with_suffix(".html"), summary)
        say(out, results.with_suffix(".html"))
    except ModuleNotFoundError:
        say(err, "No page of plots: matplotlib is missing; pip install matplotlib")
    for note in summary.notes:
        say(err, note)
    for each in scores.skipped:
        say(err, f"{each.name} skipped: {each.reason}")
    for video, dimension, problem in scores.problems:
        say(err, f"{video.path}{f', {dimension}' * bool(dimension)}: {problem}")
    return not scores.problems


def free(results: Path) -> None:
    """Refuses a name for the results where something else would be lost.

    Raises:
        Refused: it is no name of a .json file, or it or a name beside it is taken by what this command did not write.
    """
    if results.suffix != ".json":
        raise Refused("out", str(results), "give the name of a .json file")
    there = {end: file for end in SIGNS if os.path.lexists(file := results.with_suffix(end))}
    named = re.compile(re.escape(results.stem) + r"(_\d+)?_eval_results\.json")
    vbench = [file for file in results.parent.glob("*_eval_results.json") if named.fullmatch(file.name)]
    starts = {}
    try:
        for end, file in there.items():
            with file.open("rb") as opened:
                starts[end] = opened.read(4096)
    except OSError as error:
        raise Refused("out", str(results), f"{error.filename} is not a file to write to; give another name") from None
    foreign = [
        there[end] for end, start in starts.items() if SIGNS[end] not in start and not SIGNS[end].startswith(start)
    ]
    foreign += [file for file in vbench if file.is_dir() or not there]
    if foreign:
        raise Refused("out", str(results), f"{foreign[0]} is there and not of this command; give another name")


def table(summary: Summary) -> Table:
    """The means, their intervals, and how they compare with the first group.

    A row a column of scores and a column a group; or, of many groups, a row each.
    """
    compared = {(c.group, c.column): c for c in summary.comparisons}

    def cell(group: str, column: str) -> str:
        c = compared.get((group, column))
        verdict = {True: " [green]better[/]", False: " [red]worse[/]", None: ""}[c.better] if c else ""
        return f"{summary.means[group][column]}" + (f"  ({c.said}{verdict})" if c else "")

    names = {group: escape(printable(group)) for group in summary.groups}
    cells = {column: [cell(group, column) for group in names] for column in summary.scales}
    cells = {column: found for column, found in cells.items() if any(found)}
    if len(names) <= MANY:
        shown = Table(Column("", overflow="fold"), *names.values(), box=None, header_style="bold")
        for column, found in cells.items():
            shown.add_row(summary.label(column), *found)
        return shown
    shown = Table(Column("", overflow="fold"), "", "", box=None)
    for column, found in cells.items():
        for number, (name, said) in enumerate(zip(names.values(), found, strict=True)):
            shown.add_row("" if number else summary.label(column), name, said)
    return shown
