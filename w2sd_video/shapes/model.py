"""The shapes model's architecture: the classes of SDXL and AnimateDiff-SDXL in a small configuration.

Two CLIP text encoders whose penultimate hidden states are concatenated, a pooled projection and size embeddings added
to the timestep ("text_time"), an `AutoencoderKL` of factor 8, a `UNet2DConditionModel`, and a `MotionAdapter` that
turns it into a `UNetMotionModel`. Only the widths differ, and the latents have 8 channels where SDXL has 4.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .world import CANVAS

HERE = Path(__file__).parent
LATENT_CHANNELS = 8
PROMPT_TOKENS = 32
TEXT_WIDTH = 64
WIDTHS = (64, 96)


def tokenizer(name: str = "tokenizer") -> CLIPTokenizer:
    """One of the model's two CLIP tokenizers: byte-pair merges learnt from the grammar's words, one token per word.

    They are stored as data: learning the merges again would break ties at random, and the weights need the same ids.
    """
    return CLIPTokenizer.from_pretrained(HERE / name)


def _text_config(tokens: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def scheduler() -> DDIMScheduler:
    """The noise schedule and spacing that diffusers documents for AnimateDiff-SDXL."""
    return DDIMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="linspace",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_image_model() -> StableDiffusionXLPipeline:
    """The image model with random weights, in SDXL's layout. Seed torch first."""
    tokens = tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 48, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT_CHANNELS,
        sample_size=CANVAS,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    unet = UNet2DConditionModel(
        sample_size=CANVAS // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4),
        norm_num_groups=16,
        cross_attention_dim=2 * TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 16,
    )
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_text_config(tokens)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokens)),
        tokenizer=tokens,
        tokenizer_2=tokenizer("tokenizer_2"),
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )


def build_motion_adapter() -> MotionAdapter:
    """The motion module with random weights. Seed torch first.

    It does not change the image model's output yet, since its output projections are 0, as in AnimateDiff.
    """
    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=32,
        use_motion_mid_block=False,
        conv_in_channels=None,
    )
    for name, parameter in adapter.named_parameters():
        if ".proj_out." in name:
            parameter.data.zero_()
    return adapter
