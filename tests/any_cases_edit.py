"""More of the classes that `test_any_pipeline` tests: editing with reference tokens, and others."""

from __future__ import annotations

from typing import Any

import diffusers
import tiny
import torch
from any_cases import (
    IMAGE,
    KANDINSKY,
    PIXART,
    SANA,
    TOKENS,
    VIDEO,
    binned,
    channels,
    constant,
    ddim_of_images,
    euler,
    five,
    flux2_vae,
    klein,
    pooled,
    prepares,
    sd3,
)  # fmt: skip
from any_cases_image import PICTURE, drawn, hunyuan_dit, picture_vae, qwen, right, starts, two, with_vae
from any_cases_video import frame, magvit
from any_formulas import beyond, ddim, normed
from any_pipeline import CASES, TEXT, Case, draw, masks, network, pipeline, quiet, seeded, texts, told_embeddings
from PIL import Image
from torch import Tensor
from transformers import CLIPProcessor

# Pictures are edited at a million pixels, so that the autoencoders here have a factor of 128: 8 x 8 latents.


def qwen_vae_of_128() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLQwenImage(
        base_dim=2, z_dim=4, dim_mult=[1] * 8, num_res_blocks=1, temperal_downsample=[False] * 7,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ))  # fmt: skip


of_qwen = {
    **texts(fewer=2), "true_cfg_scale": 3.0, "prompt_embeds_mask": torch.ones(1, 5),
    "negative_prompt_embeds_mask": torch.ones(1, 3), "image": frame(), "height": 1024, "width": 1024,
}  # fmt: skip
edited = dict(latents=channels(16), mix=normed)
for name in ("QwenImageEditPipeline", "QwenImageEditPlusPipeline"):
    CASES[name] = Case(pipeline(name, qwen, euler, vae=qwen_vae_of_128), constant(of_qwen), **edited)
half = Image.new("L", (1024, 1024))
half.paste(255, (512, 0, 1024, 1024))


def layered_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLQwenImage(
        base_dim=2, z_dim=8, dim_mult=[1] * 7, num_res_blocks=1, temperal_downsample=[False] * 6,
        latents_mean=[0.0] * 8, latents_std=[1.0] * 8, input_channels=4,
    ))  # fmt: skip


layered = {key: of_qwen[key] for key in ("true_cfg_scale", "image")}


def told_layered(seed: int) -> Any:
    """With embeddings for two prompts: without a prompt the pipeline would describe its picture."""
    made = pipeline(
        "QwenImageLayeredPipeline",
        network("QwenImageTransformer2DModel", **{
            key: value for key, value in TOKENS.items() if key != "num_single_layers"
        } | {
            "in_channels": 32, "out_channels": 8, "patch_size": 2, "use_additional_t_cond": True,
            "use_layer3d_rope": True,
        }),
        euler,
        vae=layered_vae,
        text_encoder=lambda: tiny.text_encoders()[0],
    )(seed)  # fmt: skip
    told = {
        "a cat": (draw(1, 5, TEXT, seed=1), torch.ones(1, 5)),
        "a dog": (draw(1, 3, TEXT, seed=2), torch.ones(1, 3)),
    }
    encode = {"encode_prompt": lambda self, prompt=None, **kwargs: told[prompt]}
    return quiet(type("LayeredTold", (type(made),), encode)(**made.components))


CASES["QwenImageLayeredPipeline"] = Case(
    told_layered,
    constant({
        **layered, "image": frame().convert("RGBA"), "layers": 1, "prompt": "a cat", "negative_prompt": "a dog",
        "output_type": "pt",
    }),
    latents=channels(50),
)  # fmt: skip
CASES["QwenImageEditInpaintPipeline"] = Case(
    pipeline("QwenImageEditInpaintPipeline", qwen, euler, vae=qwen_vae_of_128),
    constant({**of_qwen, "mask_image": half, "strength": 0.75}),
    painted=right,
    **edited,
    **starts,
)

