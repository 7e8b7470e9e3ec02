"""`w2sd-video report`: the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..documents import read_json
from ..errors import Refused
from ..terminal import PATH, messages, out, quiet
from .plans import METHOD_AGAIN, OF_PLANS, plan_of
from .scores import DEVICE, WEIGHTS, published, scores_of

if TYPE_CHECKING:
    from ..eval.evaluate import Scores
    from ..plans import Plan


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
    methods: Annotated[list[str] | None, METHOD_AGAIN] = None,
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
        from ..figures import check

        plan, run = plan_of(folder, None, methods, to_make=False)
        if to is not None and to.exists() and not to.is_dir():
            raise Refused("--out", str(to), "give a folder")
        page.check(run / plans.PAGE if to is None else to / plans.PAGE.name)
        if (across or up) and not figure:
            raise Refused("--across" if across else "--up", across or up, "it is of a figure: give --figure FILE, too")
        if figure:
            check(figure)
        quiet()
        summary = Summary(_scores(plan, run, weights, device))
        cast = read(votes or (), summary)
        if figure:  # first, since its columns may not be there
            figures.sweep(figure, summary, plans.experiment(plan, run.name), across, up)
        written = plans.write_page(plan, run, summary, to, published(plan, run), cast)
        out.print(str(written[0]), markup=False)
        if figure:
            out.print(str(figure), markup=False)


def _scores(plan: Plan, run: Path, weights: Path | None, device: str) -> Scores:
    """The scores of a run on the dimensions of its results, or else of the plan.

    What is built in is scored where a score is missing. Of other dimensions, whose code is not run, the results' scores
    are shown.
    """
    from .. import plans
    from ..eval import recorded
    from ..eval.dimensions import NAMES
    from ..eval.evaluate import Scores

    results = run / "scores" / "scores.json"
    try:
        data = read_json(results)
        listed = [name for name in data["dimensions"] if name in NAMES]
    except (OSError, ValueError, KeyError, TypeError):
        data, listed = None, plan.dimensions
    if listed:
        scores = scores_of(plan, run, listed, weights, device)
    else:
        videos = plans.videos(plan, run)
        lacking = [(video, "", "it was not made") for video in videos if not video.path.exists()]
        scores = Scores([], videos, problems=lacking)
    if data is not None:
        try:
            recorded.add(scores, data)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused("RUN", str(run), f"{results} is of an older version or damaged: w2sd-video score") from None
    return scores
