"""Text to image by weak-to-strong reflection with Stable Diffusion 1 and 2."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline

from .reflection import Reflection


class W2SDStableDiffusionPipeline(Reflection, StableDiffusionPipeline):
    """[`StableDiffusionPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
