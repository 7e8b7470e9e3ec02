"""Where weights come from: hub ids, diffusers folders and single files, looked at before anything is loaded.

A single file is in the layout of the original SDXL or Stable Diffusion release, as most fine-tunes are shared; a motion
module is in AnimateDiff's. Such files carry no configuration. Those of SDXL and Stable Diffusion 1.5 ship with the
package (`sdxl/`, `sd15/`), so they load offline.

Pickles are opened with `weights_only=True` alone and code from the hub is never run.
"""

from __future__ import annotations

import gzip
import json
import pickle
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from w2sd_video.errors import WeightsError, WeightsNotFound
from w2sd_video.levels import check_scheduler
from w2sd_video.motion import motion_unet, share_parameters
from w2sd_video.provenance import remember_files, weight_hashes

__all__ = [
    "WeightsError",
    "WeightsNotFound",
    "clip_tokenizer",
    "download_command",
    "find",
    "plan",
    "weight_hashes",
]

SDXL = Path(__file__).parent / "sdxl"
SD15 = Path(__file__).parent / "sd15"
"""Configurations in diffusers' folder layout, without weights. The scheduler is AnimateDiff's."""

SUFFIXES = (".safetensors", ".ckpt", ".pth")
HUB_OPTIONS = ("cache_dir", "token", "local_files_only", "force_download", "proxies")
MODEL_OPTIONS = ("variant", "use_safetensors", "low_cpu_mem_usage")
# What image models are trained with, and what the paper samples them with.
IMAGE_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
IMAGE_SCHEDULER |= {"clip_sample": False, "set_alpha_to_one": False}

Argument = Literal["strong", "weak", "motion_adapter", "weak_motion_adapter", "controlnet", "lora", "vae"]


@dataclass(frozen=True)
class Base:
    """A generation of Stable Diffusion, of which the two arms are.

    Attributes:
        name: for messages.
        config: configurations in diffusers' folder layout.
        image: the stock image pipeline.
        family: the names of pipeline classes that are saved with an image model of it.
        animatediff: those that are saved with a video UNet.
        motion_weights: a hub repository with a motion module for it.
        text_encoders, tokenizers: its components of these kinds.
    """

    name: str
    config: Path
    image: Any
    family: str
    animatediff: tuple[str, ...]
    motion_weights: str
    text_encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[Literal["tokenizer", "tokenizer_2"], ...] = ("tokenizer",)


BASES = {
    "SDXL": Base(
        "SDXL",
        SDXL,
        StableDiffusionXLPipeline,
        r"(W2SD)?StableDiffusionXL\w*",
        ("AnimateDiffSDXLPipeline", "W2SDAnimateDiffSDXLPipeline"),
        "guoyww/animatediff-motion-adapter-sdxl-beta",
        ("text_encoder", "text_encoder_2"),
        ("tokenizer", "tokenizer_2"),
    ),
    "Stable Diffusion": Base(
        "Stable Diffusion",
        SD15,
        StableDiffusionPipeline,
        r"(W2SD)?StableDiffusion(?!XL|3)\w*",
        tuple(f"{ours}AnimateDiff{kind}Pipeline" for ours in ("", "W2SD") for kind in ("", "ControlNet")),
        "guoyww/animatediff-motion-adapter-v1-5-2",
    ),
}

# Newer versions of diffusers warn of the older name.
_DTYPE = "dtype" if hasattr(diffusers.utils, "_resolve_dtype") else "torch_dtype"


@dataclass(frozen=True)
class Source:
    """What one argument of `from_pretrained` names.

    Attributes:
        argument: the argument's name, for messages.
        value: what was given for it.
        path: the file or folder; None until a hub repository has been fetched.
    """

    argument: Argument
    value: str
    path: Path | None

    @property
    def is_file(self) -> bool:
        return self.path is not None and self.path.is_file()

    def __str__(self) -> str:
        return f"{self.argument}={self.value!r}"


