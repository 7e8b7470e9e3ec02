"""Refines a plan's prompts and tunes its arms, before its cells are generated. The run's folder stores both."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Failed, Refused
from ..refine import Refiner
from .arms import Arm
from .plan import Plan
from .record import Folder
from .scored import videos
from .stored import with_stored
from .tuning import fingerprint, label, plan_of, tuning_of

logger = logging.getLogger("w2sd_video")
ENOUGH = 200  # prompts to tune on
MOST, STEP = 30.0, 1.4  # a guidance that is best at the upper end is multiplied by STEP, up to MOST


Line = dict[str, Any]  # of the record
Make = Callable[[Plan, Path], list[Line]]  # generates a plan's cells into a folder, and returns those that failed


def prepared(plan: Plan, folder: Folder, make: Make, whole: bool = True) -> Plan:
    """The plan with all its prompts refined and its arms tuned.

    Args:
        make: generates the cells of a tuning into a folder.
        whole: whether this is the whole run; a shard does not tune arms.

    Raises:
        Failed: a video for the tuning of an arm could not be generated.
        Refused: two presets refine prompts differently, the language model that refines them is not on this machine, or
            arms of a shard are not tuned yet.
    """
    if not any(arm.refiner or arm.grid for arm in plan.arms):
        return plan
    plan = with_stored(plan, folder)
    plan = replace(plan, refined={**plan.refined, **_refined(plan)})
    for arm in [arm for arm in plan.arms if arm.grid]:
        if whole:
            plan = replace(plan, tuned={**plan.tuned, arm.name: _best(plan, arm, folder.path, make)})
        elif arm.name not in plan.tuned:
            accepted = "it is not tuned yet: first start the run without a shard, on one machine, which tunes its arms"
            raise Refused("shard", arm.name, accepted)
    return plan


def _refined(plan: Plan) -> dict[str, str]:
    """The refined texts of prompts that the plan has not refined yet, by prompt."""
    refiners = list(dict.fromkeys(arm.refiner for arm in plan.arms if arm.refiner))
    if len(refiners) > 1:
        raise Refused("preset", refiners, "the plan's presets refine prompts by different models: give a plan for each")
    missing = [prompt.text for prompt in plan.suite.prompts if prompt.text not in plan.refined]
    if not refiners or not missing:
        return {}
    refine = refiner(refiners[0], "refine")
    return {text: refine(text) for text in missing}


def refiner(name: str, argument: str) -> Refiner:
    """The refiner of prompts of that name: shapes, or a causal language model; see `refine.language_model`.

    Args:
        argument: the name's argument, for the message.

    Raises:
        Refused: there is none.
    """
    if name == "shapes":
        from ..shapes.grammar import refine

        return refine
    from ..refine import language_model

    try:
        return language_model(name)
    except (OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise Refused(argument, name, f"give shapes, or a causal language model that is here ({why})") from None


def _place(folder: Path, arm: Arm) -> Path:
    """The folder of an arm's tuning within the run's folder."""
    return folder / "tuning" / arm.folder


def _best(plan: Plan, arm: Arm, folder: Path, make: Make) -> dict[str, Any]:
    """The best settings of an arm, with the means and the number of prompts behind that choice.

    Args:
        folder: the folder of the plan's run.
        make: generates the tuning's cells that do not exist yet.
    """
    grid = arm.grid
    assert grid
    values, by = grid.values, tuning_of(plan).by
    while True:
        of_tuning = plan_of(plan, grid, values)
        if failed := make(of_tuning, _place(folder, arm)):
            which = f"{len(failed)} of the videos that {arm.name} is tuned on"
            raise Failed(f"{which} could not be made; {failed[0]['arm']}: {failed[0]['error']}")
        means = _means(of_tuning, _place(folder, arm), by)
        chosen = max(values, key=lambda value: means[label(grid, value)])
        if math.isinf(means[label(grid, chosen)][0]):
            raise Failed(f"no video that {arm.name} is tuned on has a score {by[0]}: tune by another column")
        follow = grid.name.endswith("guidance_scale") and chosen == max(values) and 0 < chosen < MOST
        if not follow:
            break
        values = (*values, round(chosen * STEP, 3))
    count = len(of_tuning.suite.prompts)
    if count < ENOUGH:
        logger.warning("note: %s is tuned on %d prompts, fewer than %d", arm.name, count, ENOUGH)
    return {
        "settings": {grid.name: chosen},
        "prompts": count,
        "means": {name: [None if math.isinf(m) else m for m in each] for name, each in means.items()},
        "of": fingerprint(plan, arm),
    }


def _means(plan: Plan, folder: Path, by: list[str]) -> dict[str, tuple[float, ...]]:
    """The means of the columns `by`, by arm, signed so that higher is better; -inf if no video has a value."""
    from ..eval.evaluate import evaluate
    from ..eval.results import Summary

    (folder / "scores").mkdir(exist_ok=True)
    images = not plan.arms[0].template.video
    scores = evaluate(
        videos(plan, folder), plan.dimensions, rows_file=folder / "scores" / "scores.jsonl", images=images
    )
    summary = Summary(scores)

    def of(arm: str, column: str) -> float:
        mean = summary.means[arm][column]
        return mean.mean * summary.columns[column].sign if mean.n else -math.inf

    return {arm.name: tuple(of(arm.name, column) for column in by) for arm in plan.arms}
