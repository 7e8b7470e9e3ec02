"""What pipelines do with predictions, by the formulas of papers: mixtures of two branches, and steps of schedulers.

Nothing of this is read from the package under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Mixture = Callable[[Tensor, Tensor, Any], Tensor]


def usual(uncond: Tensor, cond: Tensor, w: float) -> Tensor:
    return uncond + w * (cond - uncond)


def beyond(uncond: Tensor, cond: Tensor, w: float) -> Tensor:
    """Guidance counted from the conditional prediction."""
    return cond + w * (cond - uncond)


def normed(uncond: Tensor, cond: Tensor, w: float) -> Tensor:
    """The mixture with the norm of the conditional prediction, over the last axis."""
    mixed = usual(uncond, cond, w)
    return mixed * (cond.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))


@dataclass(frozen=True)
class Order:
    """A step x_s = a x + b p in the network's input space, of a scheduler, with the formulas of its paper."""

    a: float
    b: float


def flow(scheduler: Any, i: int) -> Order:
    return Order(1.0, float(scheduler.sigmas[i + 1]) - float(scheduler.sigmas[i]))


def ddim(scheduler: Any, i: int) -> Order:
    """DDIM, of a network of eps or v (arXiv:2010.02502, Eq. 12)."""
    n = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    t = int(scheduler.timesteps[i])
    bars = [scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[t - n] if t >= n else scheduler.final_alpha_cumprod]
    (at, st), (a_s, ss) = ((float(bar) ** 0.5, (1 - float(bar)) ** 0.5) for bar in bars)
    if scheduler.config.prediction_type == "v_prediction":
        return Order(a_s * at + ss * st, ss * at - a_s * st)
    return Order(a_s / at, ss - a_s / at * st)


def euler_v(scheduler: Any, i: int) -> Order:
    """Euler in sigma, of a network of v that sees x / sqrt(1 + sigma^2)."""
    angles = [float(torch.atan(scheduler.sigmas[j].double())) for j in (i, i + 1)]
    turn = torch.tensor(angles[0] - angles[1])
    return Order(float(turn.cos()), -float(turn.sin()))
