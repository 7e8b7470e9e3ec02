"""More of the classes that `test_any_pipeline` tests: UNets of pictures and of videos; see `any_pipeline`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import diffusers
import families
import tiny
import torch
from any_cases import TEXT, channels, constant, prepares, vision
from any_cases_edit import movq
from any_cases_image import MASK, PICTURE, drawn, right
from any_cases_video import FILM
from any_formulas import beyond, ddim
from any_pipeline import CASES, Case, draw, quiet, seeded, told_embeddings
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from w2sd_video.models.motion import motion_unet

SDXL, SD, SDXL_CONTROL, SD_CONTROL = families.FAMILIES[2:6]
ANIMATE, ANIMATE_CONTROL = families.FAMILIES[1], families.FAMILIES[6]


def later_ddim(scheduler: Any, i: int) -> Any:
    """DDIM's step i of a call that leaves out the first of the schedule."""
    return ddim(scheduler, i + 1)


# An adapter's features are added before the first block's downsampling where that block attends to the text.
ATTENDING, ATTENDING_UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def stock(
    name: str, family: Any, without: tuple[str, ...] = (), taken: int = 4, unet_config: Any = None, **parts: Any
) -> Any:
    """A builder of diffusers' pipeline of the parts of a family, and of others as they are given (by functions).

    Args:
        taken, unet_config: the UNet's channels, and what else is its own.
    """

    blocks = {"down_block_types": ATTENDING, "up_block_types": ATTENDING_UP} if "adapter" in parts else {}

    def build(seed: int) -> Any:
        every = {key: part for key, part in family.components(weak=False).items() if not key.startswith("weak_")}
        every["unet"] = unet(family, seed, taken, **blocks, **(unet_config or {}))
        if family.video:
            every["unet"] = motion_unet(every["unet"], every["motion_adapter"])
        every |= {key: part() if callable(part) else part for key, part in parts.items()}
        return quiet(getattr(diffusers, name)(**{key: part for key, part in every.items() if key not in without}))

    return build


def unet(family: Any, seed: int, taken: int, **config: Any) -> Any:
    if not family.xl:
        config = {
            "addition_embed_type": None, "addition_time_embed_dim": None,
            "projection_class_embeddings_input_dim": None, "cross_attention_dim": tiny.TEXT_WIDTH, **config,
        }  # fmt: skip
    return tiny.unet2d(seed, in_channels=taken, **config)


told = {"prompt": "a cat", "guidance_scale": 3.0}
small = {"height": 16, "width": 16}
from_picture = {"image": PICTURE, "strength": 0.75}
painting = {**from_picture, "mask_image": MASK}
usual = dict(denoiser="unet", order=ddim)
late = dict(denoiser="unet", order=later_ddim, made=3)
nine = {"latents": channels(4)}

# Inpainting, ControlNets from a picture
CASES["StableDiffusionXLInpaintPipeline"] = Case(
    stock("StableDiffusionXLInpaintPipeline", SDXL), constant({**told, **painting, **small}), painted=right, **late
)
CASES["StableDiffusionXLInpaintPipeline, with a mask and a picture in channels"] = Case(
    stock("StableDiffusionXLInpaintPipeline", SDXL, taken=9), constant({**told, **painting, **small}), **nine, **late
)
controls = {"control_image": PICTURE}
for name, (family, more) in {
    "StableDiffusionControlNetImg2ImgPipeline": (SD_CONTROL, dict(call=from_picture)),
    "StableDiffusionXLControlNetImg2ImgPipeline": (SDXL_CONTROL, dict(call=from_picture)),
    "StableDiffusionControlNetInpaintPipeline": (SD_CONTROL, dict(call=painting, painted=right)),
    "StableDiffusionXLControlNetInpaintPipeline": (SDXL_CONTROL, dict(call=painting, painted=right)),
}.items():
    call = {**told, **more.pop("call"), **controls}
    CASES[name] = Case(stock(name, family), constant(call), control=True, **more, **late)
CASES["StableDiffusionControlNetInpaintPipeline, with a mask and a picture in channels"] = Case(
    stock("StableDiffusionControlNetInpaintPipeline", SD_CONTROL, taken=9),
    constant({**told, **painting, **controls}),
    control=True,
    **nine,
    **late,
)


def union() -> Any:
    of = {key: value for key, value in tiny.unet2d(30).config.items() if not key.startswith("_")}
    of = {key: of[key] for key in inspect.signature(diffusers.ControlNetUnionModel).parameters if key in of}
    of |= {
        "conditioning_embedding_out_channels": (4, 4),
        "num_trans_channel": 8,
        "num_trans_head": 2,
        "num_proj_channel": 8,
    }

    def build() -> Any:
        net = diffusers.ControlNetUnionModel(**of)
        for module in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
            torch.nn.init.normal_(module.weight, std=0.3)
        return net.eval()

    return tiny.seeded(31, build)


