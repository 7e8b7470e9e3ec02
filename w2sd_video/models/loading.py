"""Pairs of models from hub ids, diffusers folders and single files, looked at before anything is loaded.

A single file is in the layout of the original SDXL or Stable Diffusion release, as most fine-tunes are shared; a motion
module is in AnimateDiff's. What such files do not say is taken from the configurations that ship (`bases`).

Files are opened by `checkpoints`, which runs no code; code in a model's folder or on the hub is never run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from ..errors import WeightsError, WeightsNotFound
from ..levels import check_scheduler
from ..provenance import remember_files
from . import checkpoints, layouts
from .bases import BASES, Base, clip_tokenizer
from .checkpoints import explained
from .checks import (
    UNET,
    Arm,
    arm_of_file,
    check_arms,
    check_controlnet,
    check_latents_alone,
    check_motion,
    check_scheduler_config,
    complete,
    lacking,
    motion_channels,
    point_out,
)
from .motion import motion_unet, share_parameters
from .sources import SUFFIXES, Source, download_command, local, resolve

HUB_OPTIONS = ("cache_dir", "token", "local_files_only", "force_download", "proxies")
MODEL_OPTIONS = ("variant", "use_safetensors", "low_cpu_mem_usage")

# Newer versions of diffusers warn of the older name.
_DTYPE = "dtype" if hasattr(diffusers.utils, "_resolve_dtype") else "torch_dtype"
Reference = str | PathLike[str]


def find(argument: str, value: Reference, hub: Mapping[str, Any] | None = None) -> Source:
    """A model's source. A single file is brought to this machine; a hub repository is not.

    Raises:
        Refused, WeightsNotFound: see `sources.resolve`, `sources.local`.
        WeightsError: a file of another type.
    """
    source = resolve(value, argument)
    if source.path is None and source.is_file:
        source = replace(source, path=local(source, hub))
    if source.path is not None and not source.path.is_dir() and source.path.suffix.lower() not in SUFFIXES:
        kind = source.path.suffix or "nameless"
        raise WeightsError(
            f"{source} is a {kind} file. Accepted: a folder in diffusers' layout, a hub id (OWNER/NAME), or a single"
            f" file ({', '.join(SUFFIXES)}), which may be on the hub (OWNER/NAME/FILE)."
        )
    return source


def autoencoder(
    value: Reference,
    torch_dtype: torch.dtype | None = None,
    base: Base = BASES["SDXL"],
    config: Mapping[str, Any] | None = None,
) -> AutoencoderKL:
    """An autoencoder by itself: of a folder, a hub id, or a single file in the original layout or diffusers'.

    Args:
        base: whose shipped configuration a single file is loaded with: SDXL's latents are scaled by 0.13025 and
            Stable Diffusion's by 0.18215, which the file does not say.
        config: another configuration for a single file.

    Raises:
        WeightsNotFound, WeightsError: it is not there; it cannot be used.
    """
    source = find("vae", value)
    if source.is_file:
        model = layouts.autoencoder(
            source, config or AutoencoderKL.load_config(base.config, subfolder="vae"), torch_dtype
        )
        remember_files(model, [source.path] if source.path else [])
        return model
    return _single(AutoencoderKL, source, _Options(torch_dtype=torch_dtype, base=base))


# What diffusers and transformers call them; other programs leave files beside them, such as `openvino_model.bin`.
_FILE = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?"
    r"\.(?P<suffix>safetensors|bin)"
)


def weight_files(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> list[Path]:
    """The files that diffusers and transformers load from a component's folder; several for shards."""
    files = _by_kind(folder)
    for suffix in ("bin",) if use_safetensors is False else ("safetensors", "bin"):
        if found := files.get((variant, suffix)):
            return found
    return []


