"""CFG-Zero* (Fan, Zheng, Yeh, Liu 2025, arXiv:2503.18886)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import shown
from ..levels import Step
from .method import Answer, Arm, Method, Noise


@dataclass(frozen=True)
class CFGZeroStar(Method):
    """Guidance from an optimally scaled unconditional prediction, after first steps with a prediction of 0.

    With w the guidance of the final step, for each video,

        p = s p_uncond + w (p_cond - s p_uncond),     s = <p_cond, p_uncond> / |p_uncond|^2

    and p = 0 in the first `zero_init_steps` steps. Like diffusers' `ClassifierFreeZeroStarGuidance`, it mixes the
    network's own predictions. The paper treats flow models, for which a prediction of 0 leaves the latents unchanged;
    with eps, v or sample networks the formula is the same, but the paper's reasons do not apply. The cost is that of
    plain guidance, since the network is also evaluated where the prediction is 0. There is no weak arm.

    Args:
        zero_init_steps: the number of steps with a prediction of 0. The paper uses the first 4 %.
    """

    uses_weak: ClassVar[bool] = False
    guides: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    every_step: ClassVar[bool] = True

    zero_init_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_init_steps < 0:
            raise ValueError(
                f"`zero_init_steps` has to be a whole number from 0, but is {shown(self.zero_init_steps)}."
            )

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        if step.index < self.zero_init_steps:
            return Answer(torch.zeros_like(p))
        if len(p) == 1:  # w = 1
            return Answer(p)
        uncond, cond = p
        axes = tuple(range(1, cond.ndim))
        s = (cond * uncond).sum(axes, keepdim=True) / uncond.square().sum(axes, keepdim=True).clamp(min=1e-8)
        return Answer(torch.stack([s * uncond, cond]))
