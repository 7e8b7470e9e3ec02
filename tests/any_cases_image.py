"""More of the classes that `test_any_pipeline` tests: transformers of pictures; see `any_pipeline`."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from any_cases import (
    IMAGE,
    TOKENS,
    channels,
    cog_ddim,
    constant,
    ddim_of_images,
    euler,
    flux,
    guider,
    pooled,
    sd3,
    told_15,
)  # fmt: skip
from any_formulas import beyond, ddim, flow, normed
from any_pipeline import CASES, TEXT, Case, draw, masks, network, pipeline, seeded, texts
from torch import Tensor

SMALL = {"height": 16, "width": 16}
PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
MASK = torch.zeros(1, 1, 16, 16)
MASK[..., 8:] = 1  # the right half is painted anew


def picture_vae(blocks: int = 2, latents: int = 4) -> Any:
    """An autoencoder of pictures by a factor of 2 ** (blocks - 1)."""
    return seeded(3, lambda: diffusers.AutoencoderKL(
        block_out_channels=(8,) * blocks, down_block_types=["DownEncoderBlock2D"] * blocks, norm_num_groups=4,
        up_block_types=["UpDecoderBlock2D"] * blocks, latent_channels=latents, sample_size=16, shift_factor=0.1,
        scaling_factor=0.9,
    ))  # fmt: skip


def late(scheduler: Any, i: int) -> Any:
    """A flow's step i of a call that leaves out the first of the schedule."""
    return flow(scheduler, i + 1)


