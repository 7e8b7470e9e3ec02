"""The page of a run: its scores, with the plan's axes, prompts and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..eval import report
from ..eval.report import Experiment, Published
from .plan import Plan

if TYPE_CHECKING:
    from ..eval.report.votes import Vote
    from ..eval.results import Summary

PAGE = Path("report") / "index.html"  # in the run's folder


def write_page(
    plan: Plan,
    folder: Path,
    summary: Summary,
    to: Path | None = None,
    paper: Mapping[str, Mapping[str, Published]] | None = None,
    votes: Sequence[Vote] = (),
) -> list[Path]:
    """Writes the page of a run, with its videos.

    Args:
        folder: the run's folder.
        summary: the scores of `videos(plan, folder)`.
        to: the folder for the page. None: `report` in the run's folder.
        paper: published numbers by arm and column, on the scale of the summary's means.
        votes: people's preferences, as `eval.report.votes.read` returns them.

    Returns:
        The page and the folder of its media.

    Raises:
        Refused, OSError, ModuleNotFoundError: see `eval.report.write`.
    """
    place = folder / PAGE if to is None else to / PAGE.name
    return report.write(place, summary, experiment(plan, folder.resolve().name, paper), gallery=True, votes=votes)


def experiment(plan: Plan, title: str, paper: Mapping[str, Mapping[str, Published]] | None = None) -> Experiment:
    """A plan's axes, prompts and tags for the page.

    Args:
        paper: published numbers by arm and column, on the scale of the page's means.
    """
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
