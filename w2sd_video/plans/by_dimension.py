"""Scores a run: each dimension on its own prompts, and those that only VBench's package has by that package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..eval.dimensions import OFFICIAL, VBENCH, AllSkipped, Skipped, known
from ..eval.evaluate import Scores, evaluate
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
    skipped = []
    passes: dict[tuple[bool, frozenset[str] | None], list[str]] = {}
    for name in dimensions:
        only = scored_on(plan, name)
        if only is not None and not only:
            skipped.append(Skipped(name, UNASKED.format(name)))
        elif name in OFFICIAL and not official:
            skipped.append(Skipped(name, LACKING))
        else:
            passes.setdefault((name in OFFICIAL, only), []).append(name)
    parts = []
    for (by_vbench, only), some in passes.items():
        scored = [video for video in videos if only is None or video.prompt in only]
        try:
            parts.append(evaluate(scored, some, official=official if by_vbench else None, **how))
        except AllSkipped as error:
            skipped += error.skipped
            continue
        columns = [column for each in parts[-1].dimensions for column in each.columns]
        others = {video.prompt for video in videos} - {video.prompt for video in scored}
        parts[-1].unasked = {(prompt, column) for prompt in others if prompt for column in columns}
    return _joined(parts, videos, skipped)


def scored_on(plan: Plan, dimension: str) -> frozenset[str] | None:
    """The prompts on which a dimension is scored; None: all.

    The set is empty for a dimension of VBench if every tag `dimension` of the plan's prompts names another one.
    """
    if not plan.by_dimension:
        return None
    tags = {p.text: p.tags.get("dimension", ()) for p in plan.suite.prompts}
    own = frozenset(text for text, dimensions in tags.items() if dimension in dimensions)
    return own if own or (dimension in (*VBENCH, *OFFICIAL) and any(tags.values())) else None


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
