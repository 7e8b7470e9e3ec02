"""What the page of a run shows beside its scores: the plan's axes, prompts and tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..eval.report import Experiment
from .plan import Plan

PAGE = Path("report") / "index.html"  # in the run's folder


def experiment(plan: Plan, title: str, paper: Mapping[str, Mapping[str, float]] | None = None) -> Experiment:
    """A plan as the page shows it.

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
