"""Finds and checks pairs of models from hub ids, diffusers folders and single files, before loading anything.

A single file is in the layout of the original SDXL or Stable Diffusion release, as most fine-tunes are shared; a motion
module is in AnimateDiff's. Their configurations come from this package (`bases`).

Files are opened by `checkpoints`, which runs no code; code in a model's folder or on the hub is never run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel, MotionAdapter

from ..errors import WeightsError, WeightsNotFound
from . import checkpoints, layouts
from .arm import arm
from .bases import BASES, Base
from .checks import UNetArm, check_arms, check_controlnet, check_motion, motion_channels
from .networks import configuration_of
from .options import HUB_OPTIONS, MODEL_OPTIONS, Options, dtype_among
from .pair import Pair
from .sources import Source, download_command, find
from .weight_files import usual_variant, weight_files

Reference = str | PathLike[str]


def plan(
    strong: Reference,
    weak: Reference | None = None,
    motion_adapter: Reference | MotionAdapter | None = None,
    *,
    weak_motion_adapter: Reference | MotionAdapter | None = None,
    base: Base = BASES["SDXL"],
    video: bool = True,
    controlnet: Any = None,
    config: Reference | None = None,
    weak_text_encoders: bool = False,
    revision: str | None = None,
    accepted: Collection[str] = (),
    **kwargs: Any,
) -> Pair:
    """Finds both arms and their other components, fetches those on the hub, and checks that they fit together.

    No weights are loaded. The arguments are those of `pipelines.reflection.Reflection.from_pretrained`;
    `accepted` names the components that may be among `kwargs`.

    Raises:
        WeightsNotFound, WeightsError: see there.
    """
    if weak is None and weak_text_encoders:
        raise ValueError("weak_text_encoders=True needs `weak`, which is None.")
    options = Options(
        hub={name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs},
        model={name: kwargs.pop(name) for name in MODEL_OPTIONS if name in kwargs},
        torch_dtype=dtype_among(kwargs),
        weak_text_encoders=weak_text_encoders,
        base=base,
        video=video,
    )
    if unknown := sorted(kwargs.keys() - set(accepted)):
        options_ = ("config", "weak_text_encoders", "dtype", "torch_dtype", "revision", *HUB_OPTIONS, *MODEL_OPTIONS)
        raise TypeError(
            f"from_pretrained() got an unexpected argument {unknown[0]!r}. Accepted, beside `strong`, `weak`"
            f"{' and `motion_adapter`' * video}: {', '.join((*options_, *sorted(accepted)))}."
        )
    folder = base.config if config is None else Path(config)
    if not (folder / "unet" / "config.json").is_file():
        raise WeightsNotFound(
            f"config={str(config)!r}",
            "has no unet/config.json. Accepted: a folder of configurations in"
            f" diffusers' layout, which single files are loaded with, or None for {base.name}'s.",
        )

    pinned = replace(options, hub={**options.hub, "revision": revision}) if revision else options
    strong_source = find("strong", strong, pinned.hub)
    weak_source = None if weak is None else find("weak", weak, options.hub)
    motion = _motion("motion_adapter", motion_adapter, options)
    weak_motion = _motion("weak_motion_adapter", weak_motion_adapter, options)

    strong_arm = arm(strong_source, folder, kwargs, pinned)
    weak_arm = None if weak_source is None else arm(weak_source, folder, {}, options)
    if not strong_source.is_file and "vae" not in strong_arm.components and "vae" not in kwargs:
        accepted = "a model with one, or that of another by `vae` (--vae), a hub id or a folder"
        raise WeightsError(strong_source, f"has no autoencoder. Accepted: {accepted}")
    if weak_arm is not None:
        check_arms(strong_arm, weak_arm)
    if video and motion is None and "motion_adapter" not in strong_arm.components:
        raise WeightsError(
            Source("motion_adapter", "", None),
            f"None, but {strong_arm.source} is an image model. Accepted: a hub id, a folder,"
            f" a file in AnimateDiff's original layout, or a MotionAdapter. One made for {base.name}:\n"
            f"  {download_command('motion_adapter', base.motion_weights, options.variant)}",
        )
    for module in (motion, weak_motion):
        if module is not None:
            _check_motion(module, strong_arm, options)
    controlnets = _controlnets(controlnet, strong_arm, options)
    return Pair(strong_arm, weak_arm, motion, weak_motion, controlnets, folder, options, kwargs)


def _motion(
    argument: str, reference: Reference | MotionAdapter | None, options: Options
) -> Source | MotionAdapter | None:
    return (
        reference
        if reference is None or isinstance(reference, MotionAdapter)
        else find(argument, reference, options.hub)
    )


def _check_motion(motion: Source | MotionAdapter, strong: UNetArm, options: Options) -> None:
    layers = None
    if isinstance(motion, MotionAdapter):
        channels, layers = tuple(motion.config.block_out_channels), motion.config.motion_layers_per_block
    elif motion.is_file:
        channels = motion_channels(motion, checkpoints.shapes(motion))
    else:
        config = configuration_of(MotionAdapter, motion, options)
        channels, layers = tuple(config.get("block_out_channels", ())), config.get("motion_layers_per_block")
        variant = usual_variant(motion.path, options.variant, options.use_safetensors) if motion.path else None
        if motion.path and not weight_files(motion.path, variant, options.use_safetensors):
            raise WeightsNotFound(motion, f"holds no weights (variant={options.variant!r}).")
    check_motion(motion, channels, strong, layers)


def _controlnets(controlnet: Any, strong: UNetArm, options: Options) -> list[Source | ControlNetModel]:
    """The ControlNets of an argument: None, one, or several; each a network, a path or a hub id."""
    listed = controlnet if isinstance(controlnet, (list, tuple)) else [] if controlnet is None else [controlnet]
    controlnets = [
        each if isinstance(each, ControlNetModel) else find("controlnet", each, options.hub) for each in listed
    ]
    for each in controlnets:
        _check_controlnet(each, strong, options)
    return controlnets


def _check_controlnet(controlnet: Source | ControlNetModel, strong: UNetArm, options: Options) -> None:
    if not isinstance(controlnet, Source):
        check_controlnet(controlnet, controlnet.config, strong)
    elif controlnet.is_file:
        layouts.check_controlnet_names(controlnet, checkpoints.shapes(controlnet), strong.unet)
    else:
        check_controlnet(controlnet, configuration_of(ControlNetModel, controlnet, options), strong)
