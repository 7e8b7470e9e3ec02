"""What a table needs that this machine lacks, and its cost in network evaluations, before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import doctor, presets, prompts
from ..errors import Refused
from ..plans import Plan
from ..sampling import evaluations

# Where to get each prompt suite that is not in this package; see also `prompts.PUBLISHED`.
PROMPTS = {
    **prompts.PUBLISHED,
    "personal": "texts of the LoRA's subject; the paper does not name its prompts",
    "vbench": "VBench_full_info.json of github.com/Vchitect/VBench, or pip install --no-deps vbench",
}


@dataclass(frozen=True)
class Needs:
    """The needs of a plan.

    Args:
        missing: by name, each model, suite and scorer's weights that this machine lacks, and how to get it.
        evaluations: network evaluations of one video or picture, by arm.
        cells: how many videos or pictures it generates.
    """

    missing: dict[str, str]
    evaluations: dict[str, int]
    cells: int

    @property
    def total(self) -> int:
        """Network evaluations of all cells."""
        return sum(self.evaluations.values()) * (self.cells // max(len(self.evaluations), 1))


def needs(plan: Plan, weights: Path | None = None) -> Needs:
    """The needs of a plan, whether or not its weights are on this machine.

    Args:
        weights: a folder with the weights of the scorers' networks.

    Raises:
        Refused: the plan's prompts cannot be used.
    """
    used = [presets.load(name) for name in _presets(plan)]
    missing: dict[str, str] = {}
    roles: dict[str, tuple[str, str]] = {}
    for preset in used:
        for role, model in preset.models.items():
            if model not in roles or role == "strong":  # as the strong model it needs more of its files
                roles[model] = role.partition(".")[0], preset.name
    for model, (role, name) in roles.items():
        there, way = doctor.find(model, role)
        if not there:
            missing[model] = way.replace("presets NAME", f"presets {name}")
    try:
        count = len(plan.suite.prompts)
    except Refused as refused:
        count = plan.n or 0
        if isinstance(plan.prompts, str) and plan.prompts in PROMPTS:
            missing[f"prompts of {plan.prompts}"] = f"--prompts FILE: {PROMPTS[plan.prompts]}"
        else:
            raise refused
    missing |= dict(_scores(plan, weights))
    # Costs do not depend on prompts or LoRAs, which this machine may lack.
    text = "a photo" if used[0].textual else "0"
    free: dict[str, Any] = {"adapters": {}} if any(preset.adapters for preset in used) else {}
    grammars = any(preset.grammar for preset in used)
    counted = (
        plan
        if grammars
        else replace(plan, prompts=[text], n=None, tags=[], settings={**plan.settings, **free}, dimensions=[])
    )
    costs = {arm.name: evaluations(arm.template)["total"] for arm in counted.arms}
    return Needs(missing, costs, count * len(plan.all_seeds) * len(costs))


def _presets(plan: Plan) -> list[str]:
    """The presets of a plan's arms."""
    names = [plan.preset]
    for values in plan.axes.values():
        labelled: Any = values.values() if isinstance(values, dict) else []
        names += [each["preset"] for each in labelled if isinstance(each, dict) and "preset" in each]
    return list(dict.fromkeys(names))


def _scores(plan: Plan, folder: Path | None) -> Iterator[tuple[str, str]]:
    """The scorers' weights and packages that this machine lacks, each with the command that gets it."""
    from ..eval.dimensions import chosen

    for dimension in chosen(plan.own_dimensions) if plan.own_dimensions else ():
        for each in dimension.weights:
            try:
                if each.find(folder) is None:
                    yield f"{each.name} ({dimension.name})", f"missing; get it with: {each.command(folder)}"
            except ValueError as error:
                yield f"{each.name} ({dimension.name})", str(error)
            if not each.importable:
                yield f"{each.needs} ({dimension.name})", f"missing; get it with: pip install {each.needs}"