for name, more in {
    "StableDiffusionXLControlNetUnionPipeline": dict(call=small, **usual),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": dict(call=from_picture, **late),
    "StableDiffusionXLControlNetUnionInpaintPipeline": dict(call=painting, painted=right, **late),
}.items():
    call = {**told, **controls, **more.pop("call"), "control_mode": [0]}
    CASES[name] = Case(stock(name, SDXL, controlnet=union), constant(call), control=True, **more)


# T2I-Adapters
def adapter() -> Any:
    return seeded(7, lambda: diffusers.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    ))  # fmt: skip


for name, family in {"StableDiffusionAdapterPipeline": SD, "StableDiffusionXLAdapterPipeline": SDXL}.items():
    CASES[name] = Case(
        stock(name, family, adapter=adapter),
        constant({**told, **small, "image": PICTURE}),
        **usual,
    )

# Perturbed-attention guidance, off
without = {**told, "pag_scale": 0.0}
layers = {"pag_applied_layers": "down"}
for name, (family, more) in {
    "StableDiffusionPAGPipeline": (SD, dict(call=small, **usual)),
    "StableDiffusionPAGImg2ImgPipeline": (SD, dict(call=from_picture, **late)),
    "StableDiffusionPAGInpaintPipeline": (SD, dict(call={**painting, **small}, painted=right, **late)),
    "StableDiffusionXLPAGImg2ImgPipeline": (SDXL, dict(call=from_picture, **late)),
    "StableDiffusionXLPAGInpaintPipeline": (SDXL, dict(call={**painting, **small}, painted=right, **late)),
    "StableDiffusionControlNetPAGPipeline": (SD_CONTROL, dict(call={"image": PICTURE}, control=True, **usual)),
    "StableDiffusionXLControlNetPAGPipeline": (SDXL_CONTROL, dict(call={"image": PICTURE}, control=True, **usual)),
    "StableDiffusionControlNetPAGInpaintPipeline": (
        SD_CONTROL, dict(call={**painting, **controls}, painted=right, control=True, **late),
    ),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": (
        SDXL_CONTROL, dict(call={**from_picture, **controls}, control=True, **late),
    ),
    "AnimateDiffPAGPipeline": (ANIMATE, dict(call={"num_frames": 3, **small}, **usual)),
}.items():  # fmt: skip
    CASES[name] = Case(stock(name, family, **layers), constant({**without, **more.pop("call")}), **more)

# Other conditions beside the latents
CASES["StableDiffusionDepth2ImgPipeline"] = Case(
    stock(
        "StableDiffusionDepth2ImgPipeline",
        SD,
        without=("safety_checker", "requires_safety_checker"),
        taken=5,
        depth_estimator=None,
    ),
    constant({**told, **from_picture, "depth_map": draw(1, 16, 16, seed=6)}),
    latents=channels(4),
    **late,
)

# Videos
small_film = [frame.resize((16, 16)) for frame in FILM[:3]]
of_film = {**told, **small, "video": small_film, "strength": 0.75}
CASES["AnimateDiffVideoToVideoPipeline"] = Case(
    stock("AnimateDiffVideoToVideoPipeline", ANIMATE), constant(of_film), **late
)
CASES["AnimateDiffVideoToVideoControlNetPipeline"] = Case(
    stock("AnimateDiffVideoToVideoControlNetPipeline", ANIMATE_CONTROL),
    constant({**of_film, "conditioning_frames": small_film}),
    control=True,
    **late,
)
CASES["PIAPipeline"] = Case(
    stock("PIAPipeline", ANIMATE, taken=9),
    constant({**told, **small, "image": small_film[0], "num_frames": 3}),
    latents=channels(4),
    **usual,
)
MODELSCOPE = dict(
    sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=TEXT,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    attention_head_dim=4,
)  # fmt: skip


