"""The pipeline classes that `test_any_pipeline` tests, each a tiny one of real classes; see `any_pipeline`."""

from __future__ import annotations

from typing import Any

import diffusers
import families
import tiny
import torch
from any_formulas import beyond, ddim, euler_v, normed
from any_pipeline import CASES, TEXT, Case, draw, masks, network, pipeline, quiet, seeded, texts
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

euler = FlowMatchEulerDiscreteScheduler


def constant(value: Any) -> Any:
    return lambda pipe: dict(value)


def channels(n: int, axis: int = 1) -> Any:
    """The first n channels along an axis."""
    return lambda x: x.narrow(axis, 0, n)


# Wan, SkyReels V2 and what is like them: two calls a step.
WAN = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT, freq_dim=16,
    ffn_dim=16, num_layers=1, rope_max_seq_len=32,
)  # fmt: skip
VIDEO = {"height": 32, "width": 32, "num_frames": 5}
wan = network("WanTransformer3DModel", **WAN)
shifted = lambda: euler(shift=3.0)  # noqa: E731
of_wan = constant(texts() | VIDEO | {"guidance_scale": 3.0})
CASES["WanPipeline"] = Case(pipeline("WanPipeline", wan, shifted), of_wan)
CASES["SkyReelsV2Pipeline"] = Case(
    pipeline("SkyReelsV2Pipeline", network("SkyReelsV2Transformer3DModel", **WAN), shifted), of_wan
)


def wan_vae() -> AutoencoderKLWan:
    return seeded(3, lambda: AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ))  # fmt: skip


PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
i2v = {**WAN, "in_channels": 12}
of_picture = constant({"image": PICTURE, **texts(), **VIDEO, "guidance_scale": 3.0})
shown = {"vae": wan_vae}
CASES["WanImageToVideoPipeline"] = Case(
    pipeline("WanImageToVideoPipeline", network("WanTransformer3DModel", **i2v), shifted, **shown),
    of_picture,
    latents=channels(4),
)


def vision(width: int = TEXT) -> Any:
    """An image encoder, and what prepares pictures for it."""
    config = CLIPVisionConfig(
        hidden_size=width, projection_dim=width, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        intermediate_size=8, patch_size=16,
    )  # fmt: skip
    return config


def prepares() -> CLIPImageProcessor:
    return CLIPImageProcessor(crop_size=32, size=32)


CASES["SkyReelsV2ImageToVideoPipeline"] = Case(
    pipeline(
        "SkyReelsV2ImageToVideoPipeline",
        network("SkyReelsV2Transformer3DModel", **i2v, image_dim=TEXT, added_kv_proj_dim=24),
        shifted,
        **shown,
        image_encoder=lambda: tiny.seeded(4, lambda: CLIPVisionModelWithProjection(vision())),
        image_processor=prepares,
    ),
    of_picture,
    latents=channels(4),
)


def frames_move(x: Tensor, told: dict[str, Any]) -> Tensor:
    """All but the first frame of (B, C, F, H, W)."""
    moving = torch.ones_like(x)
    moving[:, :, 0] = 0
    return moving


CASES["WanImageToVideoPipeline, its first frame held still"] = Case(
    pipeline("WanImageToVideoPipeline", wan, shifted, **shown, expand_timesteps=True),
    of_picture,
    moving=frames_move,
    chosen=lambda x: x[:, :, 1:],
)

# HunyuanVideo: embedded guidance, with and without a true one; 1.5 by a guider.
HUNYUAN = dict(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
    num_refiner_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=TEXT, pooled_projection_dim=TEXT,
    rope_axes_dim=(2, 4, 4),
)  # fmt: skip
hunyuan = network("HunyuanVideoTransformer3DModel", **HUNYUAN, guidance_embeds=True)


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return seeded(3, lambda: AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
    ))  # fmt: skip


pooled = {f"{sign}pooled_prompt_embeds": draw(1, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))}
of_hunyuan = {**texts(), **pooled, **masks(), **VIDEO, "guidance_scale": 6.0}
CASES["HunyuanVideoPipeline"] = Case(
    pipeline("HunyuanVideoPipeline", hunyuan, shifted), constant({**of_hunyuan, "true_cfg_scale": 3.0})
)
embedded = {key: value for key, value in of_hunyuan.items() if "negative" not in key}
CASES["HunyuanVideoPipeline, with embedded guidance alone"] = Case(
    pipeline("HunyuanVideoPipeline", hunyuan, shifted), constant(embedded), w=None, reflection=(1.0, 1.0)
)
FIFTEEN = dict(
    in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_refiner_layers=1,
    text_embed_dim=TEXT, text_embed_2_dim=TEXT, image_embed_dim=TEXT, rope_axes_dim=(2, 4, 4), target_size=64,
    task_type="t2v",
)  # fmt: skip


