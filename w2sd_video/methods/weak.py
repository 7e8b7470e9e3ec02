"""The weak arm alone: a baseline for a pair."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..levels import Level, Step
from .method import Answer, Arm, Method, Noise


@dataclass(frozen=True)
class Weak(Method):
    """The weak arm alone: its prediction at x_t, at `weak_guidance`, in every step. The strong arm is not evaluated."""

    def reflects(self, index: int, num_steps: int, level: Level | None = None) -> bool:
        return True

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        return Answer(weak.reflect(x_t)[None])
