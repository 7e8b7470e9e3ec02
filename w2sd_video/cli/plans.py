"""`w2sd-video run` and `w2sd-video status`: whole tables of prompts, seeds and settings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import plugins, runs, tables
from ..errors import Refused
from ..terminal import PATH, err, messages, out, quiet, say
from .options import FORMAT, wants_json

if TYPE_CHECKING:
    from ..eval.results import Summary
    from ..plans import Plan
    from ..plans import Progress as Done

OF_PLANS = {"prompt": "prompts", "tag": "tags"}  # what an error's argument is called in a plan
FAILURES = 5  # that are listed
METHOD = typer.Option("--method", metavar="FILE.py:CLASS", help="A file with a method that the plan names; repeatable.")
WEIGHTS = typer.Option("--weights", help="A folder with the weights of the scores' networks.", **PATH)
DEVICE = typer.Option("--device", help="Where videos are scored: auto, cpu, cuda or cuda:N. Settings say where made.")


def run(
    context: typer.Context,
    plan_file: Annotated[
        Path, typer.Argument(help="A plan, YAML; or the folder of a run, to go on.", **{**PATH, "metavar": "PLAN"})
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="The run's folder (default: the plan's name).", **PATH)
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes side by side, each with models.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Of each worker (default: the cores shared among the workers)."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Only the i-th of n parts, of runs on several machines.")
    ] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    methods: Annotated[list[str] | None, METHOD] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be made.")] = False,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Make every cell of a plan: prompts x seeds x axes of settings.

    What is made is kept, whatever ends the command. The same command goes on, and tries again what failed; with more
    prompts, seeds or values in the plan, it makes only what is new. It scores the videos where the plan has dimensions.
    """
    with messages(context) as options:
        options |= OF_PLANS
        as_json = wants_json(form)
        from .. import plans

        plan, to = plan_of(plan_file, folder, methods)
        part = _shard(shard)
        plan.check()
        if dry_run:
            _say(_status(plan, to, part, threads), as_json)
            return
        quiet()
        scores = bool(plan.dimensions) and part == (1, 1)
        if scores:
            _check_scoring(plan, to, weights, device)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("cells", total=None)

            def show(done: Done) -> None:
                left = "" if done.left is None else f", {timedelta(seconds=round(done.left))} left"
                count = done.made + len(done.failed)
                bar.update(task, completed=count, total=done.cells, description=f"cells{left}")
                if not err.is_terminal and count > done.kept:
                    err.print(f"{count}/{done.cells}{left}", markup=False)

            done = plans.run(plan, to, workers, threads, part, ["w2sd-video", *sys.argv[1:]], progress=show)
        about = _status(plan, to, part, threads)
        _say(about, as_json)
        for line in done.failed[:FAILURES]:
            err.print(f"failed: {line['arm']}, {line['prompt']}, seed {line['seed']}: {line['error']}", markup=False)
        if done.failed[FAILURES:]:
            err.print(f"and {len(done.failed) - FAILURES} more", markup=False)
        if others := sorted({each.name for each in (to / "videos").glob("[!.]*")} - {arm.folder for arm in plan.arms}):
            err.print(f"note: {to / 'videos'} has more, which is not of this plan: {', '.join(others)}", markup=False)
        scored = True
        if scores:
            scored = _score(plan, to, plan.dimensions, weights, device, "json-quietly" if as_json else "text")
        if done.failed or not scored:
            raise typer.Exit(1)


def score(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", **{**PATH, "metavar": "RUN"})],
    dimensions: Annotated[str | None, typer.Option(help="In place of the plan's: names with commas between.")] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    methods: Annotated[list[str] | None, METHOD] = None,
    form: Annotated[str, typer.Option("--format", help="text, json, markdown or latex.")] = "text",
) -> None:
    """Score what a run has made, arm by arm; what was scored before is kept.

    A cell that was not made counts as failed.
    """
    with messages(context) as options:
        from ..eval.dimensions import named_by_user

        options |= OF_PLANS
        plan, to = plan_of(folder, None, methods)
        wanted = named_by_user(dimensions).split(",") if dimensions else plan.dimensions
        if not wanted:
            raise Refused("--dimensions", None, "the plan names none: give some of `w2sd-video dimensions`")
        if form not in ("text", "json", *tables.FORMATS):
            raise Refused("--format", form, f"give text, json, {' or '.join(tables.FORMATS)}")
        quiet()
        if not _score(plan, to, wanted, weights, device, form):
            raise typer.Exit(1)


