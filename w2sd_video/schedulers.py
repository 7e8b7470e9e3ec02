"""The steps of diffusers' schedulers, as `levels` has them.

`_SCHEDULERS` says how each class is read. A class that is not there, or a setting under which its step is not the
deterministic first-order one, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .levels import FirstOrder, Level, Step, first_order

CONVENTIONS: tuple[str, ...] = ("exact", "published")


def read_step(scheduler: Any, timestep: Tensor | float, *, convention: str = "exact", index: int | None = None) -> Step:
    """The step that `scheduler.step(…, timestep, …)` is about to make, to first order and without noise.

    Args:
        scheduler: a diffusers scheduler after `set_timesteps`: DDIM (any spacing), CogVideoX's DDIM or DPM, Euler,
            EDM's Euler, DPM-Solver(++) or UniPC multistep (their first-order step) or flow-matching Euler.
        timestep: the timestep of the step, an element of `scheduler.timesteps`.
        convention: "exact", or "published" for the inverse of the published W2SD and Z-Sampling code. They
            hand `timesteps[i+1]` to `DDIMInverseScheduler.step`, which takes it as the level to arrive at:
            the inverse goes from t - 2D to t - D (D = N // n), not from t - D to t.
        index: the index of `timestep` in `scheduler.timesteps`. Default: that of the scheduler's current step.

    Raises:
        ValueError: the scheduler, or a setting of it, has no such step; the message names both.
    """
    reader = _reader(scheduler)
    if convention not in CONVENTIONS:
        raise ValueError(f"`convention` is one of {', '.join(CONVENTIONS)}; got {convention!r}.")
    index = step_index(scheduler, timestep) if index is None else index
    level, target = reader.levels(scheduler, index)
    prediction = reader.prediction(scheduler)
    forward = first_order(level, target, prediction)
    return Step(
        timestep=float(timestep),
        prediction=prediction,
        level=level,
        target=target,
        forward=forward,
        inverse=forward if convention == "exact" else _published_inverse(scheduler, index),
        scale=reader.scale(scheduler, level),
        sign=reader.sign(scheduler),
    )


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration, with the name of its class as `_class_name`, is of flow matching."""
    return (
        str(config.get("_class_name", "")).startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"
    )


def shifted(scheduler: Any) -> dict[str, float]:
    """Arguments of `set_timesteps` for a schedule whose shift depends on the sample's size (`use_dynamic_shifting`).

    The shift is a stand-in. Use it only for what does not depend on the shift, such as the number of steps.
    """
    return {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}


def check_scheduler(scheduler: Any, *, convention: str = "exact") -> None:
    """Raise the ValueError that `read_step` would raise. Works before `set_timesteps`."""
    _reader(scheduler).prediction(scheduler)
    if convention == "published":
        _check_published(scheduler)


def step_index(scheduler: Any, timestep: Tensor | float) -> int:
    """The index in `scheduler.timesteps` of the current step.

    It is the scheduler's own counter if that is set, since timesteps may repeat; else the index of the timestep.

    Raises:
        ValueError: the timestep is not among the scheduler's.
    """
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return int(index)
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return int(begin)
    if isinstance(timestep, Tensor):
        timestep = timestep.to(scheduler.timesteps.device)
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(timestep))
    places = (scheduler.timesteps == timestep).nonzero()
    if len(places) == 0:
        raise ValueError(f"`timestep` {float(timestep)} is not among the scheduler's: {scheduler.timesteps.tolist()}.")
    return int(places[0].item())


def without_corrector(scheduler: Any) -> list[tuple[Any, str, Any]]:
    """The settings (see `arms.Overrides`) that disable UniPC's corrector for the current step; none of others.

    The corrector rebuilds x_t from the last sample, and so would lose the displacement. The predictor that is left is a
    step like DPM-Solver++'s. Steps without a displacement keep the corrector.
    """
    before = getattr(scheduler, "disable_corrector", None)
    if before is None or scheduler.step_index is None:
        return []
    return [(vars(scheduler), "disable_corrector", [*before, scheduler.step_index - 1])]


