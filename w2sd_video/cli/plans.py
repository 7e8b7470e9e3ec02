"""`w2sd-video run`, `score` and `status`: whole tables of prompts, seeds and settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import doctor, plugins, runs, tables
from ..errors import Refused, WeightsError, WeightsNotFound
from ..terminal import FORMAT, PATH, command_line, err, messages, number, out, quiet, say, wants_json
from .options import dimension_names
from .progress import FAILURES, cells, cost, say_failed
from .scores import DEVICE, OFFICIAL, WEIGHTS, WORST, check_scoring, score_run

if TYPE_CHECKING:
    from ..plans import Plan
    from ..plans.engine import Engine

# What an error's argument is called in a plan, or by these commands.
OF_PLANS = {"prompt": "prompts", "tag": "tags", "gpus": "--gpus-per-worker"}
OF_PLANS |= {name: f"--{name}" for name in ("engine", "address", "threads")}
METHOD = typer.Option("--method", metavar="FILE.py:CLASS", help="A file with a method that the plan names; repeatable.")
METHOD_AGAIN = typer.Option(
    "--method", metavar="FILE.py:CLASS", help="As for `run`; needed only if RUN/plan.yaml has changed since."
)
ENGINE = typer.Option("--engine", metavar="local|ray", help="local: this machine; ray: a Ray cluster.")
WORKERS = typer.Option(
    "--workers",
    help="Processes side by side, each with models of its own (default: 1; on Ray, one for each GPU).",
    **number(int, 1, 1024),
)
THREADS = typer.Option(
    "--threads",
    help="Threads of each worker (default: the run's, or the cores shared among the workers).",
    **number(int, 1, 1024),
)
ADDRESS = typer.Option(
    "--address",
    metavar="HOST:PORT",
    help="The address of a Ray cluster, or auto (default: RAY_ADDRESS, else a cluster of its own).",
)
GPUS = typer.Option(
    "--gpus-per-worker",
    help="GPUs of each worker on Ray; a fraction shares one (default: 1 if the cluster has any).",
    **number(float, 0),
)


def run(
    context: typer.Context,
    plan_file: Annotated[
        Path, typer.Argument(help="A plan, YAML; or the folder of a run, to go on.", **{**PATH, "metavar": "PLAN"})
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="The run's folder (default: the plan's name).", **PATH)
    ] = None,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    engine: Annotated[str, ENGINE] = "local",
    address: Annotated[str | None, ADDRESS] = None,
    gpus: Annotated[float | None, GPUS] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Make only the i-th of n parts, for a run on several machines.")
    ] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    official: Annotated[str | None, OFFICIAL] = None,
    methods: Annotated[list[str] | None, METHOD] = None,
    names: Annotated[
        str | None,
        typer.Option(help="vbench: link the videos, too, under the names that VBench's own tools read, in RUN/vbench."),
    ] = None,
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

        plan, to = plan_of(plan_file, folder, methods, to_make=True)
        part = _shard(shard)
        if names is not None:
            options["names"] = "--names"
            named: dict[str, Any] = {"names": names}
            plan = replace(plan, **named)
        plan.check()
        plans.check_tuning(plan)
        runs.placeable(to)
        if dry_run:
            if (about := plans.status(plan, to, part, threads))["left"]:
                doctor.check_models(arm.template for arm in plan.arms)
            _say(about, as_json)
            for line in doctor.missing(arm.template for arm in plan.arms):
                err.print(f"note: {line}", markup=False)
            return
        if engine == "local":
            try:
                doctor.check_there(arm.template for arm in plan.arms)
            except (Refused, WeightsError, WeightsNotFound):
                if plans.status(plan, to, part, threads)["left"]:  # else nothing has to be loaded
                    raise
        quiet()
        scores = bool(plan.dimensions) and part == (1, 1)
        if scores:
            check_scoring(plan, to, weights, device, official)
        by = context.with_resource(_engine(plan, device, engine, workers, address, gpus))
        with cells() as show:
            done = plans.run(plan, to, threads=threads, shard=part, command=command_line(), engine=by, progress=show)
        about = plans.status(plan, to, part, threads)
        _say(about, as_json)
        say_failed(done)
        if others := sorted({each.name for each in (to / "videos").glob("[!.]*")} - {arm.folder for arm in plan.arms}):
            err.print(f"note: {to / 'videos'} has more, which is not of this plan: {', '.join(others)}", markup=False)
        scored, how = True, "json-quietly" if as_json else "text"
        if scores:
            scored = score_run(plan, to, plan.dimensions, weights, device, how, by, threads, official=official)
        if done.failed or not scored:
            raise typer.Exit(1)


def score(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", **{**PATH, "metavar": "RUN"})],
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="More than the plan's, for the table of this call: names with commas between, or FILE.py:NAME.",
            autocompletion=dimension_names,
        ),
    ] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    official: Annotated[str | None, OFFICIAL] = None,
    workers: Annotated[int | None, WORKERS] = None,
    threads: Annotated[int | None, THREADS] = None,
    engine: Annotated[str, ENGINE] = "local",
    address: Annotated[str | None, ADDRESS] = None,
    gpus: Annotated[float | None, GPUS] = None,
    power: Annotated[
        float | None,
        typer.Option(
            help="Say how many prompts show a difference of this size.", **number(float) | {"metavar": "SIZE"}
        ),
    ] = None,
    worst: Annotated[int | None, WORST] = None,
    methods: Annotated[list[str] | None, METHOD_AGAIN] = None,
    form: Annotated[str, typer.Option("--format", help="text, json, markdown or latex.")] = "text",
) -> None:
    """Score what a run has made, arm by arm.

    The table and the page have the plan's dimensions and those of --dimensions. Every score is kept: a dimension that
    an earlier call named is left out of the table unless it is named again, which costs nothing. A cell that was not
    made counts as failed.
    """
    with messages(context) as options:
        from ..eval.dimensions import expand, named_by_user

        options |= OF_PLANS
        plan, to = plan_of(folder, None, methods, to_make=False)
        wanted = expand([*plan.dimensions, *named_by_user(dimensions).split(",")]) if dimensions else plan.dimensions
        if power is not None and not 0 < power < float("inf"):
            raise Refused("--power", power, "give the size of a difference, above 0, such as 0.02")
        if not wanted:
            raise Refused("--dimensions", None, "the plan names none: give some of `w2sd-video dimensions`")
        if form not in ("text", "json", *tables.FORMATS):
            raise Refused("--format", form, f"give text, json, {' or '.join(tables.FORMATS)}")
        quiet()
        by = context.with_resource(_engine(plan, device, engine, workers, address, gpus))
        if not score_run(plan, to, wanted, weights, device, form, by, threads, power, official, worst):
            raise typer.Exit(1)


@contextmanager
def _engine(
    plan: Plan, device: str, engine: str, workers: int | None, address: str | None, gpus: float | None
) -> Iterator[Engine]:
    """Whatever makes and scores."""
    from ..plans import OnRay
    from ..plans.run import on_this_machine

    if engine not in ("local", "ray"):
        raise Refused("engine", engine, "give local or ray")
    if engine == "local":
        for option, value in (("--address", address), ("--gpus-per-worker", gpus)):
            if value is not None:
                raise Refused(option, value, "it goes with --engine ray")
        yield on_this_machine(workers or 1)
        return
    for each in {device, *(arm.template.device for arm in plan.arms)}:
        if each.startswith("cuda:"):
            raise Refused("device", each, "Ray says which GPU a worker has: give cuda or auto")
    with OnRay(workers, address, gpus) as by:
        yield by


def status(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", **{**PATH, "metavar": "RUN"})],
    methods: Annotated[list[str] | None, METHOD_AGAIN] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Show how far a run is: for each arm what is made, failed and left, how long that takes, and why cells failed."""
    with messages(context) as options:
        options |= OF_PLANS
        as_json = wants_json(form)
        from .. import plans

        about = plans.status(*plan_of(folder, None, methods, to_make=False))
        _say(about, as_json)
        if not as_json:
            _say_errors(about)


