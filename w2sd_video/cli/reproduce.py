"""`w2sd-video reproduce`: a table of the paper by one command, on real models or on the shipped ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column
from rich.table import Table as Grid

from .. import runs, tables
from ..errors import Refused
from ..terminal import PATH, check_file, command_line, err, messages, number, out, quiet, say, wants_json
from .progress import FAILURES, cells, say_failed
from .scores import DEVICE, WEIGHTS, check_scoring, scores_of

if TYPE_CHECKING:
    from ..eval.results import Summary
    from ..plans import Plan
    from ..reproduce import Needs, Table

OPTIONS = {"n": "--n", "seeds": "--seeds", "prompt": "--prompts", "prompts": "--prompts", "tag": "--prompts"}


def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TABLE", help="A table of the paper, such as table12; or ls.")],
    shapes: Annotated[
        bool, typer.Option("--shapes", help="On the models of this package, which stand for the paper's.")
    ] = False,
    n: Annotated[
        int | None, typer.Option("--n", help="How many prompts, in place of the table's.", **number(int, 1))
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of each prompt, such as 0-4.")] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", help="The prompts: a suite or a file, in place of the table's.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The run's folder (default: TABLE).", **PATH)] = None,
    workers: Annotated[int, typer.Option(help="Processes side by side, each with models.", **number(int, 1, 256))] = 1,
    threads: Annotated[
        int | None,
        typer.Option(help="Of each worker (default: the cores shared among the workers).", **number(int, 1, 1024)),
    ] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Write the plan to this file, for `w2sd-video run`.", **PATH)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made.")] = False,
    form: Annotated[
        str, typer.Option("--format", help="text, json, markdown or latex: of tables; ls and --dry-run: text or json.")
    ] = "text",
) -> None:
    """Make a table of the paper: its prompts, arms and scores, beside the paper's figures.

    `reproduce ls` lists the tables. With --shapes a table is made with the models of this package: their judge's
    columns stand for the paper's, and each says why. Without, it takes the real weights; where some are missing, it
    says which, how to get them, and what the table costs. The same command again goes on, as `w2sd-video run` does.
    """
    # One function because its options are declared here, and what it does is one thing after another.
    with messages(context) as options:
        options |= OPTIONS
        from .. import plans
        from .. import reproduce as tables_of_paper

        if form not in ("text", "json", *tables.FORMATS):
            raise Refused("--format", form, f"give text, json, {' or '.join(tables.FORMATS)}")
        as_json = wants_json(form) if name == "ls" or dry_run else form == "json"
        if name == "ls":
            _list([tables_of_paper.load(each) for each in tables_of_paper.names()], as_json)
            return
        table = tables_of_paper.load(name)
        more: dict[str, Any] = {"n": n, "seeds": seeds, "prompts": prompts}
        more = {key: value for key, value in more.items() if value is not None}
        to = folder or Path(f"{name}-shapes" if shapes else name)
        places = _places(table, shapes, to)
        by_folder = {
            where: table.on_shapes(**more) if shapes else table.plan(table.parts[part], **more)
            for part, where in places.items()
        }
        costs = {where: tables_of_paper.needs(plan, weights) for where, plan in by_folder.items()}
        if plan_file is not None:
            _write_plans(plan_file, by_folder)
        lacking = {what: way for cost in costs.values() for what, way in cost.missing.items()}
        if as_json and dry_run:
            say(json.dumps(_needs(table, shapes, places, costs, lacking), indent=1))
        elif dry_run or lacking:
            _say_needs(table, shapes, places, costs, lacking, out if form == "text" else err)
        if dry_run:
            return
        if lacking:
            raise ValueError(
                f"{name} cannot be made here: {len(lacking)} things are missing, see above; get them, or give --shapes"
            )
        for where, plan in by_folder.items():
            plan.check()
            runs.usable(where)
        quiet()
        complete, summaries = True, {}
        for where, plan in by_folder.items():
            check_scoring(plan, where, weights, device)
            complete = _run(plan, where, workers, threads) and complete
            summaries[where] = _scored(plan, where, weights, device)
            complete = complete and summaries[where].scores.complete
        parts = tables_of_paper.results(table, {part: summaries[where] for part, where in places.items()}, shapes)
        blocks = tables_of_paper.document(table, parts, shapes)
        if as_json:
            say(json.dumps(tables_of_paper.data(table, parts, shapes), indent=1))
        elif form in tables.FORMATS:
            say(tables.FORMATS[form](blocks))
        else:
            _print(blocks)
        written = tables_of_paper.write(to, table, parts, shapes)
        for where, plan in by_folder.items():
            part = next(part for part, folder in places.items() if folder == where)  # the first, where it is of several
            paper = tables_of_paper.paper_of(table, part, shapes)
            written += plans.write_page(plan, where, summaries[where], paper=paper)
        for file in written:
            (out if form == "text" else err).print(str(file), markup=False)
        if not complete:
            raise typer.Exit(1)


def _list(all_tables: list[Table], as_json: bool) -> None:
    if as_json:
        rows = [
            {"name": t.name, "title": t.title, "source": t.source, "on_shapes": t.shapes.plan is not None}
            for t in all_tables
        ]
        say(json.dumps(rows, indent=1))
        return
    for each in all_tables:
        on = "also on the shipped models" if each.shapes.plan is not None else "on real models alone"
        out.print(f"[bold]{each.name}[/]: {escape(f'{each.title}. {each.source}; {on}.')}")


def _places(table: Table, shapes: bool, to: Path) -> dict[str, Path]:
    """The folder of each part's run: one for all where the shipped models stand for them."""
    several = len(table.parts) > 1 and not shapes
    return {part: to / part if several else to for part in table.parts}


