"""Reads what one arm of a pair with UNets is from its folder or file; fetches a repository from the hub."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers

from ..errors import WeightsError, WeightsNotFound
from . import checkpoints
from .checkpoints import explained
from .checks import UNetArm, arm_of_file, check_latents_alone, check_scheduler_config
from .networks import hint
from .options import Options
from .sources import SUFFIXES, Source
from .weight_files import usual_variant, weight_files


def arm(source: Source, config: Path, overridden: Mapping[str, Any], options: Options) -> UNetArm:
    """Describes one arm of the pair; a hub repository is fetched."""
    base = options.base
    if source.is_file:
        assert source.path is not None
        return arm_of_file(source, source.path, config, base)
    if source.path is None:
        skipped = {name for name in overridden if name != "scheduler"}
        if source.argument == "weak":
            skipped |= {"vae", "image_encoder"}
            skipped |= set() if options.weak_text_encoders else set(base.text_encoders)
        with explained(source, options.variant):
            folder = _fetched(source, dict.fromkeys(skipped), options)
        source = replace(source, path=folder)
    assert source.path is not None
    if not (source.path / "model_index.json").is_file():
        raise WeightsNotFound(
            source,
            f"has no model_index.json. Accepted: a folder that a diffusers {base.name} or AnimateDiff"
            " pipeline was saved to, a hub id, or a single file in the original layout"
            f" ({', '.join(SUFFIXES)}).",
        )
    index = checkpoints.configuration(source, source.path / "model_index.json")
    name = index.get("_class_name")
    video = name in base.animatediff
    if not isinstance(name, str) or not ((video and options.video) or re.fullmatch(base.family, name)):
        accepted = (base.pipeline, *(base.animatediff if options.video else ()))
        named = name if isinstance(name, str) else "pipeline of code of its own, which is never run"
        raise WeightsError(source, f"is a {named}. Accepted: {' or '.join(accepted)}.")
    components = components_of(source, index, overridden)
    unet = checkpoints.configuration(source, _configuration_file(source, "unet", "config.json"))
    scheduler = checkpoints.configuration(source, _configuration_file(source, "scheduler", "scheduler_config.json"))
    check_scheduler_config(source, scheduler, "scheduler" in overridden, options.video)
    check_latents_alone(source, unet, f"a {base.name} model with a UNet")
    needed = {"unet", "vae", *base.text_encoders} if source.argument == "strong" else {"unet"}
    for part in sorted(needed & set(components) - set(overridden)):
        variant = usual_variant(source.path / part, options.variant, options.use_safetensors)
        if not weight_files(source.path / part, variant, options.use_safetensors):
            kind = f"{options.variant!r} weights (`variant`)" if options.variant else "weights"
            raise WeightsNotFound(source, f"has no {kind} in {part}/.{hint(source, options.variant)}")
    kind = scheduler.get("prediction_type", "epsilon")
    return UNetArm(source, name, unet, kind, video, components, scheduler)


def _configuration_file(source: Source, part: str, name: str) -> Path:
    assert source.path is not None
    path = source.path / part / name
    if not path.is_file():
        raise WeightsNotFound(source, f"has no {part}/{name}.{hint(source, None)}")
    return path


def _fetched(source: Source, skipped: Mapping[str, None], options: Options) -> Path:
    """The folder of a fetched hub repository. If it holds no plain weights, those in half precision are fetched."""

    def fetch(variant: str | None) -> Path:
        kinds = {**options.download, "variant": variant}
        return Path(options.base.image.download(source.value, **skipped, **options.hub, **kinds))

    if options.variant is not None:
        return fetch(options.variant)
    try:
        folder = fetch(None)
        if weight_files(folder / "unet", usual_variant(folder / "unet")):
            return folder
        return fetch("fp16")
    except (OSError, ValueError):
        try:
            return fetch("fp16")
        except (OSError, ValueError):
            return fetch(None)  # the error for the plain weights is the useful one


def components_of(source: Source, index: Mapping[str, Any], overridden: Collection[str]) -> dict[str, tuple[str, str]]:
    """The components in a pipeline's index: library and class by name.

    Raises:
        WeightsError: the index names code outside diffusers, transformers and this package, which is never imported.
    """
    components = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, (list, tuple)) or len(entry) != 2 or entry[0] is None:
            continue
        library, kind = entry
        ours = isinstance(library, str) and library in ("w2sd_video.dit_moe", "w2sd_video.models.dit_moe")
        pipeline = isinstance(library, str) and re.fullmatch(r"\w+", library) and hasattr(diffusers.pipelines, library)
        if name not in overridden and not (library in ("diffusers", "transformers") or ours or pipeline):
            raise WeightsError(
                source,
                f"has a {name} of {str(library)[:100]!r}, whose code is never run. Accepted: components of"
                " diffusers and transformers.",
            )
        config = Path(source.path or "") / name / "config.json"
        if (
            str(kind).startswith("Auto")
            and config.is_file()
            and "auto_map" in checkpoints.configuration(source, config)
        ):
            raise WeightsError(source, f"has a {name} with code of its own (auto_map), which is never run.")
        components[name] = (str(library), str(kind))
    return components
