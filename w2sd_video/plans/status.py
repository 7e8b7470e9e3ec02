"""The progress of a run, and estimates of the time and disk space that the rest takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from ..sampling import evaluations
from ..threads import threads_for
from .plan import Plan, check_plan
from .record import Folder, Keys
from .run import WHOLE, Shard, check_shard, check_threads, mine
from .stored import cost_of, with_stored
from .tuning import plan_of


def status(plan: Plan, path: str | Path, shard: Shard = WHOLE, threads: int | None = None) -> dict[str, Any]:
    """How many of a plan's cells are complete, failed and left, in all and by arm.

    Each arm has:
        evaluations: network evaluations of one cell, computed from its settings.
        strong_evaluations: the same cost in evaluations of the strong network, by parameters; None if a network's
            number of parameters is not known here.
        seconds: mean over its complete cells; None if there are none.

    The whole has:
        seconds_left: estimate for one worker; None if an arm with cells left has no complete cell.
        bytes_left: estimate of the space on disk; None in the same case.
        memory: peak memory of a worker in bytes; None if none was measured.
        tuning_evaluations: the fewest network evaluations that the arms' tuning still takes.
        errors: how many cells failed with each error, the most frequent first.
    """
    check_plan(plan)
    check_threads(threads)
    check_shard(shard)
    folder = Folder(path)
    plan = with_stored(plan, folder)
    keys = Keys(threads or folder.threads() or threads_for(1))
    cells = [(keys.of(cell), cell) for cell in mine(plan, shard)]
    state = folder.state(cells, plan.formats)
    arms: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {arm.name: [] for arm in plan.arms}
    tuning = 0
    sizes: dict[str, list[int]] = {arm.name: [] for arm in plan.arms}
    memory: list[int] = []
    for arm in plan.arms:
        cost, of_strong = arm.cost or cost_of(arm)
        arms[arm.name] = {"cells": 0, "made": 0, "failed": 0, "left": 0, "evaluations": cost, "seconds": None}
        arms[arm.name]["strong_evaluations"] = of_strong
        if arm.grid and arm.name not in plan.tuned:
            of_tuning = plan_of(plan, arm.grid)
            cost = sum(evaluations(each.template)["total"] for each in of_tuning.arms)
            tuning += cost * len(of_tuning.suite.prompts) * len(of_tuning.all_seeds)
    for key, cell in cells:
        arm_of = arms[cell.arm.name]
        arm_of["cells"] += 1
        if line := state.complete.get(key):
            arm_of["made"] += 1
            times[cell.arm.name] += [] if line["seconds"] is None else [line["seconds"]]
            sizes[cell.arm.name].append(sum(length for length, _ in line["files"].values()))
            memory += [] if line.get("memory") is None else [line["memory"]]
        else:
            arm_of["failed"] += key in state.failed
            arm_of["left"] += 1
    for name, seconds in times.items():
        arms[name]["seconds"] = fmean(seconds) if seconds else None
    waiting = [arm for arm in arms.values() if arm["left"]]
    timed = all(arm["seconds"] is not None for arm in waiting)
    unsized = any(arm["left"] and not sizes[name] for name, arm in arms.items())
    larger = sum(arm["left"] * fmean(sizes[name]) for name, arm in arms.items() if arm["left"] and sizes[name])
    return {
        "prompts": len(plan.suite.prompts),
        "seeds": len(plan.all_seeds),
        "threads": keys.threads,
        "arms": arms,
        "cells": len(cells),
        "left": sum(arm["left"] for arm in arms.values()),
        "evaluations_left": sum(arm["left"] * arm["evaluations"] for arm in arms.values()),
        "tuning_evaluations": tuning,
        "seconds_left": sum(arm["left"] * arm["seconds"] for arm in waiting) if timed else None,
        "bytes": sum(map(sum, sizes.values())),
        "bytes_left": None if unsized else round(larger),
        "memory": max(memory, default=None),
        "errors": dict(Counter(line["error"] for line in state.failed.values()).most_common()),
    }