def told_15() -> dict[str, Tensor]:
    told = {}
    for i, sign in enumerate(("", "negative_")):
        for j, which in enumerate(("", "_2")):
            told[f"{sign}prompt_embeds{which}"] = draw(1, 5, TEXT, seed=10 * i + j)
            told[f"{sign}prompt_embeds_mask{which}"] = torch.ones(1, 5)
    return told


def guider(**settings: Any) -> Any:
    return lambda: diffusers.ClassifierFreeGuidance(guidance_scale=3.0, **settings)


def vae_15() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    ))  # fmt: skip


hunyuan_15 = network("HunyuanVideo15Transformer3DModel", **FIFTEEN)
CASES["HunyuanVideo15Pipeline"] = Case(
    pipeline("HunyuanVideo15Pipeline", hunyuan_15, shifted, vae=vae_15, guider=guider()),
    constant({**told_15(), "height": 8, "width": 8, "num_frames": 3}),
    latents=channels(4),
)
motif = network("MotifVideoTransformer3DModel", **{
    key: value for key, value in HUNYUAN.items() if key not in ("num_refiner_layers", "pooled_projection_dim")
} | {"in_channels": 9})  # fmt: skip
CASES["MotifVideoPipeline"] = Case(
    pipeline("MotifVideoPipeline", motif, shifted, vae=wan_vae, guider=guider()),
    constant({**texts(), **masks(kind=torch.bool), **VIDEO}),
    latents=channels(4),
)

# Images of tokens: FLUX and what is like it.
TOKENS = dict(
    patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
    joint_attention_dim=TEXT, axes_dims_rope=(2, 2, 4),
)  # fmt: skip
IMAGE = {"height": 32, "width": 32}
flux = network("FluxTransformer2DModel", **TOKENS, pooled_projection_dim=TEXT, guidance_embeds=True)
CASES["FluxPipeline"] = Case(
    pipeline("FluxPipeline", flux, euler), constant({**texts(), **pooled, **IMAGE, "true_cfg_scale": 3.0})
)
CASES["FluxPipeline, with embedded guidance alone"] = Case(
    pipeline("FluxPipeline", flux, euler),
    constant({
        "prompt_embeds": draw(1, 5, TEXT, seed=1), "pooled_prompt_embeds": pooled["pooled_prompt_embeds"], **IMAGE,
    }),
    w=None,
    reflection=(1.0, 1.0),
)  # fmt: skip
CASES["ChromaPipeline"] = Case(
    pipeline(
        "ChromaPipeline",
        network(
            "ChromaTransformer2DModel", **TOKENS, approximator_num_channels=8, approximator_hidden_dim=8,
            approximator_layers=1,
        ),
        euler,
    ),
    constant({**texts(), **masks(kind=torch.bool), **IMAGE, "guidance_scale": 3.0}),
)  # fmt: skip
CASES["OvisImagePipeline"] = Case(
    pipeline("OvisImagePipeline", network("OvisImageTransformer2DModel", **TOKENS, out_channels=16), euler),
    constant({**texts(), **IMAGE, "guidance_scale": 3.0, "negative_prompt": None}),
)


def flux2_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=2,
    ))  # fmt: skip


