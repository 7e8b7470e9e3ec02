"""Video by weak-to-strong reflection with Wan 2.1 and 2.2, of one transformer or of two experts that take turns."""

from __future__ import annotations

from typing import Any

from diffusers import WanImageToVideoPipeline, WanPipeline

from .transformer import TransformerReflection


class WanReflection(TransformerReflection):
    """What the families of Wan have in common.

    Of two experts, each is reflected by its own weak one, or by itself where it has none (`weak_transformer`,
    `weak_transformer_2`). The final step's guidance is `guidance_scale`, and `guidance_scale_2` with the second; so is
    the reflection's (`strong_guidance_scale`, `strong_guidance_scale_2`, and likewise the weak arm's).
    """

    encoded = ("prompt_embeds", "negative_prompt_embeds")
    text_widths = {"prompt_embeds": "text_dim"}
    agreeing = (*TransformerReflection.agreeing, "image_dim")

    @property
    def multiple(self) -> int:
        """The autoencoder's scale times the network's patch: 16, and 32 of TI2V-5B. diffusers cuts other sizes."""
        pipe: Any = self
        network: Any = next(iter(self._strong_networks().values()))
        return int(pipe.vae_scale_factor_spatial * network.config.patch_size[1])

    def _check_denoisers_agree(self, call: dict[str, Any]) -> None:
        """Refuses two experts of which one never runs, and a second that is missing."""
        super()._check_denoisers_agree(call)
        pipe: Any = self
        boundary, has_second = pipe.config.boundary_ratio, pipe.transformer_2 is not None
        if bool(boundary) != has_second:
            raise ValueError(
                f"`boundary_ratio` is {boundary!r}, with {'a' if has_second else 'no'} `transformer_2`: two experts"
                " take turns at a boundary over 0, such as 0.875, and one has None. `boundary_ratio` is no component,"
                " so a pipeline that is built from another one's components needs it beside them."
            )


class W2SDWanPipeline(WanReflection, WanPipeline):
    """[`WanPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    pictured = False


class W2SDWanImageToVideoPipeline(WanReflection, WanImageToVideoPipeline):
    """[`WanImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    pictured = True
