"""Loads single networks, each from a folder, a hub repository, or a single file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

from ..errors import WeightsError, WeightsNotFound
from ..provenance import remember_files
from . import checkpoints, layouts
from .bases import BASES, Base
from .checkpoints import explained
from .checks import complete, lacking, point_out
from .options import DTYPE, Options
from .sources import Source, download_command, find, resolve
from .weight_files import usual_variant, weight_files


def autoencoder(
    value: str | PathLike[str],
    torch_dtype: torch.dtype | None = None,
    base: Base = BASES["SDXL"],
    config: Mapping[str, Any] | None = None,
) -> AutoencoderKL:
    """Loads an autoencoder from a folder, a hub id, or a single file in the original layout or diffusers'.

    Args:
        base: the generation whose configuration a single file is loaded with. The file lacks the scale of the latents:
            0.13025 for SDXL, 0.18215 for Stable Diffusion.
        config: another configuration for a single file.

    Raises:
        WeightsNotFound: it is not there.
        WeightsError: it cannot be used.
    """
    source = find("vae", value)
    if source.is_file:
        model = layouts.autoencoder(
            source, config or AutoencoderKL.load_config(base.config, subfolder="vae"), torch_dtype
        )
        remember_files(model, [source.path] if source.path else [])
        return model
    return single(AutoencoderKL, source, Options(torch_dtype=torch_dtype, base=base))


def image_encoder(
    folder: str | PathLike[str],
    adapter: Source | None,
    torch_dtype: torch.dtype | None = None,
    hub: Mapping[str, Any] | None = None,
) -> Any:
    """Loads the image encoder of an IP-Adapter, a [`CLIPVisionModelWithProjection`].

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
            adapter or "the IP-Adapter",
            f"has no image encoder: no folder {name!r} lies beside it. Give one as image_encoder.",
        )
    else:
        source = resolve(folder, "image_encoder", folders=True)
    path = path or source.path or _encoder_folder(source, hub or {})
    kind = transformers.CLIPVisionModelWithProjection
    if not (path / "config.json").is_file():
        raise WeightsNotFound(source, f"has no config.json. Accepted: a folder of a {kind.__name__}.")
    config = checkpoints.configuration(source, path / "config.json")
    if config.get("model_type") not in ("clip_vision_model", "clip"):
        raise WeightsError(source, f"is a {config.get('model_type')}. Accepted: a {kind.__name__}.")
    if not weight_files(path, usual_variant(path)):
        raise WeightsNotFound(source, "holds no weights.")
    return component(kind, source, path, Options(torch_dtype=torch_dtype, base=BASES["SDXL"]))


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
        raise WeightsNotFound(source, f"is not on this machine. Get it with\n  {command}") from error


def component(kind: Any, source: Source, folder: Path, options: Options) -> Any:
    """A network of diffusers or transformers from its folder, with every weight in its place.

    Raises:
        WeightsError: weights are missing, of another shape, or damaged.
    """
    variant = usual_variant(folder, options.variant, options.use_safetensors)
    files = weight_files(folder, variant, options.use_safetensors)
    for file in files:
        checkpoints.shapes(source, file)
    model_options = {**options.model, "variant": variant, **options.quantized(kind, folder.name)}
    if files and all(file.suffix == ".bin" for file in files):  # diffusers looks for shards of one kind alone
        model_options["use_safetensors"] = False
    dtype = {DTYPE: options.torch_dtype or torch.float32}  # quantisers have defaults of their own
    if issubclass(kind, transformers.PreTrainedModel):
        model_options.pop("low_cpu_mem_usage", None)
        model_options["trust_remote_code"] = False
        dtype = {"dtype": dtype[DTYPE]}
    with explained(source, variant):
        model, info = kind.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, **dtype, **model_options
        )
    missing, left = info["missing_keys"], info["unexpected_keys"]
    if missing:
        raise lacking(source, kind.__name__, sorted(missing), f" ({folder.name})")
    if info.get("mismatched_keys"):
        raise WeightsError(source, f"has weights of another shape than {kind.__name__}'s in {folder.name}/.")
    point_out(source, kind.__name__, left)
    remember_files(model, files)
    return complete(source, model)


def networks(
    source: Source, components: Mapping[str, tuple[str, str]], options: Options, skipped: Collection[str]
) -> dict[str, Any]:
    """The networks of a pipeline's folder, by name.

    Args:
        components: what its index says that they are, by name: library and class.
        skipped: names of those that are not to be loaded.
    """
    folder = source.path
    assert folder is not None
    loaded = {}
    for name, (library, kind_name) in components.items():
        kind: Any = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), kind_name, None)
        network = isinstance(kind, type) and issubclass(kind, (diffusers.ModelMixin, transformers.PreTrainedModel))
        if not network or name in skipped:
            continue
        if kind is MultiControlNetModel:
            folders = [folder / name, *sorted(folder.glob(f"{name}_[0-9]*"), key=_number)]
            loaded[name] = kind([component(ControlNetModel, source, each, options) for each in folders])
        elif weight_files(folder / name, usual_variant(folder / name, options.variant)):
            loaded[name] = component(kind, source, folder / name, options)
    return loaded


def _number(folder: Path) -> tuple[int, str]:
    number = folder.name.rpartition("_")[2]
    return len(number), number


def single(kind: Any, source: Source, options: Options) -> Any:
    """A network that has a folder or a hub repository of its own."""
    folder = source.path
    if folder is None:
        with explained(source, options.variant):
            folder = _fetched_single(kind, source, options)
    config = folder / "config.json"
    if not config.is_file():
        raise WeightsNotFound(source, f"has no config.json. Accepted: a folder of a {kind.__name__}.")
    if (name := checkpoints.configuration(source, config).get("_class_name")) != kind.__name__:
        raise WeightsError(source, f"is a {name}. Accepted: a {kind.__name__}.")
    variant = usual_variant(folder, options.variant, options.use_safetensors)
    if not weight_files(folder, variant, options.use_safetensors):
        raise WeightsNotFound(source, f"holds no weights (variant={options.variant!r}).{hint(source, options.variant)}")
    return component(kind, source, folder, options)


def _fetched_single(kind: Any, source: Source, options: Options) -> Path:
    """The folder of a hub repository of one network."""
    from huggingface_hub import snapshot_download

    config = kind.load_config(source.value, **options.hub)  # what is wrong with the id or the network is said here
    if (name := config.get("_class_name")) != kind.__name__:
        raise WeightsError(source, f"is a {name}. Accepted: a {kind.__name__}.")
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


def configuration_of(kind: Any, source: Source, options: Options) -> Mapping[str, Any]:
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
        raise WeightsNotFound(source, f"has no config.json. Accepted: a folder of a {kind.__name__}.")
    if (name := config.get("_class_name")) != kind.__name__:
        raise WeightsError(source, f"is a {name}. Accepted: a {kind.__name__}.")
    return config


def hint(source: Source, variant: str | None) -> str:
    """How to complete a repository of which only a part is cached."""
    if source.repository is None:
        return ""
    return f" Get them with\n  {download_command(source.argument, source.value, variant, source.denoiser)}"
