"""Guidance that changes from step to step: a baseline for the other methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import shown
from ..levels import Step
from .method import Answer, Arm, Method, Noise, finite


@dataclass(frozen=True)
class GuidanceSchedule(Method):
    """Plain guidance p_uncond + w_t (p_cond - p_uncond) with a guidance number w_t for each step.

    The pipeline's own guidance and its changes to the mixture, such as `guidance_rescale`, have no effect. A step with
    w_t = 1 evaluates the conditional branch alone, so guidance at some noise levels only (Kynkäänniemi et al. 2024,
    arXiv:2404.07724) costs less than guidance at all levels. There is no weak arm.

    Args:
        guidance: w_t, from the noisiest step down. If there are fewer or more numbers than steps, w_t is interpolated
            linearly, from the first number at the first step to the last number at the last step.
    """

    uses_weak: ClassVar[bool] = False
    guides: ClassVar[bool] = False
    every_step: ClassVar[bool] = True

    guidance: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.guidance, (tuple, list)) or not self.guidance:
            raise ValueError(f"`guidance` has to be a list of numbers, one or more, but is {shown(self.guidance)}.")
        for number in self.guidance:
            finite("guidance", number)

    @property
    def guidances(self) -> list[float]:
        return list(self.guidance)

    def at(self, index: int, num_steps: int) -> float:
        """w_t of step `index` of `num_steps`."""
        last = len(self.guidance) - 1
        place = last * index / max(num_steps - 1, 1)
        before = min(int(place), last)
        after = min(before + 1, last)
        return self.guidance[before] + (place - before) * (self.guidance[after] - self.guidance[before])

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        return Answer(strong.guided(x_t, self.at(step.index, step.num_steps))[None])
