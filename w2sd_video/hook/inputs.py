"""A denoiser's inputs beside the latents: which hold a half for each branch of guidance, and which are shared."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Inputs whose tensors run over the doubled batch, or over a multiple of it: (2 B, …), for every frame (2 B F, …). Names
# of arguments of diffusers' UNets and transformers, or of entries of their dictionaries.
SPLIT = {
    "added_time_ids",
    "additional_t_cond",
    "attention_mask",
    "boxes",  # GLIGEN's, as the next three
    "masks",
    "positive_embeddings",
    "image_masks",
    "inpaint_latents",
    "image_embeddings",
    "phrases_embeddings",
    "block_controlnet_hidden_states",
    "class_labels",
    "clip_img",
    "clip_text",
    "clip_text_pooled",
    "controlnet_block_samples",
    "controlnet_cond",
    "controlnet_single_block_samples",
    "control_latents",
    "control_type",
    "crop_coords",
    "down_block_additional_residuals",
    "down_intrablock_additional_residuals",
    "encoder_attention_mask",
    "encoder_attention_mask_2",
    "encoder_hidden_states",
    "encoder_hidden_states_2",
    "encoder_hidden_states_image",
    "encoder_hidden_states_mask",
    "encoder_hidden_states_t5",
    "fps",
    "guidance",
    "image_embeds",
    "image_latents",
    "image_meta_size",
    "ip_adapter_image_embeds",
    "mid_block_additional_residual",
    "original_size",
    "phrases_masks",
    "pooled_embeds",
    "pooled_projections",
    "resolution",
    "aspect_ratio",
    "style",
    "t",
    "target_size",
    "text_bth",  # ERNIE-Image's, as the next
    "text_lens",
    "text_embedding_mask",
    "text_embedding_mask_t5",
    "text_embeds",
    "text_encoder_layers",
    "time_ids",
    "timestep",
    "timestep_cond",
    "timesteps",
    "video_coords",
}
# Inputs that both branches see whole, whatever their first axis: position tables, sizes, masks of adapters, lists of
# layers.
SHARED = {
    "freqs_cis_img",
    "height",
    "image_rotary_emb",
    "img_ids",
    "img_shapes",
    "ip_adapter_masks",
    "num_frames",
    "padding_mask",
    "position_ids",
    "rope_interpolation_scale",
    "rotary",
    "skip_layers",
    "txt_ids",
    "width",
}

TIMES = ("timestep", "timesteps", "t")  # a denoiser's names for the time

# Inputs whose tensors run over the doubled batch along another axis than the first: (layers, 2 B, …).
LATER = {"encoder_hidden_states_llama3": 1}

# Inputs that are lists with an entry for each row.
LISTED = {"cap_feats"}


def half(key: str, value: Any, second: bool, batch: int) -> Any:
    """The first or second half of an input of a doubled batch. Inputs that both branches share are returned whole.

    Args:
        key: the input's name. In a dictionary, each entry is looked up by its own name.
        value: a tensor, a list or a dictionary of tensors, or anything else, which is shared.
        second: whether to return the second half.
        batch: the rows of the doubled batch, 2 B.

    Raises:
        ValueError: no table names the tensor, and its first axis is 2 B long, so it may or may not hold halves; or a
            table says to split it, and its length does not allow it.
    """
    if key in SHARED:
        return value
    if key in LISTED and isinstance(value, list):
        return value[len(value) // 2 :] if second else value[: len(value) // 2]
    if isinstance(value, Mapping):
        return {k: half(k, v, second, batch) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(half(key, v, second, batch) for v in value)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if key in LATER and value.ndim > LATER[key] and value.shape[LATER[key]] == batch:
        return value.chunk(2, LATER[key])[second]
    length = len(value)
    if key in SPLIT or key in LATER:
        if length % batch == 0 and length:
            return value.chunk(2)[second]
        if length == 1:
            return value
        raise ValueError(
            f"`{key}` is a tensor of shape {tuple(value.shape)}, and the batch has {batch} rows, unconditional and"
            f" conditional: its first axis has to be 1 or a multiple of {batch}."
        )
    if length == batch:
        raise ValueError(
            f"`{key}` is a tensor of shape {tuple(value.shape)}, whose first axis is as long as the batch of"
            f" unconditional and conditional rows: whether it holds a half for each is not known. Accepted: an input"
            " that `w2sd_video.hook.inputs` names in `SPLIT` or `SHARED`; add it to one of them."
        )
    return value


def copied(value: Any) -> Any:
    """A copy of nested dictionaries and lists; what else they hold, such as tensors, is not copied."""
    if type(value) is dict:
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if type(value) is list else value


def override(inputs: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, with `values` replacing those of the same name, also in nested dictionaries."""
    merged = dict(inputs)
    for key, value in values.items():
        merged[key] = override(inputs[key], value) if isinstance(value, Mapping) else value
    return merged


def join(uncond: Any, cond: Any, name: str = "an input") -> Any:
    """Two branches' inputs as one batch. An object that both share stays as it is.

    Args:
        name: the input's name.

    Raises:
        ValueError: one batch cannot hold both: tensors of other sizes, a tensor and none, or two numbers.
    """
    if uncond is cond:
        return cond
    if isinstance(cond, Mapping) and isinstance(uncond, Mapping):
        return {key: _join_named(key, uncond.get(key), cond.get(key)) for key in {**uncond, **cond}}
    if isinstance(cond, (list, tuple)) and isinstance(uncond, (list, tuple)):
        return type(cond)(join(u, c, name) for u, c in zip(uncond, cond, strict=True))
    return _batch(name, uncond, cond, 0)


def _join_named(key: str, uncond: Any, cond: Any) -> Any:
    if key in LISTED and isinstance(cond, list) and isinstance(uncond, list):
        return uncond + cond
    if key in LATER and isinstance(cond, Tensor):
        return _batch(key, uncond, cond, LATER[key])
    return join(uncond, cond, key)


def _batch(name: str, uncond: Any, cond: Any, axis: int) -> Any:
    if isinstance(uncond, Tensor) and isinstance(cond, Tensor) and uncond.shape == cond.shape:
        return torch.cat([uncond, cond], axis)
    if not isinstance(uncond, Tensor) and not isinstance(cond, Tensor) and uncond == cond:
        return cond
    parts = [f"of shape {tuple(each.shape)}" if isinstance(each, Tensor) else repr(each) for each in (uncond, cond)]
    raise ValueError(
        f"`{name}` is {parts[0]} in an arm's unconditional branch and {parts[1]} in its conditional one, which the"
        " pipeline evaluates as one batch. Accepted: tensors of the same size in both, or a guidance of 1 for the arm."
    )


@functools.cache
def parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a forward's arguments, without `self`. The first argument holds the latents."""
    return tuple(inspect.signature(forward).parameters)[1:]
