"""Re-Sampling (RePaint, arXiv:2201.09865), and its advanced form, in which W2SD picks the noise (arXiv:2502.00473)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..levels import Step
from .method import Answer, Arm, Method, Noise, displaced
from .w2sd import reflection


def renoised(x_t: Tensor, step: Step, p: Tensor, noise: Tensor) -> Tensor:
    """d = x^Re_t - x_t: a step to x_s with p, and from there back to level t with fresh noise.

    x_t given x_s is (alpha_t / alpha_s) x_s plus noise of variance sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2.
    """
    t, s = step.level, step.target
    ratio = t.alpha / s.alpha
    fresh = math.sqrt(max(t.sigma**2 - (ratio * s.sigma) ** 2, 0.0))
    x_s = step.forward.forward(x_t, p)
    return ratio * x_s + fresh * noise - x_t


@dataclass(frozen=True)
class ReSampling(Method):
    """Algorithm 2: x_s = M^s(x_t), noise it back to level t, and step from there. There is no weak arm."""

    uses_weak: ClassVar[bool] = False

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        return displaced(x_t, strong, renoised(x_t, step, strong.reflect(x_t), noise()))


@dataclass(frozen=True)
class AdvancedReSampling(Method):
    """Algorithm 3: Re-Sampling with noise that points as W2SD's displacement x~_t - x_t does, cosine >= 0.

    Where the algorithm draws until the noise does, a draw that does not is negated: normal noise is symmetric, so the
    two have the same law, and a video's noise does not depend on how often another's was drawn.

    Args:
        adverse: take noise of cosine < 0 instead (the paper's Table 14).
    """

    inverts: ClassVar[bool] = True

    adverse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.adverse, bool):
            raise ValueError(f"`adverse` has to be true or false, but is {self.adverse!r}.")

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if step.stays:
            return Answer(strong.denoise(x_t))
        d, p_s, _ = reflection(x_t, step, strong, weak)
        drawn = noise()
        along = (drawn * d).flatten(1).sum(1).reshape(-1, *[1] * (d.ndim - 1)) >= 0
        drawn = drawn.where(along ^ self.adverse, -drawn)
        return displaced(x_t, strong, renoised(x_t, step, p_s, drawn))
