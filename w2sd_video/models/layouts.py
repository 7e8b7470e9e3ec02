"""Networks from single files, in every layout in which they are published.

Names of the original releases are turned into diffusers'; sizes that a file's own shapes tell are read off these, and
the rest of the configuration is that of the model which the network goes with.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, convert_ldm_vae_checkpoint

from ..errors import WeightsError
from . import checkpoints
from .bases import SDXL
from .checkpoints import explained
from .checks import complete, describe, fill, lacking, motion_channels, point_out
from .sources import Source

Tensors = dict[str, torch.Tensor]

# ControlNets ------------------------------------------------------------------------------------------------------

_FIRST = "controlnet_cond_embedding.conv_in.weight"
_OTHERS = {  # names that only other kinds of network have
    "lora_controlnet": "a Control-LoRA",
    "lllite_": "a ControlNet-LLLite",
    "control_add_embedding.": "a ControlNet Union",
    "task_embedding": "a ControlNet Union",
    "motion_modules.": "a SparseCtrl encoder",
    "ctrl_": "a ControlNet-XS",
    "adapter.body.": "a T2I-Adapter",
}


def controlnet(source: Source, unet: Mapping[str, Any], dtype: torch.dtype | None = None) -> ControlNetModel:
    """A ControlNet in one file, in the original layout or in diffusers'.

    Args:
        unet: the configuration of the UNet that it is for, which tells what the file does not.
        dtype: of the network; None: float32.

    Raises:
        WeightsError: it is damaged, not complete, another kind of network, or made for another UNet.
    """
    tensors = _controlnet_names(checkpoints.read(source))
    check_controlnet_names(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, unet)
    if _FIRST not in tensors:
        left = dict(tensors)
        with explained(source):
            blocks = {"layers_per_block": unet.get("layers_per_block", 2)}
            tensors = convert_controlnet_checkpoint(dict(tensors), blocks)
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        used = {id(tensor) for tensor in tensors.values()}
        point_out(source, "ControlNetModel", (name for name, tensor in left.items() if id(tensor) not in used))
    if _FIRST not in tensors:
        raise lacking(source, "ControlNetModel", [_FIRST])
    with explained(source), init_empty_weights():
        config = _controlnet_config(tensors, unet)
        # No weight says it, and the other programs go by the name, too: `control_v11e_sd15_shuffle.pth`.
        config["global_pool_conditions"] = "shuffle" in Path(source.path or "").name.lower()
        net = ControlNetModel(**config)
    linear = config["use_linear_projection"]
    tensors = {name: _as(tensor, linear) if ".proj_" in name else tensor for name, tensor in tensors.items()}
    return fill(source, net, tensors, dtype)


def check_controlnet_names(source: Source, names: Mapping[str, tuple[int, ...]], unet: Mapping[str, Any]) -> None:
    """Refuse a file of another kind of network, or for a UNet of another text width.

    Raises:
        WeightsError: says what it is.
    """
    for part, kind in _OTHERS.items():
        if any(part in name for name in names):
            raise WeightsError(source, f"is {kind}, which is not supported. Accepted: a ControlNet.")
    if "difference" in names:
        raise WeightsError(source, "is the difference of a ControlNet and a UNet. Accepted: a whole ControlNet.")
    if not any("input_hint_block.0." in name or _FIRST in name for name in names):
        raise WeightsError(
            source, f"is {describe(names)}. Accepted: a ControlNet, in the original layout or diffusers'."
        )
    widths = {shape[-1] for name, shape in names.items() if name.endswith("attn2.to_k.weight") and shape}
    own = unet.get("cross_attention_dim")
    if other := sorted(widths - {own}):
        raise WeightsError(
            source,
            f"is a ControlNet for another UNet: cross-attention width {other[0]} against {own}. Accepted: a"
            " ControlNet for the strong model's base.",
        )


def _controlnet_names(tensors: Tensors) -> Tensors:
    """Without what stands before the names; of a file that holds a UNet too, the ControlNet alone."""
    return _under(tensors, r"input_hint_block\.0\.weight|controlnet_cond_embedding\.conv_in\.weight")


def _under(tensors: Tensors, first: str) -> Tensors:
    """The tensors of the network that has a weight of that name, without what stands before their names."""
    prefixes = {match[1] for name in tensors if (match := re.fullmatch(rf"(|.*?\.)(?:{first})", name))}
    prefix = min(prefixes, key=len, default="")
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _controlnet_config(tensors: Tensors, unet: Mapping[str, Any]) -> dict[str, Any]:
    takes = inspect.signature(ControlNetModel.__init__).parameters
    config = {name: value for name, value in unet.items() if name in takes}
    blocks = range(1 + max((int(m[1]) for n in tensors if (m := re.match(r"down_blocks\.(\d+)\.", n))), default=0))
    depth = [
        1
        + max(
            (int(m[1]) for n in tensors if (m := re.match(rf"down_blocks\.{i}\..*transformer_blocks\.(\d+)\.", n))),
            default=-1,
        )
        for i in blocks
    ]
    middle = [n for n in tensors if n.startswith("mid_block.attentions.")]
    embedding = [tensors[_FIRST]] if _FIRST in tensors else []
    embedding += [tensors[name] for name in _numbered(tensors, r"controlnet_cond_embedding\.blocks\.(\d+)\.weight")]
    config |= {
        "block_out_channels": tuple(_width(tensors, f"down_blocks.{i}.resnets.0.conv1.weight") for i in blocks),
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth[i] else "DownBlock2D" for i in blocks),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "conditioning_embedding_out_channels": tuple(t.shape[0] for t in (embedding[0], *embedding[2::2])),
        "conditioning_channels": embedding[0].shape[1] if embedding[0].ndim > 1 else 3,
        "use_linear_projection": not any(n.endswith("proj_in.weight") and t.ndim == 4 for n, t in tensors.items()),
    }
    if middle or any(depth):
        last = 1 + max((int(m[1]) for n in middle if (m := re.search(r"transformer_blocks\.(\d+)\.", n))), default=0)
        config["transformer_layers_per_block"] = tuple([*(max(1, d) for d in depth[:-1]), last])
    else:
        config["use_linear_projection"] = bool(unet.get("use_linear_projection", False))
    return config


def _width(tensors: Tensors, name: str) -> int:
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0


def _numbered(tensors: Tensors, pattern: str) -> list[str]:
    return sorted((n for n in tensors if re.fullmatch(pattern, n)), key=lambda n: int(re.fullmatch(pattern, n)[1]))  # type: ignore[index]


def _as(tensor: torch.Tensor, linear: bool) -> torch.Tensor:
    """A projection's weight (O, I) or (O, I, 1, 1), as the network has it."""
    return tensor[:, :, 0, 0] if linear and tensor.ndim == 4 else tensor