def find(argument: Argument, value: str | PathLike[str]) -> Source:
    """Tell a file, a folder and a hub id apart, without the network.

    Raises:
        WeightsNotFound: there is no such path, and it cannot be a hub id.
        WeightsError: a file of another type.
    """
    value = fspath(value)
    path = Path(value).expanduser()
    accepted = (
        "a folder in diffusers' layout, a hub id (owner/name), or a single file in the original layout"
        f" ({', '.join(SUFFIXES)}), which may be on the hub (owner/name/file)"
    )
    if path.suffix.lower() in SUFFIXES:
        path = on_disk(argument, value)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{argument}={value!r} is a {path.suffix or 'nameless'} file. Accepted: {accepted}.")
    if path.exists():
        return Source(argument, value, path)
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", value) or path.suffix.lower() in SUFFIXES:
        raise WeightsNotFound(f"{argument}={value!r} does not exist. Accepted: {accepted}.")
    return Source(argument, value, None)


def on_disk(argument: Argument, value: str | PathLike[str]) -> Path:
    """The path of a file that is on this machine, by its path or by its place on the hub, `OWNER/NAME/FILE`.

    Raises:
        WeightsNotFound: there is no such path, and the hub's cache has no such file; with the way to get it.
    """
    value = fspath(value)
    path = Path(value).expanduser()
    named = re.fullmatch(r"(\w[\w.-]*)/(\w[\w.-]*)/(\w[\w./-]*)", value)
    if path.exists() or not named:
        return path
    owner, name, file = named.groups()
    cached = try_to_load_from_cache(f"{owner}/{name}", file)
    if not isinstance(cached, str):
        command = f'hf download {owner}/{name} --include "{file}"'
        raise WeightsNotFound(f"{argument}={value!r} is not on this machine. Get it with\n  {command}")
    return Path(cached)


def autoencoder(value: str | PathLike[str], torch_dtype: torch.dtype | None = None) -> AutoencoderKL:
    """An autoencoder by itself: of a folder, a hub id, or a single file.

    Raises:
        WeightsNotFound, WeightsError: it is not there; it cannot be used.
    """
    source = find("vae", value)
    with _explained(source):
        if source.is_file:
            return AutoencoderKL.from_single_file(str(source.path), torch_dtype=torch_dtype)
        return AutoencoderKL.from_pretrained(source.path or source.value, torch_dtype=torch_dtype)


def download_command(argument: Argument, repo_id: str, variant: str | None = None) -> str:
    """The `hf` command that fetches what an argument needs of a hub repository, and no more."""
    weights = f"{variant}.safetensors" if variant else "safetensors"
    patterns = {
        "strong": ["*.json", "*/*.txt", f"*/*.{weights}"],
        "weak": ["model_index.json", "scheduler/*", "unet/*.json", f"unet/*.{weights}"],
        "motion_adapter": ["config.json", f"*.{weights}"],
        "weak_motion_adapter": ["config.json", f"*.{weights}"],
        "controlnet": ["config.json", f"*.{weights}"],
        "vae": ["config.json", f"*.{weights}"],
    }[argument]
    command = f"hf download {repo_id} " + " ".join(f'--include "{pattern}"' for pattern in patterns)
    return command if variant else command + ' --exclude "*.fp16.*"'


