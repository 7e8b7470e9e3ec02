"""What `w2sd-video eval` does: scores under a progress bar, then a table, and the files beside it."""

from __future__ import annotations

import errno
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from w2sd_video import tables
from w2sd_video.errors import Refused
from w2sd_video.power import prompts_needed
from w2sd_video.progress import bar
from w2sd_video.terminal import command_line
from w2sd_video.verdicts import ENOUGH, TOO_FEW

from . import report, totals
from .document import document, worse_prompts
from .evaluate import Scores
from .results import WORST, Summary, printable, vbench_files
from .videos import Video

CELL = 22  # characters that a group's column needs on a terminal, so that no number of it is cut
# What near its start tells a file of this command's from another one.
SIGNS = {
    ".json": (b'"command": [',),
    ".jsonl": (b'{"key": ',),
    ".csv": (b"column,group,n,mean",),
    ".html": tuple(sign.encode() for sign in report.SIGNS),
}


def run(
    out: Console,
    err: Console,
    score: Callable[..., Scores],
    results: Path,
    *,
    form: str = "text",
    worst: int | None = None,
    power: float | None = None,
    gallery: bool = False,
    page: Callable[[Summary], list[Path]] | None = None,
    lists: str = "",
) -> bool:
    """Scores, prints and writes; whether every video was scored, on every dimension.

    Args:
        score: `evaluate` with its arguments, but for `rows_file`, `progress` and `say`, which it gets here.
        results: the JSON file to write; others are written beside it.
        form: text; or json, markdown or latex: then `out` gets what is written to `results`, or the tables, and `err`
            all that a reader is told.
        worst: how many prompts of a column are listed on which a group is worse than the first. None: a few, and in
            the files alone.
        power: the size of a difference. Printed is how many prompts it takes to show one of that size.
        gallery: whether the page shows the videos.
        page: writes the page, and returns its files; None: it lies beside the results.
        lists: what a user gives to have those prompts printed too; empty where there is no way.

    Raises:
        Refused: an argument cannot be used.
        FileNotFoundError: the weights of every dimension are missing.
    """
    refuse_taken(results)
    early: list[str] = []

    def note(line: str) -> None:
        early.append(line)
        _say(err, line)

    with bar("videos", err) as show:

        def progress(done: int, total: int, video: Video) -> None:
            show(done, total, doing=video.path.name[-40:])

        scores = score(rows_file=results.with_suffix(".jsonl"), progress=progress, say=note)
    summary = Summary(scores, worst=WORST if worst is None else worst)
    files = summary.write(results, command_line())
    _print(out, summary, form, worst, results, lists)
    listing_to = out if form == "text" else err
    for line in needed(summary, power) if power is not None else ():
        _say(listing_to, line)
    for file in files:
        _say(listing_to, file)
    try:
        written = page(summary) if page else report.write(results.with_suffix(".html"), summary, gallery=gallery)
        _say(listing_to, written[0])
    except ModuleNotFoundError as error:
        _say(err, f"No page: {error.name} is missing; pip install {error.name}")
    _say_notes(err, [line for line in summary.notes if line not in early], summary, scores, worst)
    return scores.complete


def _say_notes(err: Console, notes: Sequence[str], summary: Summary, scores: Scores, worst: int | None) -> None:
    """What a reader is told after the tables: notes, and what was not scored."""
    for line in notes:
        _say(err, line)
    if worst is not None and not summary.others:
        _say(err, "Note: --worst has no effect on one group; give another to compare.")
    for each in scores.skipped:
        _say(err, f"{each.name} skipped: {each.reason}")
    said: set[str] = set()
    alike: dict[tuple[str, str], list[Video]] = {}
    for video, dimension, problem in scores.problems:
        alike.setdefault((dimension, problem), []).append(video)
    for (dimension, problem), videos in alike.items():
        first, _, advice = problem.partition("\n")  # the advice once
        of = f"{videos[0].path}{f' and {len(videos) - 1} more' * (len(videos) > 1)}{f', {dimension}' * bool(dimension)}"
        _say(err, f"{of}: {first if advice in said else problem}")
        said.add(advice)


def needed(summary: Summary, size: float) -> list[str]:
    """How many prompts it takes to show a difference of a size from the first group, by column and group."""
    compared = list(summary.compared())
    lines = [
        f"Prompts with which a difference of {size:g} from {summary.base} is shown in 80 of 100 runs, by p adjusted for"
        f" {len(compared)} comparisons, if prompts differ as much as these:"
    ]
    untold: dict[str, list[str]] = {}
    for column, group, first, second in compared:
        if (count := prompts_needed(column, first, second, size, len(compared))) is None:
            untold.setdefault(group, []).append(column.name)
        else:
            lines.append(f"  {column.name}, {group}: {count}")
    for group, columns in untold.items():
        why = "too few prompts differ, or it is over ten million"
        lines.append(f"  {group}, cannot be told ({why}): {', '.join(columns)}")
    if (prompts := len({video.prompt for video in summary.scores.videos})) < ENOUGH:
        lines.append(f"Note: how much prompts differ is hardly known from {prompts}: these numbers are guesses.")
    return lines


def _say(console: Console, line: object) -> None:
    console.print(printable(str(line)), markup=False)


