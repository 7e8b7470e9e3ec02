"""Predict-and-perturb, P&P: self-refining video sampling (Jang et al. 2026, arXiv:2601.18577)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import shown
from ..levels import Step, convert
from .method import MOST_ITERATIONS, Answer, Arm, Method, Noise, finite


@dataclass(frozen=True)
class PredictAndPerturb(Method):
    """Predict the clean latents and noise them again to the same level, a few times, before the step.

    From x^0 = x_t, with z(x) the clean latents that the strong arm predicts at x (Eq. 5 and 6),

        z^k = z(x^k),    x^(k+1) = alpha z^k + sigma noise

    and the step goes from the last x^k. With a `threshold`, a position stops changing once the model is certain of it:
    once the mean over channels of |z^k - z^(k-1)| is under the threshold, the position keeps its earlier values. This
    follows the authors' code (github.com/agwmon/self-refine-video, `functions/pipeline_wan_pnp.py`), except that their
    loop also ends once 99.9 % of the latents are certain; here all iterations are made.

    It refines the first fifth of the steps, as in the paper; `reflection_steps` sets another number. A refined step
    takes `iterations` + 1 predictions of the strong arm. With a threshold, each is evaluated at the guidance of the
    reflection and at that of the final step; without one, the last at that of the final step alone, and the others at
    that of the reflection. There is no weak arm. The threshold is in units of the latents, so a good value depends on
    the model.

    Args:
        iterations: K_f, how often to predict and perturb.
        threshold: tau, under which a position counts as certain. None: no mask.
    """

    uses_weak: ClassVar[bool] = False

    iterations: int = 2
    threshold: float | None = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise ValueError(
                f"`iterations` has to be a whole number from 1 to {MOST_ITERATIONS}, but is {shown(self.iterations)}."
            )
        if self.threshold is not None:
            finite("threshold", self.threshold, 0)

    @classmethod
    def default_steps(cls, num_steps: int) -> int:
        return max(round(num_steps / 5), 1)

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if self.threshold is None:
            x = x_t
            for _ in range(self.iterations):
                x = step.level.alpha * self._clean(x, step, strong) + step.level.sigma * noise()
            return Answer(strong.denoise(x), x - x_t)
        channels, certain = step.axes_of(x_t).channels, None
        at, p, z = x_t, strong.denoise(x_t), self._clean(x_t, step, strong)
        for _ in range(self.iterations):
            x = step.level.alpha * z + step.level.sigma * noise()
            q, new = strong.denoise(x), self._clean(x, step, strong)
            stays = (new - z).abs().mean(channels, keepdim=True) < self.threshold
            certain = stays if certain is None else stays | certain
            # The step is linear in the latents and the prediction, so that blending these blends what it makes.
            at, p, z = at.where(certain, x), p.where(certain, q), z.where(certain, new)
        return Answer(p, at - x_t)

    def _clean(self, x: Tensor, step: Step, strong: Arm) -> Tensor:
        return convert(strong.reflect(x), x, step.level, step.prediction, "sample")