@contextmanager
def _explained(source: Source, variant: str | None = None) -> Iterator[None]:
    """Let what goes wrong inside name the argument, the value, and the way out."""
    try:
        yield
    except (WeightsError, WeightsNotFound):
        raise
    except (OSError, ValueError, RuntimeError, SingleFileComponentError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if "meta tensor" in reason:
            reason = "weights are missing in it"
        if isinstance(error, SingleFileComponentError):
            reason += " Pass the component itself, as in vae=AutoencoderKL.from_pretrained(...)."
        if source.path is None:
            command = download_command(source.argument, source.value, variant)
            first = reason.split(". ")[0].split(" (")[0]
            raise WeightsNotFound(
                f"{source} is neither a path nor a hub repository whose weights are on this machine."
                f" Get them with\n  {command}\n({first})"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise WeightsNotFound(f"{source}: {reason}") from error
        raise WeightsError(f"{source} cannot be loaded: {reason}") from error


def open_checkpoint(source: Source) -> dict[str, torch.Tensor]:
    """The tensors of a single file, mapped from the disk and not read yet; an old-format `.ckpt` is read.

    Raises:
        WeightsError: the file is damaged, or a pickle that holds more than tensors.
    """
    path = source.path
    assert path is not None
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{source} is damaged, or holds Python objects beside tensors; such code is never run. Accepted:"
            " a file of tensors alone, best as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{source} is damaged or not complete: {str(error).splitlines()[0]}") from error
    while isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict):
        raise WeightsError(f"{source} holds a {type(tensors).__name__}, not tensors by name.")
    return _flat(tensors)


