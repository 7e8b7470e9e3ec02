"""What the folder of a run knows of its plan: what prompts were refined to, what was best of tuned arms, and, where
methods are of files, its arms, so that they are known without the files' code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import plugins
from ..documents import read_json
from ..hashing import sha256_of
from ..runs import Request
from ..sampling import evaluations, strong_evaluations
from .arms import Arm
from .plan import Plan, read
from .record import NOTE, Folder
from .tuning import tuned


def known(plan: Plan, folder: Folder) -> Plan:
    """A plan with what its run's folder knows of it."""
    if not any(arm.refiner or arm.grid for arm in plan.arms) or all(arm.cost for arm in plan.arms):
        return plan
    try:
        former = read(folder.path / "plan.yaml")
    except (OSError, ValueError):  # there is none, or it is damaged
        former = replace(plan, refined={}, tuned={})
    # What a plan itself says of its tuning is of another run.
    plan = replace(plan, tuned={}, refined={**former.refined, **plan.refined})
    return replace(plan, tuned=tuned(plan, former.tuned))


def read_run(path: Path) -> Plan:
    """The plan of a run's folder, to look at and to score what is made. Where it names methods of files that were not
    run here, its arms are those that the run wrote down, if its plan is still the same.

    Raises:
        OSError, Refused, ValueError: as of `read`.
    """
    plan = read(path / "plan.yaml")
    try:
        note = read_json(path / NOTE)
        arms = [_arm(each) for each in note["arms"]] if note["plan"] == sha256_of(path / "plan.yaml") else []
    except (OSError, ValueError, KeyError, TypeError):  # it is of no file's method, or damaged
        return plan
    methods = [(arm.template.method, arm.template.method_sha256) for arm in arms]
    if not all(plugins.was_run("method", name, sha256) for name, sha256 in methods if sha256):
        vars(plan)["arms"] = arms  # in place of what the property would work out
    return plan


def _arm(said: Mapping[str, Any]) -> Arm:
    cost = int(said["evaluations"]), said["strong_evaluations"]
    return Arm(dict(said["labels"]), Request(**said["request"]), said["refiner"], cost=cost)


def note_of(plan: Plan, plan_file: Path) -> dict[str, Any]:
    """What a run writes down of arms for `read_run`; nothing where no method is of a file.

    Args:
        plan_file: where the plan is written.
    """
    if not any(plugins.is_file(arm.template.method) for arm in plan.arms):
        return {}
    arms = []
    for arm in plan.arms:
        cost, of_strong = cost_of(arm)
        said = {"labels": dict(arm.labels), "request": asdict(arm.template), "refiner": arm.refiner}
        arms.append({**said, "evaluations": cost, "strong_evaluations": of_strong})
    return {"plan": sha256_of(plan_file), "arms": arms}


def cost_of(arm: Arm) -> tuple[int, float | None]:
    """An arm's network evaluations, and as many of the strong arm's network; see `strong_evaluations`."""
    counts = evaluations(arm.template)
    return counts["total"], strong_evaluations(arm.template, counts)
