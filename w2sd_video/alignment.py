"""Tests whether a pair's difference points towards data, by evaluating both arms on noised videos or images.

The paper (arXiv:2502.00473) argues that W2SD helps if Delta_1 = score^s - score^w points like Delta_2 = score^data -
score^s. Delta_2 is not known at a point, but it can be averaged: for x = alpha z + sigma eps with z from the data,
score^data is the mean of -eps / sigma over all z and eps that give x. So the mean of <p_s - p_w, eps - p_s>, in noise
predictions, is that of <Delta_1, Delta_2> up to a factor, without bias (denoising score matching, Vincent 2011). It is
also -1/2 times the derivative, at g = 0, of the denoising loss of p_s + g (p_s - p_w): above 0, adding a little of the
difference improves the strong arm's predictions; below 0, it makes them worse.

This holds for models at guidance 1. Guidance departs from the score of the data on purpose, so a pair that differs in
guidance alone can only be judged by its videos.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .levels import Step, predicted
from .methods.method import Answer, Arm, Method, Noise


@dataclass(frozen=True)
class Alignment:
    """The inner product and squared norms of d = p_s - p_w and r = eps - p_s, for one sample at one noise level.

    Attributes:
        sigma: the noise level.
        dr: <d, r>.
        dd: |d|^2.
        rr: |r|^2.
    """

    sigma: float
    dr: float
    dd: float
    rr: float

    @property
    def cosine(self) -> float:
        """The cosine of d and r; 0 if the arms are equal. It is far below 1 even for a perfect pair: r is noisy."""
        return self.dr / (self.dd * self.rr) ** 0.5 if self.dd and self.rr else 0.0


@dataclass(frozen=True)
class Probe(Method):
    """A method that measures and does not sample: at each step it evaluates both arms on data noised to its level.

    As a method it gets the arms with all settings of the pipeline and the call.

    Args:
        data: clean latents (B, …), in the pipeline's layout.
        generator: draws the noise.
        alignments: the list that it appends its measurements to, level by level, and sample by sample in each.
    """

    data: Tensor = field(default_factory=lambda: torch.zeros(()))
    generator: torch.Generator | None = None
    alignments: list[Alignment] = field(default_factory=list)

    def __call__(self, x_t: Tensor, step: Step, strong: Arm, weak: Arm, noise: Noise) -> Answer:
        if self.data.shape != x_t.shape:
            raise ValueError(
                f"`data` is encoded to latents {tuple(self.data.shape)}, and the pipeline samples {tuple(x_t.shape)}:"
                " give data of the size and length that the call asks for."
            )
        z = self.data.to(x_t)
        eps = torch.randn(z.shape, generator=self.generator).to(x_t)
        x = step.level.alpha * z + step.level.sigma * eps
        p_s, p_w = strong.reflect(x), weak.reflect(x)
        target = predicted(step.prediction, z, eps, step.level)
        moving = getattr(strong, "only_moving", None)  # an arm in a pipeline may hold a part of its latents still
        target = target if moving is None else moving(target)
        d, r = (each.flatten(1).double() for each in (p_s - p_w, target - p_s))
        for a, b in zip(d, r, strict=True):
            self.alignments.append(Alignment(step.level.sigma, float(a @ b), float(a @ a), float(b @ b)))
        return Answer(p_s[None])


def align(pipe: Any, data: Tensor, levels: int = 8, seed: int = 0, **call: Any) -> list[Alignment]:
    """Measures a pair's alignment on clean latents, noised to the levels of a schedule.

    Args:
        pipe: one of `pipelines`.
        data: clean latents (B, …), as `latents_of` returns them.
        levels: the number of steps of the schedule, each of which is a noise level.
        seed: the seed of the noise.
        call: arguments of the pipeline's call: the prompts, guidance, and the weak arm's settings.
    """
    guidances = {name: call.pop(f"{name}_scale", 1.0) for name in ("strong_guidance", "weak_guidance")}
    probe = Probe(**guidances, reflection_steps=levels, data=data, generator=torch.Generator().manual_seed(seed))
    pipe(**call, method=probe, num_inference_steps=levels, output_type="latent", generator=probe.generator)
    return probe.alignments


@torch.no_grad()
def latents_of(pipe: Any, frames: Any) -> Tensor:
    """The clean latents (1, …) of a video in the denoiser's layout; of its first frame if the pipeline makes images.

    Args:
        pipe: one of `pipelines`.
        frames: (F, H, W, 3) in `uint8`.
    """
    vae, moves = pipe.vae, "num_frames" in inspect.signature(type(pipe).__call__).parameters
    pixels = torch.as_tensor(frames if moves else frames[:1]).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
    if any(parameter.ndim == 5 for parameter in vae.encoder.parameters()):  # it encodes frames together
        latents = _encoded(vae, pixels.transpose(0, 1)[None])
    else:
        latents = torch.cat([_encoded(vae, frame[None]) for frame in pixels])
        latents = latents.transpose(0, 1)[None] if moves else latents
    return pipe.in_its_layout(latents)


def _encoded(vae: Any, pixels: Tensor) -> Tensor:
    """The mode of an autoencoder's latents (B, C, …), shifted and scaled as diffusion models are trained on them."""
    encoded = vae.encode(pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent

    def statistic(name: str) -> Tensor | None:
        value = vae._buffers[name] if name in vae._buffers else vae.config.get(name)
        return None if value is None else torch.as_tensor(value).to(latents).view(1, -1, *[1] * (latents.ndim - 2))

    mean, std = statistic("latents_mean"), statistic("latents_std")
    if mean is not None and std is not None:
        latents = (latents - mean) / std
    elif (shift := vae.config.get("shift_factor")) is not None:
        latents = latents - shift
    return latents * (vae.config.get("scaling_factor") or 1.0)