# Autoencoders -----------------------------------------------------------------------------------------------------

_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # diffusers before 0.17


def autoencoder(source: Source, config: Mapping[str, Any], dtype: torch.dtype | None = None) -> AutoencoderKL:
    """An autoencoder in one file, in the original layout or in diffusers'; also that of a file of a whole model.

    Args:
        config: of the autoencoder that it takes the place of, which tells the scale of its latents.
        dtype: of the network; None: float32.

    Raises:
        WeightsError: it is damaged, not complete, or another kind of network.
    """
    tensors = checkpoints.read(source)
    tensors = _under(tensors, r"decoder\.conv_in\.weight")
    first = tensors.get("encoder.conv_in.weight"), tensors.get("decoder.conv_in.weight")
    if first[0] is None or first[1] is None or first[1].ndim != 4:
        names = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        kind = describe(names).replace("an autoencoder (give it as `vae`)", "no whole autoencoder")
        raise WeightsError(
            source, f"is {kind}. Accepted: an autoencoder (AutoencoderKL), in the original layout or diffusers'."
        )
    # Training leaves its loss and averages beside the weights.
    tensors = {n: t for n, t in tensors.items() if not n.startswith(("loss.", "model_ema."))}
    if not any(name.startswith("encoder.down_blocks.") for name in tensors):
        blocks = 1 + max((int(m[1]) for n in tensors if (m := re.match(r"encoder\.down\.(\d+)\.", n))), default=0)
        types = {"down_block_types": range(blocks), "up_block_types": range(blocks)}
        left = dict(tensors)
        with explained(source):
            tensors = convert_ldm_vae_checkpoint(dict(tensors), types)
        count = len(left) - len(tensors)
        if count > 0:
            known = re.compile(r"(encoder|decoder)\.(conv_in|conv_out|norm_out|mid|down|up)\.|(post_)?quant_conv\.")
            point_out(source, "AutoencoderKL", [n for n in left if not known.match(n)] or list(left)[:count])
    tensors = {_vae_name(name): tensor for name, tensor in tensors.items()}
    attention = re.compile(r".*mid_block\.attentions\.0\.to_(q|k|v|out\.0)\.weight")
    tensors = {n: _as(t, True) if attention.fullmatch(n) else t for n, t in tensors.items()}
    with explained(source), init_empty_weights():
        vae = AutoencoderKL.from_config({**config, **_vae_config(tensors)})
    return fill(source, vae, tensors, dtype)