KLEIN = {**TOKENS, "timestep_guidance_channels": 16, "axes_dims_rope": (2, 2, 2, 2)}
klein = network("Flux2Transformer2DModel", **KLEIN, guidance_embeds=False)
flux2_klein = pipeline("Flux2KleinPipeline", klein, euler, vae=flux2_vae)
flux2 = pipeline(
    "Flux2Pipeline", network("Flux2Transformer2DModel", **KLEIN, guidance_embeds=True), euler, vae=flux2_vae
)
CASES["Flux2KleinPipeline"] = Case(
    flux2_klein,
    constant({**texts(), **IMAGE, "guidance_scale": 3.0}),
)
CASES["Flux2Pipeline"] = Case(
    flux2,
    constant({"prompt_embeds": draw(1, 5, TEXT, seed=1), **IMAGE}),
    w=None,
    reflection=(1.0, 1.0),
)
CASES["QwenImagePipeline"] = Case(
    pipeline("QwenImagePipeline", network("QwenImageTransformer2DModel", **{
        key: value for key, value in TOKENS.items() if key != "num_single_layers"
    } | {"out_channels": 4, "patch_size": 2}), euler),
    constant({
        **texts(fewer=2), **IMAGE, "true_cfg_scale": 3.0,
        "prompt_embeds_mask": torch.ones(1, 5), "negative_prompt_embeds_mask": torch.ones(1, 3),
    }),
    mix=normed,
)  # fmt: skip
LUMINA = dict(
    sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1,
    num_attention_heads=3, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2), axes_lens=(64, 64, 64),
    cap_feat_dim=TEXT,
)  # fmt: skip
lumina = network("Lumina2Transformer2DModel", **LUMINA)
of_lumina = {**texts(), **masks(), **IMAGE, "guidance_scale": 3.0}
CASES["Lumina2Pipeline"] = Case(pipeline("Lumina2Pipeline", lumina, euler), constant(of_lumina), mix=normed, sign=-1)
CASES["CogView4Pipeline"] = Case(
    pipeline("CogView4Pipeline", network(
        "CogView4Transformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4, rope_axes_dim=(16, 16),
    ), euler),
    constant({**texts(), **IMAGE, "guidance_scale": 3.0}),
)  # fmt: skip
KANDINSKY = dict(
    in_visual_dim=4, out_visual_dim=4, in_text_dim=TEXT, in_text_dim2=TEXT, time_dim=8, model_dim=16, ff_dim=16,
    num_text_blocks=1, num_visual_blocks=1, axes_dims=(2, 2, 4), visual_cond=True,
)  # fmt: skip
five = {}
for i, sign_ in enumerate(("", "negative_")):
    five |= {f"{sign_}prompt_embeds_qwen": draw(1, 5, TEXT, seed=i)}
    five |= {f"{sign_}prompt_embeds_clip": draw(1, TEXT, seed=7 + i)}
    five |= {f"{sign_}prompt_cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}
CASES["Kandinsky5T2VPipeline"] = Case(
    pipeline("Kandinsky5T2VPipeline", network("Kandinsky5Transformer3DModel", **KANDINSKY), shifted),
    constant({**five, **VIDEO, "guidance_scale": 3.0}),
    latents=channels(4, -1),
)

# One call a step, of both branches.
CASES["AuraFlowPipeline"] = Case(
    pipeline("AuraFlowPipeline", network(
        "AuraFlowTransformer2DModel", sample_size=4, patch_size=2, in_channels=4, num_mmdit_layers=1,
        num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=TEXT,
        caption_projection_dim=16, pos_embed_max_size=64,
    ), euler),
    constant({**texts(), **masks(), **IMAGE, "guidance_scale": 3.0}),
)  # fmt: skip
PIXART = dict(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, cross_attention_dim=16,
    sample_size=4, caption_channels=TEXT, use_additional_conditions=False,
)  # fmt: skip
ddim_of_images = lambda: DDIMScheduler(clip_sample=False)  # noqa: E731
binned = {"use_resolution_binning": False}
for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline"):
    CASES[name] = Case(
        pipeline(name, network("PixArtTransformer2DModel", **PIXART), ddim_of_images),
        constant({**texts(), **masks(), **IMAGE, "guidance_scale": 3.0, **binned, "negative_prompt": None}),
        order=ddim,
        learned=True,
    )
SANA = dict(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
    num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=TEXT,
    sample_size=4,
)  # fmt: skip
CASES["SanaPipeline"] = Case(
    pipeline("SanaPipeline", network("SanaTransformer2DModel", **SANA), euler),
    constant({**texts(), **masks(), **IMAGE, "guidance_scale": 3.0, **binned, "negative_prompt": None}),
)
sana_video = network("SanaVideoTransformer3DModel", **SANA, qk_norm="rms_norm_across_heads", rope_max_seq_len=32)
of_sana_video = {
    **texts(), **masks(), **IMAGE, "frames": 5, "guidance_scale": 3.0, **binned, "negative_prompt": None,
}  # fmt: skip
CASES["SanaVideoPipeline"] = Case(
    pipeline("SanaVideoPipeline", sana_video, euler, vae=wan_vae), constant(of_sana_video)
)
sd3 = network(
    "SD3Transformer2DModel", sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
    num_attention_heads=2, joint_attention_dim=TEXT, caption_projection_dim=16, pooled_projection_dim=TEXT,
    out_channels=4, pos_embed_max_size=16,
)  # fmt: skip
CASES["StableDiffusion3Pipeline"] = Case(
    pipeline("StableDiffusion3Pipeline", sd3, euler), constant({**texts(), **pooled, **IMAGE, "guidance_scale": 3.0})
)
LTX = dict(
    in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=1,
    caption_channels=TEXT,
)  # fmt: skip
ltx = network("LTXVideoTransformer3DModel", **LTX)
dynamic = lambda: euler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)  # noqa: E731
of_ltx = {**texts(), **masks(), "height": 64, "width": 64, "num_frames": 17, "guidance_scale": 3.0}
CASES["LTXPipeline"] = Case(pipeline("LTXPipeline", ltx, dynamic), constant(of_ltx))


