"""Video by weak-to-strong reflection with CogVideoX."""

from __future__ import annotations

from typing import Any

from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from torch import Tensor

from .transformer import TransformerReflection


class CogVideoXReflection(TransformerReflection):
    """The common base of the families of CogVideoX. The pipeline computes one position table for both arms."""

    encoded = ("prompt_embeds", "negative_prompt_embeds")
    scales_noise = True
    own_scheduler = "CogVideoXDPMScheduler"
    one_per_prompt = True
    text_widths = {"prompt_embeds": "text_embed_dim"}
    agreeing = (
        *TransformerReflection.agreeing,
        "max_text_seq_length",
        "use_rotary_positional_embeddings",
        "ofs_embed_dim",
    )

    def _check_networks(self, name: str, strong: Any, weak: Any) -> None:
        super()._check_networks(name, strong, weak)
        head = "attention_head_dim"
        if strong.config.use_rotary_positional_embeddings and strong.config[head] != weak.config[head]:
            raise ValueError(
                f"`weak_{name}` has {head} {weak.config[head]}, and `{name}` {strong.config[head]}; accepted: the same,"
                " since one table of rotary positions is made for both."
            )

    def _check_embeddings(self, name: str, value: Tensor) -> None:
        super()._check_embeddings(name, value)
        own = self.weak_transformer if name.startswith("weak_") else None
        config: Any = (self.transformer if own is None else own).config
        length, table = config.max_text_seq_length, config.use_learned_positional_embeddings
        table = table or not config.use_rotary_positional_embeddings
        if name.endswith("prompt_embeds") and table and value.shape[1] != length:
            raise ValueError(
                f"`{name}` has {value.shape[1]} tokens; accepted: {length}, the max_text_seq_length of its network."
            )

    def in_its_layout(self, latents: Tensor) -> Tensor:
        return latents.transpose(1, 2)


class W2SDCogVideoXPipeline(CogVideoXReflection, CogVideoXPipeline):
    """[`CogVideoXPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    pictured = False


class W2SDCogVideoXImageToVideoPipeline(CogVideoXReflection, CogVideoXImageToVideoPipeline):
    """[`CogVideoXImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""

    pictured = True
