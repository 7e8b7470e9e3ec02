"""One set of motion modules for two UNets."""

from __future__ import annotations

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel


def share_motion_modules(weak: UNetMotionModel, strong: UNetMotionModel) -> bool:
    """Put the strong UNet's motion modules, the very same objects, into the weak one, where the two are equal.

    `UNetMotionModel.from_unet2d` and `from_pretrained` leave each UNet with its own copy (237 M parameters at SDXL's
    size). Motion modules that differ in layout, dtype, device or value are left alone: then the motion is part of
    what tells the arms apart.

    Returns:
        Whether the two now share.
    """
    pairs = [(name, module) for name, module in weak.named_modules() if name.endswith("motion_modules")]
    theirs = {name: module for name, module in strong.named_modules() if name.endswith("motion_modules")}
    if [name for name, _ in pairs] != list(theirs):
        return False
    if not all(_equal(module, theirs[name]) for name, module in pairs):
        return False
    for name, _ in pairs:
        weak.set_submodule(name, theirs[name])
    return True


def to_motion_model(
    weak: UNet2DConditionModel, strong: UNetMotionModel, motion_adapter: MotionAdapter
) -> UNetMotionModel:
    """Inflate an image UNet to a video UNet that shares the strong one's motion modules.

    Raises:
        ValueError: if there is no motion adapter, or its layout does not fit the UNet.
    """
    if motion_adapter is None:
        raise ValueError(
            "`motion_adapter` is None, but `weak_unet` is a UNet2DConditionModel, which needs motion modules. Pass the"
            " motion adapter, or a UNetMotionModel as `weak_unet`."
        )
    model = UNetMotionModel.from_unet2d(weak, motion_adapter)
    for name, module in strong.named_modules():
        if name.endswith("motion_modules"):
            model.set_submodule(name, module)
    return model


def _equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    if a is b:
        return True
    ours, theirs = a.state_dict(), b.state_dict()
    if ours.keys() != theirs.keys():
        return False
    for name, x in ours.items():
        y = theirs[name]
        if x.shape != y.shape or x.dtype != y.dtype or x.device != y.device or x.is_meta:
            return False
        if x.data_ptr() != y.data_ptr() and not torch.equal(x, y):
            return False
    return True
