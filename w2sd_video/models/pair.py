"""A pair of arms that was found and checked, and the loading of its networks."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ControlNetModel, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel

from ..errors import WeightsError
from ..provenance import files_of, note_files, remember_files
from ..schedulers import check_scheduler
from . import checkpoints, layouts
from .bases import clip_tokenizer
from .checkpoints import explained
from .checks import UNET, UNetArm, check_controlnet, complete, point_out
from .motion import motion_unet, share_parameters
from .networks import autoencoder, component, networks, single
from .options import DTYPE, Options
from .sources import Source


@dataclass
class Pair:
    """Both arms and the motion modules, checked against each other but not loaded. `loading.plan` creates it."""

    strong: UNetArm
    weak: UNetArm | None
    motion: Source | MotionAdapter | None
    weak_motion: Source | MotionAdapter | None
    controlnets: list[Source | ControlNetModel]
    config: Path
    options: Options
    overrides: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)  # files of components that are loaded here; see `provenance`

    def location(self) -> str:
        return str(self.strong.source.path)

    def explained(self) -> AbstractContextManager[None]:
        """Errors inside name the strong arm."""
        return explained(self.strong.source, self.options.variant)

    def load_options(self) -> dict[str, Any]:
        """Arguments of the pipeline's own loader, beside the components."""
        common: dict[str, Any] = {DTYPE: self.options.torch_dtype}
        if self.strong.source.is_file:
            return {**common, "config": str(self.config), "local_files_only": True}
        return {**common, **self.options.model, "local_files_only": True, "trust_remote_code": False}

    def components(self) -> dict[str, Any]:
        """Loads all components except those that the strong arm's own loader loads."""
        parts = dict(self.overrides)
        base = self.options.base
        if isinstance(vae := parts.get("vae"), (str, PathLike)):
            parts["vae"] = autoencoder(vae, self.options.torch_dtype, base, self._vae_config())
        if (adapter := self._motion_adapter(self.motion)) is not None:
            parts["motion_adapter"] = adapter
        if self.controlnets:
            loaded = [self._controlnet(each) for each in self.controlnets]
            parts["controlnet"] = loaded if len(loaded) > 1 else loaded[0]
        if not self.strong.is_animatediff:
            parts.setdefault("scheduler", self.scheduler)
        if self.strong.source.is_file:
            for name in base.tokenizers if self.config == base.config else ():
                if name not in parts:
                    parts[name] = clip_tokenizer(name)
        else:
            parts = {**self._networks(parts), **parts}
        if self.weak is not None:
            parts["weak_unet"] = self._weak_unet()
            # None, since a pair saved in `strong`'s folder would bring those of its own weak model.
            parts.update({f"weak_{name}": None for name in base.text_encoders})
            if self.options.weak_text_encoders:
                parts.update(self._weak_text_encoders())
        self.files = {name: stamps for name, part in parts.items() if (stamps := files_of(part))}
        return parts

    def _networks(self, besides: Collection[str]) -> dict[str, Any]:
        """The networks in the strong arm's folder, without `besides` and without a weak model that is replaced."""
        skipped = {*besides, *([] if self.options.video else ["motion_adapter"])}
        if self.weak is not None:
            skipped |= {name for name in self.strong.components if name.startswith("weak_")}
        return networks(self.strong.source, self.strong.components, self.options, skipped)

    def _vae_config(self) -> dict[str, Any]:
        """The configuration of the strong model's own autoencoder."""
        source = self.strong.source
        own = Path(source.path or "") / "vae" / "config.json"
        if own.is_file():
            return checkpoints.configuration(source, own)
        return checkpoints.configuration(source, self.config / "vae" / "config.json")

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler. For videos, AnimateDiff's as diffusers documents it, with the strong model's prediction type.
        For images, the strong model's own if a reflection can read its steps, else DDIM with its settings."""
        config = self.strong.scheduler
        if self.options.video:
            documented = DDIMScheduler.load_config(self.options.base.config, subfolder="scheduler")
            zero = bool(config.get("rescale_betas_zero_snr", False))
            return DDIMScheduler.from_config(
                documented, prediction_type=self.strong.prediction_type, rescale_betas_zero_snr=zero
            )
        kind = getattr(diffusers, str(config.get("_class_name", "DDIMScheduler")), None)
        if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
            raise WeightsError(
                self.strong.source, f"has a scheduler {config['_class_name']!r}, which diffusers does not have."
            )
        with self.explained():
            own: Any = kind.from_config(config)  # type: ignore[attr-defined]
            try:
                check_scheduler(own)
            except ValueError:
                own = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
        return own

    def _controlnet(self, reference: Source | ControlNetModel) -> ControlNetModel:
        if not isinstance(reference, Source):
            return reference
        if reference.is_file:
            net = layouts.controlnet(reference, self.strong.unet, self.options.torch_dtype)
            check_controlnet(reference, net.config, self.strong)
            remember_files(net, [reference.path] if reference.path else [])
            return net
        return single(ControlNetModel, reference, self.options)

    def _motion_adapter(self, motion: Source | MotionAdapter | None) -> MotionAdapter | None:
        if not isinstance(motion, Source):
            return motion
        if motion.is_file:
            adapter = layouts.motion_module(motion, self.config, self.options.torch_dtype)
            remember_files(adapter, [motion.path] if motion.path else [])
            return adapter
        return single(MotionAdapter, motion, self.options)

    def _weak_unet(self) -> UNet2DConditionModel | UNetMotionModel:
        assert self.weak is not None
        source, dtype = self.weak.source, self.options.torch_dtype
        assert source.path is not None
        if source.is_file:
            with explained(source, self.options.variant):
                unet = UNet2DConditionModel.from_single_file(
                    str(source.path),
                    config=str(self.config),
                    subfolder="unet",
                    torch_dtype=dtype,
                    local_files_only=True,
                )
            left_out(source, unet)
            remember_files(unet, [source.path])
            return complete(source, unet)
        kind = UNetMotionModel if self.weak.is_animatediff else UNet2DConditionModel
        return component(kind, source, source.path / "unet", self.options)

    def _weak_text_encoders(self) -> dict[str, Any]:
        assert self.weak is not None
        source = self.weak.source
        assert source.path is not None
        base = self.options.base
        if not source.is_file:
            kinds = {name: getattr(transformers, self.weak.components[name][1]) for name in base.text_encoders}
            return {
                f"weak_{name}": component(kind, source, source.path / name, self.options)
                for name, kind in kinds.items()
            }
        without = dict.fromkeys(("unet", "vae", *base.tokenizers))
        with explained(source, self.options.variant):
            parts = base.image.from_single_file(
                str(source.path),
                config=str(self.config),
                local_files_only=True,
                **without,
                **{DTYPE: self.options.torch_dtype},
            ).components
        encoders = {f"weak_{name}": complete(source, parts[name]) for name in base.text_encoders}
        for encoder in encoders.values():
            remember_files(encoder, [source.path])
        return encoders

    def finish(self, pipeline: Any) -> Any:
        """Checks that no weight is missing, drops weak text encoders equal to the strong ones, and notes the files."""
        encoders = self.options.base.text_encoders
        source = self.strong.source
        for name in ("unet", "vae", *encoders):
            if (module := getattr(pipeline, name)) is not None:
                complete(source, module, f"; pass `{name}` if it is kept elsewhere")
        if source.is_file:
            left_out(source, pipeline.unet)
            for name in ("unet", "vae", *encoders):
                if (module := getattr(pipeline, name)) is not None and name not in self.overrides:
                    remember_files(module, [source.path] if source.path else [])
        if self.motion is not None and any(arm.is_animatediff for arm in (self.strong, self.weak) if arm is not None):
            for name in ("unet", "weak_unet"):  # they may have come with other motion modules
                if (unet := getattr(pipeline, name)) is not None:
                    pipeline.register_modules(**{name: _with_motion(unet, pipeline.motion_adapter)})
        if (adapter := self._motion_adapter(self.weak_motion)) is not None:
            pipeline.register_modules(weak_unet=motion_unet(pipeline.weak_unet or pipeline.unet, adapter))
        for name in ("weak_unet", "motion_adapter"):
            if (module := getattr(pipeline, name, None)) is not None:
                share_parameters(module, pipeline.unet)
        if self.options.weak_text_encoders and all(
            _same(getattr(pipeline, f"weak_{name}"), getattr(pipeline, name)) for name in encoders
        ):
            pipeline.register_modules(**{f"weak_{name}": None for name in encoders})
        for name, stamps in self.files.items():  # an image UNet has become a video UNet
            if (module := getattr(pipeline, name, None)) is not None and name not in self.overrides:
                note_files(module, stamps)
        return pipeline


def left_out(source: Source, unet: torch.nn.Module) -> None:
    """Warns of weights in a whole model's file that are named as the UNet's but have no place in it.

    Names of the original layout correspond one to one to diffusers', so any excess in number is without a place.
    """
    assert source.path is not None
    names = [name for name in checkpoints.shapes(source) if name.startswith(UNET)]
    own = [name for name in unet.state_dict() if ".motion_modules." not in name]
    if len(names) > len(own):
        known = re.compile(
            r"(input_blocks|output_blocks)\.\d+\.\d+\.|middle_block\.[012]\.|(time_embed|out)\.\d\.|label_emb\.0\.\d\."
        )
        strange = [name for name in names if not known.match(name.removeprefix(UNET))] or names[len(own) :]
        point_out(source, "the UNet", strange)


def _with_motion(unet: UNetMotionModel, adapter: MotionAdapter) -> UNetMotionModel:
    """A video UNet with other motion modules, which may be laid out otherwise than its own."""
    replaced = motion_unet(unet, adapter)
    note_files(replaced, files_of(unet))
    return replaced


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
