"""Video by weak-to-strong reflection with LTX-Video."""

from __future__ import annotations

from diffusers import LTXImageToVideoPipeline, LTXPipeline

from .transformer import TransformerReflection


class LTXReflection(TransformerReflection):
    """What the families of LTX-Video have in common."""

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
    agreeing = (*TransformerReflection.agreeing, "caption_channels")


class W2SDLTXPipeline(LTXReflection, LTXPipeline):
    """[`LTXPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDLTXImageToVideoPipeline(LTXReflection, LTXImageToVideoPipeline):
    """[`LTXImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
