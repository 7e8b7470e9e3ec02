"""Builds a video UNet on the tensors of an image UNet and a motion adapter; shares parameters between two models."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel


def name_blocks(unet: UNetMotionModel) -> UNetMotionModel:
    """The video UNet, after naming the blocks that `compile_repeated_blocks` compiles: diffusers 0.42 names none."""
    unet._repeated_blocks = unet._repeated_blocks or ["BasicTransformerBlock"]
    return unet


def motion_unet(
    unet: UNet2DConditionModel | UNetMotionModel, motion_adapter: MotionAdapter, like: UNetMotionModel | None = None
) -> UNetMotionModel:
    """The video UNet of an image UNet and a motion adapter. It holds their own parameters: nothing is copied.

    It differs from `UNetMotionModel.from_unet2d` of diffusers 0.42.1 in two ways. That function builds a second,
    randomly initialised network in float32 (11 GB at SDXL's size) and copies the weights into it. And it omits
    `add_embedding`, SDXL's conditioning on size and pooled text, which stays random. The adapter is moved to the UNet's
    device and dtype.

    Args:
        unet: an image UNet without LoRA or IP-Adapter, which are loaded into the video UNet; or a video UNet, whose
            motion modules are replaced.
        motion_adapter: the layout of the motion modules, and their weights.
        like: a video UNet to take the motion modules' weights from instead.

    Raises:
        ValueError: `motion_adapter` is missing or does not fit the UNet.
    """
    if motion_adapter is None:
        raise ValueError(
            "`motion_adapter` is None, but the UNet is a UNet2DConditionModel, which has no motion modules."
            " Pass the motion adapter, or a UNetMotionModel."
        )
    ours, theirs = tuple(unet.config.block_out_channels), tuple(motion_adapter.config.block_out_channels)
    if ours != theirs or motion_adapter.config.conv_in_channels:
        raise ValueError(
            f"`motion_adapter` is made for UNet blocks of {theirs} channels"
            f" (conv_in_channels={motion_adapter.config.conv_in_channels}); the UNet has {ours} and takes a"
            " motion adapter of the same channels without a convolution of its own."
        )
    if (motion_adapter.device, motion_adapter.dtype) != (unet.device, unet.dtype):
        motion_adapter.to(device=unet.device, dtype=unet.dtype)
    with init_empty_weights():
        model = UNetMotionModel.from_unet2d(unet, motion_adapter, load_weights=False)

    motion = like or motion_adapter
    tensors = {name: p for name, p in unet.named_parameters() if ".motion_modules." not in name}
    tensors.update((n, p) for n, p in motion.named_parameters() if ".motion_modules." in n)
    if wrong := tensors.keys() ^ dict(model.named_parameters()).keys():
        raise ValueError(
            f"the UNet and `motion_adapter` do not make a UNetMotionModel: {len(wrong)} parameters are"
            f" missing or left over, the first is {min(wrong)}. Load LoRA and IP-Adapter into the video"
            " UNet, not before."
        )
    # Unlike parameters, buffers are replaced by `.to()` and written to by offloading: each model has its own.
    tensors.update((n, b.clone()) for n, b in motion.named_buffers() if ".motion_modules." in n)
    for name, tensor in tensors.items():
        _put(model, name, tensor)
    return name_blocks(model.train(unet.training))


def share_parameters(model: torch.nn.Module, other: torch.nn.Module) -> int:
    """Makes `model` hold `other`'s parameter wherever both have one of the same name, dtype, device and value.

    The two models share the `Parameter` object, not the module around it. So `.to()` moves and casts it once for both
    (`Module.to` replaces a parameter's data in place), while group offload, LoRA and hooks attach to modules and stay
    separate. In-place changes of weights affect both models: call `unshare_parameters` before. Group offload to disk
    would save one model's tensors after the other has emptied them: call it there too. Layerwise casting stores shared
    parameters in its dtype for both models, and only a model that has its hooks casts them back: enable it in both, or
    call `unshare_parameters` before.

    Returns:
        How many bytes are stored once instead of twice.
    """
    theirs = dict(other.named_parameters())
    saved = 0
    for name, parameter in list(model.named_parameters()):
        twin = theirs.get(name)
        if twin is not None and twin is not parameter and _equal(parameter, twin):
            _put(model, name, twin)
            saved += twin.numel() * twin.element_size()
    return saved


def unshare_parameters(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Gives `model` its own copy of every parameter that it shares with `other`."""
    theirs = {id(parameter) for parameter in other.parameters()}
    for name, parameter in list(model.named_parameters()):
        if id(parameter) in theirs:
            _put(model, name, torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad))


def _put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.is_meta:
        return False
    # The first numbers tell most fine-tunes apart, without reading the rest from disk.
    return torch.equal(a.reshape(-1)[:64], b.reshape(-1)[:64]) and torch.equal(a, b)
