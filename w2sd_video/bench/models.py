"""A pair of SDXL with AnimateDiff's motion module, with random weights that are drawn on the device.

Networks are built on the meta device and then filled on the target device, so building a pair at its true size takes
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..models.bases import SDXL
from ..models.motion import unshare_parameters
from ..pipelines import W2SDAnimateDiffSDXLPipeline

Network = TypeVar("Network", bound=nn.Module)

# The same classes with as many blocks and autoencoder levels, but so narrow that a CPU runs them quickly.
_SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": (8, 16, 16),
        "attention_head_dim": (2, 4, 4),
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 1, 1),
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 8 + 6 * 4,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "motion_adapter": {
        "block_out_channels": (8, 16, 16),
        "motion_layers_per_block": 1,
        "motion_norm_num_groups": 4,
        "motion_num_attention_heads": 2,
    },
    "vae": {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2},
    "text_encoder": {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "text_encoder_2": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 8,
    },
}
APART = 0.1  # distance of the weak network's weights from the strong one's, in standard deviations of the weights


def scheduler() -> DDIMScheduler:
    """The scheduler of AnimateDiff-SDXL in diffusers' documentation."""
    return DDIMScheduler.from_pretrained(SDXL, subfolder="scheduler")


def pair(
    device: torch.device, dtype: torch.dtype, small: bool = False, weak: bool = True, shared: bool = True
) -> W2SDAnimateDiffSDXLPipeline:
    """A pipeline of random networks in SDXL's configuration. It has no tokenizer, so calls need embeddings.

    Args:
        small: whether to use narrow networks of the same classes, which a CPU runs quickly.
        weak: whether to add a weak UNet, with weights near the strong one's.
        shared: whether the weak UNet shares the motion module's memory with the strong one, instead of a copy.
    """

    def configured(kind: Any, name: str) -> Any:
        config = {**kind.load_config(SDXL, subfolder=name), **(_SMALL[name] if small else {})}
        return random_weights(lambda: kind.from_config(config), device, dtype, 1)

    def text_encoder(kind: Any, name: str) -> Any:
        config = CLIPTextConfig.from_pretrained(SDXL / name, **(_SMALL[name] if small else {}))
        return random_weights(lambda: kind(config), device, dtype, 2)

    def unet(apart: float) -> UNet2DConditionModel:
        config = {**UNet2DConditionModel.load_config(SDXL, subfolder="unet"), **(_SMALL["unet"] if small else {})}
        return random_weights(lambda: UNet2DConditionModel.from_config(config), device, dtype, 3, apart)

    pipe = W2SDAnimateDiffSDXLPipeline(
        vae=configured(AutoencoderKL, "vae"),
        text_encoder=text_encoder(CLIPTextModel, "text_encoder"),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, "text_encoder_2"),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet(0.0),
        motion_adapter=configured(MotionAdapter, "motion_adapter"),
        scheduler=scheduler(),
        weak_unet=unet(APART) if weak else None,
    )
    if weak and not shared:
        unshare_parameters(pipe.weak_unet, pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def random_weights(
    build: Callable[[], Network], device: torch.device, dtype: torch.dtype, seed: int, apart: float = 0.0
) -> Network:
    """A network with random weights, in evaluation mode and without gradients.

    Matrices and kernels are normal with a standard deviation of 1/sqrt(fan-in), so that activations stay finite; norms
    are 1 and biases 0.

    Args:
        build: builds the network; its weights are put on the meta device.
        apart: distance of the weights from those of a network with the same seed and 0 here, in standard deviations.
    """
    with init_empty_weights():
        network = build().eval()
    random, other = (torch.Generator(device).manual_seed(n) for n in (seed, seed + 1000))
    for name, parameter in list(network.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        if parameter.ndim > 1:
            deviation = parameter[0].numel() ** -0.5
            value = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(0, deviation, generator=random)
            if apart:
                value += torch.empty_like(value).normal_(0, apart * deviation, generator=other)
        else:
            value = torch.full(parameter.shape, float(leaf == "weight"), dtype=dtype, device=device)
        setattr(network.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return network.to(device=device, dtype=dtype)  # moves the buffers, which are not on the meta device


def embeddings(pipe: Any, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random text embeddings for one video, (1, 77, width), and pooled ones, (1, width), as arguments of a call."""
    random = torch.Generator(device).manual_seed(7)
    width, pooled = pipe.unet.config.cross_attention_dim, pipe.text_encoder_2.config.projection_dim
    width = width if isinstance(width, int) else width[0]
    shapes = {"prompt_embeds": (1, 77, width), "pooled_prompt_embeds": (1, pooled)}
    drawn = {n: torch.randn(s, generator=random, device=device).to(dtype) for n, s in shapes.items()}
    return drawn | {f"negative_{name}": torch.zeros_like(value) for name, value in drawn.items()}


def denoiser_inputs(
    pipe: Any, size: int, frames: int, branches: int, device: torch.device, dtype: torch.dtype
) -> Mapping[str, Any]:
    """Arguments of one UNet evaluation, for `branches` branches of a video with `frames` frames of `size` x `size`
    pixels."""
    random = torch.Generator(device).manual_seed(8)
    side = size // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    shape = (branches, pipe.unet.config.in_channels, frames, side, side)
    texts = embeddings(pipe, device, dtype)
    return {
        "sample": torch.randn(shape, generator=random, device=device).to(dtype),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": texts["prompt_embeds"].expand(branches * frames, -1, -1).contiguous(),
        "added_cond_kwargs": {
            "text_embeds": texts["pooled_prompt_embeds"].expand(branches, -1).contiguous(),
            "time_ids": torch.tensor([[size, size, 0, 0, size, size]] * branches, device=device, dtype=dtype),
        },
    }
