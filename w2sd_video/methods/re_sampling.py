"""Re-Sampling (RePaint, arXiv:2201.09865), and its advanced form, whose noise follows W2SD (arXiv:2502.00473)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..levels import Step
from .method import Answer, Arm, Method, Noise, displaced
from .w2sd import reflection


def renoised(x_t: Tensor, step: Step, p: Tensor, noise: Tensor) -> Tensor:
    """d = x^Re_t - x_t (B, …): a step to x_s with p, and back to level t with fresh noise.

    x_t given x_s is (alpha_t / alpha_s) x_s plus noise of variance sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2.
    """
    t, s = step.level, step.target
    ratio = t.alpha / s.alpha
    fresh = math.sqrt(max(t.sigma**2 - (ratio * s.sigma) ** 2, 0.0))
    x_s = step.forward.forward(x_t, p)
    return ratio * x_s + fresh * noise - x_t


@dataclass(frozen=True)
class ReSampling(Method):
    """Algorithm 2: steps to x_s = M^s(x_t), noises it back to level t, and steps from there. There is no weak arm.

    The paper has one M^s. Here the first step has the strong arm's guidance in the reflection, and the second that of
    the final step, as in W2SD.
    """

    uses_weak: ClassVar[bool] = False

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        return displaced(x_t, strong, renoised(x_t, step, strong.reflect(x_t), noise()))


@dataclass(frozen=True)
class AdvancedReSampling(Method):
    """Algorithm 3: Re-Sampling with noise whose cosine with W2SD's displacement x~_t - x_t is at least 0.

    The algorithm draws noise until that holds; here, noise of a negative cosine is negated. Both have the same
    distribution, since normal noise is symmetric, and a video's noise does not depend on the draws of another.

    Args:
        adverse: take noise of cosine < 0 instead (the paper's Table 14).
    """

    inverts: ClassVar[bool] = True

    adverse: bool = False

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        d, p_s, _ = reflection(x_t, step, strong, weak)
        drawn = noise()
        along = (drawn * d).flatten(1).sum(1).reshape(-1, *[1] * (d.ndim - 1)) >= 0
        drawn = drawn.where(along ^ self.adverse, -drawn)
        return displaced(x_t, strong, renoised(x_t, step, p_s, drawn))
