"""Text to image by weak-to-strong reflection with Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusion3Pipeline

from .transformer import TransformerReflection


class W2SDStableDiffusion3Pipeline(TransformerReflection, StableDiffusion3Pipeline):
    """[`StableDiffusion3Pipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    text_inputs = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}
    text_widths = {"prompt_embeds": "joint_attention_dim", "pooled_prompt_embeds": "pooled_projection_dim"}

    def _check_inputs(self, call: dict[str, Any]) -> None:
        if (layers := call["skip_guidance_layers"]) is not None:
            raise ValueError(
                f"`skip_guidance_layers` is {layers!r}, a third branch of guidance, which is not supported under a"
                " method: give None; `method='slg'` guides by skipped layers."
            )
        super()._check_inputs(call)
