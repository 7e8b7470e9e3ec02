"""Adaptive projected guidance, APG (Sadat, Hilliges, Weber 2024, arXiv:2410.02416, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import shown
from ..levels import Step, convert
from .method import Answer, Arm, Method, Noise, finite


@dataclass(frozen=True)
class APG(Method):
    """Guidance whose update has a momentum, a bounded norm, and a weaker part along the conditional prediction.

    With D the predictions of clean latents and w the guidance of the final step,

        delta_t = (D_cond - D_uncond) + momentum delta_before
        update  = delta_t min(1, norm_threshold / |delta_t|)
        D       = D_cond + (w - 1) (update_orthogonal + parallel update_parallel)

    where parallel and orthogonal are relative to D_cond, for each video. The pipeline's own guidance makes the mixture:
    it gets D_cond, and D_cond - update in place of D_uncond. `parallel=1`, `momentum=0` and `norm_threshold=0` give
    plain guidance. The cost is that of plain guidance.

    There is no weak arm. The paper tunes (norm_threshold, momentum) to each model, by the norm of its latents.

    Args:
        parallel: the paper's eta, the factor on the parallel part.
        momentum: the paper's beta. A negative one, which the paper recommends, steers away from earlier updates.
        norm_threshold: the paper's r; 0 disables it.
        of: "sample": D are predictions of clean latents (the paper). "network": D are the network's own predictions, as
            in diffusers' `AdaptiveProjectedGuidance` with `use_original_formulation`.
    """

    uses_weak: ClassVar[bool] = False
    guides: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    every_step: ClassVar[bool] = True

    parallel: float = 0.0
    momentum: float = -0.5
    norm_threshold: float = 15.0
    of: Literal["sample", "network"] = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("norm_threshold", self.norm_threshold, 0)
        if self.of not in ("sample", "network"):
            raise ValueError(f"`of` has to be 'sample' or 'network', but is {shown(self.of)}.")

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        p = strong.denoise(x_t)
        if len(p) == 1:  # w = 1
            return Answer(p)
        uncond, cond = p
        kind, zero = "sample" if self.of == "sample" else step.prediction, torch.zeros_like(x_t)
        delta = convert(cond - uncond, zero, step.level, step.prediction, kind)
        if step.carried is not None and step.carried.shape == delta.shape:
            delta = delta + self.momentum * step.carried
        update = self._update(delta, convert(cond, x_t, step.level, step.prediction, kind))
        update = convert(update, zero, step.level, kind, step.prediction)
        return Answer(torch.stack([cond - update, cond]), carry=delta)

    def _update(self, delta: Tensor, cond: Tensor) -> Tensor:
        axes = tuple(range(1, delta.ndim))
        if self.norm_threshold > 0:
            norm = delta.square().sum(axes, keepdim=True).sqrt()
            delta = delta * (self.norm_threshold / norm.clamp(min=1e-30)).clamp(max=1)
        along = (delta * cond).sum(axes, keepdim=True) / cond.square().sum(axes, keepdim=True).clamp(min=1e-30) * cond
        return delta - along + self.parallel * along
