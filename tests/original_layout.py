"""Weights under the names of their original releases: diffusers' names, turned back.

Written from the layouts themselves, not from diffusers' converters, which the tests hold against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]


def sdxl(unet, vae, text_encoder, text_encoder_2) -> Tensors:
    """One SDXL checkpoint, with the two entries of the real file that no diffusers model has."""
    return {
        **unet_names(unet.state_dict(), unet.config.layers_per_block),
        **vae_names(vae.state_dict(), len(vae.config.block_out_channels)),
        **clip_names(text_encoder.state_dict()),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        **open_clip_names(text_encoder_2.state_dict()),
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6),
    }


def sd15(unet, vae, text_encoder) -> Tensors:
    """One checkpoint of Stable Diffusion 1, with the positions that the real file has and no diffusers model."""
    names = clip_names(text_encoder.state_dict())
    return {
        **unet_names(unet.state_dict(), unet.config.layers_per_block),
        **vae_names(vae.state_dict(), len(vae.config.block_out_channels)),
        **{name.replace("conditioner.embedders.0", "cond_stage_model"): tensor for name, tensor in names.items()},
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }


def unet_names(tensors: Mapping[str, torch.Tensor], layers: int) -> Tensors:
    has_attention = {int(m[1]) for n in tensors if (m := re.match(r"up_blocks\.(\d+)\.attentions", n))}

    def down(match: re.Match) -> str:
        block, part, layer = int(match[1]), match[2], int(match[3])
        if part == "downsamplers":
            return f"input_blocks.{1 + block * (layers + 1) + layers}.0.op"
        return f"input_blocks.{1 + block * (layers + 1) + layer}.{int(part == 'attentions')}"

    def up(match: re.Match) -> str:
        block, part, layer = int(match[1]), match[2], int(match[3])
        if part == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.{1 + (block in has_attention)}.conv"
        return f"output_blocks.{block * (layers + 1) + layer}.{int(part == 'attentions')}"

    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    whole = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if ".resnets." in name:
            head, part, kind = re.fullmatch(r"(.*resnets\.\d+)\.(\w+)\.(\w+)", name).groups()
            name = f"{head}.{resnet[part]}.{kind}"
        name = re.sub(r"^down_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv)?(?=\.)", down, name)
        name = re.sub(r"^up_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv)?(?=\.)", up, name)
        for old, new in whole.items():
            if name.startswith(old + "."):
                name = new + name.removeprefix(old)
        renamed[f"model.diffusion_model.{name}"] = tensor
    return renamed


def vae_names(tensors: Mapping[str, torch.Tensor], blocks: int) -> Tensors:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in name:
            for new, old in attention.items():
                name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
            if name.endswith("weight") and "norm" not in name:
                tensor = tensor[:, :, None, None]  # attention was a 1x1 convolution
        renamed[f"first_stage_model.{name}"] = tensor
    return renamed


def clip_names(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    # transformers 5.6 took `text_model.` out of CLIPTextModel's names.
    prefix = "conditioner.embedders.0.transformer.text_model."
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def open_clip_names(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    prefix = "conditioner.embedders.1.model."
    whole = {
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    layer_names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    renamed = {prefix + "text_projection": tensors["text_projection.weight"].T.contiguous()}
    for name, tensor in tensors.items():
        if name in whole:
            renamed[prefix + whole[name]] = tensor
        if match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name):
            layer, part, kind = match.groups()
            block = f"{prefix}transformer.resblocks.{layer}."
            if part in layer_names:
                renamed[f"{block}{layer_names[part]}.{kind}"] = tensor
            elif part == "self_attn.q_proj":
                parts = [tensors[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
    return renamed


def motion_names(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Tensors:
    """AnimateDiff's motion module; each of the two attentions carries the table of positions."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", name)
        name = re.sub(r"\.norm([12])\.", lambda m: f".norms.{int(m[1]) - 1}.", name)
        name = re.sub(r"\.attn([12])\.", lambda m: f".attention_blocks.{int(m[1]) - 1}.", name)
        name = name.replace(".norm3.", ".ff_norm.")
        if name.endswith("pos_embed.pe"):
            for attention in (0, 1):
                where = name.replace("pos_embed.pe", f"attention_blocks.{attention}.pos_encoder.pe")
                renamed[prefix + where] = tensor.clone()
        else:
            renamed[prefix + name] = tensor
    return renamed