# LongCat, whose 16 channels of latents are in its code
LONGCAT = {**TOKENS, "in_channels": 64, "pooled_projection_dim": TEXT}
longcat = network("LongCatImageTransformer2DModel", **LONGCAT)


def of_longcat(name: str, **parts: Any) -> Any:
    """Its pipelines with embeddings, which they hand on, but not without a prompt."""

    def build(seed: int) -> Any:
        made = pipeline(name, longcat, euler, **parts)(seed)
        stock = type(made)
        cls = type(
            f"{name}Told",
            (stock,),
            {
                "encode_prompt": lambda self, prompt_embeds=None, **kwargs: (
                    prompt_embeds,
                    torch.zeros(prompt_embeds.shape[1], 3),
                )
            },
        )
        return quiet(cls(**made.components))

    return build


def clamped(uncond: Tensor, cond: Tensor, w: float) -> Tensor:
    """The mixture, scaled down to the norm of the conditional prediction where its own is greater."""
    mixed = uncond + w * (cond - uncond)
    scale = cond.norm(dim=-1, keepdim=True) / (mixed.norm(dim=-1, keepdim=True) + 1e-8)
    return mixed * scale.clamp(min=0.0, max=1.0)


def longcat_vae() -> Any:
    return picture_vae(8, 16)


CASES["LongCatImageEditPipeline"] = Case(
    of_longcat(
        "LongCatImageEditPipeline", vae=longcat_vae, text_processor=lambda: CLIPProcessor(prepares(), tiny.tokenizer())
    ),
    constant({**texts(), "image": frame(), "guidance_scale": 3.0}),
    latents=channels(16),
)
CASES["LongCatImagePipeline"] = Case(
    of_longcat("LongCatImagePipeline"),
    constant({**texts(), **IMAGE, "guidance_scale": 3.0, "enable_prompt_rewrite": False}),
    mix=clamped,
)

# BRIA's Fibo
FIBO = {**TOKENS, "text_encoder_dim": TEXT}
fibo = network("BriaFiboTransformer2DModel", **FIBO)
of_fibo = (
    draw(1, 5, TEXT, seed=1), draw(1, 5, TEXT, seed=2), torch.zeros(5, 3), torch.ones(1, 5), torch.ones(1, 5),
    [draw(1, 5, TEXT, seed=3), draw(1, 5, TEXT, seed=4)], [draw(1, 5, TEXT, seed=5), draw(1, 5, TEXT, seed=6)],
)  # fmt: skip


def fibo_vae() -> Any:
    return seeded(3, lambda: diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 16, latents_std=[1.0] * 16,
    ))  # fmt: skip


def told_fibo(name: str) -> Any:
    def build(seed: int) -> Any:
        made = pipeline(name, fibo, euler, vae=fibo_vae)(seed)
        return quiet(told_embeddings(type(made), *of_fibo)(**made.components))

    return build


CASES["BriaFiboPipeline"] = Case(
    told_fibo("BriaFiboPipeline"), constant({"prompt": "{}", "height": 64, "width": 64, "guidance_scale": 3.0})
)
CASES["BriaFiboEditPipeline"] = Case(
    told_fibo("BriaFiboEditPipeline"),
    constant({
        "prompt": '{"edit_instruction": "a cat"}', "image": frame(), "height": 64, "width": 64, "guidance_scale": 3.0,
        "_auto_resize": False,
    }),
    latents=channels(16),
)  # fmt: skip

# FLUX.2 klein's inpainting
HUGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
HALF = torch.zeros(1, 1, 64, 64)
HALF[..., 32:] = 1
CASES["Flux2KleinInpaintPipeline"] = Case(
    pipeline("Flux2KleinInpaintPipeline", klein, euler, vae=flux2_vae),
    constant({
        **texts(), "height": 64, "width": 64, "image": HUGE, "mask_image": HALF, "guidance_scale": 3.0,
        "strength": 0.75,
    }),
    latents=channels(16),
    painted=right,
    **starts,
)  # fmt: skip


