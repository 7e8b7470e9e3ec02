"""Text to image by weak-to-strong reflection with Sana."""

from __future__ import annotations

from diffusers import SanaPipeline

from .transformer import TransformerReflection


class W2SDSanaPipeline(TransformerReflection, SanaPipeline):
    """[`SanaPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`.

    The pipeline tells both arms the time by the strong one's `timestep_scale`.
    """

    encoded = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    text_inputs = {  # noqa: RUF012
        "prompt_embeds": "encoder_hidden_states",
        "prompt_attention_mask": "encoder_attention_mask",
    }
    agreeing = (*TransformerReflection.agreeing, "caption_channels", "timestep_scale")
