"""Finds, checks and loads pairs of diffusion transformers from folders, hub ids and single files.

The two may be of any size. But both get the same latents, at the same noise level, and the same text embeddings. So the
configurations of the networks, the autoencoders and the schedulers have to agree in these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args, get_type_hints

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.utils import is_gguf_available

from ..errors import WeightsError, WeightsNotFound
from ..provenance import files_of, note_files, remember_files
from ..schedulers import is_flow
from . import checkpoints
from .arm import components_of
from .checkpoints import explained
from .checks import complete
from .networks import hint, networks, single
from .options import DTYPE, HUB_OPTIONS, MODEL_OPTIONS, Options, dtype_among
from .sources import GGUF, SUFFIXES, Source, cached, local, resolve
from .weight_files import usual_variant, weight_files

FILES = (*SUFFIXES, GGUF)
"""The accepted endings of a transformer's single file."""

# Entries of an autoencoder's configuration that do not affect the meaning of its latents.
_APART = {"sample_size", "sample_height", "sample_width", "force_upcast", "mid_block_add_attention"}
# Entries of a scheduler's configuration that decide the noise level of a timestep.
_LEVELS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "snr_shift_scale"),
    *("rescale_betas_zero_snr", "invert_sigmas"),
)

Reference = str | PathLike[str]