def folded(pipe: Any, x: Tensor) -> Tensor:
    """Videos (B, C, F, H, W) as their frames (B F, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def of_modelscope(name: str) -> Any:
    def build(seed: int) -> Any:
        text_encoder, _ = tiny.text_encoders()
        return quiet(getattr(diffusers, name)(
            vae=tiny.vae(), text_encoder=text_encoder, tokenizer=tiny.tokenizer(),
            unet=seeded(seed, lambda: diffusers.UNet3DConditionModel(**MODELSCOPE)),
            scheduler=tiny.scheduler(timestep_spacing="trailing"),
        ))  # fmt: skip

    return build


CASES["TextToVideoSDPipeline"] = Case(
    of_modelscope("TextToVideoSDPipeline"), constant({**told, **small, "num_frames": 3}), sampled=folded, **usual
)
CASES["VideoToVideoSDPipeline"] = Case(
    of_modelscope("VideoToVideoSDPipeline"),
    constant({**told, "video": small_film, "strength": 0.75}),
    sampled=folded,
    **late,
)


def i2vgen(seed: int) -> Any:
    text_encoder, _ = tiny.text_encoders()

    return quiet(diffusers.I2VGenXLPipeline(
        vae=tiny.vae(), text_encoder=text_encoder, tokenizer=tiny.tokenizer(),
        image_encoder=tiny.seeded(4, lambda: CLIPVisionModelWithProjection(vision())), feature_extractor=prepares(),
        unet=seeded(seed, lambda: diffusers.I2VGenXLUNet(**MODELSCOPE)),
        scheduler=tiny.scheduler(timestep_spacing="trailing"),
    ))  # fmt: skip


CASES["I2VGenXLPipeline"] = Case(
    i2vgen,
    drawn({**told, **small, "image": FILM[0], "num_frames": 3, "target_fps": 16, "clip_skip": None}),
    sampled=folded,
    **usual,
)

# Kolors
KINDS = ("prompt_embeds", "pooled_prompt_embeds")


def of_kolors(name: str) -> Any:
    def build(seed: int) -> Any:
        given = {"pag_applied_layers": "down"} if "PAG" in name else {}
        module = {"KolorsPAGPipeline": "pag.pipeline_pag_kolors", "KolorsPipeline": "kolors.pipeline_kolors"}
        module |= {"KolorsImg2ImgPipeline": "kolors.pipeline_kolors_img2img"}
        cls = getattr(importlib.import_module(f"diffusers.pipelines.{module[name]}"), name)  # without sentencepiece
        if name == "KolorsImg2ImgPipeline":  # it does not hand the pooled embedding that it is given on
            cls = told_embeddings(cls, *(embeds[f"{sign}{kind}"] for kind in KINDS for sign in ("", "negative_")))
        return quiet(cls(
            vae=tiny.vae(), text_encoder=None, tokenizer=None, scheduler=tiny.scheduler(timestep_spacing="trailing"),
            unet=tiny.unet2d(seed, cross_attention_dim=TEXT), **given,
        ))  # fmt: skip

    return build


embeds = {f"{sign}prompt_embeds": draw(1, 5, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))}
embeds |= {f"{sign}pooled_prompt_embeds": draw(1, TEXT, seed=3 + i) for i, sign in enumerate(("", "negative_"))}
embeds["guidance_scale"] = 3.0
CASES["KolorsPipeline"] = Case(of_kolors("KolorsPipeline"), constant({**embeds, **small}), **usual)
CASES["KolorsImg2ImgPipeline"] = Case(of_kolors("KolorsImg2ImgPipeline"), constant({**embeds, **from_picture}), **late)
CASES["KolorsPAGPipeline"] = Case(
    of_kolors("KolorsPAGPipeline"), constant({**embeds, **small, "pag_scale": 0.0}), **usual
)

# Others of Stable Diffusion's kind
CASES["StableDiffusionUpscalePipeline"] = Case(
    stock(
        "StableDiffusionUpscalePipeline", SD, without=("requires_safety_checker",), taken=7,
        low_res_scheduler=diffusers.DDPMScheduler, unet_config={"num_class_embeds": 400},
    ),
    constant({**told, "image": PICTURE[..., :8, :8]}),
    latents=channels(4),
    **usual,
)  # fmt: skip
CASES["StableDiffusionImageVariationPipeline"] = Case(
    stock(
        "StableDiffusionImageVariationPipeline", SD, without=("text_encoder", "tokenizer"),
        image_encoder=lambda: tiny.seeded(4, lambda: CLIPVisionModelWithProjection(vision())),
        feature_extractor=prepares,
    ),
    constant({"image": FILM[0], "guidance_scale": 3.0, **small}),
    **usual,
)  # fmt: skip


def kandinsky_3(seed: int) -> Any:
    net = seeded(seed, lambda: diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(8, 16), cross_attention_dim=4, encoder_hid_dim=TEXT,
    ))  # fmt: skip
    return quiet(diffusers.Kandinsky3Img2ImgPipeline(
        tokenizer=None, text_encoder=None, unet=net, scheduler=tiny.scheduler(timestep_spacing="trailing"), movq=movq(),
    ))  # fmt: skip


texts_3 = {f"{sign}prompt_embeds": draw(1, 5, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))}
texts_3 |= {f"{sign}attention_mask": torch.ones(1, 5) for sign in ("", "negative_")}
CASES["Kandinsky3Img2ImgPipeline"] = Case(
    kandinsky_3, constant({**texts_3, **from_picture, "guidance_scale": 3.0}), mix=beyond, **late
)

# One of each kind stays in the fast part.
