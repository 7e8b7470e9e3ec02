"""Weak-to-strong reflection with a ControlNet, whose residuals are recomputed wherever an arm is evaluated."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from .animatediff import FreeNoiseReflection
from .reflection import Reflection


class ControlReflection(Reflection):
    """The common base of the families with a ControlNet.

    The strong arm uses the ControlNet at `controlnet_conditioning_scale`, the weak arm at
    `weak_controlnet_conditioning_scale`; 0 disables it. As in the stock pipelines, both use it only between
    `control_guidance_start` and `control_guidance_end`.
    """

    def _check_inputs(self, call: dict[str, Any]) -> None:
        nets = getattr(self.controlnet, "nets", [self.controlnet])
        if call["guess_mode"] or any(net.config.global_pool_conditions for net in nets):
            raise ValueError(
                "`guess_mode` (or a ControlNet with `global_pool_conditions`, which turns it on) is not supported"
                " under a method: it gives the unconditional branch no residuals. Accepted: False, or `method=None`."
            )
        ends = {name: call[name] for name in ("control_guidance_start", "control_guidance_end")}
        listed = {name: end if isinstance(end, list) else [end] * len(nets) for name, end in ends.items()}
        super()._check_inputs({**call, **listed, "video": call.get("conditioning_frames")})


class W2SDStableDiffusionXLControlNetPipeline(ControlReflection, StableDiffusionXLControlNetPipeline):
    """[`StableDiffusionXLControlNetPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDStableDiffusionControlNetPipeline(ControlReflection, StableDiffusionControlNetPipeline):
    """[`StableDiffusionControlNetPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDAnimateDiffControlNetPipeline(ControlReflection, FreeNoiseReflection, AnimateDiffControlNetPipeline):
    """[`AnimateDiffControlNetPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    def prepare_video(self, *args: Any, do_classifier_free_guidance: bool = False, **kwargs: Any) -> torch.Tensor:
        """As the stock pipeline's, but several prompts share the frames, with which diffusers 0.42.1 fails."""
        frames = super().prepare_video(*args, do_classifier_free_guidance=False, **kwargs)
        frames = frames.repeat(max(1, kwargs["batch_size"] // len(frames)), 1, 1, 1)
        return torch.cat([frames] * 2) if do_classifier_free_guidance and not kwargs["guess_mode"] else frames