def _print(out: Console, summary: Summary, form: str, worst: int | None, results: Path, lists: str) -> None:
    """Prints the written results as JSON, or tables; with `worst`, the prompts on which groups are worse too."""
    if form == "json":
        out.print(results.read_text(encoding="utf-8"), markup=False, emoji=False, end="")
    elif form in tables.FORMATS:
        blocks = document(summary)
        if worst is not None and summary.worse:
            blocks.append(worse_prompts(summary))
        out.print(tables.FORMATS[form](blocks), markup=False, emoji=False)
    else:
        _print_text(out, summary, worst, results, lists)


def _print_text(out: Console, summary: Summary, worst: int | None, results: Path, lists: str) -> None:
    """Prints the table and what a reader of it has to know; with `worst`, the prompts on which groups are worse."""
    few = too_few(summary)
    whole = bool(few) and all(each.reason == few for each in summary.comparisons)
    if few:
        where = "" if whole else ", where a cell says nothing else"
        lacking = f"With so few, intervals are wide: the table leaves them out, and they are in {results}"
        _say(out, f"{few[0].upper()}{few[1:]}{where}. {lacking}")
    out.print(table(summary, out.width))
    for line in summary.legend_of(summary.has_intervals and not whole):
        _say(out, line)
    for line in totals.lines(summary):
        _say(out, line)
    if worst is not None:
        for line in tables.indented(worse_prompts(summary)):
            _say(out, line)
    elif any(each.count for each in summary.worse):
        there = f"Prompts on which a group is worse than {summary.base} are listed in {results}"
        _say(out, f"{there}{f', and with {lists} here' * bool(lists)}.")


def refuse_taken(results: Path) -> None:
    """Refuses a name for the results where something else would be lost.

    Raises:
        Refused: it is no name of a .json file, or it or a name beside it is taken by what this command did not write.
    """
    if results.suffix != ".json":
        raise Refused(
            "out", str(results), "give the name of a .json file, or of an .html file for a page of the videos"
        )
    there = {end: file for end in SIGNS if os.path.lexists(file := results.with_suffix(end))}
    vbench = vbench_files(results)
    starts = {}
    try:
        for end, file in there.items():
            if file.exists() and not file.is_file():
                raise OSError(errno.EINVAL, "no file", str(file))
            with file.open("rb") as opened:
                starts[end] = opened.read(4096)
    except OSError as error:
        raise Refused("out", str(results), f"{error.filename} is not a file to write to; give another name") from None
    foreign = [
        there[end]
        for end, start in starts.items()
        if not any(sign in start or sign.startswith(start) for sign in SIGNS[end])
    ]
    foreign += [file for file in vbench if file.is_dir() or not there]
    if foreign:
        raise Refused("out", str(results), f"{foreign[0]} is there and not of this command; give another name")
    if (folder := report.files_of(results.with_suffix(".html"))).exists() and not folder.is_dir():
        raise Refused("out", str(results), f"{folder} is there and no folder; give another name")


def too_few(summary: Summary) -> str:
    """The reason for which most comparisons have no verdict, if it is that they are of too few; else an empty text."""
    reasons = Counter(each.reason for each in summary.comparisons if each.reason.startswith(TOO_FEW))
    reason, count = reasons.most_common(1)[0] if reasons else ("", 0)
    return reason if 2 * count > len(summary.comparisons) else ""


def table(summary: Summary, width: int) -> Table:
    """The means, their intervals, and how they compare with the first group. What has no verdict because it is of too
    few, as most is, is without intervals, and without that reason, which stands above the table.

    A row a column of scores and a column a group; or a row each, if `width` (in characters) does not hold the groups.
    """
    compared = {(c.group, c.column): c for c in summary.comparisons}
    styles = {"better": "green", "worse": "red", "differs": "blue"}
    few = too_few(summary)
    wide = {c.column for c in summary.comparisons if few and c.reason == few}
    wide -= {c.column for c in summary.comparisons if c.reason != few}

    def cell(group: str, column: str) -> str:
        mean, c = summary.means[group][column], compared.get((group, column))
        if not mean.n:
            return ""
        if column in wide:
            mean = replace(mean, low=math.nan, high=math.nan)
            c = c and replace(c, difference=replace(c.difference, low=math.nan, high=math.nan), reason="")
        lines = [f"{escape(str(mean))} ({mean.counted})"]
        if c:
            style = styles.get(c.verdict, "dim")
            lines.append(escape(c.beside(mean, summary.columns[column])))
            lines += [f"[{style}]{escape(c.decision)}[/]"] if c.decision else []
        return "\n".join(lines)

    names = {group: escape(printable(group)) for group in summary.groups}
    # What is said behind a name has a line of its own, so that names are whole at 80 columns.
    labels = {
        name: escape(printable(name)) + column.label.removeprefix(name).replace(" ", "\n", 1)
        for name, column in summary.columns.items()
    }
    cells = {column: [cell(group, column) for group in names] for column in summary.columns}
    cells = {column: each for column, each in cells.items() if any(each)}
    if len(names) <= max(1, (width - max(map(len, summary.columns), default=0)) // CELL):
        heads = [f"{name}\n{summary.counted(group)}" for group, name in names.items()]
        grid = Table(Column("", no_wrap=True, overflow="fold"), *heads, box=None, header_style="bold")
        for column, each in cells.items():
            grid.add_row(labels[column], *each)
        return grid
    grid = Table(Column("", no_wrap=True, overflow="fold"), "", "", box=None, show_header=False)
    for group, name in names.items():
        grid.add_row("", name, summary.counted(group))
    for column, each in cells.items():
        for number, (name, lines) in enumerate(zip(names.values(), each, strict=True)):
            grid.add_row("" if number else labels[column], name, lines)
    return grid
