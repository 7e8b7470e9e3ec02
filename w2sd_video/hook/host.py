"""What a group reads of the pipeline in whose loop it acts."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from .form import Form


class Host:
    """A loop around a denoiser and a scheduler, as its group sees it: here one's own, which does not guide.

    Its methods are called anew at every step, so the loop may change its state during the run.

    Args:
        scheduler: the scheduler; it may be reset during the run.
        form: how the loop calls the denoiser.
        name: the pipeline's name, for messages.
    """

    # How many steps the current loop has. None in place of a number: not known; the loop goes on to the end of
    # `scheduler.timesteps`. None in place of the method: it has all of these.
    num_steps: Callable[[], int | None] | None = None

    def __init__(self, scheduler: Any, form: Form | None = None, name: str = "The pipeline"):
        self.scheduler, self.form, self.name = scheduler, form or Form(), name

    def current_scheduler(self) -> Any:
        """The scheduler that the pipeline has by now."""
        return self.scheduler

    def replaced(self) -> bool:
        """Whether the pipeline has another scheduler by now."""
        return self.current_scheduler() is not self.scheduler

    def running(self) -> bool:
        """Whether the pipeline's own call is running; asked when the scheduler's timesteps are set."""
        return True

    def foreign(self) -> bool:
        """Whether another pipeline calls the denoiser."""
        return False

    def guidance(self) -> float | None:
        """The pipeline's guidance number. None: it is not known, or not one number."""
        return 1.0

    def doubled(self) -> bool | None:
        """Whether the pipeline sends rows of both branches in one call. None: not known before the scheduler's step."""
        return False

    def rescaled(self) -> bool:
        """Whether it rescales its mixture by the conditional prediction (`guidance_rescale`)."""
        return False

    def guides_by_more(self) -> str | None:
        """What its call guides by that no step of a method supports, in words. None: nothing."""
        return None

    def repeats(self) -> bool:
        """Whether its call runs several loops, of which the first ones may be shorter (FreeInit)."""
        return False


class PipelineHost(Host):
    """A pipeline of diffusers, whose state its attributes tell."""

    def __init__(self, pipeline: DiffusionPipeline, form: Form):
        super().__init__(pipeline.scheduler, form, type(pipeline).__name__)
        self.pipeline: Any = pipeline
        self.flag = form.flag if hasattr(type(pipeline), form.flag or "") else None

    def num_steps(self) -> int | None:
        return getattr(self.pipeline, "num_timesteps", None)

    def current_scheduler(self) -> Any:
        return self.pipeline.scheduler

    def running(self) -> bool:
        return any(frame.get("self") is self.pipeline for frame in _call_stack())

    def foreign(self) -> bool:
        """Whether the pipeline that runs is another one, perhaps in a callback of this one: its method is the
        innermost."""
        running = (each for frame in _call_stack() if isinstance(each := frame.get("self"), DiffusionPipeline))
        return next(running, self.pipeline) is not self.pipeline

    def guidance(self) -> float | None:
        number = getattr(self.pipeline, "guidance_scale", None) if self.flag else None
        return float(number) if isinstance(number, (int, float)) else None

    def doubled(self) -> bool | None:
        if self.flag is None:
            return None
        try:
            return bool(getattr(self.pipeline, self.flag))
        except AttributeError:  # the property reads what the loop has not set
            raise ValueError(
                f"{self.name} does not say its `{self.flag}` during its call. Accepted: a `form` with `flag=None`, or"
                " with the attribute that says whether it guides."
            ) from None

    def rescaled(self) -> bool:
        return (getattr(self.pipeline, "guidance_rescale", None) or 0) > 0

    def guides_by_more(self) -> str | None:
        if (getattr(self.pipeline, "do_perturbed_attention_guidance", None) or 0) > 0:
            return "evaluates a third branch, with its attention perturbed; set `pag_scale` to 0"
        call = next((frame for frame in _call_stack() if frame.get("self") is self.pipeline), {})
        if self.form.third is not None and (value := call.get(self.form.third)) is not None:
            return f"evaluates a third branch, by its `{self.form.third}` {value!r}; give None"
        guider = call.get("guider", getattr(self.pipeline, "guider", None))  # a call may choose one of several
        return _of_guider(guider, self.scheduler.timesteps) if isinstance(guider, BaseGuidance) else None

    def repeats(self) -> bool:
        return bool(getattr(self.pipeline, "free_init_enabled", False))


def _of_guider(guider: BaseGuidance, timesteps: Tensor) -> str | None:
    """What a guider of diffusers guides by that no step of a method supports. It may call the network twice a step,
    and later on once."""
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