def usual_variant(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> str | None:
    """The variant to load: `variant`; or, where a folder holds no plain weights, the only one there, or fp16."""
    if variant is not None or weight_files(folder, None, use_safetensors):
        return variant
    suffixes = ("bin",) if use_safetensors is False else ("safetensors", "bin")
    there = {name for (name, suffix), _ in _by_kind(folder).items() if name and suffix in suffixes}
    return there.pop() if len(there) == 1 else "fp16" if "fp16" in there else None


def _by_kind(folder: Path) -> dict[tuple[str | None, str], list[Path]]:
    found: dict[tuple[str | None, str], list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if kind := _FILE.fullmatch(file.name):
            found.setdefault((kind["variant"], kind["suffix"]), []).append(file)
    return found


def image_encoder(
    folder: Reference,
    adapter: Source | None,
    torch_dtype: torch.dtype | None = None,
    hub: Mapping[str, Any] | None = None,
) -> Any:
    """The image encoder of an IP-Adapter, a [`CLIPVisionModelWithProjection`].

    Args:
        folder: beside the adapter's file, or in its repository; or elsewhere: a path, a hub id, or a folder in a hub
            repository (`OWNER/NAME/FOLDER`).
        adapter: the adapter's file.

    Raises:
        WeightsNotFound, WeightsError: it is not there; it cannot be used.
    """
    name = fspath(folder)
    beside = adapter is not None and adapter.path is not None and adapter.path.parent / folder
    path: Path | None = None
    if beside and beside.is_dir():
        source, path = Source("image_encoder", name, beside), beside
    elif adapter is not None and adapter.repository is not None and not Path(folder).expanduser().is_dir():
        # As diffusers has it: beside the file, or from the root of its repository.
        inside = name if "/" in name else f"{adapter.inside.rpartition('/')[0]}/{name}".lstrip("/")
        source = Source("image_encoder", name, None, adapter.repository, inside)
        try:
            path = _encoder_folder(source, hub or {})
        except WeightsNotFound:
            if "/" not in name:
                raise
        if "/" in name and not (path and path.is_dir()):
            source, path = resolve(folder, "image_encoder", folders=True), None
    elif beside and len(Path(folder).parts) == 1 and not Path(folder).exists():
        raise WeightsNotFound(
            f"{adapter} has no image encoder: no folder {name!r} lies beside it. Give one as image_encoder."
        )
    else:
        source = resolve(folder, "image_encoder", folders=True)
    path = path or source.path or _encoder_folder(source, hub or {})
    kind = transformers.CLIPVisionModelWithProjection
    if not (path / "config.json").is_file():
        raise WeightsNotFound(f"{source} has no config.json. Accepted: a folder of a {kind.__name__}.")
    config = checkpoints.configuration(source, path / "config.json")
    if config.get("model_type") not in ("clip_vision_model", "clip"):
        raise WeightsError(f"{source} is a {config.get('model_type')}. Accepted: a {kind.__name__}.")
    if not weight_files(path, usual_variant(path)):
        raise WeightsNotFound(f"{source} holds no weights.")
    return _component(kind, source, path, _Options(torch_dtype=torch_dtype, base=BASES["SDXL"]))


def _encoder_folder(source: Source, hub: Mapping[str, Any]) -> Path:
    """The folder of a hub repository, of which it alone is fetched."""
    from huggingface_hub import snapshot_download

    assert source.repository is not None
    options = {name: value for name, value in hub.items() if name != "proxies"}
    patterns = [f"{source.inside}/{name}" if source.inside else name for name in ("config.json", "*.safetensors")]
    try:
        return Path(snapshot_download(source.repository, allow_patterns=patterns, **options)) / source.inside
    except (OSError, ValueError) as error:
        command = f"hf download {source.repository} " + " ".join(f'--include "{pattern}"' for pattern in patterns)
        raise WeightsNotFound(f"{source} is not on this machine. Get it with\n  {command}") from error


def _arm(source: Source, config: Path, overridden: Mapping[str, Any], options: _Options) -> Arm:
    """What one side of the pair is; a hub repository is fetched."""
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
            f"{source} has no model_index.json. Accepted: a folder that a diffusers {base.name} or AnimateDiff"
            " pipeline was saved to, a hub id, or a single file in the original layout"
            f" ({', '.join(SUFFIXES)})."
        )
    index = checkpoints.configuration(source, source.path / "model_index.json")
    name = index.get("_class_name")
    video = name in base.animatediff
    if not isinstance(name, str) or not ((video and options.video) or re.fullmatch(base.family, name)):
        accepted = (base.pipeline, *(base.animatediff if options.video else ()))
        named = name if isinstance(name, str) else "pipeline of code of its own, which is never run"
        raise WeightsError(f"{source} is a {named}. Accepted: {' or '.join(accepted)}.")
    components = _components(source, index, overridden)
    unet = checkpoints.configuration(source, _configuration_file(source, "unet", "config.json"))
    scheduler = checkpoints.configuration(source, _configuration_file(source, "scheduler", "scheduler_config.json"))
    check_scheduler_config(source, scheduler, "scheduler" in overridden, options.video)
    check_latents_alone(source, unet, f"a {base.name} model with a UNet")
    needed = {"unet", "vae", *base.text_encoders} if source.argument == "strong" else {"unet"}
    for part in sorted(needed & set(components) - set(overridden)):
        variant = usual_variant(source.path / part, options.variant, options.use_safetensors)
        if not weight_files(source.path / part, variant, options.use_safetensors):
            kind = f"{options.variant!r} weights (`variant`)" if options.variant else "weights"
            raise WeightsNotFound(f"{source} has no {kind} in {part}/.{_hint(source, options.variant)}")
    kind = scheduler.get("prediction_type", "epsilon")
    return Arm(source, name, unet, kind, video, components, scheduler)


def _configuration_file(source: Source, part: str, name: str) -> Path:
    assert source.path is not None
    path = source.path / part / name
    if not path.is_file():
        raise WeightsNotFound(f"{source} has no {part}/{name}.{_hint(source, None)}")
    return path


def _fetched(source: Source, skipped: Mapping[str, None], options: _Options) -> Path:
    """The folder of a hub repository; where it holds no plain weights, with those in half precision."""

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
            return fetch(None)  # whose message is the one to tell


def _components(source: Source, index: Mapping[str, Any], overridden: Collection[str]) -> dict[str, tuple[str, str]]:
    """What an index says that its components are: by name, library and class.

    Raises:
        WeightsError: it names code that is not diffusers', transformers' or this package's; such is never imported.
    """
    found = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, (list, tuple)) or len(entry) != 2 or entry[0] is None:
            continue
        library, kind = entry
        ours = isinstance(library, str) and library in ("w2sd_video.dit_moe", "w2sd_video.models.dit_moe")
        pipeline = isinstance(library, str) and re.fullmatch(r"\w+", library) and hasattr(diffusers.pipelines, library)
        if name not in overridden and not (library in ("diffusers", "transformers") or ours or pipeline):
            raise WeightsError(
                f"{source} has a {name} of {str(library)[:100]!r}, whose code is never run. Accepted: components of"
                " diffusers and transformers."
            )
        config = Path(source.path or "") / name / "config.json"
        if (
            str(kind).startswith("Auto")
            and config.is_file()
            and "auto_map" in checkpoints.configuration(source, config)
        ):
            raise WeightsError(f"{source} has a {name} with code of its own (auto_map), which is never run.")
        found[name] = (str(library), str(kind))
    return found


