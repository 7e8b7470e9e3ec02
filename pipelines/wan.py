"""Video by weak-to-strong reflection with Wan 2.1 and 2.2, of one transformer or of two experts that take turns."""

from __future__ import annotations

from diffusers import WanImageToVideoPipeline, WanPipeline

from .transformer import TransformerReflection


class WanReflection(TransformerReflection):
    """What the families of Wan have in common.

    Of two experts, each is reflected by its own weak one, or by itself where it has none (`weak_transformer`,
    `weak_transformer_2`). The guidance of the reflection is the same with both; the final step's is `guidance_scale`,
    and `guidance_scale_2` with the second.
    """

    encoded = ("prompt_embeds", "negative_prompt_embeds")
    agreeing = (*TransformerReflection.agreeing, "text_dim", "image_dim")


class W2SDWanPipeline(WanReflection, WanPipeline):
    """[`WanPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDWanImageToVideoPipeline(WanReflection, WanImageToVideoPipeline):
    """[`WanImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
