"""Text to video by weak-to-strong reflection with Mochi."""

from __future__ import annotations

from diffusers import MochiPipeline

from .transformer import TransformerReflection


class W2SDMochiPipeline(TransformerReflection, MochiPipeline):
    """[`MochiPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

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
    agreeing = (*TransformerReflection.agreeing, "text_embed_dim")
