"""What a group reads of the pipeline in whose loop it acts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from diffusers import DiffusionPipeline

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
        perturbed: whether it evaluates a third branch (PAG).
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
    perturbed: Callable[[], bool] = lambda: False
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

    return Host(
        scheduler,
        form,
        type(pipeline).__name__,
        replaced=lambda: pipeline.scheduler is not scheduler,
        running=lambda: any(each is pipeline for each in _on_call_stack()),
        foreign=lambda: _only_others_run(pipeline),
        guidance=guidance,
        doubled=lambda: bool(getattr(pipeline, flag)) if flag else None,
        rescaled=positive("guidance_rescale"),
        perturbed=positive("do_perturbed_attention_guidance"),
        num_steps=lambda: getattr(pipeline, "num_timesteps", None),
    )


def _on_call_stack() -> Iterator[Any]:
    """The objects whose methods this thread is running, innermost first."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        yield frame.f_locals.get("self")


def _only_others_run(pipeline: DiffusionPipeline) -> bool:
    """Whether this thread is running a method of another pipeline, and none of this one."""
    running = [each for each in _on_call_stack() if isinstance(each, DiffusionPipeline)]
    return bool(running) and all(each is not pipeline for each in running)