def right(x: Tensor) -> Tensor:
    """The right half: of tokens (B, n x n, C), or of pictures (B, C, …, n, n)."""
    if x.ndim == 3:
        side = round(x.shape[1] ** 0.5)
        return (torch.arange(side * side) % side >= side // 2)[None, :, None].expand_as(x)
    return (torch.arange(x.shape[-1]) >= x.shape[-1] // 2).expand_as(x)


def drawn(call: dict[str, Any]) -> Any:
    """A call of a pipeline that draws from torch's global generator."""

    def seeded_call(pipe: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        return call

    return seeded_call


with_vae = {"vae": picture_vae}
from_picture = {"image": PICTURE, "strength": 0.75, **SMALL}
painting = {**from_picture, "mask_image": MASK}
starts = dict(order=late, made=3)

# FLUX
of_flux = {**texts(), **pooled, "true_cfg_scale": 3.0}
CASES["FluxImg2ImgPipeline"] = Case(
    pipeline("FluxImg2ImgPipeline", flux, euler, **with_vae), constant({**of_flux, **from_picture}), **starts
)
CASES["FluxInpaintPipeline"] = Case(
    pipeline("FluxInpaintPipeline", flux, euler, **with_vae), constant({**of_flux, **painting}), painted=right, **starts
)
embedded = {"prompt_embeds": draw(1, 5, TEXT, seed=1), "pooled_prompt_embeds": pooled["pooled_prompt_embeds"]}
alone = dict(w=None, reflection=(1.0, 1.0), latents=channels(16, 2))


def flux_of(taken: int) -> Any:
    of = {**TOKENS, "in_channels": taken, "out_channels": 16}
    return network("FluxTransformer2DModel", **of, pooled_projection_dim=TEXT, guidance_embeds=True)


CASES["FluxFillPipeline"] = Case(
    pipeline("FluxFillPipeline", flux_of(48), euler, **with_vae),
    constant({**embedded, **painting, "strength": 1.0}),
    **alone,
)
CASES["FluxControlPipeline"] = Case(
    pipeline("FluxControlPipeline", flux_of(32), euler, **with_vae),
    constant({**embedded, "control_image": PICTURE, **SMALL}),
    **alone,
)
CASES["FluxControlImg2ImgPipeline"] = Case(
    pipeline("FluxControlImg2ImgPipeline", flux_of(32), euler, **with_vae),
    constant({**embedded, "control_image": PICTURE, **from_picture}),
    **alone,
    **starts,
)
CASES["FluxControlInpaintPipeline"] = Case(
    pipeline("FluxControlInpaintPipeline", flux_of(32), euler, **with_vae),
    constant({**embedded, "control_image": PICTURE, **painting}),
    painted=right,
    **alone,
    **starts,
)
CASES["FluxKontextPipeline"] = Case(
    pipeline("FluxKontextPipeline", flux, euler, **with_vae),
    constant({**of_flux, "image": PICTURE, **SMALL, "max_area": 256, "_auto_resize": False}),
    latents=channels(16),
)
CASES["FluxKontextInpaintPipeline"] = Case(
    pipeline("FluxKontextInpaintPipeline", flux, euler, **with_vae),
    constant({**of_flux, **painting, "max_area": 256, "_auto_resize": False}),
    latents=channels(16),
    painted=right,
    **starts,
)

# Chroma
chroma = network(
    "ChromaTransformer2DModel", **TOKENS, approximator_num_channels=8, approximator_hidden_dim=8, approximator_layers=1
)
of_chroma = {**texts(), **masks(kind=torch.bool), "guidance_scale": 3.0}
CASES["ChromaImg2ImgPipeline"] = Case(
    pipeline("ChromaImg2ImgPipeline", chroma, euler, **with_vae), constant({**of_chroma, **from_picture}), **starts
)


def told_of_guidance(seed: int) -> Any:
    """Chroma's network, with the entry of its configuration that the inpainting pipeline reads."""
    made = chroma(seed)
    made.register_to_config(guidance_embeds=False)
    return made


CASES["ChromaInpaintPipeline"] = Case(
    pipeline("ChromaInpaintPipeline", told_of_guidance, euler, **with_vae),
    constant({**of_chroma, **painting}),
    painted=right,
    **starts,
)

# Stable Diffusion 3
of_sd3 = {**texts(), **pooled, "guidance_scale": 3.0}
CASES["StableDiffusion3Img2ImgPipeline"] = Case(
    pipeline("StableDiffusion3Img2ImgPipeline", sd3, euler, **with_vae), constant({**of_sd3, **from_picture}), **starts
)


def sd3_of(taken: int) -> Any:
    return network(
        "SD3Transformer2DModel", sample_size=8, patch_size=2, in_channels=taken, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=TEXT, caption_projection_dim=16, pooled_projection_dim=TEXT,
        out_channels=16, pos_embed_max_size=16,
    )  # fmt: skip


def wide_vae() -> Any:
    return picture_vae(latents=16)


CASES["StableDiffusion3InpaintPipeline"] = Case(
    pipeline("StableDiffusion3InpaintPipeline", sd3_of(16), euler, vae=wide_vae),
    constant({**of_sd3, **painting}),
    painted=right,
    **starts,
)
CASES["StableDiffusion3InpaintPipeline, with a mask and a picture in channels"] = Case(
    pipeline("StableDiffusion3InpaintPipeline", sd3_of(33), euler, vae=wide_vae),
    constant({**of_sd3, **painting}),
    latents=channels(16),
    **starts,
)

# Qwen-Image
qwen = network("QwenImageTransformer2DModel", **{
    key: value for key, value in TOKENS.items() if key != "num_single_layers"
} | {"out_channels": 4, "patch_size": 2})  # fmt: skip


def qwen_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ))  # fmt: skip


of_qwen = {
    **texts(fewer=2), "true_cfg_scale": 3.0, "prompt_embeds_mask": torch.ones(1, 5),
    "negative_prompt_embeds_mask": torch.ones(1, 3),
}  # fmt: skip
LARGER = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
WIDER = torch.zeros(1, 1, 32, 32)
WIDER[..., 16:] = 1
of_larger = {"image": LARGER, "strength": 0.75, **IMAGE}
CASES["QwenImageImg2ImgPipeline"] = Case(
    pipeline("QwenImageImg2ImgPipeline", qwen, euler, vae=qwen_vae),
    constant({**of_qwen, **of_larger}),
    mix=normed,
    **starts,
)
CASES["QwenImageInpaintPipeline"] = Case(
    pipeline("QwenImageInpaintPipeline", qwen, euler, vae=qwen_vae),
    constant({**of_qwen, **of_larger, "mask_image": WIDER}),
    mix=normed,
    painted=right,
    **starts,
)

# Z-Image
z_image = network(
    "ZImageTransformer2DModel", in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
    cap_feat_dim=TEXT, axes_dims=[8, 4, 4], axes_lens=[64, 32, 32],
)  # fmt: skip
of_z_image = {
    "prompt_embeds": [draw(5, TEXT, seed=1)], "negative_prompt_embeds": [draw(4, TEXT, seed=2)], "guidance_scale": 3.0,
}  # fmt: skip
as_z_image = dict(mix=beyond, sign=-1, conditional_first=True, sampled=lambda pipe, x: x.squeeze(2))
# its own schedule of 4 steps ends twice at 0
of_z_image["sigmas"] = [1.0, 0.75, 0.5, 0.25]
CASES["ZImageImg2ImgPipeline"] = Case(
    pipeline("ZImageImg2ImgPipeline", z_image, euler, **with_vae),
    constant({**of_z_image, **from_picture}),
    **as_z_image,
    **starts,
)
CASES["ZImageInpaintPipeline"] = Case(
    pipeline("ZImageInpaintPipeline", z_image, euler, **with_vae),
    constant({**of_z_image, **painting}),
    painted=right,
    **as_z_image,
    **starts,
)


def of_size(latents: int, build: Any) -> Any:
    """A builder of pipelines whose usual pictures are of so few latents."""

    def sized(seed: int) -> Any:
        pipe = build(seed)
        pipe.default_sample_size = latents
        return pipe

    return sized


# The rest, by their names
two = {f"{sign}prompt_embeds_2": draw(1, 5, TEXT, seed=3 + i) for i, sign in enumerate(("", "negative_"))}
two |= {f"{sign}prompt_attention_mask_2": torch.ones(1, 5) for sign in ("", "negative_")}
hunyuan_dit = network(
    "HunyuanDiT2DModel", sample_size=4, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2,
    in_channels=4, cross_attention_dim=TEXT, cross_attention_dim_t5=TEXT, pooled_projection_dim=4, hidden_size=16,
    text_len=5, text_len_t5=5,
)  # fmt: skip
CASES["HunyuanDiTPipeline"] = Case(
    pipeline("HunyuanDiTPipeline", hunyuan_dit, ddim_of_images, requires_safety_checker=False),
    constant({**texts(), **masks(), **two, **IMAGE, "guidance_scale": 3.0, "use_resolution_binning": False}),
    order=ddim,
    learned=True,
)
HUNYUAN_IMAGE = dict(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
    num_refiner_layers=1, text_embed_dim=TEXT, text_embed_2_dim=TEXT, rope_axes_dim=(4, 4),
)  # fmt: skip
hunyuan_image, embedding = (
    network("HunyuanImageTransformer2DModel", **HUNYUAN_IMAGE, guidance_embeds=embeds) for embeds in (False, True)
)
of_hunyuan_image = constant({**told_15(), "height": 128, "width": 128})
CASES["HunyuanImagePipeline"] = Case(
    pipeline("HunyuanImagePipeline", hunyuan_image, euler, guider=guider(), ocr_guider=guider()), of_hunyuan_image
)
CASES["HunyuanImagePipeline, with embedded guidance alone"] = Case(
    pipeline("HunyuanImagePipeline", embedding, euler),
    of_hunyuan_image,
    w=None,
    reflection=(1.0, 1.0),
)
CASES["HiDreamImagePipeline"] = Case(
    of_size(4, pipeline("HiDreamImagePipeline", network(
        "HiDreamImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        num_single_layers=1, attention_head_dim=8, num_attention_heads=2, caption_channels=[TEXT, TEXT],
        text_emb_dim=TEXT, axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=(0, 1),
        num_routed_experts=2, num_activated_experts=1, force_inference_output=True,
    ), euler)),
    constant({
        **pooled, **IMAGE, "guidance_scale": 3.0,
        **{f"{sign}prompt_embeds_t5": draw(1, 5, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))},
        **{f"{sign}prompt_embeds_llama3": draw(2, 1, 5, TEXT, seed=4 + i) for i, sign in enumerate(("", "negative_"))},
    }),
    sign=-1,
)  # fmt: skip
bria = {key: value for key, value in TOKENS.items()}
CASES["BriaPipeline"] = Case(
    pipeline("BriaPipeline", network("BriaTransformer2DModel", **bria), euler, **with_vae),
    constant({**texts(), **IMAGE, "guidance_scale": 3.0}),
)
CASES["CogView3PlusPipeline"] = Case(
    pipeline("CogView3PlusPipeline", network(
        "CogView3PlusTransformer2DModel", patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, out_channels=4, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4,
        pos_embed_max_size=8, sample_size=4,
    ), cog_ddim),
    constant({**texts(), **IMAGE, "guidance_scale": 3.0}),
    order=ddim,
)  # fmt: skip
CASES["CogView4ControlPipeline"] = Case(
    pipeline("CogView4ControlPipeline", network(
        "CogView4Transformer2DModel", patch_size=2, in_channels=8, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4, rope_axes_dim=(16, 16),
    ), euler, **with_vae),
    drawn({**texts(), **SMALL, "control_image": PICTURE, "guidance_scale": 3.0}),
    latents=channels(4),
)  # fmt: skip
CASES["GlmImagePipeline"] = Case(
    pipeline("GlmImagePipeline", network(
        "GlmImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4,
        prior_vq_quantizer_codebook_size=8,
    ), euler),
    constant({**texts(), **IMAGE, "prior_token_ids": torch.tensor([[1, 2, 3, 4]]), "guidance_scale": 3.0}),
)  # fmt: skip
CASES["PRXPipeline"] = Case(
    pipeline("PRXPipeline", network(
        "PRXTransformer2DModel", in_channels=4, patch_size=2, context_in_dim=TEXT, hidden_size=16, num_heads=2,
        depth=1, axes_dim=[4, 4],
    ), euler),
    constant({
        **texts(), **masks(kind=torch.bool), **IMAGE, "guidance_scale": 3.0, "use_resolution_binning": False,
    }),
)  # fmt: skip