def stepped_dtype(scheduler: Any, arguments: Mapping[str, Any]) -> torch.dtype:
    """The dtype of the latents that a scheduler's step returns, by those of the sample and the prediction.

    Args:
        arguments: the arguments of the scheduler's step, by name, as the pipeline gives them.
    """
    sample, prediction = arguments["sample"].dtype, arguments["model_output"].dtype
    match _reader(scheduler).steps_in:
        case "prediction" if arguments.get("per_token_timesteps") is not None:
            return torch.promote_types(prediction, torch.float32)
        case "prediction":
            return prediction
        case "sample":
            return sample
    return torch.promote_types(sample, prediction)


# The levels (t, s) of the step at an index.
Levels = tuple[Level, Level]


def _ddim(scheduler: Any, index: int) -> Levels:
    t = int(scheduler.timesteps[index])
    at = (float(scheduler.alphas_cumprod[t]), _ddim_alpha_bar(scheduler, t - _ddim_stride(scheduler)))
    return Level.from_alpha_bar(at[0]), Level.from_alpha_bar(at[1])


def _ddim_stride(scheduler: Any) -> int:
    # DDIMScheduler.step goes to t - N // n in every spacing; in "linspace" that is not the next timestep.
    return scheduler.config.num_train_timesteps // scheduler.num_inference_steps


def _ddim_alpha_bar(scheduler: Any, t: int) -> float:
    return float(scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod)


def _sigmas(level_of: Callable[[float], Level]) -> Callable[[Any, int], Levels]:
    def read(scheduler: Any, index: int) -> Levels:
        return level_of(float(scheduler.sigmas[index])), level_of(float(scheduler.sigmas[index + 1]))

    return read


def _multistep(scheduler: Any, index: int) -> Levels:
    level_of = Level.from_flow if scheduler.config.use_flow_sigmas else Level.from_sigma
    return _sigmas(level_of)(scheduler, index)


def _flow(scheduler: Any, index: int) -> Levels:
    if _inverted(scheduler):
        return _sigmas(lambda signal: Level(signal, 1.0 - signal))(scheduler, index)
    return _sigmas(Level.from_flow)(scheduler, index)


def _inverted(scheduler: Any) -> bool:
    """Whether a flow scheduler's sigmas are shares of the signal, as Mochi's. It then steps by z - eps."""
    return bool(scheduler.config.get("invert_sigmas", False))


def _edm(scheduler: Any, index: int) -> Levels:
    """Levels for z / sigma_data, of variance 1. The network sees (z + sigma eps) / sqrt(sigma_data^2 + sigma^2)."""
    return _sigmas(lambda sigma: Level.from_sigma(sigma / scheduler.config.sigma_data))(scheduler, index)


def _configured(scheduler: Any) -> str:
    """The kind of prediction that a scheduler's configuration names."""
    prediction = scheduler.config.prediction_type
    prediction = "sample" if prediction == "original_sample" else prediction
    on_flow_path = bool(scheduler.config.get("use_flow_sigmas", False))
    accepted = ("flow_prediction",) if on_flow_path else ("epsilon", "v_prediction", "sample")
    if prediction not in accepted:
        raise ValueError(
            f"{type(scheduler).__name__} with `prediction_type={prediction!r}` is not supported here;"
            f" accepted: {', '.join(accepted)}."
        )
    return prediction


@dataclass(frozen=True)
class _Reader:
    """How the steps of a class of schedulers are read.

    Attributes:
        levels: the levels of the step at an index.
        prediction: what the network predicts.
        scale: the scheduler's sample divided by the network's input, at the level where the step starts.
        sign: -1 if the scheduler expects the opposite of that prediction.
        steps_in: whose dtype it steps to, the sample's or the prediction's; or the wider of both.
        accepted: by setting, the values under which the step is the deterministic first-order one, and why no other is
            accepted.
    """

    levels: Callable[[Any, int], Levels]
    prediction: Callable[[Any], str] = _configured
    scale: Callable[[Any, Level], float] = lambda scheduler, level: 1.0
    sign: Callable[[Any], float] = lambda scheduler: 1.0
    steps_in: Literal["sample", "prediction", "wider"] = "wider"
    accepted: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)


_CLIPPED = "it clips what the network predicts, so that its step has no exact inverse"
_RANDOM = "its step is random, so that it has no inverse"

