"""Text to image by weak-to-strong reflection with Qwen-Image."""

from __future__ import annotations

from diffusers import QwenImagePipeline

from .transformer import PackedReflection


class W2SDQwenImagePipeline(PackedReflection, QwenImagePipeline):
    """[`QwenImagePipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    encoded = ("prompt_embeds", "prompt_embeds_mask")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_embeds_mask": "encoder_hidden_states_mask",
    }
    text_widths = {"prompt_embeds": "joint_attention_dim"}
