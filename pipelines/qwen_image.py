"""Text to image by weak-to-strong reflection with Qwen-Image."""

from __future__ import annotations

from diffusers import QwenImagePipeline
from torch import Tensor

from .transformer import EmbeddedReflection


class W2SDQwenImagePipeline(EmbeddedReflection, QwenImagePipeline):
    """[`QwenImagePipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    encoded = ("prompt_embeds", "prompt_embeds_mask")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_embeds_mask": "encoder_hidden_states_mask",
    }
    agreeing = (*EmbeddedReflection.agreeing, "joint_attention_dim")

    def in_its_layout(self, latents: Tensor) -> Tensor:
        *_, height, width = latents.shape
        return self._pack_latents(latents, len(latents), latents.shape[1], height, width)
