"""Text to video by weak-to-strong reflection with AnimateDiff-SDXL."""

from __future__ import annotations

from diffusers import (
    AnimateDiffSDXLPipeline,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    UNet2DConditionModel,
    UNetMotionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from w2sd_video.motion import motion_unet, share_parameters


class W2SDAnimateDiffSDXLPipeline(AnimateDiffSDXLPipeline):
    """[`AnimateDiffSDXLPipeline`] with a weak arm beside the strong one."""

    _optional_components = [
        *AnimateDiffSDXLPipeline._optional_components,
        "weak_unet",
        "weak_text_encoder",
        "weak_text_encoder_2",
    ]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel | UNetMotionModel,
        motion_adapter: MotionAdapter,
        scheduler: DDIMScheduler
        | PNDMScheduler
        | LMSDiscreteScheduler
        | EulerDiscreteScheduler
        | EulerAncestralDiscreteScheduler
        | DPMSolverMultistepScheduler,
        image_encoder: CLIPVisionModelWithProjection = None,
        feature_extractor: CLIPImageProcessor = None,
        force_zeros_for_empty_prompt: bool = True,
        weak_unet: UNet2DConditionModel | UNetMotionModel = None,
        weak_text_encoder: CLIPTextModel = None,
        weak_text_encoder_2: CLIPTextModelWithProjection = None,
    ):
        if isinstance(unet, UNet2DConditionModel):
            unet = motion_unet(unet, motion_adapter)
        super().__init__(
            vae,
            text_encoder,
            text_encoder_2,
            tokenizer,
            tokenizer_2,
            unet,
            motion_adapter,
            scheduler,
            image_encoder,
            feature_extractor,
            force_zeros_for_empty_prompt,
        )
        if isinstance(weak_unet, UNet2DConditionModel):
            weak_unet = motion_unet(weak_unet, motion_adapter, like=unet)
        for weak, strong in (
            (weak_unet, unet),
            (weak_text_encoder, text_encoder),
            (weak_text_encoder_2, text_encoder_2),
        ):
            if weak is not None and strong is not None:
                share_parameters(weak, strong)
        self.register_modules(
            weak_unet=weak_unet,
            weak_text_encoder=weak_text_encoder,
            weak_text_encoder_2=weak_text_encoder_2,
        )