def _hint(source: Source, variant: str | None) -> str:
    """How to complete a repository of which only a part is cached."""
    if source.repository is None:
        return ""
    return f" Get them with\n  {download_command(source.argument, source.value, variant)}"


@dataclass
class _Options:
    base: Base
    hub: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    torch_dtype: torch.dtype | None = None
    weak_text_encoders: bool = False
    video: bool = False

    @property
    def variant(self) -> str | None:
        return self.model.get("variant")

    @property
    def use_safetensors(self) -> bool | None:
        return self.model.get("use_safetensors")

    @property
    def download(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.items() if k in ("variant", "use_safetensors")}


def _component(kind: Any, source: Source, folder: Path, options: _Options) -> Any:
    """A network of diffusers or transformers from its folder, with every weight in its place.

    Raises:
        WeightsError: weights are missing, of another shape, or damaged.
    """
    variant = usual_variant(folder, options.variant, options.use_safetensors)
    files = weight_files(folder, variant, options.use_safetensors)
    for file in files:
        checkpoints.shapes(source, file)
    model_options = {**options.model, "variant": variant}
    if files and all(file.suffix == ".bin" for file in files):  # diffusers looks for shards of one kind alone
        model_options["use_safetensors"] = False
    dtype = {_DTYPE: options.torch_dtype}
    if issubclass(kind, transformers.PreTrainedModel):
        model_options.pop("low_cpu_mem_usage", None)
        model_options["trust_remote_code"] = False
        dtype = {"dtype": options.torch_dtype or torch.float32}
    with explained(source, variant):
        model, info = kind.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, **dtype, **model_options
        )
    missing, left = info["missing_keys"], info["unexpected_keys"]
    if missing:
        raise lacking(source, kind.__name__, sorted(missing), f" ({folder.name})")
    if info.get("mismatched_keys"):
        raise WeightsError(f"{source} has weights of another shape than {kind.__name__}'s in {folder.name}/.")
    point_out(source, kind.__name__, left)
    remember_files(model, files)
    return complete(source, model)


