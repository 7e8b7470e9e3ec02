"""Scores a run: each dimension on its own prompts, and those that only VBench's package has by that package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..eval.dimensions import OFFICIAL, AllSkipped, Skipped, known
from ..eval.evaluate import Scores, evaluate
from ..eval.vbench import asked_of
from ..eval.videos import Video

if TYPE_CHECKING:
    from .plan import Plan

LACKING = "VBench's own package computes it: give --official-python, the Python of an environment that has it"
UNASKED = "no prompt of the plan has the tag dimension={}: leave it out, or give prompts that have"


def by_dimension(
    plan: Plan, videos: Sequence[Video], dimensions: Sequence[str], official: str | None = None, **how: Any
) -> Scores:
    """Scores a plan's videos.

    Args:
        dimensions: by name.
        official: a Python that has VBench's package. None: dimensions that only it computes are skipped.
        how: other arguments of `evaluate`.

    Raises:
        AllSkipped (`FileNotFoundError`): every dimension was skipped.
    """
    asked = asked_by(plan, dimensions)
    skipped = [Skipped(name, UNASKED.format(name)) for name, texts in asked.items() if not texts]
    unasked = {each.name for each in skipped}
    skipped += [
        Skipped(name, LACKING) for name in dimensions if name in OFFICIAL and not official and name not in unasked
    ]
    left = [name for name in dimensions if name not in {each.name for each in skipped}]
    parts = []
    for theirs in (False, True):  # whether VBench's package computes them
        if some := [name for name in left if (name in OFFICIAL) == theirs]:
            own = {name: texts for name, texts in asked.items() if (name in OFFICIAL) == theirs}
            try:
                parts.append(evaluate(videos, some, official=official if theirs else None, asked=own, **how))
            except AllSkipped as error:
                skipped += error.skipped
    return _joined(parts, videos, skipped)


def asked_by(plan: Plan, dimensions: Iterable[str]) -> dict[str, frozenset[str]]:
    """The prompts on which each dimension is scored. One that is left out is scored on all; see `vbench.asked_of`."""
    return asked_of(plan.suite, dimensions) if plan.by_dimension else {}


def names_of_none(plan: Plan) -> list[str]:
    """What the prompts' tag `dimension` says that is the name of no dimension, neither of the plan nor known here."""
    said = {name for prompt in plan.suite.prompts for name in prompt.tags.get("dimension", ())}
    return sorted(said - {*known(), *plan.dimensions})


def _joined(parts: Sequence[Scores], videos: Sequence[Video], skipped: Sequence[Skipped]) -> Scores:
    """Joins the scores of several passes, each over some of the videos.

    Raises:
        AllSkipped (`FileNotFoundError`): every dimension was skipped.
    """
    if not parts:
        raise AllSkipped(skipped)
    first = Scores([d for part in parts for d in part.dimensions], list(videos), device=parts[0].device)
    for part in parts:
        for video, scores in part.of.items():
            first.of.setdefault(video, {}).update(scores)
        for group, of_group in part.of_groups.items():
            first.of_groups.setdefault(group, {}).update(of_group)
        first.facts.update(part.facts)
        first.weights.update(part.weights)
        first.problems += [each for each in part.problems if each not in first.problems]
        first.skipped += part.skipped
        first.unasked |= part.unasked
        first.notes += [note for note in part.notes if note not in first.notes]
        first.seconds += part.seconds
    first.skipped += skipped
    return first
