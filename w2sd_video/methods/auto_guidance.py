"""Auto-guidance (Karras et al. 2024, arXiv:2406.02507), as the paper compares it (its Eq. 18-20)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..levels import Step
from .method import Answer, Arm, Method, Noise


@dataclass(frozen=True)
class AutoGuidance(Method):
    """Adds w (p_s - p_w) to the prediction, all evaluated at x_t: x_s = x^good + w (x^good - x^bad).

    Args:
        weight: w; the paper uses 1.
    """

    weight: float = 1.0

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        return Answer(p, e=self.weight * (strong.reflect(x_t) - weak.reflect(x_t)))
