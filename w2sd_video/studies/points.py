"""Points on the line or in the plane as the samples of a diffusion model: mixtures with exact scores, and a pipeline.

A mixture of Gaussians with added noise is a mixture again, so the noise prediction of a perfectly trained network has
a closed form. `Exact` is that network. `PointsPipeline` is a diffusers pipeline that samples from it, or from a trained
one; `apply_reflection` applies the package's methods to it, as to any other pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from ..hook import Form, apply_reflection
from ..levels import Level
from ..methods import S2WD, W2SD, AutoGuidance, Method, Weak

STEPS = 50  # the paper's
DIRECTIONS = 32  # of the sliced distance
# What most studies of points compare: both arms alone, and the paper's methods of the two.
METHODS: dict[str, Method | None] = {
    "weak": Weak(),
    "strong": None,
    "w2sd": W2SD(),
    "s2wd": S2WD(),
    "auto_guidance": AutoGuidance(),
}


@dataclass(frozen=True)
class Mixture:
    """A mixture of K isotropic Gaussians: weights (K,), means (K, D) and standard deviations (K,)."""

    weights: Sequence[float]
    means: Sequence[Sequence[float]]
    stds: Sequence[float]

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, stds = (torch.tensor(each).to(like) for each in (self.weights, self.means, self.stds))
        return weights / weights.sum(), means, stds

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """E[eps | x] = -sigma grad log p(x), for x = alpha z + sigma eps (..., D)."""
        weights, means, stds = self._tensors(x)
        variances = level.alpha**2 * stds**2 + level.sigma**2
        off = x[..., None, :] - level.alpha * means  # (..., K, D)
        d = x.shape[-1]
        logs = weights.log() - d / 2 * variances.log() - off.square().sum(-1) / (2 * variances)
        return level.sigma * (logs.softmax(-1)[..., None] * off / variances[:, None]).sum(-2)

    def density(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The density (n,) at points (n, D)."""
        weights = np.asarray(self.weights) / np.sum(self.weights)
        parts = [w * stats.norm(m, s).pdf(x).prod(-1) for w, m, s in zip(weights, self.means, self.stds, strict=True)]
        return np.sum(parts, 0)

    def quantiles(self, n: int, direction: NDArray[np.float64]) -> NDArray[np.float64]:
        """The (i + 1/2) / n quantiles of the mixture's projection on a unit vector (D,)."""
        weights = np.asarray(self.weights) / np.sum(self.weights)
        means, stds = np.asarray(self.means, float) @ direction, np.asarray(self.stds, float)
        grid = np.linspace((means - 8 * stds).min(), (means + 8 * stds).max(), 20001)
        cdf = (weights * stats.norm.cdf((grid[:, None] - means) / stds)).sum(1)
        return np.interp((np.arange(n) + 0.5) / n, cdf, grid)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n random points (n, D) of the mixture."""
        weights, means, stds = self._tensors(torch.zeros(1))
        which = torch.multinomial(weights, n, replacement=True, generator=generator)
        return means[which] + stds[which, None] * torch.randn((n, means.shape[1]), generator=generator)


def wasserstein(points: NDArray[np.float64], mixture: Mixture) -> Any:
    """W1 (...,) between points (..., n, D) and a mixture: exact for D = 1; sliced (mean over projections) for D = 2.

    On a line, W1 is the mean distance between quantiles. The mixture's quantiles are exact.
    """
    n, d = points.shape[-2:]
    angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
    directions = np.ones((1, 1)) if d == 1 else np.stack([np.cos(angles), np.sin(angles)], 1)
    distances = [np.abs(np.sort(points @ u, -1) - mixture.quantiles(n, u)).mean(-1) for u in directions]
    return np.mean(distances, 0)


def scheduler() -> DDIMScheduler:
    """DDIM on DDPM's linear schedule, from pure noise to none."""
    return DDIMScheduler(clip_sample=False, timestep_spacing="trailing")


def level_of(scheduler: Any, timestep: Tensor | float) -> Level:
    return Level.from_alpha_bar(float(scheduler.alphas_cumprod[int(timestep)]))


