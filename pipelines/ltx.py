"""Video by weak-to-strong reflection with LTX-Video."""

from __future__ import annotations

from typing import Any

from diffusers import LTXImageToVideoPipeline, LTXPipeline
from torch import Tensor

from w2sd_video.families import FAMILIES

from .transformer import MaskedReflection


class LTXReflection(MaskedReflection):
    """What the families of LTX-Video have in common."""

    text_widths = {"prompt_embeds": "caption_channels"}
    tokens = FAMILIES["ltx"].tokens

    def in_its_layout(self, latents: Tensor) -> Tensor:
        pipe: Any = self
        return pipe._pack_latents(latents, pipe.transformer_spatial_patch_size, pipe.transformer_temporal_patch_size)


class W2SDLTXPipeline(LTXReflection, LTXPipeline):
    """[`LTXPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDLTXImageToVideoPipeline(LTXReflection, LTXImageToVideoPipeline):
    """[`LTXImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
