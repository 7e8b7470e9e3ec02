"""Checks of models by their configurations and the names in their files, and of whether they fit together."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel

from ..errors import WeightsError
from ..schedulers import is_flow
from .bases import IMAGE_SCHEDULER, Base
from .checkpoints import Shapes, check_numbers, dtypes, metadata, shapes
from .sources import Source

logger = logging.getLogger("w2sd_video")

UNET = "model.diffusion_model."
"""How the names of a UNet's weights begin in a file of a whole model."""

BASE_OF_WIDTH = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner", 2048: "SDXL"}
_BASE_OF_BLOCKS = {(320, 640, 1280, 1280): " (Stable Diffusion 1.5)", (320, 640, 1280): " (SDXL)"}
EDM = (
    "it is trained in the EDM parametrisation (Karras et al. 2022), as Playground v2.5 and CosXL are; accepted: models"
    " that predict noise or v"
)


@dataclass
class UNetArm:
    """One arm of a pair with UNets, as its configuration describes it, before any weight is read."""

    source: Source
    pipeline: str
    unet: dict[str, Any]
    prediction_type: str
    is_animatediff: bool = False
    components: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> library, class
    scheduler: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What two arms must have in common."""
        return {
            "latent channels": (self.unet.get("in_channels", 4), self.unet.get("out_channels", 4)),
            "cross-attention width": self.unet.get("cross_attention_dim"),
            "pooled text and size width": self.unet.get("projection_class_embeddings_input_dim"),
            "UNet blocks": _blocks(self.unet),
            "prediction type": self.prediction_type,
        }


def _blocks(config: Mapping[str, Any]) -> tuple[int, ...]:
    blocks = config.get("block_out_channels")
    return tuple(blocks) if isinstance(blocks, (list, tuple)) else ()


def arm_of_file(source: Source, path: Path, config: Path, base: Base) -> UNetArm:
    """What a file in the original layout of a whole model says that it is.

    Raises:
        WeightsError: it is something else, of another base, or in a parametrisation that is not supported.
    """
    names = shapes(source, path)
    check_numbers(source, dict.fromkeys(names, torch.float32) | dtypes(source, path))
    unet = UNet2DConditionModel.load_config(config, subfolder="unet")
    expected = f"{base.name}'s original layout, with a UNet of cross-attention width {unet['cross_attention_dim']}"
    first = names.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(first) != 4:
        raise WeightsError(source, f"is {describe(names)}. Accepted: {expected}.")
    into = [shape for name, shape in names.items() if name.endswith("attn2.to_k.weight") and name.startswith(UNET)]
    widths = {shape[1] for shape in into if len(shape) == 2}
    labels = f"{UNET}label_emb.0.0.weight" in names
    if widths != {unet["cross_attention_dim"]} or labels != (unet.get("addition_embed_type") is not None):
        is_ = " or ".join(
            BASE_OF_WIDTH.get(width, f"a UNet of cross-attention width {width}") for width in sorted(widths)
        )
        raise WeightsError(source, f"is a checkpoint of {is_ or 'another model'}. Accepted: {expected}.")
    if first[1] != unet["in_channels"]:
        raise WeightsError(
            source,
            f"has a UNet of {first[1]} input channels (9 is inpainting, 8 is editing). Accepted:"
            f" {expected} and {unet['in_channels']} input channels.",
        )
    schedule = {**IMAGE_SCHEDULER, **parametrisation(source, names, _beside(path) | metadata(path))}
    return UNetArm(source, base.pipeline, unet, schedule["prediction_type"], scheduler=schedule)


def _beside(path: Path) -> dict[str, str]:
    """What the YAML of a file says that it predicts: the original code's configuration, which has the file's name."""
    config = path.with_suffix(".yaml")
    try:
        with config.open("rb") as file:
            text = file.read(100_000).decode("utf-8", "replace") if config.is_file() else ""
    except OSError:
        return {}
    match = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    return {"modelspec.prediction_type": match[1]} if match else {}


def parametrisation(source: Source, names: Iterable[str], said: Mapping[str, str]) -> dict[str, Any]:
    """What a single file says of its training, as arguments of a scheduler.

    Makers of v-prediction fine-tunes put the empty tensors `v_pred` and `ztsnr` into their files (as NoobAI-XL);
    others state `modelspec.prediction_type` in the metadata (Stability AI's Model Specification 1.0), and sd-scripts
    `ss_zero_terminal_snr`. With a zero terminal SNR the noisiest step is one to sample at (Lin et al. 2023,
    arXiv:2305.08891): spacing is trailing.

    Raises:
        WeightsError: it states another parametrisation than noise or v.
    """
    names = set(names)
    keys = ("modelspec.prediction_type", "modelspec.predict_key")  # the latter is ComfyUI's
    stated = next((said[key] for key in keys if said.get(key)), "").strip().lower()
    if any(name.startswith("edm_") for name in names) or stated.startswith("edm"):
        raise WeightsError(source, f"is not supported: {EDM}.")
    kinds = {"": "epsilon", "epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
    kinds["v-prediction"] = kinds["vpred"] = "v_prediction"
    if stated not in kinds:
        raise WeightsError(
            source, f"states modelspec.prediction_type {stated!r}. Accepted: models that predict noise (epsilon) or v."
        )
    schedule: dict[str, Any] = {"prediction_type": "v_prediction" if "v_pred" in names else kinds[stated]}
    if "ztsnr" in names or said.get("ss_zero_terminal_snr", "").strip().lower() in ("true", "1"):
        schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return schedule


def check_scheduler_config(
    source: Source, config: Mapping[str, Any], replaced: bool = False, video: bool = False
) -> None:
    """Refuse a folder's scheduler of a parametrisation that is not supported.

    Args:
        replaced: whether another scheduler takes its place.
        video: whether AnimateDiff's is to be made of it.

    Raises:
        WeightsError: EDM's; flow matching's, which AnimateDiff's schedule is not; or no kind of prediction that is
            known.
    """
    name, kind = str(config.get("_class_name", "")), config.get("prediction_type", "epsilon")
    if name.startswith("EDM"):
        raise WeightsError(source, f"is not supported: it has a scheduler {name}, for {EDM}.")
    if video and not replaced and is_flow(config):
        raise WeightsError(
            source,
            f"is not supported: it has a scheduler {name} of flow matching; accepted: models that predict noise or v.",
        )
    if kind not in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        raise WeightsError(
            source, f"has a scheduler of prediction_type {kind!r}. Accepted: epsilon, v_prediction, sample."
        )


def describe(names: Mapping[str, tuple[int, ...]]) -> str:
    """In words, what a file is that is not a checkpoint of a whole model."""

    def any_(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    if any_("lllite_"):
        return "a ControlNet-LLLite, which is not supported"
    if any_("lora_controlnet"):
        return "a Control-LoRA, which is not supported"
    if any("lora" in name.lower() for name in names):
        return "a LoRA (load it with `load_lora_weights`, or --lora)"
    if any_("input_hint_block.", "controlnet_cond_embedding."):
        return "a ControlNet (give it as `controlnet`)"
    if any_("motion_modules."):
        return "a motion module (give it as `motion_adapter`)"
    if any_("to_k_ip.", "image_proj."):
        return "an IP-Adapter (load it with `load_ip_adapter`, or --ip-adapter)"
    if any(re.match(r"((en|de)coder\.)?(layers\.)?\d+\.(conv\.\d+\.)?(weight|bias)$", name) for name in names):
        return "a TAESD, a tiny autoencoder of another class"
    if any_("double_blocks.", "joint_blocks.", "transformer_blocks.0.scale_shift_table"):
        return "a diffusion transformer"
    if any(
        re.match(r"(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|mid_block)\.", name) for name in names
    ):
        return "an autoencoder (give it as `vae`)"
    if any(name.startswith(("down_blocks.", "conv_in.")) for name in names):
        return "a part of a diffusers folder (give the folder that holds model_index.json)"
    if any_("string_to_param", "emb_params") or set(names) in ({"clip_l", "clip_g"}, {"clip_g", "clip_l"}):
        return "a textual inversion"
    return f"a file of {len(names)} tensors, such as {next(iter(names))[:100]!r}" if names else "empty"


def check_latents_alone(source: Source, unet: Mapping[str, Any], expected: str) -> None:
    """Refuse a UNet that takes more than latents.

    Raises:
        WeightsError: it does, as those for inpainting and editing do.
    """
    takes, gives = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if takes != gives:
        raise WeightsError(
            source,
            f"has a UNet of {takes} input channels (9 is inpainting, 8 is editing). Accepted: {expected} and"
            f" {gives} input channels.",
        )


def check_arms(strong: UNetArm, weak: UNetArm) -> None:
    """Refuse arms whose noise predictions mean different things: reflection subtracts one from the other.

    Raises:
        WeightsError: latents, text embeddings or prediction types differ.
    """
    ours, theirs = strong.facts(), weak.facts()
    for fact in ours:
        if ours[fact] != theirs[fact]:
            raise WeightsError(
                strong.source,
                f"and {weak.source} do not go together: {fact} {ours[fact]} against"
                f" {theirs[fact]}. Accepted: two models that agree in it.",
            )


def check_motion(
    motion: Source | MotionAdapter, channels: tuple[int, ...], strong: UNetArm, layers: object = None
) -> None:
    """Refuse a motion module that is made for another UNet, by the channels of its blocks and their layers.

    Args:
        layers: how many layers a block has. None: not known.
    """
    expected = _blocks(strong.unet)
    named = motion if isinstance(motion, Source) else "motion_adapter"
    if channels != expected:
        raise WeightsError(
            named,
            f"is made for UNet blocks of {channels} channels{_BASE_OF_BLOCKS.get(channels, '')}. Accepted for"
            f" {strong.source}: {expected}{_BASE_OF_BLOCKS.get(expected, '')}.",
        )
    own = strong.unet.get("layers_per_block", 2)
    if isinstance(layers, int) and isinstance(own, int) and layers != own:
        raise WeightsError(named, f"is made for UNet blocks of {layers} layers. Accepted for {strong.source}: {own}.")


def motion_channels(source: Source, names: Shapes) -> tuple[int, ...]:
    """The channels of the UNet blocks that a motion module's file is made for, read off its norms."""
    pattern = re.compile(r"(?:.*\.)?down_blocks\.(\d+)\.motion_modules\.0\.(?:temporal_transformer\.)?norm\.weight")
    channels = {
        int(match[1]): shape[0] for name, shape in names.items() if (match := pattern.fullmatch(name)) and shape
    }
    if not channels:
        raise WeightsError(
            source,
            f"is not a motion module, but {describe(names)}. Accepted: a hub id, a folder, or a file in"
            " AnimateDiff's original layout, such as mm_sdxl_v10_beta.ckpt.",
        )
    return tuple(channels[block] for block in sorted(channels))


def check_controlnet(controlnet: Source | Any, config: Mapping[str, Any], strong: UNetArm) -> None:
    """Refuse a ControlNet that is made for another UNet."""
    named = controlnet if isinstance(controlnet, Source) else "controlnet"
    for key, what in (("cross_attention_dim", "cross-attention width"), ("block_out_channels", "UNet blocks")):
        ours, theirs = (tuple(v) if isinstance(v := c.get(key), list) else v for c in (strong.unet, config))
        if ours != theirs:
            raise WeightsError(
                named,
                f"and {strong.source} do not go together: {what} {theirs} against {ours}. Accepted: a"
                " ControlNet for the strong model's base.",
            )


def complete(source: Source, model: Any, otherwise: str = "") -> Any:
    """The model, if every weight was found: loaders leave what is missing on the meta device, silently."""
    parameters = model.named_parameters()
    # Tensors of quanto call themselves meta, and hold their numbers inside.
    missing = [name for name, each in parameters if each.is_meta and type(each) is torch.nn.Parameter]
    if missing:
        raise lacking(source, type(model).__name__, missing, otherwise)
    return model


def lacking(source: Source, kind: str, missing: list[str], otherwise: str = "") -> WeightsError:
    return WeightsError(source, f"lacks {len(missing)} weights of {kind}, such as {missing[0]}{otherwise}.")


# Buffers and heads that published files hold and networks compute or leave out.
_HARMLESS = re.compile(r".*(position_ids|logit_scale|text_projection|num_batches_tracked)(\.weight)?|vision_model\..*")


def point_out(source: Source, kind: str, left: Iterable[str]) -> None:
    """Say, in one sentence, that some weights of a file have no place in the network."""
    names = [name for name in left if not _HARMLESS.fullmatch(name)]
    if names:
        logger.warning(
            "note: %s holds %d weights that have no place in %s and are left out, %s first",
            *(source, len(names), kind, names[0][:200]),
        )


def fill(source: Source, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> Any:
    """A model made on the meta device, with a file's tensors for its parameters, in eval mode.

    Raises:
        WeightsError: tensors are missing, or of another shape than the model's.
    """
    kind, own = type(model).__name__, model.state_dict()
    if missing := [name for name in own if name not in tensors]:
        raise lacking(source, kind, missing)
    if wrong := [name for name, tensor in own.items() if tensor.shape != tensors[name].shape]:
        name = wrong[0]
        raise WeightsError(
            source,
            f"has {len(wrong)} weights of another shape than {kind}'s, {name} first:"
            f" {tuple(tensors[name].shape)} where {tuple(own[name].shape)} is expected.",
        )
    point_out(source, kind, (name for name in tensors if name not in own))
    # Copies: a parameter that is mapped from a file must not change with it.
    weights = {name: tensors[name].to(dtype or torch.float32, copy=True) for name in own}
    model.load_state_dict(weights, assign=True)
    return complete(source, model).eval()
