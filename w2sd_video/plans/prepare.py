"""What of a plan is settled before its cells are made, and kept in the plan of its run's folder: refined prompts."""

from __future__ import annotations

from dataclasses import replace

from ..errors import Refused
from ..refine import Refiner
from .plan import Plan, read
from .record import Folder


def known(plan: Plan, folder: Folder) -> Plan:
    """A plan with what its run's folder knows of it."""
    if not any(arm.refiner for arm in plan.arms):
        return plan
    try:
        former = read(folder.path / "plan.yaml")
    except (OSError, ValueError):  # there is none, or it is damaged
        return plan
    return replace(plan, refined={**former.refined, **plan.refined})


def prepared(plan: Plan, folder: Folder) -> Plan:
    """A plan with all its prompts refined, where its presets refine prompts.

    Raises:
        Refused: two presets refine them differently; or the language model that does is not on this machine.
    """
    refiners = list(dict.fromkeys(arm.refiner for arm in plan.arms if arm.refiner))
    if not refiners:
        return plan
    if len(refiners) > 1:
        raise Refused("preset", refiners, "the plan's presets refine prompts by different models: give a plan for each")
    plan = known(plan, folder)
    missing = [prompt.text for prompt in plan.suite.prompts if prompt.text not in plan.refined]
    if not missing:
        return plan
    refine = _refiner(refiners[0])
    return replace(plan, refined={**plan.refined, **{text: refine(text) for text in missing}})


def _refiner(name: str) -> Refiner:
    if name == "shapes":
        from ..shapes.grammar import refine

        return refine
    from ..refine import language_model

    try:
        return language_model(name)
    except (OSError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise Refused("refine", name, f"give shapes, or a causal language model that is here ({said})") from None
