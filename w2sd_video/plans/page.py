"""The page of a run: its scores, with the plan's axes, prompts and tags."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import runs
from ..documents import read_json
from ..errors import Refused
from ..eval import report
from ..eval.report import Experiment, Published
from .plan import Plan, check_plan
from .record import Folder

if TYPE_CHECKING:
    from ..eval.report.votes import Vote
    from ..eval.results import Summary

PAGE = Path("report") / "index.html"  # in the run's folder
PAPER = Path("scores") / "paper.json"  # the published numbers, for the next page


def write_page(
    plan: Plan,
    folder: str | Path,
    summary: Summary,
    to: str | Path | None = None,
    paper: Mapping[str, Mapping[str, Published]] | None = None,
    votes: Sequence[Vote] = (),
) -> list[Path]:
    """Writes the page of a run, with its videos.

    Args:
        folder: the run's folder.
        summary: the scores of `videos(plan, folder)`.
        to: the folder for the page. None: `report` in the run's folder.
        paper: published numbers by arm and column, on the scale of the summary's means. None: those of the last page.
        votes: people's preferences, as `eval.report.votes.read` returns them.

    Returns:
        The page and the folder of its media.

    Raises:
        Refused, OSError, ModuleNotFoundError: see `eval.report.write`.
    """
    folder = Folder(folder).path
    if not folder.is_dir():
        raise Refused("folder", str(folder), "it is not there: give the folder of a run")
    place = folder / PAGE if to is None else Path(to) / PAGE.name
    about = experiment(plan, folder.resolve().name, _former(folder) if paper is None else paper)
    written = report.write(place, summary, about, gallery=True, votes=votes)
    if paper is not None:
        runs.write_text(folder / PAPER, json.dumps(paper) + "\n")
    return written


def _former(folder: Path) -> dict[str, dict[str, Published]]:
    """The published numbers of the run's last page; none if it had none."""
    try:
        arms = read_json(folder / PAPER).items()
        return {
            arm: {name: Published(float(n), str(title), int(sign)) for name, (n, title, sign) in columns.items()}
            for arm, columns in arms
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def experiment(plan: Plan, title: str, paper: Mapping[str, Mapping[str, Published]] | None = None) -> Experiment:
    """A plan's axes, prompts and tags for the page.

    Args:
        paper: published numbers by arm and column, on the scale of the page's means.
    """
    check_plan(plan)
    axes: dict[str, dict[str, None]] = {name: {} for name in plan.axes}
    for arm in plan.arms:
        for name, label in arm.labels.items():
            axes[name][label] = None
    tags = {
        prompt.text: [f"{name}={value}" for name, values in prompt.tags.items() for value in values]
        for prompt in plan.suite.prompts
    }
    return Experiment(
        title=title,
        axes={name: list(labels) for name, labels in axes.items()},
        labels={arm.name: dict(arm.labels) for arm in plan.arms},
        prompts=[prompt.text for prompt in plan.suite.prompts],
        tags=tags,
        paper=paper or {},
    )
