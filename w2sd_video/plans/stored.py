"""Reads back what a run's folder stores about its plan.

The folder stores the prompts and the arms with their keys. So a run can be viewed and scored on another machine,
without its models, its files of prompts and methods, or the package versions that generated it. It also stores the
refined prompts and the best settings of tuned arms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import plugins, prompts
from ..documents import read_json
from ..hashing import sha256_of
from ..runs import Request
from ..sampling import evaluations, strong_evaluations
from .arms import Arm
from .plan import Plan, read
from .record import NOTE, PROMPTS, Folder, Keys
from .tuning import tuned


def with_stored(plan: Plan, folder: Folder) -> Plan:
    """A plan with the refined prompts and the tuned settings that its run's folder stores."""
    if not any(arm.refiner or arm.grid for arm in plan.arms) or all(arm.key for arm in plan.arms):
        return plan
    try:
        former = read(folder.path / "plan.yaml")
    except (OSError, ValueError):  # there is none, or it is damaged
        former = replace(plan, refined={}, tuned={})
    refined = former.refined if _refiners(folder.path) in (None, {arm.refiner for arm in plan.arms} - {None}) else {}
    # A plan's own `tuned` is dropped: it comes from another run.
    plan = replace(plan, tuned={}, refined={**refined, **plan.refined})
    return replace(plan, tuned=tuned(plan, former.tuned))


def _refiners(path: Path) -> set[str] | None:
    """The refiners of a run's prompts; None if the run's note does not say."""
    try:
        return {arm["refiner"] for arm in read_json(path / NOTE)["arms"]} - {None}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_run(path: str | Path) -> Plan:
    """The plan of a run's folder, to view and score the run.

    Prompts and arms come from the run's note, unless the plan was edited since.

    Raises:
        OSError, Refused, ValueError: see `read`.
    """
    path = Folder(path).path
    plan = read(path / "plan.yaml")
    try:
        note = read_json(path / NOTE)
        if note["plan"] != sha256_of(path / "plan.yaml"):
            return plan
        arms = [_arm(each, note.get("request", {})) for each in note["arms"]]
        suite = prompts.load(path / PROMPTS) if note.get("prompts") == _sha256(path / PROMPTS) else None
    except (OSError, ValueError, KeyError, TypeError):  # an earlier version wrote it, or it is damaged
        return plan
    return plan.with_stored(arms, suite)


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _arm(row: Mapping[str, Any], common: Mapping[str, Any]) -> Arm:
    cost = (int(row["evaluations"]), row["strong_evaluations"]) if "evaluations" in row else None
    request = Request(**{**common, **row["request"]})
    return Arm(dict(row["labels"]), request, row["refiner"], cost=cost, key=row.get("key"))


def note_of(plan: Plan, plan_file: Path, prompts_file: Path | None, keys: Keys) -> dict[str, Any]:
    """The note of a run for `read_run`. Each arm's request holds only the fields that differ from the first arm's.

    Args:
        plan_file: the file with the plan, for its hash.
        prompts_file: the file with the text of `prompts_of`, for its hash. None: there is none.
    """
    common = asdict(plan.arms[0].template)
    arms = []
    for arm in plan.arms:
        own = {name: value for name, value in asdict(arm.template).items() if value != common[name]}
        row: dict[str, Any] = {"labels": dict(arm.labels), "request": own, "refiner": arm.refiner}
        row["key"] = keys.of_arm(arm)
        if plugins.is_file(arm.template.method):  # the cost follows from its code, which `read_run` may not have
            row["evaluations"], row["strong_evaluations"] = cost_of(arm)
        arms.append(row)
    of_prompts = {} if prompts_file is None else {"prompts": sha256_of(prompts_file)}
    return {"plan": sha256_of(plan_file), **of_prompts, "request": common, "arms": arms}


def prompts_of(plan: Plan) -> str | None:
    """The prompts of a plan as JSON for `prompts.load`; None if the plan itself lists them."""
    if isinstance(plan.prompts, list):
        return None
    data = {"source": plan.suite.source, "prompts": [prompt.row for prompt in plan.suite.prompts]}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def cost_of(arm: Arm) -> tuple[int, float | None]:
    """An arm's network evaluations of one cell, and the same cost in evaluations of the strong network; see
    `strong_evaluations`."""
    counts = evaluations(arm.template)
    return counts["total"], strong_evaluations(arm.template, counts)
