"""What a user would want to know of a plan's arms before their cells are generated."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..sampling import idle, in_effect, sentences
from .arms import AS_COSTLY, SETTINGS, TUNE, points_of, set_by

if TYPE_CHECKING:
    from .plan import Plan

KEYS = (AS_COSTLY, TUNE)
SHOWN = 3  # names of arms in a note


def notes(plan: Plan) -> Iterator[str]:
    """Settings that change nothing of the arms for which the plan says them; and arms that make the same videos."""
    of_each = [idle(arm.template) for arm in plan.arms]
    settings = list(set_by(plan.settings))
    everywhere = {name: why for name, why in of_each[0].items() if all(each.get(name) == why for each in of_each)}
    yield from _said(everywhere, settings)
    by_arm = {name for name in settings if name not in everywhere and all(name in each for each in of_each)}
    points = itertools.product(*(points_of(name, values) for name, values in plan.axes.items()))
    where: dict[str, list[str]] = {}
    for arm, each, point in zip(plan.arms, of_each, points, strict=True):
        for line in _said(each, [*by_arm, *(name for _, of_label in point for name in set_by(of_label))]):
            where.setdefault(line, []).append(arm.name)
    yield from (f"{line} in {_listed(names)}" for line, names in where.items())
    alike: dict[str, list[str]] = {}
    for arm in plan.arms:
        if arm.grid is None:  # else its settings are not known yet
            effective = json.dumps([arm.refiner, in_effect(arm.template)], sort_keys=True)
            alike.setdefault(effective, []).append(arm.name)
    for names in alike.values():
        if len(names) > 1:
            yield f"arms {_listed(names)} have the same settings, and make the same videos"


def _said(idle: Mapping[str, str], names: Iterable[str]) -> Iterator[str]:
    """Sentences on what is idle of the names that a plan sets, in which options of a method stand among settings."""
    names = list(names)
    options = {name: idle["options"] for name in names if "options" in idle and name not in (*SETTINGS, *KEYS)}
    return sentences({**idle, **options}, names)


def _listed(names: list[str]) -> str:
    quoted = [repr(name) for name in names[:SHOWN]]
    quoted += [f"{len(names) - SHOWN} more"] * (len(names) > SHOWN)
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)