@dataclass
class TransformerArm:
    """One arm of a pair of transformers, as its folder describes it, before any weight is read."""

    source: Source
    transformers: dict[str, dict[str, Any]]  # name -> configuration
    components: dict[str, tuple[str, str]]  # name -> library, class
    vae: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    options: Options = field(default_factory=Options)

    def facts(self, agreeing: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """Facts that two arms have to agree in, as far as the folder has them: each with a name for messages."""
        for name, config in self.transformers.items():
            yield f"the {name}'s class", config.get("_class_name")
            whole = _whole(config)
            for key in agreeing:
                yield f"the {name}'s {key}", whole.get(key)
        if self.vae is not None:
            yield "the autoencoder's class", self.vae.get("_class_name")
            for key, value in sorted(_whole(self.vae).items()):
                if not key.startswith("_") and key not in _APART:
                    yield f"the autoencoder's {key}", value
        if self.scheduler is not None:
            flow = is_flow(self.scheduler)
            yield "the prediction type", "flow" if flow else self.scheduler.get("prediction_type", "epsilon")
            whole = _whole(self.scheduler)
            for key in _LEVELS:
                yield f"the scheduler's {key}", None if flow and key.startswith("beta") else whole.get(key)
            yield "the flow shift", _shift(whole) if flow else None


def load_pair(
    cls: Any,
    load: Callable[..., Any],
    strong: Reference,
    weak: Any = None,
    *,
    weak_config: Reference | None = None,
    same_shift: bool = True,
    quantization_config: diffusers.PipelineQuantizationConfig | None = None,
    revision: str | None = None,
    **kwargs: Any,
) -> Any:
    """A pipeline of two arms; the arguments are those of `TransformerReflection.from_pretrained`.

    Args:
        cls: the family.
        load: diffusers' own loader of it.

    Raises:
        WeightsNotFound, WeightsError, TypeError: see there.
    """
    torch_dtype = dtype_among(kwargs)
    if not isinstance(quantization_config, diffusers.PipelineQuantizationConfig | None):
        raise ValueError(
            f"quantization_config is a {type(quantization_config).__name__}. Accepted: a"
            " diffusers.PipelineQuantizationConfig, or None."
        )
    options = Options(
        hub={name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs},
        model={name: kwargs.pop(name) for name in MODEL_OPTIONS if name in kwargs},
        torch_dtype=torch_dtype,
        quantization=quantization_config,
    )
    accepted = inspect.signature(cls.__init__).parameters.keys() - {"self", "args", "components"}
    if unknown := sorted(kwargs.keys() - accepted):
        own = (
            "weak_config",
            "same_shift",
            "dtype",
            "torch_dtype",
            "quantization_config",
            "revision",
            *HUB_OPTIONS,
            *MODEL_OPTIONS,
        )
        raise TypeError(
            f"from_pretrained() got an unexpected argument {unknown[0]!r}. Accepted, beside `strong` and `weak`:"
            f" {', '.join((*own, *sorted(accepted)))}."
        )
    pinned = replace(options, hub={**options.hub, "revision": revision}) if revision else options
    ours = _arm(cls, _source_of("strong", strong, pinned), set(kwargs), pinned)
    parts = dict(kwargs)
    for name in cls.denoiser_names:
        if isinstance(file := parts.get(name), (str, PathLike)):
            parts[name] = _of_file(cls, name, _source_of(name, file, options), _configured(ours, name), options)
        if isinstance(network := parts.get(name), ModelMixin):  # in the place of the folder's, which may lack it
            ours.transformers[name] = _described(network)
    if isinstance(vae := parts.get("vae"), (str, PathLike)):
        kind = ours.components.get("vae", ("diffusers", ""))[1]
        parts["vae"] = single(getattr(diffusers, kind), _source_of("vae", vae, options), options)
    if weak is not None:
        parts |= {name: None for name in cls._weak_components if name not in kwargs}  # a pair's own in `strong`
        parts |= _weak(cls, ours, weak, weak_config, not same_shift or "scheduler" in kwargs, options)
    parts = networks(ours.source, ours.components, pinned, set(parts)) | parts
    stamps = {name: files for name, part in parts.items() if (files := files_of(part))}
    with explained(ours.source, options.variant):
        pipeline = load(
            str(ours.source.path),
            **parts,
            **options.model,
            **{DTYPE: torch_dtype},
            local_files_only=True,
            trust_remote_code=False,
        )
    for name, files in stamps.items():
        note_files(getattr(pipeline, name), files)
    return pipeline


def _weak(
    cls: Any, strong: TransformerArm, weak: Any, config: Reference | None, rescheduled: bool, options: Options
) -> dict[str, Any]:
    """The weak arm's transformers, by the names of its components."""
    if isinstance(weak, (ModelMixin, Mapping)):
        several = dict(weak) if isinstance(weak, Mapping) else dict.fromkeys(strong.transformers, weak)
        if wrong := [name for name, each in several.items() if name not in cls.denoiser_names]:
            raise ValueError(f"weak={{{wrong[0]!r}: …}}: {cls.__name__} has {', '.join(cls.denoiser_names)}.")
        return {f"weak_{name}": each for name, each in several.items()}
    source = _source_of("weak", weak, options)
    name = cls.denoiser_name
    if source.path is not None and source.path.is_file():
        folder = _configured(strong, name)
        if config is not None:
            folder = _folder_of_config(_source_of("weak_config", config, options), name, options.hub)
        elif _configures(cls, name, source.path.parent):
            folder = source.path.parent
        network = _of_file(cls, name, source, folder, options)
        described = TransformerArm(source, dict.fromkeys(strong.transformers, _described(network)), {})
        _check_arms(cls, strong, described, rescheduled)
        return {f"weak_{name}": network for name in strong.transformers}
    arm = _arm(cls, source, set(), options)
    _check_arms(cls, strong, arm, rescheduled)
    loaded = networks(arm.source, arm.components, options, arm.components.keys() - set(cls.denoiser_names))
    if len(loaded) == 1:  # beside two experts, it is the weak arm of both
        loaded = dict.fromkeys(strong.transformers, *loaded.values())
    return {f"weak_{name}": network for name, network in loaded.items()}


def _check_arms(cls: Any, strong: TransformerArm, weak: TransformerArm, rescheduled: bool) -> None:
    """Refuse arms whose latents, times or texts differ, since the method subtracts the arms' predictions.

    Args:
        rescheduled: whether the caller sets one scheduler for both.
    """
    if extra := sorted(weak.transformers.keys() - strong.transformers.keys()):
        raise WeightsError(
            strong.source,
            f"and {weak.source} do not go together: the second has a {extra[0]}, and the first has none. Accepted: two"
            " models of as many transformers.",
        )
    ours = dict(strong.facts(cls.agree_in()))
    for fact, theirs in weak.facts(cls.agree_in()):
        if fact not in ours or ours[fact] == theirs or (rescheduled and fact == "the flow shift"):
            continue
        way = ", or a `scheduler` that both are sampled by, or `same_shift=False`" if fact == "the flow shift" else ""
        raise WeightsError(
            strong.source,
            f"and {weak.source} do not go together: {fact} is {ours[fact]} against {theirs}. Accepted: two models that"
            f" agree in it{way}.",
        )


def _source_of(argument: str, reference: Any, options: Options) -> Source:
    """Where a reference is: a folder, a file on this machine, or a hub repository."""
    source = replace(resolve(reference, argument), denoiser="transformer*")
    if source.path is None and source.inside.lower().endswith(FILES):
        source = replace(source, path=local(source, options.hub))
    if source.path is not None and source.path.is_file() and source.path.suffix.lower() not in FILES:
        raise WeightsError(source, f"is a {source.path.suffix or 'nameless'} file. Accepted: {', '.join(FILES)}.")
    return source


def _arm(cls: Any, source: Source, overridden: set[str], options: Options) -> TransformerArm:
    """Describes one arm of the pair; a hub repository is fetched."""
    if source.path is not None and source.path.is_file():
        raise WeightsError(
            source,
            "is a single file. Accepted: a folder of a pipeline in diffusers' layout or a hub id, beside which"
            " `transformer` may be a file.",
        )
    is_weak = source.argument == "weak"
    if source.path is None:
        parts = inspect.signature(cls.stock.__init__).parameters
        kept = {*cls.denoiser_names, "scheduler"}
        skipped = [name for name in parts if (is_weak and name not in kept) or name in overridden - {"scheduler"}]
        with explained(source, options.variant):
            folder = cls.stock.download(
                source.value, **dict.fromkeys(skipped), **options.hub, **options.download, trust_remote_code=False
            )
        if is_weak and "vae" in parts:  # whose configuration says what the latents mean
            with suppress(WeightsNotFound):
                local(replace(source, inside="vae/config.json"), options.hub)
        source = replace(source, path=Path(folder))
    assert source.path is not None
    if not (source.path / "model_index.json").is_file():
        raise WeightsNotFound(
            source, "has no model_index.json. Accepted: a folder of a pipeline in diffusers' layout, or a hub id."
        )
    components = components_of(source, checkpoints.configuration(source, source.path / "model_index.json"), overridden)
    configurations = {}
    for name in cls.denoiser_names:
        if name not in components or (name in overridden and not (source.path / name / "config.json").is_file()):
            continue
        _, kind = components[name]
        if kind not in (known := _kinds(cls, name)):
            raise WeightsError(source, f"has a {kind} as its {name}. Accepted: {' or '.join(known)}.")
        config = source.path / name / "config.json"
        if not config.is_file():
            raise WeightsNotFound(source, f"has no {name}/config.json.{hint(source, options.variant)}")
        variant = usual_variant(config.parent, options.variant, options.use_safetensors)
        if name not in overridden and not weight_files(config.parent, variant, options.use_safetensors):
            raise WeightsNotFound(source, f"has no weights in {name}/.{hint(source, options.variant)}")
        configurations[name] = {**checkpoints.configuration(source, config), "_class_name": kind}
    if not configurations and not overridden & set(cls.denoiser_names):
        raise WeightsError(
            source, f"has no {cls.denoiser_name}. Accepted: {' or '.join(_kinds(cls, cls.denoiser_name))}."
        )
    configs = {}
    for name, file in (("vae", "config.json"), ("scheduler", "scheduler_config.json")):
        path = source.path / name / file
        there = path.is_file() and name not in overridden
        configs[name] = checkpoints.configuration(source, path) if there else None
    return TransformerArm(source, configurations, components, configs["vae"], configs["scheduler"], options)


def _kinds(cls: Any, name: str) -> list[str]:
    """The classes of a component that a stock pipeline takes."""
    kind = get_type_hints(cls.stock.__init__)[name]
    return [each.__name__ for each in get_args(kind) or (kind,) if each is not type(None)]


def _described(network: Any) -> dict[str, Any]:
    """A loaded transformer's configuration, as a folder would say it."""
    return {**network.config, "_class_name": type(network).__name__}


def _configured(arm: TransformerArm, name: str) -> Path:
    """The folder of a transformer's configuration in an arm's folder. Of a hub repository it is fetched, since what a
    file takes the place of was not."""
    folder = Path(str(arm.source.path)) / name
    if arm.source.repository is not None and not (folder / "config.json").is_file():
        with suppress(WeightsNotFound):
            local(replace(arm.source, path=None, inside=f"{name}/config.json"), arm.options.hub)
    return folder


def _folder_of_config(source: Source, name: str, hub: Mapping[str, Any]) -> Path:
    """The folder of a transformer's configuration: of a pipeline's folder or repository, the one in it. Of a
    repository it alone is fetched."""
    if source.path is not None:
        inner = source.path / name
        return inner if inner.is_dir() else source.path
    of_pipeline, own = f"{name}/config.json", "config.json"
    if (there := cached(source, hub, of_pipeline, own)) is not None:
        return there.parent
    try:
        return local(replace(source, inside=of_pipeline), hub).parent
    except WeightsNotFound as missing:
        try:
            return local(replace(source, inside=own), hub).parent
        except WeightsNotFound:
            raise missing from None


def _configures(cls: Any, name: str, folder: Path) -> bool:
    """Whether a folder has the configuration of a transformer that the stock pipeline takes."""
    try:
        said = checkpoints.configuration(Source("weak", str(folder), folder), folder / "config.json")
    except WeightsError:
        return False
    return said.get("_class_name") in _kinds(cls, name)


def _of_file(cls: Any, name: str, source: Source, config: Path, options: Options) -> Any:
    """A transformer from a single file, by diffusers' own loader of such files.

    Raises:
        WeightsNotFound, WeightsError: no configuration for it; it cannot be used.
    """
    assert source.path is not None
    if not (config / "config.json").is_file():
        raise WeightsNotFound(
            source, f"is a file, which needs a configuration, and {config} has no config.json: give its folder."
        )
    said = checkpoints.configuration(source, config / "config.json")
    kind = getattr(diffusers, str(said.get("_class_name")), None)
    if kind is None or kind.__name__ not in _kinds(cls, name):
        raise WeightsError(
            source, f"has the configuration of a {said.get('_class_name')}. Accepted: {' or '.join(_kinds(cls, name))}."
        )
    if not hasattr(kind, "from_single_file"):
        raise WeightsError(source, f"is a single file, which diffusers does not load as a {kind.__name__}.")
    more: dict[str, Any] = {}
    if source.path.suffix.lower() == GGUF:
        if not is_gguf_available():
            raise WeightsError(
                source, "is a GGUF file, for which the package gguf is missing. Get it with\n  pip install gguf"
            )
        compute = options.torch_dtype or torch.float32
        more["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=compute)
    else:
        checkpoints.check_numbers(source, checkpoints.dtypes(source))
    with explained(source, options.variant):
        network = kind.from_single_file(
            fspath(source.path),
            config=str(config),
            local_files_only=True,
            **{DTYPE: options.torch_dtype or torch.float32},
            **more,
        )
    remember_files(network, [source.path])
    return complete(source, network)


def _whole(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its class's defaults for what it does not say; lists as tuples."""
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    known = inspect.signature(kind.__init__).parameters.values() if kind is not None else ()
    defaults = {each.name: each.default for each in known if each.default is not each.empty}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in {**defaults, **config}.items()}


def _shift(scheduler: Mapping[str, Any]) -> str:
    """How a flow's schedule is shifted, in words."""
    if scheduler.get("use_dynamic_shifting"):
        return f"dynamic, {scheduler.get('base_shift')} to {scheduler.get('max_shift')}"
    shift = scheduler.get("flow_shift", scheduler.get("shift"))
    return f"{1.0 if shift is None else shift:g}"
