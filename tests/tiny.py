"""Tiny random networks of the real classes, in SDXL's and AnimateDiff's configuration style.

Every builder takes a seed, leaves the global random state as it was, and returns modules in eval mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from copies import copier
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from w2sd_video.models.motion import motion_unet as inflate
from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline

FRAMES = 3
SIZE = 8  # latent height and width; the VAE's factor is 2
TOKENS = 7
TEXT_WIDTH = 8
WIDTHS = (8, 16)

T = TypeVar("T")


def seeded(seed: int, build: Callable[[], T]) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def unet2d(seed: int = 0, **config) -> UNet2DConditionModel:
    settings = dict(
        sample_size=SIZE,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 4,
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=4,
    )
    return seeded(seed, lambda: UNet2DConditionModel(**{**settings, **config})).eval()


def motion_adapter(seed: int = 1, **config) -> MotionAdapter:
    settings = dict(
        block_out_channels=WIDTHS,
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        motion_max_seq_length=8,
        use_motion_mid_block=False,
    )
    return seeded(seed, lambda: MotionAdapter(**{**settings, **config})).eval()


def motion_unet(seed: int = 0, adapter: MotionAdapter | None = None) -> UNetMotionModel:
    return inflate(unet2d(seed), adapter or motion_adapter())


def vae(seed: int = 2) -> AutoencoderKL:
    return seeded(
        seed,
        lambda: AutoencoderKL(
            block_out_channels=[8, 8],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=2 * SIZE,
        ),
    ).eval()


def text_encoders(seed: int = 3) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    config = CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (
        seeded(seed, lambda: CLIPTextModel(config)).eval(),
        seeded(seed + 1, lambda: CLIPTextModelWithProjection(config)).eval(),
    )


def image_encoder(width: int = TEXT_WIDTH) -> CLIPVisionModelWithProjection:
    """An IP-Adapter's, of pictures of 8 x 8; `width` is that of its embeddings."""
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
        projection_dim=width,
    )  # fmt: skip
    return seeded(50, lambda: CLIPVisionModelWithProjection(config))


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of single letters: no vocabulary file is needed."""
    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=TOKENS)


def _vocabulary() -> dict[str, int]:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return {token: i for i, token in enumerate(tokens)}


def scheduler(**config) -> DDIMScheduler:
    """The DDIM schedule of AnimateDiff-SDXL's documentation, with `config` over it."""
    settings = dict(beta_schedule="linear", timestep_spacing="linspace", clip_sample=False, steps_offset=1)
    return DDIMScheduler(**{**settings, **config})


def components(*, weak: bool = True, **overrides) -> dict:
    """Every component of the pipeline, by name; `weak_unet` has other weights and the same motion modules."""
    adapter = motion_adapter()
    text_encoder, text_encoder_2 = text_encoders()
    return {
        "vae": vae(),
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
        "unet": motion_unet(0, adapter),
        "motion_adapter": adapter,
        "scheduler": scheduler(),
        "weak_unet": motion_unet(10, adapter) if weak else None,
        **overrides,
    }


def pipeline(*, weak: bool = True, **overrides) -> W2SDAnimateDiffSDXLPipeline:
    """A pipeline that a test may change: components that are not given are copies of those built once a session."""
    pipe = W2SDAnimateDiffSDXLPipeline(**_copier(weak)() | overrides)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def _copier(weak: bool) -> Callable[[], dict]:
    return copier(W2SDAnimateDiffSDXLPipeline(**components(weak=weak)).components)


def image_to_image() -> StableDiffusionXLImg2ImgPipeline:
    """diffusers' pipeline of SDXL that goes on from a picture."""
    parts = components()
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipe = StableDiffusionXLImg2ImgPipeline(**{name: parts[name] for name in names}, unet=unet2d(0))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def recipe(cls: Callable[..., T], **values: Any) -> T:
    """A recipe of training, two steps of each stage."""
    steps = {each.name: 2 for each in dataclasses.fields(cls) if each.name.endswith("_steps")}
    return cls(**steps, **values)


def call(**overrides) -> dict:
    """Arguments of a short call: three frames, a prompt, a seed, latents out."""
    return {
        "prompt": "a cat",
        "num_frames": FRAMES,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "latent",
        **overrides,
    }
