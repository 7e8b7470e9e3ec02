"""Text to video by weak-to-strong reflection with AnimateDiff-SDXL."""

from __future__ import annotations

from diffusers import AnimateDiffSDXLPipeline

from .animatediff import VideoReflection


class W2SDAnimateDiffSDXLPipeline(VideoReflection, AnimateDiffSDXLPipeline):
    """[`AnimateDiffSDXLPipeline`] with a weak arm beside the strong one; see `pipelines.reflection`."""
