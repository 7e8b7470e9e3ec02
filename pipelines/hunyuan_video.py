"""Text to video by weak-to-strong reflection with HunyuanVideo and HunyuanVideo 1.5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import HunyuanVideo15Pipeline, HunyuanVideoPipeline

from .transformer import EmbeddedReflection, TransformerReflection
from .weak_arm import batch_size


class W2SDHunyuanVideoPipeline(EmbeddedReflection, HunyuanVideoPipeline):
    """[`HunyuanVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    encoded = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "pooled_prompt_embeds": "pooled_projections",
        "prompt_attention_mask": "encoder_attention_mask",
    }
    text_widths = {"prompt_embeds": "text_embed_dim", "pooled_prompt_embeds": "pooled_projection_dim"}


class W2SDHunyuanVideo15Pipeline(TransformerReflection, HunyuanVideo15Pipeline):
    """[`HunyuanVideo15Pipeline`] with a weak arm beside the strong one; see `pipelines.reflection`.

    The guidance of its final step is that of its `guider`, which it calls its network by.
    """

    guider: Any
    encoded = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
    text_inputs = {
        "prompt_embeds": "encoder_hidden_states",
        "prompt_embeds_mask": "encoder_attention_mask",
        "prompt_embeds_2": "encoder_hidden_states_2",
        "prompt_embeds_mask_2": "encoder_attention_mask_2",
    }
    text_widths = {"prompt_embeds": "text_embed_dim", "prompt_embeds_2": "text_embed_2_dim"}
    agreeing = (*TransformerReflection.agreeing, "image_embed_dim")
    guides_below_1 = True
    guided_by = "a `guider` that is enabled and whose guidance is not 1"

    def guided(self, guidance: float, embedded: float | None = None) -> dict[str, Any]:
        return {}  # no argument of a call sets it: `guiding` does

    @contextmanager
    def guiding(self, guidance: float) -> Iterator[None]:
        before = self.guider
        self.guider = before.new(guidance_scale=guidance - self._counted_from)
        try:
            yield
        finally:
            self.guider = before

    def _guidance(self, call: dict[str, Any]) -> float:
        scale = float(getattr(self.guider, "guidance_scale", 1.0))
        return scale + self._counted_from if self.guider._enabled else 1.0

    @property
    def _counted_from(self) -> float:
        """The guidance here at the guider's 0: in the original formulation, its number counts from the conditional
        prediction."""
        return float(getattr(self.guider, "use_original_formulation", False))

    def _encoding(self, call: dict[str, Any]) -> dict[str, Any]:
        return super()._encoding(call) | {"batch_size": batch_size(call), "dtype": self.transformer.dtype}
