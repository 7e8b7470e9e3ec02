"""Scores of a run, for the commands that make them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..documents import read_json
from ..errors import Refused
from ..progress import bar
from ..terminal import PATH, err, number, out

if TYPE_CHECKING:
    from ..eval.evaluate import Scores
    from ..eval.report import Published
    from ..eval.results import Summary
    from ..eval.videos import Video
    from ..plans import Plan
    from ..plans.engine import Engine

WEIGHTS = typer.Option("--weights", help="A folder with the weights of the scores' networks.", **PATH)
OFFICIAL = typer.Option(
    "--official-python", help="A Python that has VBench's package, which scores the dimensions that are its own."
)
WORST = typer.Option(
    "--worst",
    help="For each column, list N prompts on which a group is worse than the first (default: 3, only in the files).",
    **number(int, 0),
)
DEVICE = typer.Option(
    "--device", help="Where videos are scored: auto, cpu, cuda or cuda:N. The plan's settings say where they are made."
)


def check_scoring(plan: Plan, folder: Path, weights: Path | None, device: str, official: str | None = None) -> None:
    """Refuses, before anything is made, what could not be scored then; says which dimensions lack weights."""
    from ..devices import usable_device
    from ..eval import official as vbench_package
    from ..eval.cli import refuse_taken
    from ..eval.dimensions import chosen
    from ..eval.scorer import Scorer

    if weights is not None and not weights.is_dir():
        raise Refused("weights", str(weights), "give a folder")
    refuse_taken(folder / "scores" / "scores.json")
    own = plan.own_dimensions
    if official and len(own) < len(plan.dimensions):
        vbench_package.dimensions([name for name in plan.dimensions if name not in own], official)
    if not own:
        return
    for each in Scorer(chosen(own), weights, usable_device(device, auto=("cuda",))).skipped:
        err.print(f"note: {each.name} will be skipped: {each.reason}", markup=False)


def published(plan: Plan, folder: Path) -> dict[str, dict[str, Published]] | None:
    """The paper's numbers of a plan's preset, for the first page of a run; None: those of its last page, or none."""
    from .. import plans
    from ..reproduce import paper_of_preset

    return None if (folder / plans.PAPER).exists() else paper_of_preset(plan.preset) or None


def score_run(
    plan: Plan,
    folder: Path,
    dimensions: list[str],
    weights: Path | None,
    device: str,
    form: str,
    engine: Engine,
    threads: int | None,
    power: float | None = None,
    official: str | None = None,
    worst: int | None = None,
) -> bool:
    """Whether all could be scored."""
    from .. import plans
    from ..eval import report
    from ..eval.cli import run

    results = folder / "scores" / "scores.json"
    to = err if form == "json-quietly" else out
    how = "text" if form == "json-quietly" else form

    def score(rows_file: Path, **shown: Any) -> Scores:  # which is where `plans.score` keeps them
        return plans.score(plan, folder, dimensions, 1, threads, engine, weights, device, official, **shown)

    def page(summary: Summary) -> list[Path]:
        return plans.write_page(plan, folder, summary, paper=published(plan, folder))

    report.check(folder / plans.PAGE)
    former = _dimensions_of(results)
    lists = f"w2sd-video score {shlex.quote(str(folder))} --worst N"
    scored = run(to, err, score, results, form=how, power=power, page=page, worst=worst, lists=lists)
    if left_out := [name for name in former if name not in _dimensions_of(results)]:
        again = "the scores are kept, and --dimensions shows them again"
        err.print(f"note: the table no longer has {', '.join(left_out)}; {again}", markup=False)
    return scored


def _dimensions_of(results: Path) -> list[str]:
    """The dimensions of a results file; none where it is not there or damaged."""
    try:
        return list(read_json(results)["dimensions"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def scores_of(plan: Plan, folder: Path, dimensions: list[str], weights: Path | None, device: str) -> Scores:
    """The scores of a run's videos, in this process; those that are kept are read."""
    from .. import plans

    with bar("videos") as show:

        def progress(done: int, total: int, video: Video) -> None:
            show(done, total)

        return plans.score(plan, folder, dimensions, weights=weights, device=device, progress=progress)