def _check_scoring(plan: Plan, folder: Path, weights: Path | None, device: str) -> None:
    """Refuses, before anything is made, what could not be scored then; says which dimensions lack weights."""
    from ..eval.cli import refuse_taken
    from ..eval.dimensions import chosen
    from ..eval.scorer import Scorer
    from ..runs.request import usable_device

    if weights is not None and not weights.is_dir():
        raise Refused("weights", str(weights), "give a folder")
    refuse_taken(folder / "scores" / "scores.json")
    for each in Scorer(chosen(plan.dimensions), weights, usable_device(device, auto=("cuda",))).skipped:
        err.print(f"note: {each.name} will be skipped: {each.reason}", markup=False)


def _score(plan: Plan, folder: Path, dimensions: list[str], weights: Path | None, device: str, form: str) -> bool:
    """Whether all could be scored."""
    from .. import plans
    from ..eval import report
    from ..eval.cli import run as evaluate

    videos = plans.videos(plan, folder)
    results = folder / "scores" / "scores.json"
    runs.writable(results.parent)
    images = not plan.arms[0].template.video
    to = err if form == "json-quietly" else out
    how = "text" if form == "json-quietly" else form

    def page(summary: Summary) -> list[Path]:
        return plans.write_page(plan, folder, summary)

    report.check(folder / plans.PAGE)
    return evaluate(
        to, err, videos, dimensions, results, weights=weights, device=device, images=images, form=how, page=page
    )


def status(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", **{**PATH, "metavar": "RUN"})],
    methods: Annotated[list[str] | None, METHOD] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """How far a run is: what of each arm is made, failed and left, and how long that takes."""
    with messages(context) as options:
        options |= OF_PLANS
        as_json = wants_json(form)
        plan, to = plan_of(folder, None, methods)
        _say(_status(plan, to, (1, 1), None), as_json)


def plan_of(path: Path, folder: Path | None, methods: list[str] | None) -> tuple[Plan, Path]:
    """The plan of a file, or of a run's folder; and the folder. Files of methods run before."""
    from .. import plans

    for each in methods or ():
        if not plugins.is_file(each):
            raise Refused("method", each, "give FILE.py:CLASS; other methods are named in the plan alone")
        plugins.from_file("method", each)
    if path.is_dir():
        if not (path / "plan.yaml").is_file():
            raise Refused("RUN", str(path), "it has no plan.yaml: give the folder of a run, or a plan")
        if folder is not None:
            raise Refused("--out", str(folder), f"{path} is the run's folder: give a plan, or no --out")
        return plans.read(path / "plan.yaml"), path
    if not path.exists():
        raise Refused("PLAN", str(path), "there is no such file or folder")
    if folder is None and not path.suffix:
        raise Refused("--out", None, f"{path} has no suffix, and the run's folder would have its name: give a folder")
    return plans.read(path), folder or path.with_suffix("")


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise Refused("--shard", text, "give i/n, with i from 1 to n, such as 2/8")
    return int(match[1]), int(match[2])


def _status(plan: Plan, folder: Path, shard: tuple[int, int], threads: int | None) -> dict[str, Any]:
    from .. import plans

    return plans.status(plan, folder, shard, threads)


def _say(about: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say(json.dumps(about, indent=1))
        return
    out.print(f"{about['prompts']} prompts x {about['seeds']} seeds x {len(about['arms'])} arms", markup=False)
    for name, arm in about["arms"].items():
        parts = [f"{arm['made']}/{arm['cells']} made"]
        parts += [f"{arm['failed']} failed"] if arm["failed"] else []
        parts += [f"{arm['evaluations']} network evaluations each"]
        parts += [f"{arm['seconds']:.3g} s each"] if arm["seconds"] is not None else []
        out.print(f"  {name}: {', '.join(parts)}", markup=False)
    left = about["seconds_left"]
    words = "unknown, until a cell of each arm is made" if left is None else str(timedelta(seconds=round(left)))
    unit = _unit(about["bytes"])
    cells = f"{about['left']} cells, {about['evaluations_left']} network evaluations"
    out.print(f"left: {cells}; {words} on one worker; on disk {unit}", markup=False)


def _unit(size: int) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    n = next(n for n, _ in enumerate(units) if size < 1000 ** (n + 1) or n == len(units) - 1)
    return f"{size / 1000**n:.3g} {units[n]}"


COMMANDS: dict[str, Callable[..., None]] = {"run": run, "status": status, "score": score}