def ltx_vae() -> AutoencoderKLLTXVideo:
    return seeded(3, lambda: AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    ))  # fmt: skip


def tokens_move(x: Tensor, told: dict[str, Any]) -> Tensor:
    """All but the tokens of the first frame: 3 frames of 2 x 2."""
    moving = torch.ones_like(x)
    moving[:, :4] = 0
    return moving


CASES["LTXImageToVideoPipeline"] = Case(
    pipeline("LTXImageToVideoPipeline", ltx, dynamic, vae=ltx_vae),
    constant({**of_ltx, "image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))}),
    moving=tokens_move,
    sampled=lambda pipe, x: x[:, 4:].reshape(1, 2, 2, 2, 4).permute(0, 4, 1, 2, 3),
)
CASES["LTXConditionPipeline, its first frame held still"] = Case(
    pipeline("LTXConditionPipeline", ltx, euler, vae=ltx_vae),
    constant({
        **of_ltx, "image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)), "strength": 1.0,
        "image_cond_noise_scale": 0.0,
    }),
    moving=tokens_move,
    chosen=lambda x: x[:, 4:],
)  # fmt: skip
COGVIDEOX = dict(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=4, text_embed_dim=TEXT,
    num_layers=1, sample_width=4, sample_height=4, sample_frames=5, patch_size=2, max_text_seq_length=5,
)  # fmt: skip
zero = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0)
zero |= dict(timestep_spacing="trailing")
cog_ddim = lambda: CogVideoXDDIMScheduler(**zero)  # noqa: E731
of_cog = {**texts(), **VIDEO, "guidance_scale": 3.0}
CASES["CogVideoXPipeline"] = Case(
    pipeline("CogVideoXPipeline", network("CogVideoXTransformer3DModel", **COGVIDEOX), cog_ddim),
    constant(of_cog),
    order=ddim,
)


def cog_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4, layers_per_block=1, norm_num_groups=2,
    ))  # fmt: skip


def cog_case(name: str, call: dict[str, Any], transformer: str = "CogVideoXTransformer3DModel") -> Case:
    """A pipeline of CogVideoX's kind with conditions in channels beside the latents."""
    denoiser = network(transformer, **{**COGVIDEOX, "in_channels": 8})
    built = pipeline(name, denoiser, cog_ddim, vae=cog_vae)
    return Case(built, constant(call), latents=channels(4, 2), order=ddim)


