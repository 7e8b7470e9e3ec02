"""Video by weak-to-strong reflection with LTX-Video."""

from __future__ import annotations

from diffusers import LTXImageToVideoPipeline, LTXPipeline

from .transformer import MaskedReflection


class LTXReflection(MaskedReflection):
    """What the families of LTX-Video have in common."""

    agreeing = (*MaskedReflection.agreeing, "caption_channels")


class W2SDLTXPipeline(LTXReflection, LTXPipeline):
    """[`LTXPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""


class W2SDLTXImageToVideoPipeline(LTXReflection, LTXImageToVideoPipeline):
    """[`LTXImageToVideoPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