def _write_plans(path: Path, by_folder: Mapping[Path, Plan]) -> None:
    """Writes the plan; of several, one file a part."""
    several = len(by_folder) > 1
    files = {
        path.with_name(f"{path.stem}-{where.name}{path.suffix}") if several else path: plan
        for where, plan in by_folder.items()
    }
    for file in files:
        check_file(file, overwrite=False)
    runs.usable(path.parent)
    with runs.whole({str(file): file for file in files}) as staged:
        for file, plan in files.items():
            text = yaml.safe_dump(_said(plan), sort_keys=False, allow_unicode=True)
            staged[str(file)].write_text(text, encoding="utf-8")
    for file in files:
        err.print(f"Wrote {file}", markup=False)


def _said(plan: Plan) -> dict[str, Any]:
    """What a plan says beside the defaults."""
    defaults = {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(plan)
    }
    return {name: value for name, value in asdict(plan).items() if value != defaults[name]}


def _needs(
    table: Table, shapes: bool, places: Mapping[str, Path], costs: Mapping[Path, Needs], lacking: Mapping[str, str]
) -> dict[str, Any]:
    """What `_say_needs` says, as data."""
    runs_of = [
        {"run": str(where), "parts": [part for part, place in places.items() if place == where]}
        | {"cells": cost.cells, "evaluations": cost.total, "evaluations_each": cost.evaluations}
        for where, cost in costs.items()
    ]
    return {"name": table.name, "on_shapes": shapes, "runs": runs_of, "missing": dict(lacking)}


def _say_needs(
    table: Table,
    shapes: bool,
    places: Mapping[str, Path],
    costs: Mapping[Path, Needs],
    lacking: Mapping[str, str],
    out: Console,
) -> None:
    """What would be made, what it costs, and what is missing."""
    from ..reproduce import mapping

    out.print(f"{table.title} ({table.source})", markup=False)
    if shapes:
        out.print(f"On the shipped models. {table.shapes.why}", markup=False)
        for line in tables.indented(mapping(table)):
            out.print(f"  {line}", markup=False)
    titles = {where: table.parts[part].title for part, where in places.items()}
    for where, cost in costs.items():
        title = "the shipped models" if shapes else titles[where]
        out.print(f"{title}: {cost.cells} cells, {cost.total} network evaluations", markup=False)
        for arm, count in cost.evaluations.items():
            out.print(f"  {arm}: {count} network evaluations each", markup=False)
    if lacking:
        out.print("missing:", markup=False)
    for what, way in lacking.items():
        out.print(f"  {what}: {way}", markup=False)


def _run(plan: Plan, where: Path, workers: int, threads: int | None) -> bool:
    """Makes a plan's cells; whether none failed."""
    from .. import plans

    with cells() as show:
        done = plans.run(plan, where, workers, threads, command=command_line(), progress=show)
    say_failed(done)
    return not done.failed


def _scored(plan: Plan, where: Path, weights: Path | None, device: str) -> Summary:
    """The scores of a run, written beside it as `w2sd-video score` does."""
    from ..eval.results import Summary

    scores = scores_of(plan, where, plan.dimensions, weights, device)
    summary = Summary(scores)
    summary.write(where / "scores" / "scores.json", command_line())
    for video, dimension, problem in scores.problems[:FAILURES]:
        err.print(f"{video.path}{f', {dimension}' * bool(dimension)}: {problem}", markup=False)
    for each in scores.skipped:
        err.print(f"{each.name} skipped: {each.reason}", markup=False)
    return summary


STYLES = {
    "reproduced": "green",
    "opposite": "red",
    "better": "green",
    "worse": "red",
    "differs": "blue",
    "not shown": "dim",
}


def _print(blocks: list[tables.Block]) -> None:
    for block in blocks:
        if isinstance(block, tables.Table):
            grid = _upright(block)
            if Measurement.get(out, out.options.update_width(sys.maxsize), grid).maximum > out.width:
                grid = _on_its_side(block)
            out.print(grid)
        elif isinstance(block, tables.Items):
            for line in tables.indented(block):
                out.print(f"- {line}", markup=False)
        else:
            say("".join(map(tables.plain, block.line)))


def _upright(table: tables.Table) -> Grid:
    grid = Grid(*(escape(tables.plain(cell)) for cell in table.head), box=None, header_style="bold")
    for row in table.rows:
        grid.add_row(*map(_styled, row))
    return grid


def _on_its_side(table: tables.Table) -> Grid:
    """A table that is too wide: a line for each of a row's cells, after its column's head."""
    grid = Grid(Column(overflow="fold", ratio=1), Column(overflow="fold"), "", box=None, show_header=False)
    for row in table.rows:
        label = _styled(row[0])
        for head, cell in zip(table.head[1:], row[1:], strict=True):
            if tables.plain(cell):
                grid.add_row(label, escape(tables.plain(head)), _styled(cell))
                label = ""
    return grid


def _styled(cell: tables.Text) -> str:
    text = escape(tables.plain(cell))
    style = STYLES.get(cell.verdict if isinstance(cell, tables.Marked) else cell)
    return f"[{style}]{text}[/]" if style else text
