"""More of the classes that `test_any_pipeline` tests: transformers of videos, and reference tokens beside pictures."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny
import torch
from any_cases import (
    COGVIDEOX,
    FIFTEEN,
    HUNYUAN,
    IMAGE,
    KANDINSKY,
    VIDEO,
    WAN,
    channels,
    cog_case,
    cog_ddim,
    cog_vae,
    constant,
    euler,
    five,
    flux2,
    flux2_klein,
    frames_move,
    guider,
    hunyuan_vae,
    motif,
    of_sana_video,
    pooled,
    prepares,
    sana_video,
    shifted,
    told_15,
    vae_15,
    vision,
    wan,
    wan_vae,
)  # fmt: skip
from any_cases_image import drawn, starts
from any_formulas import ddim
from any_pipeline import CASES, TEXT, Case, draw, masks, network, pipeline, seeded, texts
from PIL import Image
from transformers import (
    CLIPVisionModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)  # fmt: skip

SHOWN = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def frame(i: int = 0) -> Image.Image:
    pixels = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(20 + i))
    return Image.fromarray((255 * pixels).round().byte().numpy())


FILM = [frame(i) for i in range(5)]
of_film = {**texts(), "height": 32, "width": 32, "guidance_scale": 3.0}
shown = {"vae": wan_vae}

# Wan and what is like it
CASES["WanVACEPipeline"] = Case(
    pipeline(
        "WanVACEPipeline",
        network("WanVACETransformer3DModel", **WAN, vace_layers=[0], vace_in_channels=72),
        shifted,
        **shown,
    ),
    constant({**of_film, "video": FILM, "mask": [frame(i) for i in range(5, 10)], "num_frames": 5}),
)
CASES["WanVideoToVideoPipeline"] = Case(
    pipeline("WanVideoToVideoPipeline", wan, shifted, **shown),
    constant({**of_film, "video": FILM, "strength": 0.75}),
    **starts,
)
CASES["LucyEditPipeline"] = Case(
    pipeline("LucyEditPipeline", network("WanTransformer3DModel", **{**WAN, "in_channels": 8}), shifted, **shown),
    constant({**of_film, "video": FILM, "num_frames": 5}),
    latents=channels(4),
)
CASES["ChronoEditPipeline"] = Case(
    pipeline(
        "ChronoEditPipeline",
        network("ChronoEditTransformer3DModel", **{**WAN, "in_channels": 12}, image_dim=TEXT, added_kv_proj_dim=24),
        shifted,
        **shown,
        image_encoder=lambda: tiny.seeded(4, lambda: CLIPVisionModel(vision())),
        image_processor=prepares,
    ),
    constant({**of_film, "image": frame()}),
    latents=channels(4),
)
CASES["WanAnimatePipeline"] = Case(
    pipeline(
        "WanAnimatePipeline",
        network(
            "WanAnimateTransformer3DModel", **{**WAN, "in_channels": 12}, latent_channels=4, image_dim=TEXT,
            added_kv_proj_dim=24, motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16}, motion_encoder_size=16,
            motion_style_dim=8, motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16,
            face_encoder_num_heads=2, inject_face_latents_blocks=1,
        ),
        shifted,
        **shown,
        image_encoder=lambda: tiny.seeded(4, lambda: CLIPVisionModel(vision())),
        image_processor=prepares,
    ),
    constant({
        **of_film, "image": frame(), "pose_video": FILM, "face_video": FILM, "segment_frame_length": 5,
    }),
    latents=channels(4),
)  # fmt: skip

# CogVideoX and what is like it
cog = network("CogVideoXTransformer3DModel", **COGVIDEOX)


def later_ddim(scheduler: Any, i: int) -> Any:
    return ddim(scheduler, i + 1)


CASES["CogVideoXVideoToVideoPipeline"] = Case(
    pipeline("CogVideoXVideoToVideoPipeline", cog, cog_ddim, vae=cog_vae),
    constant({**of_film, "video": FILM, "strength": 0.75}),
    order=later_ddim,
    made=3,
)
name = "CogVideoXFunControlPipeline"
CASES[name] = cog_case(name, {**of_film, "control_video": FILM})
name = "ConsisIDPipeline"
CASES[name] = cog_case(name, {**of_film, "image": SHOWN, "num_frames": 5}, "ConsisIDTransformer3DModel")


def magvit() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=[4, 4, 4, 4], layers_per_block=1, norm_num_groups=2,
    ))  # fmt: skip


CASES["EasyAnimatePipeline"] = Case(
    pipeline(
        "EasyAnimatePipeline",
        network(
            "EasyAnimateTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=4,
            out_channels=4, patch_size=2, sample_width=4, sample_height=4, num_layers=1, mmdit_layers=1,
            time_embed_dim=4, text_embed_dim=TEXT,
        ),
        euler,
        vae=magvit,
    ),
    constant({**texts(), **masks(), **VIDEO, "guidance_scale": 3.0}),
)  # fmt: skip

# HunyuanVideo from a picture
told_hunyuan = {**texts(), **pooled, **masks(), **VIDEO, "guidance_scale": 6.0, "true_cfg_scale": 3.0}
CASES["HunyuanSkyreelsImageToVideoPipeline"] = Case(
    pipeline(
        "HunyuanSkyreelsImageToVideoPipeline",
        network("HunyuanVideoTransformer3DModel", **{**HUNYUAN, "in_channels": 8}, guidance_embeds=True),
        shifted,
        vae=hunyuan_vae,
    ),
    constant({**told_hunyuan, "image": SHOWN}),
    latents=channels(4),
)


def later_frames(axis: int) -> Any:
    """All but the first frame."""
    return lambda x: x.narrow(axis, 1, x.shape[axis] - 1)


CASES["HunyuanVideoImageToVideoPipeline"] = Case(
    pipeline(
        "HunyuanVideoImageToVideoPipeline",
        network(
            "HunyuanVideoTransformer3DModel", **HUNYUAN, guidance_embeds=True, image_condition_type="token_replace"
        ),
        shifted,
        vae=hunyuan_vae,
    ),
    constant({**told_hunyuan, "image": SHOWN}),
    latents=later_frames(2),
)
CASES["HunyuanVideoImageToVideoPipeline, with the picture in channels"] = Case(
    pipeline(
        "HunyuanVideoImageToVideoPipeline",
        network(
            "HunyuanVideoTransformer3DModel", **{**HUNYUAN, "in_channels": 9}, image_condition_type="latent_concat"
        ),
        shifted,
        vae=hunyuan_vae,
    ),
    constant({**told_hunyuan, "image": SHOWN}),
    latents=channels(4),
)


def siglip(width: int = TEXT) -> Any:
    config = SiglipVisionConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, image_size=32, intermediate_size=8,
        patch_size=16,
    )  # fmt: skip
    return tiny.seeded(4, lambda: SiglipVisionModel(config)).eval()


CASES["HunyuanVideo15ImageToVideoPipeline"] = Case(
    pipeline(
        "HunyuanVideo15ImageToVideoPipeline",
        network("HunyuanVideo15Transformer3DModel", **{**FIFTEEN, "task_type": "i2v", "target_size": 8}),
        shifted,
        vae=vae_15,
        guider=guider(),
        image_encoder=siglip,
        feature_extractor=lambda: SiglipImageProcessor(size={"height": 32, "width": 32}),
    ),
    constant({**told_15(), "image": frame(), "num_frames": 3}),
    latents=channels(4),
)

# Others from a picture
CASES["Kandinsky5I2VPipeline"] = Case(
    pipeline("Kandinsky5I2VPipeline", network("Kandinsky5Transformer3DModel", **KANDINSKY), shifted, vae=hunyuan_vae),
    drawn({**five, **VIDEO, "num_frames": 21, "image": frame(), "guidance_scale": 3.0}),
    latents=lambda x: x[:, 1:, ..., :4],
)
CASES["SanaImageToVideoPipeline"] = Case(
    pipeline("SanaImageToVideoPipeline", sana_video, euler, vae=wan_vae),
    constant({**of_sana_video, "image": SHOWN}),
    moving=frames_move,
    sampled=lambda pipe, x: x[:, :, 1:],
)
CASES["MotifVideoImage2VideoPipeline"] = Case(
    pipeline("MotifVideoImage2VideoPipeline", motif, shifted, vae=wan_vae, guider=guider()),
    constant({**texts(), **masks(kind=torch.bool), **VIDEO, "image": frame(), "prompt": None}),
    latents=channels(4),
)


class Unchecked(torch.nn.Module):
    """In the place of Cosmos' guardrail, whose package and weights a test does not have: it lets everything pass."""

    device, dtype = torch.device("cpu"), torch.float32


cosmos = dict(
    in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=2,
    text_embed_dim=TEXT, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(1.0, 1.0, 1.0),
    concat_padding_mask=True, extra_pos_embed_type=None,
)  # fmt: skip
CASES["Cosmos2_5_PredictBasePipeline"] = Case(
    pipeline(
        "Cosmos2_5_PredictBasePipeline",
        network("CosmosTransformer3DModel", **cosmos),
        shifted,
        vae=wan_vae,
        safety_checker=Unchecked,
    ),
    constant({**texts(), **VIDEO, "guidance_scale": 3.0}),
    mix=lambda uncond, cond, w: cond + w * (cond - uncond),
)

# Reference tokens in the sequence
CASES["Flux2KleinPipeline, with a reference picture"] = Case(
    flux2_klein,
    constant({**texts(), **IMAGE, "image": Image.new("RGB", (64, 64)), "guidance_scale": 3.0}),
    latents=channels(4),
)
CASES["Flux2Pipeline, with a reference picture"] = Case(
    flux2,
    constant({"prompt_embeds": draw(1, 5, TEXT, seed=1), "image": Image.new("RGB", (64, 64)), **IMAGE}),
    w=None,
    reflection=(1.0, 1.0),
    latents=channels(4),
)