def _single(kind: Any, source: Source, options: _Options) -> Any:
    """A network that has a folder or a hub repository of its own."""
    folder = source.path
    if folder is None:
        with explained(source, options.variant):
            folder = _fetched_single(kind, source, options)
    config = folder / "config.json"
    if not config.is_file():
        raise WeightsNotFound(f"{source} has no config.json. Accepted: a folder of a {kind.__name__}.")
    if (name := checkpoints.configuration(source, config).get("_class_name")) != kind.__name__:
        raise WeightsError(f"{source} is a {name}. Accepted: a {kind.__name__}.")
    variant = usual_variant(folder, options.variant, options.use_safetensors)
    if not weight_files(folder, variant, options.use_safetensors):
        raise WeightsNotFound(
            f"{source} holds no weights (variant={options.variant!r}).{_hint(source, options.variant)}"
        )
    return _component(kind, source, folder, options)


def _fetched_single(kind: Any, source: Source, options: _Options) -> Path:
    """The folder of a hub repository of one network."""
    from huggingface_hub import snapshot_download

    config = kind.load_config(source.value, **options.hub)  # what is wrong with the id or the network is said here
    if (name := config.get("_class_name")) != kind.__name__:
        raise WeightsError(f"{source} is a {name}. Accepted: a {kind.__name__}.")
    hub = {name: value for name, value in options.hub.items() if name != "proxies"}
    for middle in (f".{options.variant}",) if options.variant else ("", ".fp16"):
        for suffix in ("bin",) if options.use_safetensors is False else ("safetensors", "bin"):
            patterns = [f"*{middle}.{suffix}", f"*{middle}-*-of-*.{suffix}", f"*{middle}.{suffix}.index.json"]
            ignored = ["*/*", *([] if middle else ["*.fp16.*", "*.fp16-*", "*.non_ema.*"])]
            folder = snapshot_download(
                source.value, allow_patterns=["config.json", *patterns], ignore_patterns=ignored, **hub
            )
            if weight_files(Path(folder), usual_variant(Path(folder), options.variant)):
                return Path(folder)
    return Path(folder)


