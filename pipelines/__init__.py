"""Diffusers pipelines with a weak-to-strong method inside: one short file a family."""

from w2sd_video.pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline

__all__ = ["W2SDAnimateDiffSDXLPipeline"]
