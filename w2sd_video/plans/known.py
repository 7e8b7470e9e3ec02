"""What the folder of a run knows of its plan: what prompts were refined to, and what was best of tuned arms."""

from __future__ import annotations

from dataclasses import replace

from .plan import Plan, read
from .record import Folder
from .tuning import tuned


def known(plan: Plan, folder: Folder) -> Plan:
    """A plan with what its run's folder knows of it."""
    if not any(arm.refiner or arm.grid for arm in plan.arms):
        return plan
    try:
        former = read(folder.path / "plan.yaml")
    except (OSError, ValueError):  # there is none, or it is damaged
        former = replace(plan, refined={}, tuned={})
    # What a plan itself says of its tuning is of another run.
    plan = replace(plan, tuned={}, refined={**former.refined, **plan.refined})
    return replace(plan, tuned=tuned(plan, former.tuned))