name = "CogVideoXImageToVideoPipeline"
CASES[name] = cog_case(name, {**of_cog, "image": PICTURE})
CASES["MochiPipeline"] = Case(
    pipeline(
        "MochiPipeline",
        network(
            "MochiTransformer3DModel", patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=1,
            pooled_projection_dim=TEXT, in_channels=4, text_embed_dim=TEXT, time_embed_dim=4, max_sequence_length=5,
        ),
        lambda: euler(invert_sigmas=True, shift=1.0),
        force_zeros_for_empty_prompt=False,
    ),
    constant({**texts(), **masks(kind=torch.bool), "height": 32, "width": 32, "num_frames": 7, "guidance_scale": 3.0}),
)  # fmt: skip
CASES["AllegroPipeline"] = Case(
    pipeline("AllegroPipeline", network(
        "AllegroTransformer3DModel", num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4,
        num_layers=1, cross_attention_dim=48, sample_width=4, sample_height=4, sample_frames=3, caption_channels=TEXT,
    ), ddim_of_images),
    constant({
        **texts(), **masks(), "height": 32, "width": 32, "num_frames": 8, "guidance_scale": 3.0,
        "negative_prompt": None,
    }),
    order=ddim,
)  # fmt: skip
CASES["LattePipeline"] = Case(
    pipeline("LattePipeline", network(
        "LatteTransformer3DModel", sample_size=4, num_layers=1, patch_size=2, attention_head_dim=8,
        num_attention_heads=2, caption_channels=TEXT, in_channels=4, cross_attention_dim=16, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, video_length=2,
    ), ddim_of_images),
    constant({
        **texts(), "height": 32, "width": 32, "video_length": 2, "guidance_scale": 3.0, "negative_prompt": None,
        "mask_feature": False,
    }),
    order=ddim,
    learned=True,
)  # fmt: skip
CASES["ZImagePipeline"] = Case(
    pipeline("ZImagePipeline", network(
        "ZImageTransformer2DModel", in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=TEXT, axes_dims=[8, 4, 4], axes_lens=[64, 32, 32],
    ), euler),
    constant({
        "prompt_embeds": [draw(5, TEXT, seed=1)], "negative_prompt_embeds": [draw(4, TEXT, seed=2)], **IMAGE,
        "guidance_scale": 3.0,
    }),
    mix=beyond,
    sign=-1,
    conditional_first=True,
    sampled=lambda pipe, x: x.squeeze(2),
)  # fmt: skip
SVD = dict(
    block_out_channels=(32, 32), layers_per_block=1, sample_size=4, in_channels=8, out_channels=4,
    cross_attention_dim=TEXT,
    down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), num_attention_heads=2,
    up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=12,
)  # fmt: skip


def svd(seed: int) -> Any:
    vae = seeded(3, lambda: diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4, sample_size=16,
        layers_per_block=1,
    ))  # fmt: skip
    return quiet(
        diffusers.StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=tiny.seeded(4, lambda: CLIPVisionModelWithProjection(vision())),
            unet=network("UNetSpatioTemporalConditionModel", **SVD)(seed),
            scheduler=EulerDiscreteScheduler(
                prediction_type="v_prediction",
                timestep_type="continuous",
                use_karras_sigmas=True,
                sigma_min=0.002,
                sigma_max=700.0,
                interpolation_type="linear",
            ),
            feature_extractor=prepares(),
        )
    )


CASES["StableVideoDiffusionPipeline"] = Case(
    svd,
    constant({
        "image": PICTURE, "num_frames": 3, "height": 32, "width": 32, "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
    }),
    denoiser="unet",
    latents=channels(4, 2),
    w=torch.tensor([1.0, 2.0, 3.0])[None, :, None, None, None],
    order=euler_v,
)  # fmt: skip


def image_to_image(name: str, family: Any) -> Any:
    """Stable Diffusion's pipelines that start from a picture, at three of four steps."""

    def build(seed: int) -> Any:
        parts = {key: part for key, part in family.components(weak=False).items() if not key.startswith("weak_")}
        return quiet(getattr(diffusers, name)(**{**parts, "unet": family.unet(seed)}))

    return Case(
        build,
        constant({"prompt": "a cat", "image": PICTURE[..., :16, :16], "strength": 0.75, "guidance_scale": 3.0}),
        denoiser="unet",
        order=lambda scheduler, i: ddim(scheduler, i + 1),
        made=3,
    )


def pag(seed: int) -> Any:
    family = families.FAMILIES[2]
    parts = {key: part for key, part in family.components(weak=False).items() if not key.startswith("weak_")}
    parts |= {"unet": family.unet(seed), "pag_applied_layers": "down"}
    return quiet(diffusers.StableDiffusionXLPAGPipeline(**parts))


without = {"prompt": "a cat", "height": 16, "width": 16, "guidance_scale": 3.0, "pag_scale": 0.0}
CASES["StableDiffusionXLPAGPipeline"] = Case(pag, constant(without), denoiser="unet", order=ddim)
PICTURES = {"StableDiffusionImg2ImgPipeline": 3, "StableDiffusionXLImg2ImgPipeline": 2}
CASES |= {name: image_to_image(name, families.FAMILIES[i]) for name, i in PICTURES.items()}
