"""Text to image by weak-to-strong reflection with Sana."""

from __future__ import annotations

from diffusers import SanaPipeline

from .transformer import MaskedReflection


class W2SDSanaPipeline(MaskedReflection, SanaPipeline):
    """[`SanaPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`.

    The pipeline tells both arms the time by the strong one's `timestep_scale`.
    """

    text_widths = {"prompt_embeds": "caption_channels"}
    agreeing = (*MaskedReflection.agreeing, "timestep_scale")
