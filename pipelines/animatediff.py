"""Text to video by weak-to-strong reflection with AnimateDiff, of Stable Diffusion 1.5."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from diffusers import AnimateDiffPipeline, UNet2DConditionModel, UNetMotionModel

from w2sd_video.models.motion import motion_unet, name_blocks

from .checks import is_of
from .reflection import Reflection


class VideoReflection(Reflection):
    """The common base of the families of AnimateDiff, whose image UNets get motion modules.

    A `UNet2DConditionModel` is accepted as `unet` and as `weak_unet`. It becomes a `UNetMotionModel` that holds the
    same parameters; a `weak_unet` gets the motion modules of `unet`.
    """

    one_per_prompt = True

    def _prepared(self, components: dict[str, Any], weak: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        adapter = components["motion_adapter"]
        if isinstance(components["unet"], UNet2DConditionModel):
            components["unet"] = motion_unet(components["unet"], adapter)
        if isinstance(weak["weak_unet"], UNet2DConditionModel):
            weak["weak_unet"] = motion_unet(weak["weak_unet"], adapter, like=components["unet"])
        for unet in (components["unet"], weak["weak_unet"]):
            if isinstance(unet, UNetMotionModel):
                name_blocks(unet)
        return components, weak

    @property
    def most_frames(self) -> int | None:
        return min((most for each in self.denoisers() if (most := self._most_frames(each)) is not None), default=None)

    def _most_frames(self, denoiser: Any) -> int | None:
        """How many frames a denoiser's motion modules take at once; None with FreeNoise, which takes them in parts."""
        return None if getattr(self, "free_noise_enabled", False) else denoiser.config.motion_max_seq_length

    def _check_numbers(self, call: dict[str, Any]) -> None:
        super()._check_numbers(call)
        frames, longest = call["num_frames"], self._most_frames(self.unet)
        if longest is not None and (not is_of(frames, int) or not 1 <= frames <= longest):
            raise ValueError(
                f"`num_frames` has to be a whole number from 1 to {longest} (the motion module's maximum),"
                f" but is {frames!r}."
            )

    def _check_denoisers_agree(self, call: dict[str, Any]) -> None:
        super()._check_denoisers_agree(call)
        if self.weak_unet is not None:
            frames, longest = call["num_frames"], self._most_frames(self.weak_unet)
            if longest is not None and frames > longest:
                raise ValueError(f"`num_frames` is {frames}, and `weak_unet` takes at most {longest}.")

    def _as_sent(self, name: str, value: Any, call: dict[str, Any]) -> Any:
        value = super()._as_sent(name, value, call)
        return value.repeat_interleave(call["num_frames"], dim=0) if name == "prompt_embeds" else value

    def decode_latents(self, latents: torch.Tensor, *args: Any) -> torch.Tensor:
        for hook in getattr(self, "_all_hooks", []):  # under model offload, the VAE needs the room
            if hook.model is self.weak_unet:
                hook.offload()
        return super().decode_latents(latents, *args)


class FreeNoiseReflection(VideoReflection):
    """For stock pipelines with FreeNoise, which changes a UNet's motion modules, here in both arms."""

    def enable_free_noise(self, *args: Any, **kwargs: Any) -> None:
        """As the stock pipeline's, for both arms.

        Raises:
            ValueError: `context_length` is more than the motion modules of an arm take at once.
        """
        bound = inspect.signature(self.stock.enable_free_noise).bind(self, *args, **kwargs)
        bound.apply_defaults()
        length = bound.arguments["context_length"]
        for name in ("unet", "weak_unet"):
            unet = getattr(self, name)
            if length and unet is not None and length > (most := unet.config.motion_max_seq_length):
                raise ValueError(f"`context_length` is {length}, and `{name}` takes at most {most} frames at once.")
        self._on_both("enable_free_noise", *args, **kwargs)

    def disable_free_noise(self) -> None:
        self._on_both("disable_free_noise")

    def enable_free_noise_split_inference(self, *args: Any, **kwargs: Any) -> None:
        self._on_both("enable_free_noise_split_inference", *args, **kwargs)

    def _on_both(self, name: str, *args: Any, **kwargs: Any) -> None:
        change = getattr(self.stock, name)
        change(self, *args, **kwargs)
        if self.weak_unet is not None:
            view = copy.copy(self)
            view.__dict__["unet"] = self.weak_unet
            change(view, *args, **kwargs)


class W2SDAnimateDiffPipeline(FreeNoiseReflection, AnimateDiffPipeline):
    """[`AnimateDiffPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
