"""Tuning of arms: before a plan's cells are generated, finds the best number of a setting on prompts outside the plan.

A claim that a method beats guidance has to compare it with the best guidance scale. In a plan:

    axes:
      arm:
        w2sd: {}
        tuned: {variant: plain, tune: {guidance_scale: [1, 1.5, 2, 2.5, 3, 4, 5, 7]}}
        tuned at equal cost: {variant: plain, as_costly_as: w2sd, tune: {guidance_scale: [1, 1.5, 2, 3, 5, 7]}}
    tuning:
      n: 50
      by: [shapes_right, shapes_form]

A run in the folder's `tuning` tries all numbers on the same prompts and seeds. The first column of `by` decides, the
next one breaks ties. If the largest number of a guidance scale is the best, larger ones are tried too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from typing import Any

from .. import prompts, settings
from ..errors import Refused
from ..validation import validated
from .arms import AS_COSTLY, STEPS, TUNE, Arm, Grid, label_of
from .plan import Count, Plan, SampleSeed, Seeds, Texts, check_plan

SEED = 500_000  # default seed of the tuning's videos, which a plan is unlikely to use


@validated
class Tuning:
    """How arms are tuned.

    Args:
        by: columns of the plan's dimensions; the first decides, the next break ties.
        prompts: a suite, a file or texts. None: the plan's suite or file, without the plan's own prompts.
        n: how many prompts to draw at random. None: all.
        sample_seed: the seed of that draw.
        tags: use only prompts with these tags. Empty: the plan's, if `prompts` is None.
        seeds: the seeds of each prompt.
    """

    by: list[str]
    prompts: Texts | None = None
    n: Count | None = None
    sample_seed: SampleSeed = 0
    tags: list[str] = field(default_factory=list)
    seeds: Seeds = SEED


def tuning_of(plan: Plan) -> Tuning:
    """The plan's `tuning`, checked.

    Raises:
        Refused: the plan has none, or it cannot be used.
    """
    if not plan.tuning:
        raise Refused("tuning", None, "an arm has `tune`, which needs it: give {by: [COLUMN]}, and n or prompts")
    try:
        tuning = Tuning(**plan.tuning)
    except Refused as error:
        raise Refused(f"tuning.{error.argument}", error.value, error.accepted) from None
    if not tuning.by:
        raise Refused("tuning.by", [], "give columns of the plan's dimensions")
    return tuning


def check_tuning(plan: Plan) -> None:
    """Checks the plan's `tuning`, before anything is generated; also one that no arm needs.

    Raises:
        Refused: it cannot be used.
    """
    check_plan(plan)
    if plan.tuning:
        tuning_of(plan)
    for grid in (arm.grid for arm in plan.arms if arm.grid):
        plan_of(plan, grid)


def texts(plan: Plan, tuning: Tuning) -> list[str]:
    """The prompts to tune on, none of which is in the plan.

    Raises:
        Refused: there are too few, or a listed text is in the plan.
    """
    if isinstance(tuning.prompts, list):
        listed = list(dict.fromkeys(text.strip() for text in tuning.prompts))
        if shared := {prompt.text for prompt in plan.suite.prompts} & set(listed):
            raise Refused("tuning.prompts", min(shared), "the plan has this prompt too: tune on others")
        return listed
    suite = prompts.select(_suite(plan, tuning), tuning.tags or (plan.tags if tuning.prompts is None else []))
    own = {prompt.text for prompt in plan.suite.prompts}
    left = replace(suite, prompts=tuple(prompt for prompt in suite.prompts if prompt.text not in own))
    if not left.prompts or (tuning.n or 1) > len(left.prompts):
        has = f"{suite.name} has {len(left.prompts)} prompt{'s' * (len(left.prompts) != 1)}"
        accepted = f"{has} besides the plan's: give fewer, or tuning.prompts"
        raise Refused("tuning.n", tuning.n, accepted)
    drawn = left if tuning.n is None else prompts.sample(left, tuning.n, tuning.sample_seed)
    return [prompt.text for prompt in drawn.prompts]


def _suite(plan: Plan, tuning: Tuning) -> prompts.Suite:
    if isinstance(tuning.prompts, str):
        return prompts.load(tuning.prompts)
    if isinstance(plan.prompts, str):
        return prompts.load(plan.prompts)
    raise Refused("tuning.prompts", None, "the plan lists its prompts: give others to tune on")


def plan_of(plan: Plan, grid: Grid, values: tuple[float, ...] | None = None) -> Plan:
    """The plan of an arm's tuning, with one arm per number.

    Args:
        values: the numbers to try. None: those of the grid.

    Raises:
        Refused: the plan's `tuning` cannot be used.
    """
    from ..eval.best import ranking
    from ..eval.dimensions import chosen

    tuning = tuning_of(plan)
    if grid.costly is not None and grid.name in STEPS:
        raise Refused(TUNE, grid.name, f"{AS_COSTLY} sets it: tune another setting, or leave out {AS_COSTLY}")
    of_plain = grid.name in settings.names() and settings.of(grid.name).arm not in ("weak", "reflection")
    if grid.fields.get("variant") == "plain" and not of_plain:
        raise Refused(TUNE, grid.name, "this arm is plain sampling, which has no use for it: tune another setting")
    dimensions = chosen(plan.own_dimensions) if plan.own_dimensions else []
    known = {column: d.name for d in dimensions for column in d.columns}
    for column in tuning.by:
        try:
            ranking(column, dimensions)
        except Refused as error:
            raise Refused("tuning.by", column, f"give columns of the plan's dimensions; {error.accepted}") from None
    arms = {}
    for value in values or grid.values:
        fields = {**grid.fields, **_set(grid, value)}
        if grid.costly is not None:
            costly = plan.template(fields, grid.costly)[0]
            fields |= {name: getattr(costly, name) for name in STEPS}
        arms[label(grid, value)] = fields
    return Plan(
        prompts=texts(plan, tuning),
        seeds=tuning.seeds,
        preset=plan.preset,
        axes={"tuning": arms},
        dimensions=list(dict.fromkeys(known[column] for column in tuning.by)),
        refined=plan.refined,
    )


def _set(grid: Grid, value: float) -> dict[str, Any]:
    """The fields of a request that set the tuned setting to a number."""
    if grid.name in settings.names():
        return {grid.name: value}
    return {"options": {**(grid.fields.get("options") or {}), grid.name: value}}


def label(grid: Grid, value: float) -> str:
    """The name of a number's arm in the plan of the tuning."""
    return f"{grid.name} {label_of(value)}"


def fingerprint(plan: Plan, arm: Arm) -> str:
    """A hash of everything in a plan that affects an arm's tuning."""
    assert arm.grid
    fields = {name: value for name, value in asdict(plan_of(plan, arm.grid)).items() if name != "refined"}
    return hashlib.sha256(json.dumps([fields, plan.tuning["by"]], sort_keys=True).encode()).hexdigest()[:32]


def tuned(plan: Plan, former: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `former`, a run's `tuned`, that still hold for this plan's arms."""
    known = {}
    for arm in plan.arms:
        each = former.get(arm.name)
        if arm.grid and isinstance(each, Mapping) and each.get("of") == fingerprint(plan, arm):
            known[arm.name] = dict(each)
    return known
