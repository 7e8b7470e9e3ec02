"""Noise levels, and the first-order step between two of them. `schedulers` reads them of a diffusers scheduler.

Notation, everywhere in this package:

    z                   clean latents
    eps                 noise, standard normal
    x = alpha z + sigma eps     what the network sees at the level (alpha, sigma)
    t, s                the level a step leaves, and the level it arrives at
    p                   what the network predicts: eps, z, v = alpha eps - sigma z, or the flow u = eps - z

All of it is in the network's input space, after the scheduler's `scale_model_input`. There every scheduler
looks alike: sigma-space Euler shows its network (z + sigma eps) / sqrt(1 + sigma^2).

Arithmetic on levels is done in Python floats, so in float64; on tensors, in the tensor's own precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

PREDICTIONS: tuple[str, ...] = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True)
class Level:
    """A noise level: x = alpha z + sigma eps."""

    alpha: float
    sigma: float

    @classmethod
    def from_alpha_bar(cls, alpha_bar: float) -> Level:
        """The variance-preserving level of DDPM and DDIM: sqrt(alpha_bar), sqrt(1 - alpha_bar)."""
        return cls(math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar))

    @classmethod
    def from_sigma(cls, sigma: float) -> Level:
        """The level of (z + sigma eps) / sqrt(1 + sigma^2), what Euler and DPM-Solver show the network."""
        return cls(1.0 / math.hypot(1.0, sigma), sigma / math.hypot(1.0, sigma))

    @classmethod
    def from_flow(cls, sigma: float) -> Level:
        """(1 - sigma) z + sigma eps: rectified flow."""
        return cls(1.0 - sigma, sigma)


@dataclass(frozen=True)
class FirstOrder:
    """The step x_s = a x_t + b p at a fixed prediction p, and its exact inverse x_t = (x_s - b p) / a."""

    a: float
    b: float

    def forward(self, x_t: Tensor, p: Tensor) -> Tensor:
        return self.a * x_t + self.b * p

    def inverse(self, x_s: Tensor, p: Tensor) -> Tensor:
        return (x_s - self.b * p) / self.a


def first_order(t: Level, s: Level, prediction: str = "epsilon") -> FirstOrder:
    """The first-order step of the probability-flow ODE from level t to level s (DDIM, Eq. 12).

    z and eps follow from (x_t, p) at level t, and are combined again at level s. The result is linear in x_t and p:

        epsilon             a = alpha_s / alpha_t                       b = sigma_s - a sigma_t
        v_prediction        a = alpha_s alpha_t + sigma_s sigma_t       b = sigma_s alpha_t - alpha_s sigma_t
        sample              a = sigma_s / sigma_t                       b = alpha_s - a alpha_t
        flow_prediction     a = 1                                       b = sigma_s - sigma_t

    All four are the same step. Their inverses differ: each holds fixed what its network predicts. So v and sample
    networks work at alpha_t = 0 (zero terminal SNR), and flow networks at sigma_t = 1, where eps does not determine z.
    A sample network's step has no inverse at sigma_s = 0, where x_s is z whatever x_t was. The v row assumes
    alpha^2 + sigma^2 = 1, and the flow row alpha + sigma = 1.

    Raises:
        ValueError: `prediction` is "epsilon" at alpha_t = 0, "sample" at sigma_t = 0, or none of the four.
    """
    if prediction == "epsilon":
        if t.alpha == 0:
            raise ValueError(
                "A network that predicts `epsilon` cannot be reflected at a level of pure noise (alpha = 0, from"
                " `rescale_betas_zero_snr=True` or sigma = 1). Use a network that predicts v, a flow or the sample, or"
                " another schedule."
            )
        a = s.alpha / t.alpha
        return FirstOrder(a, s.sigma - a * t.sigma)
    if prediction == "sample":
        if t.sigma == 0:
            raise ValueError("A network that predicts `sample` has no step from a level without noise (sigma = 0).")
        a = s.sigma / t.sigma
        return FirstOrder(a, s.alpha - a * t.alpha)
    if prediction == "v_prediction":
        return FirstOrder(s.alpha * t.alpha + s.sigma * t.sigma, s.sigma * t.alpha - s.alpha * t.sigma)
    if prediction == "flow_prediction":
        return FirstOrder(1.0, s.sigma - t.sigma)
    raise ValueError(f"`prediction` is {prediction!r}; a step exists for {', '.join(map(repr, PREDICTIONS))}.")


def convert(p: Tensor, x: Tensor, level: Level, source: str, target: str) -> Tensor:
    """Converts a prediction of one kind to another.

    Args:
        p: the prediction at `x`, of any shape.
        x: the network's input, of the same shape, or one that broadcasts.
        level: the noise level of `x`.
        source, target: "epsilon", "v_prediction" (alpha eps - sigma z), "sample" (z) or "flow_prediction"
            (eps - z).

    Raises:
        ValueError: a kind is unknown; or `source` does not determine `target`, as eps at alpha = 0, or z at sigma = 0.
    """
    for kind in (source, target):
        if kind not in PREDICTIONS:
            raise ValueError(f"A prediction is one of {', '.join(PREDICTIONS)}; got {kind!r}.")
    if source == target:
        return p
    alpha, sigma = level.alpha, level.sigma
    if (source == "epsilon" and alpha == 0) or (source == "sample" and sigma == 0):
        raise ValueError(f"A prediction of {source!r} at (alpha, sigma) = ({alpha}, {sigma}) determines no {target!r}.")
    if source == "epsilon":
        eps = p
        z = (x - sigma * eps) / alpha
    elif source == "sample":
        z = p
        eps = (x - alpha * z) / sigma
    elif source == "v_prediction":  # alpha^2 + sigma^2 is 1 on every schedule a v network is trained on
        norm = alpha * alpha + sigma * sigma
        z = (alpha * x - sigma * p) / norm
        eps = (sigma * x + alpha * p) / norm
    else:
        z = (x - sigma * p) / (alpha + sigma)
        eps = (x + alpha * p) / (alpha + sigma)
    return predicted(target, z, eps, level)


def predicted(kind: str, z: Tensor, eps: Tensor, level: Level) -> Tensor:
    """What a network of this kind predicts of x = alpha z + sigma eps, by tensors z and eps of one shape; see
    `convert`."""
    match kind:
        case "epsilon":
            return eps
        case "sample":
            return z
        case "v_prediction":
            return level.alpha * eps - level.sigma * z
        case "flow_prediction":
            return eps - z
    raise ValueError(f"A prediction is one of {', '.join(PREDICTIONS)}; got {kind!r}.")


class Axes(NamedTuple):
    """The axes of latents (B, …): that of the channels, and that of the frames.

    `frames` is None for pictures, and for videos whose tokens share one axis with height and width.
    """

    channels: int = 1
    frames: int | None = None


@dataclass(frozen=True)
class Step:
    """One step of a sampling loop, as a method sees it.

    `forward` goes from level t to level s, and `inverse` is the step whose inverse goes back. With the exact convention
    the two are the same. The scheduler makes the final step itself, and may add noise (DDIM with eta > 0) or use its
    history (DPM-Solver++ 2M).
    """

    timestep: float
    prediction: str  # what the network predicts; the steps are linear in it
    level: Level  # t
    target: Level  # s
    forward: FirstOrder
    inverse: FirstOrder
    scale: float = 1.0  # the scheduler's sample divided by the network's input
    index: int = 0  # the step's index in the loop; 0 is the noisiest
    num_steps: int = 1  # how many steps the loop has
    later: Callable[[int], Step] | None = None  # later(n): the step n steps later, at most the loop's last
    carried: Any = None  # the `carry` of the method's answer to the previous step, or None
    sign: float = 1.0  # -1 if the scheduler expects -p, as with `invert_sigmas`
    axes: Axes | None = None  # of x_t. None: (B, C, H, W) or (B, C, F, H, W)

    @property
    def where(self) -> str:
        """The step in words, for messages."""
        return f"step {self.index + 1} of {self.num_steps} (timestep {self.timestep:g})"

    def axes_of(self, x_t: Tensor) -> Axes:
        """The axes of x_t (B, …)."""
        return self.axes or Axes(frames=2 if x_t.ndim == 5 else None)

    @property
    def stays(self) -> bool:
        """Whether the step ends at the level that it starts from, as some last DDIM steps do. It cannot reflect."""
        return self.forward.b == 0


def check_invertible(step: Step) -> None:
    """Refuse a step that has no inverse: a sample network's to sigma_s = 0, and a v network's from alpha_t = 0 to
    sigma_s = 0."""
    if step.inverse.a == 0:
        raise ValueError(
            f"The step from timestep {step.timestep:g} cannot be reflected: the network predicts {step.prediction!r},"
            " and no noise is left at the step's end, so the step has no inverse. Accepted `reflection_steps`: any that"
            " leave out the last step, as the default does."
        )


def all_finite(x: Tensor) -> bool:
    """Whether all values of x are finite, without a copy of x where they are: then so is their sum, if it fits."""
    total = x.sum(dtype=torch.promote_types(x.dtype, torch.float32))
    return bool(total.isfinite()) or bool(x.isfinite().all())


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