@dataclass
class Pair:
    """Both arms and the motion module, found and checked against each other, not loaded. Made by `plan`."""

    strong: Arm
    weak: Arm | None
    motion: Source | MotionAdapter | None
    weak_motion: Source | MotionAdapter | None
    controlnets: list[Source | ControlNetModel]
    config: Path
    options: _Options
    given: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)  # of components that are loaded here; see `provenance`

    def location(self) -> str:
        return str(self.strong.source.path)

    def explained(self) -> AbstractContextManager[None]:
        """Errors inside name the strong arm."""
        return explained(self.strong.source, self.options.variant)

    def load_options(self) -> dict[str, Any]:
        """What the pipeline's own loader is told, beside the components."""
        common: dict[str, Any] = {_DTYPE: self.options.torch_dtype}
        if self.strong.source.is_file:
            return {**common, "config": str(self.config), "local_files_only": True}
        return {**common, **self.options.model, "local_files_only": True, "trust_remote_code": False}

    def components(self) -> dict[str, Any]:
        """Load all but what the strong arm's own loader brings."""
        parts = dict(self.given)
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
            parts["weak_unet"] = self._weak_unet(adapter)
            # None keeps a pair in `strong`'s folder from bringing those of its own weak model.
            parts.update({f"weak_{name}": None for name in base.text_encoders})
            if self.options.weak_text_encoders:
                parts.update(self._weak_text_encoders())
        self.files = {name: stamps for name, part in parts.items() if (stamps := getattr(part, "_w2sd_files", ()))}
        return parts

    def _networks(self, besides: Collection[str]) -> dict[str, Any]:
        """The networks in the strong arm's folder, but those in `besides` and a weak model that another replaces."""
        folder = self.strong.source.path
        assert folder is not None
        loaded = {}
        for name, (library, kind_name) in self.strong.components.items():
            replaced = self.weak is not None and name.startswith("weak_")
            kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), kind_name, None)
            network = isinstance(kind, type) and issubclass(kind, (diffusers.ModelMixin, transformers.PreTrainedModel))
            if not network or replaced or name in besides or (name == "motion_adapter" and not self.options.video):
                continue
            if kind is MultiControlNetModel:
                folders = [folder / name, *sorted(folder.glob(f"{name}_[0-9]*"), key=_number)]
                nets = [_component(ControlNetModel, self.strong.source, each, self.options) for each in folders]
                loaded[name] = kind(nets)
                continue
            if weight_files(folder / name, usual_variant(folder / name, self.options.variant)):
                loaded[name] = _component(kind, self.strong.source, folder / name, self.options)
        return loaded

    def _vae_config(self) -> dict[str, Any]:
        """The configuration of the strong model's own autoencoder."""
        source = self.strong.source
        own = Path(source.path or "") / "vae" / "config.json"
        if own.is_file():
            return checkpoints.configuration(source, own)
        return checkpoints.configuration(source, self.config / "vae" / "config.json")

    @cached_property
    def scheduler(self) -> Any:
        """For a video, AnimateDiff's schedule as diffusers documents it, for what the strong model predicts. For an
        image, the strong model's own, if a reflection can read its steps, or else DDIM with its settings."""
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
                f"{self.strong.source} has a scheduler {config['_class_name']!r}, which diffusers has not."
            )
        with self.explained():
            own: Any = kind.from_config(config)  # type: ignore[attr-defined]
            try:
                check_scheduler(own)
            except ValueError:
                own = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
        return own

    def _controlnet(self, given: Source | ControlNetModel) -> ControlNetModel:
        if not isinstance(given, Source):
            return given
        if given.is_file:
            net = layouts.controlnet(given, self.strong.unet, self.options.torch_dtype)
            check_controlnet(given, net.config, self.strong)
            remember_files(net, [given.path] if given.path else [])
            return net
        return _single(ControlNetModel, given, self.options)

    def _motion_adapter(self, motion: Source | MotionAdapter | None) -> MotionAdapter | None:
        if not isinstance(motion, Source):
            return motion
        if motion.is_file:
            adapter = layouts.motion_module(motion, self.config, self.options.torch_dtype)
            remember_files(adapter, [motion.path] if motion.path else [])
            return adapter
        return _single(MotionAdapter, motion, self.options)

    def _weak_unet(self, adapter: MotionAdapter | None) -> UNet2DConditionModel | UNetMotionModel:
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
        unet = _component(kind, source, source.path / "unet", self.options)
        if adapter is not None and isinstance(unet, UNetMotionModel):
            unet.load_motion_modules(adapter)
        return unet

    def _weak_text_encoders(self) -> dict[str, Any]:
        assert self.weak is not None
        source = self.weak.source
        assert source.path is not None
        base = self.options.base
        if not source.is_file:
            kinds = {name: getattr(transformers, self.weak.components[name][1]) for name in base.text_encoders}
            return {
                f"weak_{name}": _component(kind, source, source.path / name, self.options)
                for name, kind in kinds.items()
            }
        without = dict.fromkeys(("unet", "vae", *base.tokenizers))
        with explained(source, self.options.variant):
            parts = base.image.from_single_file(
                str(source.path),
                config=str(self.config),
                local_files_only=True,
                **without,
                **{_DTYPE: self.options.torch_dtype},
            ).components
        encoders = {f"weak_{name}": complete(source, parts[name]) for name in base.text_encoders}
        for encoder in encoders.values():
            remember_files(encoder, [source.path])
        return encoders

    def finish(self, pipeline: Any) -> Any:
        """Check that every weight was found, drop weak text encoders that add nothing, and note the files."""
        encoders = self.options.base.text_encoders
        source = self.strong.source
        for name in ("unet", "vae", *encoders):
            if (module := getattr(pipeline, name)) is not None:
                complete(source, module, f"; pass `{name}` if it is kept elsewhere")
        if source.is_file:
            left_out(source, pipeline.unet)
            for name in ("unet", "vae", *encoders):
                if (module := getattr(pipeline, name)) is not None and name not in self.given:
                    remember_files(module, [source.path] if source.path else [])
        if isinstance(self.motion, (Source, MotionAdapter)) and self.strong.is_animatediff:
            pipeline.unet.load_motion_modules(pipeline.motion_adapter)
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
            if (module := getattr(pipeline, name, None)) is not None and name not in self.given:
                module._w2sd_files = stamps
        return pipeline