# Kandinsky 5's pictures
def vae_of_8() -> Any:
    return picture_vae(4)


def small(name: str, pictured: bool, **parts: Any) -> Any:
    def build(seed: int) -> Any:
        of = network("Kandinsky5Transformer3DModel", **{**KANDINSKY, "visual_cond": pictured})
        pipe = pipeline(name, of, euler, **parts)(seed)
        pipe.resolutions = [(32, 32)]
        return pipe

    return build


CASES["Kandinsky5T2IPipeline"] = Case(
    small("Kandinsky5T2IPipeline", False), constant({**five, **IMAGE, "guidance_scale": 3.0})
)
CASES["Kandinsky5I2IPipeline"] = Case(
    small("Kandinsky5I2IPipeline", True, vae=vae_of_8),
    drawn({**five, **IMAGE, "image": frame(), "guidance_scale": 3.0}),
    latents=channels(4, -1),
)

# Others
CASES["ErnieImagePipeline"] = Case(
    pipeline("ErnieImagePipeline", network(
        "ErnieImageTransformer2DModel", hidden_size=16, num_attention_heads=2, num_layers=1, ffn_hidden_size=16,
        in_channels=4, out_channels=4, text_in_dim=TEXT, rope_axes_dim=(4, 2, 2),
    ), euler),
    constant({
        "prompt_embeds": [draw(5, TEXT, seed=1)], "negative_prompt_embeds": [draw(4, TEXT, seed=2)], "height": 64,
        "width": 64, "guidance_scale": 3.0,
    }),
)  # fmt: skip
CASES["Krea2Pipeline"] = Case(
    pipeline("Krea2Pipeline", network(
        "Krea2Transformer2DModel", in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, timestep_embed_dim=8, text_hidden_dim=TEXT, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=8,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
    ), euler),
    constant({
        **{f"{sign}prompt_embeds": draw(1, 5, 2, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))},
        **{f"{sign}prompt_embeds_mask": torch.ones(1, 5).bool() for sign in ("", "negative_")},
        **IMAGE, "guidance_scale": 3.0,
    }),
    mix=beyond,
)  # fmt: skip

# Perturbed-attention guidance, off
off = {"guidance_scale": 3.0, "pag_scale": 0.0}
CASES["SanaPAGPipeline"] = Case(
    pipeline("SanaPAGPipeline", network("SanaTransformer2DModel", **SANA), euler),
    constant({**texts(), **masks(), **IMAGE, **off, **binned, "negative_prompt": None}),
)
CASES["PixArtSigmaPAGPipeline"] = Case(
    pipeline("PixArtSigmaPAGPipeline", network("PixArtTransformer2DModel", **PIXART), ddim_of_images),
    constant({**texts(), **masks(), **IMAGE, **off, **binned, "negative_prompt": None}),
    order=ddim,
    learned=True,
)
CASES["HunyuanDiTPAGPipeline"] = Case(
    pipeline("HunyuanDiTPAGPipeline", hunyuan_dit, ddim_of_images, requires_safety_checker=False),
    constant({**texts(), **masks(), **two, **IMAGE, **off, "use_resolution_binning": False}),
    order=ddim,
    learned=True,
)
CASES["StableDiffusion3PAGPipeline"] = Case(
    pipeline("StableDiffusion3PAGPipeline", sd3, euler), constant({**texts(), **pooled, **IMAGE, **off})
)
CASES["StableDiffusion3PAGImg2ImgPipeline"] = Case(
    pipeline("StableDiffusion3PAGImg2ImgPipeline", sd3, euler, **with_vae),
    constant({**texts(), **pooled, "height": 16, "width": 16, "image": PICTURE, "strength": 0.75, **off}),
    **starts,
)


