"""How a run is scored: each dimension on its own prompts, and what VBench's package alone has by that package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..eval.dimensions import OFFICIAL, Skipped, expand
from ..eval.evaluate import Scores, evaluate
from ..eval.videos import Video
from .plan import Plan

Score = Callable[..., Scores]
LACKING = "VBench's own package computes it: give --official-python, the Python of an environment that has it"


def scorer(plan: Plan, official_python: str | None = None) -> Score:
    """What scores a plan's videos, called as `evaluate` is.

    Args:
        official_python: a Python that has VBench's package. None: its own dimensions are skipped.
    """

    def score(videos: Sequence[Video], dimensions: str | Sequence[str], **how: Any) -> Scores:
        names = expand(dimensions)
        passes: dict[tuple[bool, frozenset[str] | None], list[str]] = {}
        for name in names:
            if name not in OFFICIAL or official_python:
                passes.setdefault((name in OFFICIAL, scored_on(plan, name)), []).append(name)
        parts = []
        for (official, only), some in passes.items():
            scored = [video for video in videos if only is None or video.prompt in only]
            how["official"] = official_python if official else None
            parts.append(evaluate(scored, some, **how))
        return _joined(parts, videos, [] if official_python else [name for name in names if name in OFFICIAL])

    return score


def scored_on(plan: Plan, dimension: str) -> frozenset[str] | None:
    """The prompts that a dimension is scored on; None: all."""
    if not plan.by_dimension:
        return None
    own = frozenset(p.text for p in plan.suite.prompts if dimension in p.tags.get("dimension", ()))
    return own or None


def _joined(parts: Sequence[Scores], videos: Sequence[Video], lacking: Sequence[str]) -> Scores:
    """Scores of several passes over some of the videos as one."""
    if not parts:
        raise FileNotFoundError(f"{', '.join(lacking)}: {LACKING}")
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
        first.notes += [note for note in part.notes if note not in first.notes]
        first.seconds += part.seconds
    first.skipped += [Skipped(name, LACKING) for name in lacking]
    return first