def _vae_name(name: str) -> str:
    match = re.fullmatch(r"(.*mid_block\.attentions\.0\.)(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{match[1]}{_ATTENTION[match[2]]}.{match[3]}" if match else name


def _vae_config(tensors: Tensors) -> dict[str, Any]:
    blocks = 1 + max((int(m[1]) for n in tensors if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", n))), default=0)
    layers = 1 + max(
        (int(m[1]) for n in tensors if (m := re.match(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", n))), default=0
    )
    return {
        "block_out_channels": [
            _width(tensors, f"encoder.down_blocks.{i}.resnets.0.conv1.weight") for i in range(blocks)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "layers_per_block": layers,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


ROUNDING = 1e-2  # of numbers up to 1 to bfloat16, and some more


# Motion modules ---------------------------------------------------------------------------------------------------


def motion_module(source: Source, config: Path = SDXL, torch_dtype: torch.dtype | None = None) -> MotionAdapter:
    """A motion module in one file, in AnimateDiff's original layout or in diffusers'.

    The number of frames and whether there is a middle block are read from the file; the rest of the
    configuration is `config`'s. Positions are sinusoids, which are computed, unless the file has others.

    Raises:
        WeightsError: it is damaged, not complete, or another kind of network; or its two layers of attention have
            different positions, which diffusers' module cannot hold.
    """
    every = checkpoints.read(source)
    tensors, left = {}, []
    for name, tensor in every.items():
        if match := re.search(r"(down_blocks|mid_block|up_blocks)\..*motion_modules\.", name):
            tensors[name[match.start() :]] = tensor
        else:
            left.append(name)
    motion_channels(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    point_out(source, "MotionAdapter", left)
    frames = {
        tensor.shape[1]
        for name, tensor in tensors.items()
        if name.endswith(("pos_encoder.pe", "pos_embed.pe")) and tensor.ndim == 3
    }
    facts: dict[str, Any] = {"use_motion_mid_block": any(name.startswith("mid_block.") for name in tensors)}
    if len(frames) == 1:
        facts["motion_max_seq_length"] = frames.pop()
    with explained(source):
        adapter = MotionAdapter.from_single_file(
            tensors,
            config=str(config),
            subfolder="motion_adapter",
            torch_dtype=torch_dtype,
            local_files_only=True,
            **facts,
        )
    _keep_positions(source, adapter, tensors)
    return complete(source, adapter)


def _keep_positions(source: Source, adapter: MotionAdapter, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts the positions of a file in AnimateDiff's layout into its module, where they are more than rounding apart
    from those that the module computes: diffusers leaves them out."""
    for name, computed in adapter.named_buffers():
        before, of_positions, _ = name.partition("pos_embed.pe")
        before = before.replace("transformer_blocks", "temporal_transformer.transformer_blocks")
        own = [tensors.get(f"{before}attention_blocks.{n}.pos_encoder.pe") for n in (0, 1)]
        stored = [each.to(computed.dtype) for each in own if each is not None and each.shape == computed.shape]
        if not of_positions or not stored or max(_apart(each, computed) for each in stored) < ROUNDING:
            continue
        if _apart(stored[0], stored[-1]) >= ROUNDING:
            raise WeightsError(source, f"has different positions in the two layers of attention of {before[:-1]}.")
        computed.copy_(stored[0])


def _apart(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).abs().max())
