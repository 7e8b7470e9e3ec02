"""Class to image by weak-to-strong reflection with DiT-MoE: the best experts against the worst."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTPipeline

from w2sd_video.dit_moe import load  # saved pipelines name that module, and diffusers wants it imported
from w2sd_video.errors import Refused, did_you_mean
from w2sd_video.models.bases import BASES
from w2sd_video.models.checkpoints import explained
from w2sd_video.models.networks import autoencoder
from w2sd_video.models.options import DTYPE, dtype_among
from w2sd_video.models.sources import find

from .reflection import Reflection


class W2SDDiTMoEPipeline(Reflection, DiTPipeline):
    """[`DiTPipeline`] of a `dit_moe.DiTMoETransformer2DModel`, with a weak arm; see `pipelines.reflection`.

    `weak_routing` is the weak arm's; the strong arm's is `transformer.routing`, "best" at first.
    """

    scales_noise = False

    @classmethod
    def from_pretrained(
        cls, strong: str | PathLike[str], weak: str | PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As [`DiTPipeline.from_pretrained`], and of published checkpoints.

        Args:
            strong: a folder or hub id; or a checkpoint as `dit_moe.load_published` takes it, which may be on the hub:
                `OWNER/NAME/FILE`. That needs `vae=`, the [`AutoencoderKL`] of Stable Diffusion, and takes `scheduler=`.
            weak: likewise, another model for the weak arm. None: the strong one, which `weak_routing` tells apart.

        Raises:
            ValueError: `vae` is missing.
            WeightsNotFound, WeightsError: see `dit_moe.load_published`.
        """
        dtype = dtype_among(kwargs)
        if isinstance(kwargs.get("vae"), (str, PathLike)):
            kwargs["vae"] = autoencoder(kwargs["vae"], dtype, BASES["Stable Diffusion"])
        if weak is not None:
            kwargs["weak_transformer"] = load("weak", weak, dtype)
        source = find("strong", strong)
        if not source.is_file:
            with explained(source):
                return super(Reflection, cls).from_pretrained(
                    source.path or source.value, *args, **{DTYPE: dtype}, trust_remote_code=False, **kwargs
                )
        components = {"scheduler": DDIMScheduler(clip_sample=False), **kwargs}
        if components.get("vae") is None:
            raise ValueError(f"`vae` is None, and {str(strong)!r} has none: give Stable Diffusion's AutoencoderKL.")
        return cls(transformer=load("strong", strong, dtype), **components).to(dtype or torch.float32)

    def _build(self, *args: Any, **components: Any) -> None:
        super()._build(*args, **components)
        self.register_to_config(id2label=components.get("id2label"))  # the stock pipeline loads it but does not save it

    @property
    def side(self) -> int:
        return int(self.transformer.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1))

    def check_prompt(self, prompt: str) -> int:
        """The number of a class, of its name or its number.

        Raises:
            Refused: the model has no such class.
        """
        classes = set(self.labels.values()) or range(self.transformer.config.num_embeds_ada_norm)
        if prompt.isdecimal() and int(prompt) in classes:
            return int(prompt)
        if prompt in self.labels:
            return int(self.labels[prompt])
        named = [label for label in self.labels if not label.isdecimal()]
        accepted = did_you_mean(prompt, named) if named else "the model names none"
        raise Refused("prompt", prompt, f"give a class by number, 0 to {max(classes)}, or by name; {accepted}")

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        return len(self.scheduler.timesteps)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self.guidance_scale > 1

    def _sample(self, call: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._guidance_scale = call["guidance_scale"]
        return super()._sample(call, *args, **kwargs)
