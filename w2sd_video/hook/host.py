"""What a group reads of the pipeline in whose loop it acts."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from .form import Form


@dataclass
class Host:
    """A pipeline, as its group sees it. By default it is a loop of one's own that does not guide.

    Functions are called anew at every step, so the pipeline may change its state during the run.

    Args:
        scheduler: the pipeline's scheduler; it may be reset during the run.
        form: how the pipeline calls its denoiser.
        name: the pipeline's name, for messages.
        replaced: whether the pipeline has another scheduler by now.
        running: whether the pipeline's own call is running; called when the scheduler's timesteps are set.
        foreign: whether another pipeline calls the denoiser.
        guidance: the pipeline's guidance number. None: it is not known, or not one number.
        doubled: whether the pipeline sends rows of both branches in one call. None: not known before the scheduler's
            step.
        rescaled: whether it rescales its mixture by the conditional prediction (`guidance_rescale`).
        guides_by_more: what its call guides by that no step of a method supports, in words. None: nothing.
        repeats: whether its call runs several loops, of which the first ones may be shorter (FreeInit).
        num_steps: the steps of the current loop. None: not known; the loop goes on to the end of `scheduler.timesteps`.
            Default: all of them.
    """

    scheduler: Any
    form: Form = field(default_factory=Form)
    name: str = "The pipeline"
    replaced: Callable[[], bool] = lambda: False
    running: Callable[[], bool] = lambda: True
    foreign: Callable[[], bool] = lambda: False
    guidance: Callable[[], float | None] = lambda: 1.0
    doubled: Callable[[], bool | None] = lambda: False
    rescaled: Callable[[], bool] = lambda: False
    guides_by_more: Callable[[], str | None] = lambda: None
    repeats: Callable[[], bool] = lambda: False
    num_steps: Callable[[], int | None] | None = None


def host_of(pipeline: DiffusionPipeline, form: Form) -> Host:
    """A pipeline of diffusers, whose state its attributes tell."""
    scheduler = pipeline.scheduler
    flag = form.flag if hasattr(type(pipeline), form.flag or "") else None

    def positive(attribute: str) -> Callable[[], bool]:
        return lambda: (getattr(pipeline, attribute, None) or 0) > 0

    def guidance() -> float | None:
        number = getattr(pipeline, "guidance_scale", None) if flag else None
        return float(number) if isinstance(number, (int, float)) else None

    def doubled() -> bool | None:
        if flag is None:
            return None
        try:
            return bool(getattr(pipeline, flag))
        except AttributeError:  # the property reads what the loop has not set
            raise ValueError(
                f"{type(pipeline).__name__} does not say its `{flag}` during its call. Accepted: a `form` with"
                " `flag=None`, or with the attribute that says whether it guides."
            ) from None

    return Host(
        scheduler,
        form,
        type(pipeline).__name__,
        replaced=lambda: pipeline.scheduler is not scheduler,
        running=lambda: any(frame.get("self") is pipeline for frame in _call_stack()),
        foreign=lambda: _another_runs(pipeline),
        guidance=guidance,
        doubled=doubled,
        rescaled=positive("guidance_rescale"),
        guides_by_more=lambda: _guides_by_more(pipeline, form),
        repeats=lambda: bool(getattr(pipeline, "free_init_enabled", False)),
        num_steps=lambda: getattr(pipeline, "num_timesteps", None),
    )


def _guides_by_more(pipeline: Any, form: Form) -> str | None:
    """Guidance of a pipeline's call that no step of a method supports, even if it begins at a later step."""
    if (getattr(pipeline, "do_perturbed_attention_guidance", None) or 0) > 0:
        return "evaluates a third branch, with its attention perturbed; set `pag_scale` to 0"
    call = next((frame for frame in _call_stack() if frame.get("self") is pipeline), {})
    if form.third is not None and (value := call.get(form.third)) is not None:
        return f"evaluates a third branch, by its `{form.third}` {value!r}; give None"
    guider = call.get("guider", getattr(pipeline, "guider", None))  # a call may choose one of several
    return _of_guider(guider, pipeline.scheduler.timesteps) if isinstance(guider, BaseGuidance) else None


def _of_guider(guider: BaseGuidance, timesteps: Tensor) -> str | None:
    """The same of a guider of diffusers, which may call the network twice a step, and later on once."""
    guider, name, before = copy.copy(guider), type(guider).__name__, 2
    if not guider._enabled:
        return None
    if type(guider).prepare_models is not BaseGuidance.prepare_models:
        return f"changes its network's layers for one of its branches, by its {name}; set another `guider`"
    if getattr(guider, momentum := "adaptive_projected_guidance_momentum", None) is not None:
        return f"mixes the predictions of earlier steps, by its {name}; set its `{momentum}` to None"
    for index, timestep in enumerate(timesteps):
        guider.set_state(step=index, num_inference_steps=len(timesteps), timestep=timestep)
        calls = guider.num_conditions
        if calls > 2:
            return f"calls its network {calls} times in step {index + 1}, by its {name}; set another `guider`"
        if calls > before:
            return f"does not guide before step {index + 1}, by its {name}; set its `start` to 0"
        before = calls
    return None


def _call_stack() -> Iterator[Mapping[str, Any]]:
    """The local variables of the functions that this thread is running, innermost first."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        yield frame.f_locals


def _another_runs(pipeline: DiffusionPipeline) -> bool:
    """Whether the pipeline that runs is another one, perhaps in a callback of this one: its method is the innermost."""
    running = (each for frame in _call_stack() if isinstance(each := frame.get("self"), DiffusionPipeline))
    return next(running, pipeline) is not pipeline