def plan_of(path: Path, folder: Path | None, methods: list[str] | None, to_make: bool) -> tuple[Plan, Path]:
    """The plan of a file, or of a run's folder; and the folder. Files of methods run before.

    Args:
        to_make: whether cells are to be made. What is made can be looked at and scored without the code of methods.
    """
    from .. import plans

    for each in methods or ():
        if plugins.from_name("method", each) is None:
            raise Refused("method", each, "give FILE.py:CLASS; other methods are named in the plan alone")
    if folder is None and path.name == "plan.yaml" and (path.parent / "run.json").is_file():
        path = path.parent  # it is the plan of the run in this folder
    if path.is_dir():
        if not (path / "plan.yaml").is_file():
            raise Refused("RUN", str(path), "it has no plan.yaml: give the folder of a run, or a plan")
        if folder is not None:
            raise Refused("--out", str(folder), f"{path} is the run's folder: give a plan, or no --out")
        return plans.read(path / "plan.yaml") if to_make else plans.read_run(path), path
    if not path.exists():
        begin = "" if to_make else "; `w2sd-video run` makes a run's folder with its first cell"
        raise Refused("PLAN" if to_make else "RUN", str(path), f"there is no such file or folder{begin}")
    if not to_make and not path.suffix:
        raise Refused("RUN", str(path), "give the folder of a run")
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