def _flat(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors by name, those in parts too: an IP-Adapter's two parts are dictionaries of their own."""
    found = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    for part, inner in tensors.items():
        if isinstance(inner, Mapping):
            found |= {f"{part}.{name}": tensor for name, tensor in inner.items() if isinstance(tensor, torch.Tensor)}
    return found


def _shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a single file's tensors; of a .safetensors only the header is read."""
    if source.path is None or source.path.suffix.lower() != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in open_checkpoint(source).items()}
    try:
        with safe_open(source.path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{source} is damaged or not complete: {error}") from error


def weight_files(folder: Path, variant: str | None = None, use_safetensors: bool | None = None) -> list[Path]:
    """The files that diffusers and transformers load from a component's folder; several for shards."""
    if not folder.is_dir():
        return []
    middle = re.escape(f".{variant}") if variant else ""
    for suffix in ("bin",) if use_safetensors is False else ("safetensors", "bin"):
        name = re.compile(rf"[a-z_]+{middle}(-\d+-of-\d+)?\.{suffix}")
        if files := sorted(file for file in folder.iterdir() if name.fullmatch(file.name)):
            return files
    return []


@dataclass
class Arm:
    """One side of the pair as its configuration describes it, before any weight is read."""

    source: Source
    pipeline: str
    unet: dict[str, Any]
    prediction_type: str
    is_animatediff: bool = False
    components: tuple[str, ...] = ()
    scheduler: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What two arms must have in common."""
        return {
            "latent channels": (self.unet.get("in_channels", 4), self.unet.get("out_channels", 4)),
            "cross-attention width": self.unet.get("cross_attention_dim"),
            "pooled text and size width": self.unet.get("projection_class_embeddings_input_dim"),
            "UNet blocks": tuple(self.unet["block_out_channels"]),
            "prediction type": self.prediction_type,
        }


def _arm(source: Source, config: Path, overridden: Mapping[str, Any], options: _Options) -> Arm:
    base = options.base
    if source.is_file:
        return _arm_of_file(source, config, base)
    if source.path is None:
        skipped = {name for name in overridden if name != "scheduler"}
        if source.argument == "weak":
            skipped |= {"vae", "image_encoder"}
            skipped |= set() if options.weak_text_encoders else set(base.text_encoders)
        with _explained(source, options.variant):
            folder = base.image.download(source.value, **dict.fromkeys(skipped), **options.hub, **options.download)
        source = Source(source.argument, source.value, Path(folder))
    assert source.path is not None
    if not (source.path / "model_index.json").is_file():
        raise WeightsNotFound(
            f"{source} has no model_index.json. Accepted: a folder that a diffusers {base.name} or AnimateDiff"
            " pipeline was saved to, a hub id, or a single file in the original layout"
            f" ({', '.join(SUFFIXES)})."
        )
    with _explained(source, options.variant):
        index = DiffusionPipeline.load_config(source.path)
        unet = UNet2DConditionModel.load_config(source.path, subfolder="unet")
        scheduler = DDIMScheduler.load_config(source.path, subfolder="scheduler")
    name = index.get("_class_name")
    video = name in base.animatediff
    if not isinstance(name, str) or not ((video and options.video) or re.fullmatch(base.family, name)):
        accepted = (base.image.__name__, *(base.animatediff if options.video else ()))
        raise WeightsError(f"{source} is a {name}. Accepted: {' or '.join(accepted)}.")
    components = tuple(k for k, v in index.items() if isinstance(v, (list, tuple)) and v[0] is not None)
    needed = {"unet", "vae", *base.text_encoders} if source.argument == "strong" else {"unet"}
    for part in sorted(needed & set(components) - set(overridden)):
        if not weight_files(source.path / part, options.variant, options.use_safetensors):
            kind = f"{options.variant!r} weights (`variant`)" if options.variant else "weights"
            raise WeightsNotFound(f"{source} has no {kind} in {part}/.{_hint(source, options.variant)}")
    return Arm(source, name, unet, scheduler.get("prediction_type", "epsilon"), video, components, scheduler)


def _hint(source: Source, variant: str | None) -> str:
    """How to complete a repository of which only a part is cached."""
    if Path(source.value).expanduser().exists():
        return ""
    return f" Get them with\n  {download_command(source.argument, source.value, variant)}"


def _arm_of_file(source: Source, config: Path, base: Base) -> Arm:
    shapes = _shapes(source)
    unet = UNet2DConditionModel.load_config(config, subfolder="unet")
    prefix = "model.diffusion_model."
    expected = f"{base.name}'s original layout, with a UNet of cross-attention width {unet['cross_attention_dim']}"
    if f"{prefix}input_blocks.0.0.weight" not in shapes:
        raise WeightsError(f"{source} is {_describe(shapes)}. Accepted: {expected}.")
    widths = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")}
    labels = f"{prefix}label_emb.0.0.weight" in shapes
    if widths != {unet["cross_attention_dim"]} or labels != (unet.get("addition_embed_type") is not None):
        known = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "the SDXL refiner", 2048: "SDXL"}
        is_ = " or ".join(known.get(width, f"a UNet of cross-attention width {width}") for width in sorted(widths))
        raise WeightsError(f"{source} is a checkpoint of {is_ or 'another model'}. Accepted: {expected}.")
    channels = shapes[f"{prefix}input_blocks.0.0.weight"][1]
    if channels != unet["in_channels"]:
        raise WeightsError(
            f"{source} has a UNet of {channels} input channels (9 is inpainting, 8 is editing). Accepted:"
            f" {expected} and {unet['in_channels']} input channels."
        )
    # The marker that the makers of v-prediction fine-tunes of SDXL put into their files.
    prediction_type = "v_prediction" if "v_pred" in shapes else "epsilon"
    scheduler = {**IMAGE_SCHEDULER, "prediction_type": prediction_type}
    return Arm(source, base.image.__name__, unet, prediction_type, scheduler=scheduler)


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """In words, what a file is that is not a checkpoint of a whole model."""
    names = list(shapes)
    if any("lora" in name.lower() for name in names):
        return "a LoRA (load it into the pipeline with `load_lora_weights`)"
    if any("motion_modules." in name for name in names):
        return "a motion module (give it as `motion_adapter`)"
    if any(name.startswith(("down_blocks.", "conv_in.")) for name in names):
        return "a part of a diffusers folder (give the folder that holds model_index.json)"
    return f"a file of {len(names)} tensors, such as {names[0]!r}," if names else "empty"


@dataclass
class _Options:
    hub: dict[str, Any]
    model: dict[str, Any]
    torch_dtype: torch.dtype | None
    weak_text_encoders: bool
    base: Base
    video: bool

    @property
    def variant(self) -> str | None:
        return self.model.get("variant")

    @property
    def use_safetensors(self) -> bool | None:
        return self.model.get("use_safetensors")

    @property
    def download(self) -> dict[str, Any]:
        return {k: v for k, v in self.model.items() if k in ("variant", "use_safetensors")}


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
    files: dict[str, list[Path]] = field(default_factory=dict)

    def location(self) -> str:
        return str(self.strong.source.path)

    def explained(self) -> AbstractContextManager[None]:
        """Errors inside name the strong arm."""
        return _explained(self.strong.source, self.options.variant)

    def load_options(self) -> dict[str, Any]:
        """What the pipeline's own loader is told, beside the components."""
        common: dict[str, Any] = {_DTYPE: self.options.torch_dtype}
        if self.strong.source.is_file:
            return {**common, "config": str(self.config), "local_files_only": True}
        return {**common, **self.options.model, "local_files_only": True}

    def components(self) -> dict[str, Any]:
        """Load all but what the strong arm's own loader brings."""
        parts = dict(self.given)
        base = self.options.base
        if (adapter := self._motion_adapter(self.motion)) is not None:
            parts["motion_adapter"] = adapter
        if self.controlnets:
            loaded = [self._controlnet(each) for each in self.controlnets]
            parts["controlnet"] = loaded if len(loaded) > 1 else loaded[0]
        if not self.strong.is_animatediff:
            parts.setdefault("scheduler", self.scheduler)
        if self.strong.source.is_file and self.config == base.config:
            for name in base.tokenizers:
                if name not in parts:
                    parts[name] = clip_tokenizer(name)
        if self.weak is not None:
            parts["weak_unet"] = self._weak_unet(adapter)
            # None keeps a pair in `strong`'s folder from bringing those of its own weak model.
            parts.update({f"weak_{name}": None for name in base.text_encoders})
            if self.options.weak_text_encoders:
                parts.update(self._weak_text_encoders())
        return parts

    @cached_property
    def scheduler(self) -> Any:
        """For a video, AnimateDiff's schedule as diffusers documents it, for what the strong model predicts. For an
        image, the strong model's own, if a reflection can read its steps, or else DDIM with its settings."""
        if self.options.video:
            config = DDIMScheduler.load_config(self.options.base.config, subfolder="scheduler")
            return DDIMScheduler.from_config(config, prediction_type=self.strong.prediction_type)
        config = self.strong.scheduler
        own = getattr(diffusers, config.get("_class_name", "DDIMScheduler")).from_config(config)
        try:
            check_scheduler(own)
        except ValueError:
            own = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
        return own

    def _controlnet(self, given: Source | ControlNetModel) -> ControlNetModel:
        if not isinstance(given, Source):
            return given
        with _explained(given, self.options.variant):
            return ControlNetModel.from_pretrained(
                given.path or given.value,
                torch_dtype=self.options.torch_dtype,
                **self.options.model,
                **self.options.hub,
            )

    def _motion_adapter(self, motion: Source | MotionAdapter | None) -> MotionAdapter | None:
        if not isinstance(motion, Source):
            return motion
        if motion.is_file:
            adapter = load_motion_file(motion, self.config, self.options.torch_dtype)
            self.files[motion.argument] = [motion.path] if motion.path else []
            return adapter
        with _explained(motion, self.options.variant):
            adapter = MotionAdapter.from_pretrained(
                motion.path or motion.value,
                torch_dtype=self.options.torch_dtype,
                **self.options.model,
                **self.options.hub,
            )
        folder = Path(adapter.config.get("_name_or_path") or "")
        self.files[motion.argument] = weight_files(folder, self.options.variant, self.options.use_safetensors)
        return adapter

    def _weak_unet(self, adapter: MotionAdapter | None) -> UNet2DConditionModel | UNetMotionModel:
        assert self.weak is not None
        source, dtype = self.weak.source, self.options.torch_dtype
        with _explained(source, self.options.variant):
            if source.is_file:
                unet = UNet2DConditionModel.from_single_file(
                    str(source.path),
                    config=str(self.config),
                    subfolder="unet",
                    torch_dtype=dtype,
                    local_files_only=True,
                )
                return complete(source, unet)
            kind = UNetMotionModel if self.weak.is_animatediff else UNet2DConditionModel
            unet = kind.from_pretrained(source.path, subfolder="unet", torch_dtype=dtype, **self.options.model)
            if adapter is not None and isinstance(unet, UNetMotionModel):
                unet.load_motion_modules(adapter)
            return unet

    def _weak_text_encoders(self) -> dict[str, Any]:
        assert self.weak is not None
        source = self.weak.source
        base = self.options.base
        without = dict.fromkeys(("unet", "vae", *base.tokenizers))
        load: Any = base.image.from_pretrained
        options: dict[str, Any] = {**self.options.model, _DTYPE: self.options.torch_dtype}
        if source.is_file:
            load = base.image.from_single_file
            options = {_DTYPE: self.options.torch_dtype, "config": str(self.config)}
        with _explained(source, self.options.variant):
            parts = load(
                str(source.path), **without, scheduler=self.scheduler, local_files_only=True, **options
            ).components
        return {f"weak_{name}": complete(source, parts[name]) for name in base.text_encoders}

    def finish(self, pipeline: Any) -> Any:
        """Check that every weight was found, drop weak text encoders that add nothing, and note the files."""
        encoders = self.options.base.text_encoders
        for name in ("unet", "vae", *encoders):
            if (module := getattr(pipeline, name)) is not None:
                complete(self.strong.source, module, f"; pass `{name}` if it is kept elsewhere")
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
        for name, module in pipeline.components.items():
            if isinstance(module, torch.nn.Module) and name not in self.given:
                remember_files(module, self.files.get(name) or self._files(name))
        return pipeline

    def _files(self, component: str) -> list[Path]:
        arm, name = self.strong, component
        if self.weak is not None and component.startswith("weak_"):
            arm, name = self.weak, component.removeprefix("weak_")
        path = arm.source.path
        assert path is not None
        if path.is_file():
            return [] if name == "motion_adapter" else [path]
        return weight_files(path / name, self.options.variant, self.options.use_safetensors)


def plan(
    strong: str | PathLike[str],
    weak: str | PathLike[str] | None = None,
    motion_adapter: str | PathLike[str] | MotionAdapter | None = None,
    *,
    weak_motion_adapter: str | PathLike[str] | MotionAdapter | None = None,
    base: Base = BASES["SDXL"],
    video: bool = True,
    controlnet: Any = None,
    config: str | PathLike[str] | None = None,
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

    strong_source = find("strong", strong)
    weak_source = None if weak is None else find("weak", weak)
    motion = _motion("motion_adapter", motion_adapter)
    weak_motion = _motion("weak_motion_adapter", weak_motion_adapter)

    pinned = replace(options, hub={**options.hub, "revision": revision}) if revision else options
    strong_arm = _arm(strong_source, folder, kwargs, pinned)
    weak_arm = None if weak_source is None else _arm(weak_source, folder, {}, options)
    if weak_arm is not None:
        check_arms(strong_arm, weak_arm)
    if video and motion is None and "motion_adapter" not in strong_arm.components:
        raise WeightsError(
            f"motion_adapter=None, but {strong_arm.source} is an image model. Accepted: a hub id, a folder,"
            f" a file in AnimateDiff's original layout, or a MotionAdapter. One made for {base.name}:\n"
            f"  {download_command('motion_adapter', base.motion_weights, options.variant)}"
        )
    for module in (motion, weak_motion):
        if module is not None:
            _check_motion(module, strong_arm, options)
    given = controlnet if isinstance(controlnet, (list, tuple)) else [] if controlnet is None else [controlnet]
    controlnets = [each if isinstance(each, ControlNetModel) else find("controlnet", each) for each in given]
    for each in controlnets:
        _check_controlnet(each, strong_arm, options)
    return Pair(strong_arm, weak_arm, motion, weak_motion, controlnets, folder, options, kwargs)


def check_arms(strong: Arm, weak: Arm) -> None:
    """Refuse arms whose noise predictions mean different things: reflection subtracts one from the other.

    Raises:
        WeightsError: latents, text embeddings or prediction types differ.
    """
    ours, theirs = strong.facts(), weak.facts()
    for fact in ours:
        if ours[fact] != theirs[fact]:
            raise WeightsError(
                f"{strong.source} and {weak.source} do not go together: {fact} {ours[fact]} against"
                f" {theirs[fact]}. Accepted: two models that agree in it."
            )


def _motion(argument: Argument, given: str | PathLike[str] | MotionAdapter | None) -> Source | MotionAdapter | None:
    return given if given is None or isinstance(given, MotionAdapter) else find(argument, given)


def _check_motion(motion: Source | MotionAdapter, strong: Arm, options: _Options) -> None:
    named: str | Source
    if isinstance(motion, MotionAdapter):
        channels, named = tuple(motion.config.block_out_channels), "motion_adapter"
    elif motion.is_file:
        channels, named = _motion_channels(motion, _shapes(motion)), motion
    else:
        with _explained(motion, options.variant):
            adapter = MotionAdapter.load_config(motion.path or motion.value, **options.hub)
        if (kind := adapter.get("_class_name")) != "MotionAdapter":
            raise WeightsError(f"{motion} is a {kind}. Accepted: a MotionAdapter.")
        channels, named = tuple(adapter["block_out_channels"]), motion
        if motion.path and not weight_files(motion.path, options.variant, options.use_safetensors):
            raise WeightsNotFound(f"{motion} holds no weights (variant={options.variant!r}).")
    expected = tuple(strong.unet["block_out_channels"])
    if channels != expected:
        known = {(320, 640, 1280, 1280): " (Stable Diffusion 1.5)", (320, 640, 1280): " (SDXL)"}
        raise WeightsError(
            f"{named} is made for UNet blocks of {channels} channels{known.get(channels, '')}. Accepted for"
            f" {strong.source}: {expected}{known.get(expected, '')}."
        )


def _check_controlnet(controlnet: Source | ControlNetModel, strong: Arm, options: _Options) -> None:
    """Refuse a ControlNet that is made for another UNet."""
    config: Mapping[str, Any]
    if isinstance(controlnet, Source):
        with _explained(controlnet, options.variant):
            config = ControlNetModel.load_config(controlnet.path or controlnet.value, **options.hub)
        if (kind := config.get("_class_name")) != "ControlNetModel":
            raise WeightsError(f"{controlnet} is a {kind}. Accepted: a ControlNetModel.")
    else:
        config = controlnet.config
    named = controlnet if isinstance(controlnet, Source) else "controlnet"
    for key, what in (("cross_attention_dim", "cross-attention width"), ("block_out_channels", "UNet blocks")):
        ours, theirs = (tuple(v) if isinstance(v := c.get(key), list) else v for c in (strong.unet, config))
        if ours != theirs:
            raise WeightsError(
                f"{named} and {strong.source} do not go together: {what} {theirs} against {ours}. Accepted: a"
                " ControlNet for the strong model's base."
            )


def check_adapter(
    kind: Literal["LoRA", "IP-Adapter"],
    given: Any,
    unet: Mapping[str, Any],
    weight_name: str | None = None,
    subfolder: str | None = None,
) -> None:
    """Refuse a LoRA or IP-Adapter that is made for another base than a UNet's, where it is on this machine, or tensors.

    Raises:
        WeightsError: names both cross-attention widths.
    """
    if isinstance(given, Mapping):
        shapes, named = {name: tuple(tensor.shape) for name, tensor in _flat(given).items()}, str(kind)
    else:
        path, inside = (
            Path(given).expanduser(),
            Path(subfolder or "", weight_name or "pytorch_lora_weights.safetensors"),
        )
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", fspath(given)):
            path = Path(try_to_load_from_cache(fspath(given), str(inside)) or "")
        path = path / inside if path.is_dir() else path
        if not path.is_file():
            return
        shapes, named = _shapes(Source("lora", str(path), path)), f"{kind} {fspath(given)!r}"
    into = re.compile(r"attn2[._]to_[kv]\W.*(lora_?down|lora\.down|lora_A)|attn2_to_[kv]\.lora_down|to_[kv]_ip\.weight")
    widths = {shape[-1] for name, shape in shapes.items() if into.search(name) and "motion_modules" not in name}
    own = unet["cross_attention_dim"]
    if other := sorted(widths - {own}):
        known = {768: " (Stable Diffusion 1)", 1024: " (Stable Diffusion 2)", 2048: " (SDXL)"}
        raise WeightsError(
            f"{named} is made for a UNet of cross-attention width {other[0]}{known.get(other[0], '')}. Accepted:"
            f" {own}{known.get(own, '')}, as the pipeline's."
        )


def _motion_channels(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The channels of the UNet blocks that a motion module's file is made for, read off its norms."""
    pattern = re.compile(r"(?:.*\.)?down_blocks\.(\d+)\.motion_modules\.0\.(?:temporal_transformer\.)?norm\.weight")
    found = {int(match[1]): shape[0] for name, shape in shapes.items() if (match := pattern.fullmatch(name))}
    if not found:
        raise WeightsError(
            f"{source} is not a motion module: it has no down_blocks.0.motion_modules. Accepted: a hub id, a"
            " folder, or a file in AnimateDiff's original layout, such as mm_sdxl_v10_beta.ckpt."
        )
    return tuple(found[block] for block in sorted(found))


def load_motion_file(source: Source, config: Path = SDXL, torch_dtype: torch.dtype | None = None) -> MotionAdapter:
    """A motion module in AnimateDiff's original layout.

    The number of frames and whether there is a middle block are read from the file; the rest of the
    configuration is `config`'s. Trained positions are sinusoids, which are computed and not loaded.
    """
    tensors = {
        name[found.start() :]: tensor
        for name, tensor in open_checkpoint(source).items()
        if (found := re.search(r"(down_blocks|mid_block|up_blocks)\..*motion_modules\.", name))
    }
    _motion_channels(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    frames = {tensor.shape[1] for name, tensor in tensors.items() if name.endswith("pos_encoder.pe")}
    facts: dict[str, Any] = {"use_motion_mid_block": any(name.startswith("mid_block.") for name in tensors)}
    if len(frames) == 1:
        facts["motion_max_seq_length"] = frames.pop()
    with _explained(source):
        adapter = MotionAdapter.from_single_file(
            tensors,
            config=str(config),
            subfolder="motion_adapter",
            torch_dtype=torch_dtype,
            local_files_only=True,
            **facts,
        )
    return complete(source, adapter)


def complete(source: Source, model: Any, otherwise: str = "") -> Any:
    """The model, if every weight was found: loaders leave what is missing on the meta device, silently."""
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise WeightsError(
            f"{source} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}{otherwise}."
        )
    return model


def clip_tokenizer(name: Literal["tokenizer", "tokenizer_2"] = "tokenizer") -> CLIPTokenizer:
    """SDXL's CLIP tokenizer, made from the merges that ship with the package: 49,408 tokens.

    The vocabulary follows from the merges: 256 byte symbols, the same at the end of a word, 48,894 merges,
        and the
    two ends of a text. `tokenizer_2` pads with "!" (0) instead of the end of the text (49407).
    """
    merges = gzip.decompress((SDXL / "clip_merges.txt.gz").read_bytes()).decode().splitlines()
    # Bytes that print stand for themselves; the others are moved past 255, in order (Radford et al. 2019).
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(m.replace(" ", "") for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        (path / "tokenizer_config.json").write_bytes((SDXL / name / "tokenizer_config.json").read_bytes())
        return CLIPTokenizer.from_pretrained(folder)


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
