"""Diffusers pipelines with a weak-to-strong method inside: one short file a family."""

from w2sd_video.pipelines.animatediff import W2SDAnimateDiffPipeline
from w2sd_video.pipelines.animatediff_sdxl import W2SDAnimateDiffSDXLPipeline
from w2sd_video.pipelines.cogvideox import W2SDCogVideoXImageToVideoPipeline, W2SDCogVideoXPipeline
from w2sd_video.pipelines.controlnet import (
    W2SDAnimateDiffControlNetPipeline,
    W2SDStableDiffusionControlNetPipeline,
    W2SDStableDiffusionXLControlNetPipeline,
)
from w2sd_video.pipelines.dit_moe import W2SDDiTMoEPipeline
from w2sd_video.pipelines.flux import W2SDFluxPipeline
from w2sd_video.pipelines.hunyuan_video import W2SDHunyuanVideo15Pipeline, W2SDHunyuanVideoPipeline
from w2sd_video.pipelines.ltx import W2SDLTXImageToVideoPipeline, W2SDLTXPipeline
from w2sd_video.pipelines.mochi import W2SDMochiPipeline
from w2sd_video.pipelines.qwen_image import W2SDQwenImagePipeline
from w2sd_video.pipelines.sana import W2SDSanaPipeline
from w2sd_video.pipelines.stable_diffusion import W2SDStableDiffusionPipeline
from w2sd_video.pipelines.stable_diffusion_3 import W2SDStableDiffusion3Pipeline
from w2sd_video.pipelines.stable_diffusion_xl import W2SDStableDiffusionXLPipeline
from w2sd_video.pipelines.wan import W2SDWanImageToVideoPipeline, W2SDWanPipeline

__all__ = [
    "W2SDAnimateDiffControlNetPipeline",
    "W2SDAnimateDiffPipeline",
    "W2SDAnimateDiffSDXLPipeline",
    "W2SDCogVideoXImageToVideoPipeline",
    "W2SDCogVideoXPipeline",
    "W2SDDiTMoEPipeline",
    "W2SDFluxPipeline",
    "W2SDHunyuanVideo15Pipeline",
    "W2SDHunyuanVideoPipeline",
    "W2SDLTXImageToVideoPipeline",
    "W2SDLTXPipeline",
    "W2SDMochiPipeline",
    "W2SDQwenImagePipeline",
    "W2SDSanaPipeline",
    "W2SDStableDiffusion3Pipeline",
    "W2SDStableDiffusionControlNetPipeline",
    "W2SDStableDiffusionPipeline",
    "W2SDStableDiffusionXLControlNetPipeline",
    "W2SDStableDiffusionXLPipeline",
    "W2SDWanImageToVideoPipeline",
    "W2SDWanPipeline",
]
