"""Text to video by weak-to-strong reflection with Mochi."""

from __future__ import annotations

from diffusers import MochiPipeline

from w2sd_video.families import FAMILIES

from .transformer import MaskedReflection


class W2SDMochiPipeline(MaskedReflection, MochiPipeline):
    """[`MochiPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    text_widths = {"prompt_embeds": "text_embed_dim"}
    least_steps = FAMILIES["mochi"].least_steps
