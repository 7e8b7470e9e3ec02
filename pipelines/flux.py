"""Text to image by weak-to-strong reflection with FLUX.1."""

from __future__ import annotations

from diffusers import FluxPipeline

from .transformer import PackedReflection


class W2SDFluxPipeline(PackedReflection, FluxPipeline):
    """[`FluxPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    packed = 4
    encoded = ("prompt_embeds", "pooled_prompt_embeds", "text_ids")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "pooled_projections",
        "text_ids": "txt_ids",
    }
    text_widths = {"prompt_embeds": "joint_attention_dim", "pooled_prompt_embeds": "pooled_projection_dim"}