def left_out(source: Source, unet: torch.nn.Module) -> None:
    """Point out weights under a UNet's name in a file of a whole model that the UNet has no place for.

    Names of the original layout are one to one with diffusers', so those beyond their number are left.
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
    torch_dtype: torch.dtype | None = None,
    revision: str | None = None,
    accepted: Collection[str] = (),
    **kwargs: Any,
) -> Pair:
    """Find both arms and what goes with them, fetch what is on the hub, and check that they go together.

    No weights are loaded. The arguments are those of `pipelines.reflection.Reflection.from_pretrained`;
    `accepted` names the components that may be among `kwargs`.

    Raises:
        WeightsNotFound, WeightsError: see there.
    """
    if weak is None and weak_text_encoders:
        raise ValueError("weak_text_encoders=True needs `weak`, which is None.")
    if "dtype" in kwargs:
        torch_dtype = kwargs.pop("dtype")
    if torch_dtype is not None and not isinstance(torch_dtype, torch.dtype):
        raise ValueError(f"torch_dtype={torch_dtype!r}. Accepted: a torch.dtype, such as torch.float16, or None.")
    options = _Options(
        hub={name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs},
        model={name: kwargs.pop(name) for name in MODEL_OPTIONS if name in kwargs},
        torch_dtype=torch_dtype,
        weak_text_encoders=weak_text_encoders,
        base=base,
        video=video,
    )
    if unknown := sorted(kwargs.keys() - set(accepted)):
        options_ = ("config", "weak_text_encoders", "torch_dtype", "revision", *HUB_OPTIONS, *MODEL_OPTIONS)
        raise TypeError(
            f"from_pretrained() got an unexpected argument {unknown[0]!r}. Accepted, beside `strong`, `weak`"
            f"{' and `motion_adapter`' * video}: {', '.join((*options_, *sorted(accepted)))}."
        )
    folder = base.config if config is None else Path(config)
    if not (folder / "unet" / "config.json").is_file():
        raise WeightsNotFound(
            f"config={str(config)!r} has no unet/config.json. Accepted: a folder of configurations in"
            f" diffusers' layout, which single files are loaded with, or None for {base.name}'s."
        )

    pinned = replace(options, hub={**options.hub, "revision": revision}) if revision else options
    strong_source = find("strong", strong, pinned.hub)
    weak_source = None if weak is None else find("weak", weak, options.hub)
    motion = _motion("motion_adapter", motion_adapter, options)
    weak_motion = _motion("weak_motion_adapter", weak_motion_adapter, options)

    strong_arm = _arm(strong_source, folder, kwargs, pinned)
    weak_arm = None if weak_source is None else _arm(weak_source, folder, {}, options)
    if weak_arm is not None:
        check_arms(strong_arm, weak_arm)
    if video and motion is None and "motion_adapter" not in strong_arm.components:
        raise WeightsError(
            f"motion_adapter: None, but {strong_arm.source} is an image model. Accepted: a hub id, a folder,"
            f" a file in AnimateDiff's original layout, or a MotionAdapter. One made for {base.name}:\n"
            f"  {download_command('motion_adapter', base.motion_weights, options.variant)}"
        )
    for module in (motion, weak_motion):
        if module is not None:
            _check_motion(module, strong_arm, options)
    given = controlnet if isinstance(controlnet, (list, tuple)) else [] if controlnet is None else [controlnet]
    controlnets = [
        each if isinstance(each, ControlNetModel) else find("controlnet", each, options.hub) for each in given
    ]
    for each in controlnets:
        _check_controlnet(each, strong_arm, options)
    return Pair(strong_arm, weak_arm, motion, weak_motion, controlnets, folder, options, kwargs)


def _motion(argument: str, given: Reference | MotionAdapter | None, options: _Options) -> Source | MotionAdapter | None:
    return given if given is None or isinstance(given, MotionAdapter) else find(argument, given, options.hub)


def _check_motion(motion: Source | MotionAdapter, strong: Arm, options: _Options) -> None:
    if isinstance(motion, MotionAdapter):
        channels = tuple(motion.config.block_out_channels)
    elif motion.is_file:
        channels = motion_channels(motion, checkpoints.shapes(motion))
    else:
        config = _configuration(MotionAdapter, motion, options)
        channels = tuple(config.get("block_out_channels", ()))
        variant = usual_variant(motion.path, options.variant, options.use_safetensors) if motion.path else None
        if motion.path and not weight_files(motion.path, variant, options.use_safetensors):
            raise WeightsNotFound(f"{motion} holds no weights (variant={options.variant!r}).")
    check_motion(motion, channels, strong)


def _check_controlnet(controlnet: Source | ControlNetModel, strong: Arm, options: _Options) -> None:
    if not isinstance(controlnet, Source):
        check_controlnet(controlnet, controlnet.config, strong)
    elif controlnet.is_file:
        layouts.check_controlnet_names(controlnet, checkpoints.shapes(controlnet), strong.unet)
    else:
        check_controlnet(controlnet, _configuration(ControlNetModel, controlnet, options), strong)


def _configuration(kind: Any, source: Source, options: _Options) -> Mapping[str, Any]:
    """The configuration of a network that has a folder or a repository of its own.

    Raises:
        WeightsNotFound, WeightsError: there is none; it is another network's.
    """
    if source.path is None:
        with explained(source, options.variant):
            config = kind.load_config(source.value, **options.hub)
    elif (source.path / "config.json").is_file():
        config = checkpoints.configuration(source, source.path / "config.json")
    else:
        raise WeightsNotFound(f"{source} has no config.json. Accepted: a folder of a {kind.__name__}.")
    if (name := config.get("_class_name")) != kind.__name__:
        raise WeightsError(f"{source} is a {name}. Accepted: a {kind.__name__}.")
    return config


def _number(folder: Path) -> tuple[int, str]:
    number = folder.name.rpartition("_")[2]
    return len(number), number


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