class Exact(nn.Module):
    """The network that perfect training on a mixture would give, or on several mixtures, by class.

    Args:
        mixtures: by class; class 0 stands for no condition.
        scheduler: defines the noise level of its timesteps.
    """

    def __init__(self, mixtures: Mixture | Sequence[Mixture], scheduler: Any):
        super().__init__()
        self.mixtures = [mixtures] if isinstance(mixtures, Mixture) else list(mixtures)
        self.scheduler = scheduler

    def forward(
        self, sample: Tensor, timestep: Tensor | float, class_labels: Tensor | None = None, return_dict: bool = False
    ) -> tuple[Tensor]:
        level = level_of(self.scheduler, timestep)
        if class_labels is None:
            return (self.mixtures[0].eps(sample, level),)
        p = torch.zeros_like(sample)
        for label in class_labels.unique():
            rows = class_labels == label
            p[rows] = self.mixtures[int(label)].eps(sample[rows], level)
        return (p,)


class PointsPipeline(DiffusionPipeline):
    """Samples points (B, ..., D) from noise of that shape."""

    _guidance_scale = 1.0
    _num_timesteps = 0

    def __init__(self, unet: nn.Module, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        noise: Tensor,
        class_labels: Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = STEPS,
        callback: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Points from noise.

        Args:
            noise: (B, ..., D), standard normal.
            class_labels: the class of each point, from 1; needed for a guidance over 1.
            guidance_scale: w in uncond + w (cond - uncond).
            callback: called with the noise first, and then with the points after each step.
        """
        self._guidance_scale = guidance_scale
        x = noise
        if callback:
            callback(x)
        self.scheduler.set_timesteps(num_inference_steps)
        self._num_timesteps = len(self.scheduler.timesteps)
        guides = self.do_classifier_free_guidance
        if guides and class_labels is None:
            raise ValueError("`class_labels` is missing: a `guidance_scale` over 1 needs it")
        labels = class_labels
        if guides and class_labels is not None:
            labels = torch.cat([torch.zeros_like(class_labels), class_labels])
        for t in self.scheduler.timesteps:
            p = self.unet(torch.cat([x, x]) if guides else x, t, class_labels=labels, return_dict=False)[0]
            if guides:
                uncond, cond = p.chunk(2)
                p = uncond + guidance_scale * (cond - uncond)
            x = self.scheduler.step(p, t, x, return_dict=False)[0]
            if callback:
                callback(x)
        self.maybe_free_model_hooks()
        return x


def sample(
    strong: nn.Module,
    weak: nn.Module | None,
    method: Method | None,
    noise: Tensor,
    *,
    seed: int = 0,
    **call: Any,
) -> Tensor:
    """Samples points with a method, or with the strong network alone. `seed` seeds the noise that the method draws."""
    pipe = PointsPipeline(strong, scheduler())
    generator = torch.Generator().manual_seed(seed)
    with apply_reflection(pipe, method, form=Form(), weak=weak, generator=generator):
        return pipe(noise, **call)


def normal_points(n: int, dimension: int, seed: int = 0) -> Tensor:
    """Evenly spread standard normal points (n, D) in float64: quantiles on a line, a Sobol sequence otherwise."""
    if dimension == 1:
        points = stats.norm.ppf((np.arange(n) + 0.5) / n)[:, None]
    else:
        m = round(math.log2(n))
        points = stats.norm.ppf(stats.qmc.Sobol(dimension, seed=seed).random_base2(m))
    return torch.from_numpy(points)


@torch.no_grad()
def alignment(
    strong: nn.Module, weak: nn.Module, ideal: nn.Module, z: Tensor, timesteps: Sequence[int], seed: int = 0
) -> list[dict[str, Tensor]]:
    """The alignment of Delta_1 = score^s - score^w with Delta_2 = score^ideal - score^s at noised data, by timestep.

    Args:
        z: data (M, n, D) of M pairs.

    Returns:
        For each timestep, by pair (M,): `cosine`, E<D1, D2> / sqrt(E|D1|^2 E|D2|^2) over the n points; the strength
        `g` = E<D1, D2> / E|D1|^2 (a reflection helps to first order if it is over 1/2); and `size`, sqrt(E|D1|^2 /
        E|score^s|^2).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for t in timesteps:
        level = level_of(scheduler(), t)
        eps = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        x = level.alpha * z + level.sigma * eps
        s, w, i = (network(x, t)[0] for network in (strong, weak, ideal))
        (d1, d2), dims = (w - s, s - i), tuple(range(1, z.ndim))  # scores are -eps / sigma
        inner, one, two = (d1 * d2).sum(dims), (d1 * d1).sum(dims), (d2 * d2).sum(dims)
        rows.append({"cosine": inner / (one * two).sqrt(), "g": inner / one, "size": (one / (s * s).sum(dims)).sqrt()})
    return rows
