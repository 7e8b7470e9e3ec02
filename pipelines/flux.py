"""Text to image by weak-to-strong reflection with FLUX.1."""

from __future__ import annotations

from diffusers import FluxPipeline
from torch import Tensor

from .transformer import EmbeddedReflection


class W2SDFluxPipeline(EmbeddedReflection, FluxPipeline):
    """[`FluxPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    packed = 4
    encoded = ("prompt_embeds", "pooled_prompt_embeds", "text_ids")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "pooled_projections",
        "text_ids": "txt_ids",
    }
    agreeing = (*EmbeddedReflection.agreeing, "joint_attention_dim", "pooled_projection_dim")

    def in_its_layout(self, latents: Tensor) -> Tensor:
        *_, height, width = latents.shape
        return self._pack_latents(latents, len(latents), latents.shape[1], height, width)