# EasyAnimate's conditions go into its network beside the latents
def easy(taken: int) -> Any:
    return network(
        "EasyAnimateTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=taken,
        out_channels=4, patch_size=2, sample_width=4, sample_height=4, num_layers=1, mmdit_layers=1,
        time_embed_dim=4, text_embed_dim=TEXT,
    )  # fmt: skip


of_easy = {**texts(), **masks(), **VIDEO, "guidance_scale": 3.0}
film = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(5))


def told_of_cache() -> Any:
    """The autoencoder, with the entry of its configuration that the inpainting pipeline reads."""
    made = magvit()
    made.register_to_config(cache_mag_vae=False)
    return made


half_film = torch.zeros(1, 1, 5, 32, 32)
half_film[..., 16:] = 1
CASES["EasyAnimateInpaintPipeline"] = Case(
    pipeline("EasyAnimateInpaintPipeline", easy(9), euler, vae=told_of_cache),
    drawn({**of_easy, "video": film, "mask_video": half_film, "strength": 1.0}),
)


# Kandinsky 2's UNets predict a variance too, and their schedulers here take none
def movq() -> Any:
    return seeded(3, lambda: diffusers.VQModel(
        block_out_channels=[32, 32], down_block_types=["DownEncoderBlock2D"] * 2, norm_num_groups=4, latent_channels=4,
        up_block_types=["UpDecoderBlock2D"] * 2, num_vq_embeddings=8, vq_embed_dim=4, norm_type="spatial",
    ))  # fmt: skip


KANDINSKY_2 = dict(
    out_channels=8, addition_embed_type="image", class_embed_type=None, encoder_hid_dim=TEXT,
    encoder_hid_dim_type="image_proj", addition_time_embed_dim=None, projection_class_embeddings_input_dim=None,
    cross_attention_dim=TEXT, use_linear_projection=False,
)  # fmt: skip


def kandinsky_2(name: str, told: Any = None, **config: Any) -> Any:
    def build(seed: int) -> Any:
        cls = getattr(diffusers, name)
        given: dict[str, Any] = {"unet": tiny.unet2d(seed, **{**KANDINSKY_2, **config}), "movq": movq()}
        if told is not None:
            cls = type(f"{name}Told", (cls,), {"_encode_prompt": lambda self, *args, **kwargs: told})
            given = {**given, "text_encoder": None, "tokenizer": None}
        return quiet(cls(scheduler=tiny.scheduler(timestep_spacing="trailing"), **given))

    return build


def later_ddim(scheduler: Any, i: int) -> Any:
    return ddim(scheduler, i + 1)


embedded = {f"{sign}image_embeds": draw(1, TEXT, seed=i) for i, sign in enumerate(("", "negative_"))}
of_two = {**embedded, "height": 32, "width": 32, "guidance_scale": 3.0, "output_type": "pt"}
of_unet = dict(denoiser="unet", learned=True)
begun = {"image": frame(), "strength": 0.75}
later = dict(order=later_ddim, made=3)
CASES["KandinskyV22Pipeline"] = Case(kandinsky_2("KandinskyV22Pipeline"), constant(of_two), order=ddim, **of_unet)
CASES["KandinskyV22Img2ImgPipeline"] = Case(
    kandinsky_2("KandinskyV22Img2ImgPipeline"), constant({**of_two, **begun}), **later, **of_unet
)
both = (draw(2, TEXT, seed=4), draw(2, 5, TEXT, seed=5), torch.ones(2, 5))
of_text = dict(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj")
of_text |= dict(cross_attention_dim=TEXT, projection_class_embeddings_input_dim=TEXT)
prompted = {**of_two, "prompt": "a cat"}
CASES["KandinskyPipeline"] = Case(
    kandinsky_2("KandinskyPipeline", told=both, **of_text), constant(prompted), order=ddim, **of_unet
)
CASES["KandinskyImg2ImgPipeline"] = Case(
    kandinsky_2("KandinskyImg2ImgPipeline", told=both, **of_text), constant({**prompted, **begun}), **later, **of_unet
)
