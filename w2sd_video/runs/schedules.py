"""Noise schedules in words: a scheduler of diffusers, its arguments, and what a preset's schedule tells it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

from ..documents import parse_yaml, words_as_booleans
from ..errors import Refused

# What of a schedule says its noise levels, and what was learnt: a scheduler of another class has to be told that too.
_LEVELS = "num_train_timesteps beta_schedule beta_start beta_end trained_betas prediction_type rescale_betas_zero_snr"
_LEVELS += " use_flow_sigmas invert_sigmas use_dynamic_shifting base_shift max_shift shift_terminal"
_OF_FLOWS = "FlowMatch"  # what the names of diffusers' schedulers begin with that are of flow matching alone


def scheduler_class(name: str) -> type:
    """The diffusers scheduler of that name.

    Raises:
        Refused: there is none.
    """
    import diffusers

    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise Refused("scheduler", name, "give a scheduler of diffusers, such as DDIMScheduler")
    return cls


def read_schedule(text: str, schedule: Mapping[str, Any]) -> dict[str, Any]:
    """`CLASS [NAME=VALUE...]` as a scheduler of that class, with what a schedule says that it can be told.

    Raises:
        Refused: it is something else, or it cannot be told the noise levels of the schedule.
    """
    name, *texts = text.split() or [""]
    cls = scheduler_class(name)
    config: dict[str, Any] = {}
    for each in texts:
        key, equals, value = each.partition("=")
        if not key or not equals or key == "class" or key in config:
            accepted = "give a diffusers class, and NAME=VALUE with spaces between, each name once"
            raise Refused("scheduler", text, accepted)
        try:
            config[key] = words_as_booleans(parse_yaml(value))
        except ValueError:
            raise Refused("scheduler", text, f"{each} has no value that YAML reads") from None
    known = signature(cls).parameters
    own = _for_class(name, known, schedule)
    if lost := [key for key in _LEVELS.split() if own.get(key) not in (None, False) and key not in known]:
        raise Refused("scheduler", name, f"it cannot be told the {', '.join(lost)} of the preset's schedule")
    return {"class": name, **{key: value for key, value in own.items() if key in known}, **config}


def _for_class(name: str, known: Collection[str], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """What a schedule says, as a scheduler class is told it: of a flow's classes, some are of flows alone, and others
    have arguments for it. So a flow stays one, with its shift."""
    own = {key: value for key, value in schedule.items() if key != "class"}
    if not str(schedule["class"]).startswith(_OF_FLOWS) and not own.get("use_flow_sigmas"):
        return own
    shift = own.pop("shift", own.pop("flow_shift", None))
    own = {key: value for key, value in own.items() if key not in ("prediction_type", "use_flow_sigmas")}
    of_flows = name.startswith(_OF_FLOWS)
    if shift is not None:
        own["shift" if of_flows else "flow_shift"] = shift
    return own if of_flows else {**own, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