def _say(about: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say(json.dumps(about, indent=1))
        return
    counts = {"prompt": about["prompts"], "seed": about["seeds"], "arm": len(about["arms"])}
    out.print(" x ".join(f"{count} {of}{'s' * (count != 1)}" for of, count in counts.items()), markup=False)
    for name, arm in about["arms"].items():
        parts = [f"{arm['made']}/{arm['cells']} made"]
        parts += [f"{arm['failed']} failed"] if arm["failed"] else []
        parts += [cost(arm["evaluations"], arm["strong_evaluations"])]
        parts += [f"{arm['seconds']:.3g} s each"] if arm["seconds"] is not None else []
        out.print(f"  {name}: {', '.join(parts)}", markup=False)
    left = about["seconds_left"]
    unknown = "the time is unknown until each arm has a cell"
    words = unknown if left is None else f"{timedelta(seconds=round(left))} on one worker"
    cells = f"{about['left']} cell{'s' * (about['left'] != 1)}, {about['evaluations_left']} network evaluations"
    if about["tuning_evaluations"]:
        out.print(f"tuning before: {about['tuning_evaluations']} network evaluations or more", markup=False)
    out.print(f"left: {cells}; {words}", markup=False)
    more, memory = ("unknown" if about[name] is None else _unit(about[name]) for name in ("bytes_left", "memory"))
    out.print(
        f"on disk: {_unit(about['bytes'])} so far, still to come: {more}; memory of a worker: {memory}", markup=False
    )


def _say_errors(about: dict[str, Any]) -> None:
    for error, count in list(about["errors"].items())[:FAILURES]:
        out.print(f"failed: {error}{f' ({count} cells)' * (count > 1)}", markup=False)
    if (more := len(about["errors"]) - FAILURES) > 0:
        out.print(f"failed: {more} other errors; --format json has them", markup=False)


def _unit(size: int) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    n = next(n for n, _ in enumerate(units) if size < 1000 ** (n + 1) or n == len(units) - 1)
    return f"{size / 1000**n:.3g} {units[n]}"


COMMANDS: dict[str, Callable[..., None]] = {"run": run, "status": status, "score": score}
