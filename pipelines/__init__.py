"""Diffusers pipelines with a weak-to-strong method inside: one short file a family."""

from w2sd_video.pipelines.animatediff import W2SDAnimateDiffPipeline
from w2sd_video.pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline
from w2sd_video.pipelines.controlnet import (
    W2SDAnimateDiffControlNetPipeline,
    W2SDStableDiffusionControlNetPipeline,
    W2SDStableDiffusionXLControlNetPipeline,
)
from w2sd_video.pipelines.dit_moe import W2SDDiTMoEPipeline
from w2sd_video.pipelines.stable_diffusion import W2SDStableDiffusionPipeline
from w2sd_video.pipelines.stable_diffusion_xl import W2SDStableDiffusionXLPipeline

__all__ = [
    "W2SDAnimateDiffControlNetPipeline",
    "W2SDAnimateDiffPipeline",
    "W2SDAnimateDiffSDXLPipeline",
    "W2SDDiTMoEPipeline",
    "W2SDStableDiffusionControlNetPipeline",
    "W2SDStableDiffusionPipeline",
    "W2SDStableDiffusionXLControlNetPipeline",
    "W2SDStableDiffusionXLPipeline",
]
