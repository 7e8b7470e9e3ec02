"""`w2sd-video report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..documents import read_json
from ..errors import Refused
from ..terminal import PATH, err, messages, out, quiet
from .plans import DEVICE, METHOD, OF_PLANS, WEIGHTS, plan_of

if TYPE_CHECKING:
    from ..eval.evaluate import Scores
    from ..eval.videos import Video


def report(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder of a run.", **{**PATH, "metavar": "RUN"})],
    to: Annotated[
        Path | None,
        typer.Option("--out", help="The page's folder (default: RUN/report).", **{**PATH, "metavar": "FOLDER"}),
    ] = None,
    votes: Annotated[
        list[Path] | None,
        typer.Option("--votes", help="A file of votes that the page saved; repeatable.", **{**PATH, "metavar": "FILE"}),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure", help="Draw quality against motion, too, as .svg, .png or .pdf.", **{**PATH, "metavar": "FILE"}
        ),
    ] = None,
    across: Annotated[
        str | None, typer.Option("--across", help="The figure's column of motion (default: the first of its kind).")
    ] = None,
    up: Annotated[str | None, typer.Option("--up", help="The figure's column of quality (default: the first).")] = None,
    weights: Annotated[Path | None, WEIGHTS] = None,
    device: Annotated[str, DEVICE] = "auto",
    methods: Annotated[list[str] | None, METHOD] = None,
) -> None:
    """Write a run's page: its table, plots, a gallery of its videos, and blind voting.

    It is a folder that opens from disk and can be copied. What has no score yet is scored; with --votes, the page says
    what people preferred.
    """
    with messages(context) as options:
        options |= OF_PLANS
        import plotly  # noqa: F401 - which draws, and may be missing

        from .. import plans
        from ..eval import report as page
        from ..eval.report import figures
        from ..eval.report.votes import read
        from ..eval.results import Summary

        plan, run = plan_of(folder, None, methods)
        if to is not None and to.exists() and not to.is_dir():
            raise Refused("--out", str(to), "give a folder")
        page.check(run / plans.PAGE if to is None else to / plans.PAGE.name)
        if (across or up) and not figure:
            raise Refused("--across" if across else "--up", across or up, "it is of a figure: give --figure FILE, too")
        if figure:
            figures.check(figure)
        videos = plans.videos(plan, run)
        quiet()
        scores = _scores(videos, run / "scores" / "scores.json", plan.dimensions, weights, device)
        summary = Summary(scores)
        cast = read(votes or (), summary)
        written = plans.write_page(plan, run, summary, to, votes=cast)
        out.print(str(written[0]), markup=False)
        if figure:
            figures.sweep(figure, summary, plans.experiment(plan, run.name), across, up)
            out.print(str(figure), markup=False)


def _scores(videos: list[Video], results: Path, dimensions: list[str], weights: Path | None, device: str) -> Scores:
    """The scores of videos on the dimensions of the results, or else of the plan; those that are kept are read."""
    from ..eval.evaluate import Scores, evaluate

    try:
        listed = list(read_json(results)["dimensions"])
    except (OSError, ValueError, KeyError, TypeError):
        listed = dimensions
    if not listed:
        missing = [(video, "", "it was not made") for video in videos if not video.path.exists()]
        return Scores([], videos, problems=missing)
    columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("videos", total=None)

        def show(done: int, total: int, video: Video) -> None:
            bar.update(task, completed=done, total=total)

        rows = results.with_suffix(".jsonl")
        return evaluate(videos, listed, rows_file=rows, weights=weights, device=device, progress=show)
