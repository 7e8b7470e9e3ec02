"""DINO (Caron et al. 2021, arXiv:2104.14294): its vision transformers, in transformers' class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTModel

from ..weights import tensors
from .first_token import read_first_token

# The published names, and those of the conversion on the hub.
_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_OF_BLOCKS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def load(path: Path) -> ViTModel:
    """A DINO ViT from a folder in transformers' layout, or from a published file such as `dino_vitbase16_pretrain.pth`.

    Raises:
        ValueError: the file does not hold DINO's weights.
    """
    # The converted configuration has 1e-12, but the published network 1e-6.
    options = {"layer_norm_eps": 1e-6, "add_pooling_layer": False, "dtype": torch.float32}
    if path.is_dir():
        network = ViTModel.from_pretrained(path, **options)
    else:
        try:
            renamed = _transformers_names(tensors(path))
            width = renamed["embeddings.cls_token"].shape[-1]
            sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
            sizes["num_hidden_layers"] = sum(name.endswith("layernorm_before.weight") for name in renamed)
            config = ViTConfig(layer_norm_eps=options.pop("layer_norm_eps"), **sizes)
            network = ViTModel.from_pretrained(None, config=config, state_dict=renamed, **options)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{path} does not hold the weights of a ViT of DINO: {error}") from None
    read_first_token(network, network.config)
    learnt = network.embeddings.position_embeddings
    network.embeddings.interpolate_pos_encoding = partial(positions, learnt, network.config.patch_size)
    return network.eval().requires_grad_(False)


def positions(learnt: torch.Tensor, patch: int, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """DINO's position embeddings (1, tokens, channels) for frames of another size than in training.

    DINO interpolates by a scale factor with 0.1 added, which shifts the sampled positions; transformers interpolates to
    a size instead.
    """
    side = round((learnt.shape[1] - 1) ** 0.5)
    if (height, width) == (side * patch, side * patch):
        return learnt
    grid = learnt[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = tuple((length // patch + 0.1) / side for length in (height, width))
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([learnt[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def _transformers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published state dict with the names of its conversion on the hub."""
    renamed = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if module.startswith("blocks."):
            _, number, part = module.split(".", 2)
            layer = f"encoder.layer.{number}"
            if part == "attn.qkv":
                for name, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    renamed[f"{layer}.attention.attention.{name}.{kind}"] = piece
            else:
                renamed[f"{layer}.{_OF_BLOCKS[part]}.{kind}"] = value
        else:
            renamed[f"{_NAMES[module]}.{kind}" if module else _NAMES[kind]] = value
    return renamed
