"""Does a pair point towards data? Its arms are asked at real videos or images that are noised, at several levels.

The paper (arXiv:2502.00473) holds that W2SD helps where Delta_1 = score^s - score^w points like Delta_2 = score^data -
score^s. The second is not known, but its mean is: of x = alpha z + sigma eps with z from the data, score^data is the
mean of -eps / sigma over all z and eps that give x. So the mean of <p_s - p_w, eps - p_s>, in noise predictions, is
that of <Delta_1, Delta_2> up to a factor, without bias (denoising score matching, Vincent 2011). It is also -1/2 times
the derivative, at g = 0, of the denoising loss of p_s + g (p_s - p_w): above 0, a little of the difference makes the
strong arm's predictions better, and below 0 worse.

That is of models at guidance 1. Guidance leaves the score of the data on purpose, so a pair that differs in guidance
alone can only be judged by what it makes.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .levels import Step
from .methods.method import Answer, Arm, Method, Noise


@dataclass(frozen=True)
class Alignment:
    """Of one sample at one noise level: squared norms and inner product of d = p_s - p_w and r = eps - p_s."""

    sigma: float
    dr: float
    dd: float
    rr: float

    @property
    def cosine(self) -> float:
        """Of d and r; 0 where the arms are equal. A perfect pair stays far below 1: r has the noise of one sample."""
        return self.dr / (self.dd * self.rr) ** 0.5 if self.dd and self.rr else 0.0


@dataclass(frozen=True)
class Probe(Method):
    """A method that samples nothing: at every step of a pipeline's loop it asks both arms at data, noised to its level.

    So whatever a pipeline and a call say of the arms holds for it too.

    Args:
        data: clean latents (B, …), as the pipeline samples them.
        generator: draws the noise.
        alignments: what it notes, sample by sample and level by level.
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
        alpha, sigma = step.level.alpha, step.level.sigma
        target = {
            "epsilon": eps,
            "v_prediction": alpha * eps - sigma * z,
            "sample": z,
            "flow_prediction": eps - z,
        }[step.prediction]
        moving = getattr(strong, "only_moving", None)  # of an arm in a pipeline that holds a part of its latents still
        target = target if moving is None else moving(target)
        d, r = (each.flatten(1).double() for each in (p_s - p_w, target - p_s))
        for a, b in zip(d, r, strict=True):
            self.alignments.append(Alignment(step.level.sigma, float(a @ b), float(a @ a), float(b @ b)))
        return Answer(p_s[None])


def align(pipe: Any, data: Tensor, levels: int = 8, seed: int = 0, **call: Any) -> list[Alignment]:
    """What a pair's arms say at clean latents, at as many noise levels as there would be steps.

    Args:
        pipe: one of `pipelines`.
        data: clean latents of one sample or several, as `latents_of` makes them.
        levels: how many noise levels.
        seed: of the noise.
        call: what the pipeline is called with: the prompt (of each sample), guidance, what tells the weak arm.
    """
    guidances = {name: call.pop(f"{name}_scale", 1.0) for name in ("strong_guidance", "weak_guidance")}
    probe = Probe(**guidances, reflection_steps=levels, data=data, generator=torch.Generator().manual_seed(seed))
    pipe(**call, method=probe, num_inference_steps=levels, output_type="latent", generator=probe.generator)
    return probe.alignments


@torch.no_grad()
def latents_of(pipe: Any, frames: Any) -> Tensor:
    """The clean latents (1, …) of a video, or of its first frame where the pipeline makes images, as the pipeline's
    denoiser is shown them.

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