_SCHEDULERS = {
    "DDIMScheduler": _Reader(
        _ddim, accepted={"clip_sample": ((False,), _CLIPPED), "thresholding": ((False,), _CLIPPED)}
    ),
    "CogVideoXDDIMScheduler": _Reader(_ddim),
    "CogVideoXDPMScheduler": _Reader(_ddim),
    "EulerDiscreteScheduler": _Reader(
        _sigmas(Level.from_sigma), scale=lambda scheduler, level: 1 / level.alpha, steps_in="prediction"
    ),
    "EDMEulerScheduler": _Reader(
        _edm,
        prediction=lambda scheduler: "v_prediction",
        scale=lambda scheduler, level: float(scheduler.config.sigma_data / level.alpha),
        # It expects -v of z / sigma_data, unless it is set to v.
        sign=lambda scheduler: -1.0 if scheduler.config.prediction_type == "epsilon" else 1.0,
        steps_in="prediction",
    ),
    "DPMSolverMultistepScheduler": _Reader(
        _multistep,
        accepted={
            "algorithm_type": (("dpmsolver++", "dpmsolver"), _RANDOM),
            "thresholding": ((False,), _CLIPPED),
            "variance_type": ((None, "fixed_small", "fixed_large"), "its network predicts a variance too"),
        },
    ),
    "UniPCMultistepScheduler": _Reader(
        _multistep,
        steps_in="sample",
        accepted={
            "thresholding": ((False,), _CLIPPED),
            "solver_p": ((None,), "its predictor is another scheduler"),
            "predict_x0": ((True,), "its steps of noise predictions are not tested"),
        },
    ),
    "FlowMatchEulerDiscreteScheduler": _Reader(
        _flow,
        prediction=lambda scheduler: "flow_prediction",
        sign=lambda scheduler: -1.0 if _inverted(scheduler) else 1.0,
        steps_in="prediction",
        accepted={"stochastic_sampling": ((False,), _RANDOM)},
    ),
}


def _supported(scheduler: Any) -> str:
    """The class in `_SCHEDULERS` that a scheduler is one of."""
    for cls in type(scheduler).__mro__:
        if cls.__name__ in _SCHEDULERS:
            return cls.__name__
    raise ValueError(
        f"`scheduler` has the class {type(scheduler).__name__}, which is not supported: a reflection needs a"
        f" deterministic first-order step with an exact inverse. Accepted: {', '.join(_SCHEDULERS)}."
    )


def _reader(scheduler: Any) -> _Reader:
    reader = _SCHEDULERS[_supported(scheduler)]
    for setting, (accepted, reason) in reader.accepted.items():
        value = scheduler.config.get(setting, accepted[0])
        if value not in accepted:
            raise ValueError(
                f"{type(scheduler).__name__} with `{setting}={value!r}` is not supported under a method: {reason}."
                f" Accepted: {', '.join(map(repr, accepted))}, if the model is sampled so without a method too: another"
                " value changes plain sampling as well."
            )
    return reader


def _check_published(scheduler: Any) -> None:
    prediction = _reader(scheduler).prediction(scheduler)
    if _supported(scheduler) != "DDIMScheduler" or prediction != "epsilon":
        raise ValueError(
            "`convention='published'` exists for a DDIMScheduler and an epsilon network, as in the published"
            f" code; got {type(scheduler).__name__} and {prediction!r}."
        )
    if scheduler.config.timestep_spacing == "linspace":
        raise ValueError(
            "`convention='published'` needs `timestep_spacing` 'leading' or 'trailing': the published code"
            " inverts with DDIMInverseScheduler, which does not take 'linspace'."
        )


def _published_inverse(scheduler: Any, index: int) -> FirstOrder:
    """The step whose inverse is DDIMInverseScheduler.step(eps, timesteps[index + 1], x)."""
    _check_published(scheduler)
    if index + 1 >= len(scheduler.timesteps):
        raise ValueError(
            "`convention='published'` cannot reflect the last step: the published code inverts to the"
            f" timestep after it. Accepted `reflection_steps`: 0 to {len(scheduler.timesteps) - 1}."
        )
    arrival = int(scheduler.timesteps[index + 1])
    return first_order(
        Level.from_alpha_bar(_ddim_alpha_bar(scheduler, arrival)),
        Level.from_alpha_bar(_ddim_alpha_bar(scheduler, arrival - _ddim_stride(scheduler))),
    )
