"""Text to image by weak-to-strong reflection with Stable Diffusion XL."""

from __future__ import annotations

from diffusers import StableDiffusionXLPipeline

from .reflection import Reflection


class W2SDStableDiffusionXLPipeline(Reflection, StableDiffusionXLPipeline):
    """[`StableDiffusionXLPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
