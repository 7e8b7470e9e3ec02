"""Checks of the arguments of `apply_reflection`, before anything is changed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import ModelHook
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.utils.torch_utils import unwrap_module
from torch import nn

from ..arms import Overrides
from ..errors import did_you_mean, shown
from ..methods import Method, no_method
from .form import Form
from .recording import Recorder
from .sent import Conditioning

# A pipeline's components that predict; the last is a second expert.
DENOISERS = ("unet", "transformer", "transformer_2")
# Entries of denoisers' configurations that are widths of text embeddings.
TEXT_WIDTHS = (
    "text_dim",
    "text_embed_dim",
    "text_embed_2_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
    "caption_channels",
    "cap_feat_dim",
)
CONDITIONING = "a `Conditioning(cond=…, uncond=…)`, each a dictionary of the denoiser's inputs by name"


def check_arguments(
    method: Any,
    *,
    form: Any,
    weak: Any,
    weak_conditioning: Any,
    weak_settings: Any,
    weak_controlnet_conditioning_scale: Any,
    weak_embedded_guidance: Any,
    strong_conditioning: Any,
    strong_embedded_guidance: Any,
    strong_guidance_2: Any,
    weak_guidance_2: Any,
    generator: Any,
    recorder: Any,
) -> None:
    """Refuse an argument of a type that `apply_reflection` does not take."""
    if method is not None and not isinstance(method, Method):
        raise no_method(method, by_name=False)
    for each in weak.values() if isinstance(weak, Mapping) else [weak]:
        if isinstance(each, DiffusionPipeline):
            part = next((name for name in DENOISERS if getattr(each, name, None) is not None), DENOISERS[0])
            raise ValueError(f"`weak` is a {type(each).__name__}: give its network, such as `pipe.{part}`.")
        _check("weak", each, nn.Module, "the weak arm's network, loaded, such as by its class's `from_pretrained`")
    _check("form", form, Form, "a `Form`")
    _check("weak_conditioning", weak_conditioning, Conditioning, CONDITIONING)
    _check("strong_conditioning", strong_conditioning, Conditioning, CONDITIONING)
    _check("recorder", recorder, Recorder, "a `Recorder()`")
    for each in generator if isinstance(generator, list) else [generator]:
        _check("generator", each, torch.Generator, "a `torch.Generator`, or a list of one for each video")
    setting = (
        isinstance(each, tuple) and len(each) == 3 and isinstance(each[0], dict) and isinstance(each[1], str)
        for each in weak_settings or ()
    )
    if not isinstance(weak_settings, (list, type(None))) or not all(setting):
        raise _refusal(
            "weak_settings", weak_settings, "what a function of `arms` returns, `adapter_scales(network, …)`"
        )
    if weak_settings == []:
        raise ValueError(
            "`weak_settings` is empty: a function of `arms` found nothing to set in its network, such as no adapter of"
            " that name. Give None where the weak arm has no settings of its own."
        )
    numbers: dict[str, list[Any]] = {
        "weak_embedded_guidance": [weak_embedded_guidance],
        "strong_embedded_guidance": [strong_embedded_guidance],
        "strong_guidance_2": [strong_guidance_2],
        "weak_guidance_2": [weak_guidance_2],
    }
    scale = weak_controlnet_conditioning_scale
    numbers["weak_controlnet_conditioning_scale"] = scale if isinstance(scale, list) else [scale]
    for name, values in numbers.items():
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise _refusal(name, value, "a finite number")


def check_inputs(name: str, own: Conditioning, networks: list[nn.Module]) -> None:
    """Refuse a conditioning with an input that none of the arm's networks has.

    Args:
        name: the argument's name, for messages.
    """
    takes = [inputs_of(network) for network in networks]
    if any(each is None for each in takes):
        return
    known = list(dict.fromkeys(key for each in takes for key in each or {}))
    for branch in ("cond", "uncond"):
        values = getattr(own, branch)
        if not isinstance(values, (Mapping, type(None))):
            raise _refusal(f"{name}.{branch}", values, "a dictionary of the denoiser's inputs by name")
        if key := next((key for key in values or () if key not in known), None):
            kind = type(unwrap_module(networks[0])).__name__
            raise ValueError(
                f"`{name}.{branch}` names {key!r}, which is no input of {kind}; {did_you_mean(key, known)}"
            )


def check_settings(settings: Overrides, weak: nn.Module, strong: nn.Module) -> None:
    """Refuse settings of the weak arm that were made of the pipeline's own network, where the weak arm has another."""
    foreign = _parts(strong) - _parts(weak)
    if (name := next((name for owner, name, _ in settings if id(owner) in foreign), None)) is not None:
        raise ValueError(
            f"`weak_settings` set {name!r} in the pipeline's own network, which the weak arm does not have: make them"
            " of the network that is given as `weak`."
        )


def _parts(network: nn.Module) -> set[int]:
    """The dictionaries in which `arms` changes a network, by id: of modules' attributes, processors' and scales."""
    parts = [vars(module) for module in network.modules()]
    inner = [of[name] for of in parts for name in ("scaling", "processor") if name in of]
    parts += [each if isinstance(each, dict) else getattr(each, "__dict__", parts[0]) for each in inner]
    return {id(each) for each in parts}


def check_same_inputs(name: str, weak: nn.Module, strong: nn.Module) -> None:
    """Refuse a weak network that requires an input which the pipeline's own does not take."""
    weak_inputs, strong_inputs = inputs_of(weak), inputs_of(strong)
    if weak_inputs is None or strong_inputs is None:
        return
    needed = [key for key, parameter in weak_inputs.items() if parameter.default is parameter.empty]
    if lacking := [key for key in needed if key not in strong_inputs]:
        kinds = [type(unwrap_module(network)).__name__ for network in (weak, strong)]
        raise ValueError(
            f"`weak` is a {kinds[0]}, which takes {lacking[0]!r}, and {name}'s denoiser is a {kinds[1]}, which takes"
            f" {', '.join(strong_inputs)}. Accepted: a network of the same inputs."
        )
    weak_mean, strong_mean = (
        isinstance(config := getattr(network, "config", None), Mapping) and bool(config.get("use_meanflow"))
        for network in (weak, strong)
    )
    if weak_mean != strong_mean:
        raise ValueError(
            f"`weak` has `use_meanflow` {weak_mean}, and {name}'s denoiser {strong_mean}. Accepted: the same for both,"
            " since such a network also gets the time at the step's end."
        )


def check_same_texts(name: str, weak: nn.Module, strong: nn.Module) -> None:
    """Refuse a weak network that takes text embeddings of another width, where both get the pipeline's."""
    configs = [each if isinstance(each := getattr(net, "config", None), Mapping) else {} for net in (weak, strong)]
    # Where it is no UNet's, the entry is the width inside the network.
    for key in (*TEXT_WIDTHS, *["cross_attention_dim"] * ("UNet" in type(unwrap_module(strong)).__name__)):
        weak_width, strong_width = (config.get(key) for config in configs)
        if isinstance(weak_width, int) and isinstance(strong_width, int) and weak_width != strong_width:
            raise ValueError(
                f"`weak` has {key} {weak_width}, and {name}'s denoiser {strong_width}. Accepted: a network of the same"
                " text embeddings, or `weak_conditioning` with its own."
            )


def check_frames(name: str, weak: nn.Module | None, frames: int | None) -> None:
    """Refuse a weak network whose motion modules take fewer frames at once than there are, if it is without
    FreeNoise.

    Args:
        frames: how many the latents have. None: not known.
    """
    config = getattr(weak, "config", None)
    most = config.get("motion_max_seq_length") if isinstance(config, Mapping) else None
    if weak is None or frames is None or not isinstance(most, int) or frames <= most:
        return
    if not any(isinstance(module, FreeNoiseTransformerBlock) for module in weak.modules()):
        raise ValueError(
            f"`weak` takes at most {most} frames at once, and {name} makes {frames}. Accepted: no more; or FreeNoise in"
            " `weak` too, by `enable_free_noise` while `weak` is the `unet` of a pipeline."
        )


def check_same_casting(name: str, weak: nn.Module, strong: nn.Module) -> None:
    """Refuse a weak network that shares parameters with the pipeline's own which layerwise casting stores in another
    dtype, if only one of the two networks casts them back."""
    shared = {id(each) for each in weak.parameters()} & {id(each) for each in strong.parameters()}
    by_weak, by_strong = (shared & _cast_layerwise(network) for network in (weak, strong))
    if by_weak != by_strong:
        casts, other = (f"{name}'s denoiser", "`weak`")[:: -1 if by_weak - by_strong else 1]
        raise ValueError(
            f"{casts} has layerwise casting, and {other}, which shares {len(by_weak ^ by_strong)} of the cast"
            " parameters, does not cast them back. Accepted: `enable_layerwise_casting` on both networks; or networks"
            " without shared parameters, as after `unshare()` of the pipeline, to be called before the casting."
        )


def _cast_layerwise(network: nn.Module) -> set[int]:
    """The parameters that layerwise casting casts before they are used, by id."""
    hooked = (m for m in network.modules() if "layerwise_casting" in getattr(_registry(m), "hooks", {}))
    return {id(parameter) for module in hooked for parameter in module.parameters()}


def check_same_place(name: str, weak: nn.Module, strong: nn.Module, device: torch.device | None) -> None:
    """Refuse a weak network that cannot take the inputs of the pipeline's own.

    That is a network of another dtype, or one on another device without a hook that moves its inputs there.

    Args:
        device: where the pipeline evaluates a network that is offloaded. None: not known.
    """
    weak_dtype, strong_dtype = getattr(weak, "dtype", None), getattr(strong, "dtype", None)
    if None not in (weak_dtype, strong_dtype) and weak_dtype != strong_dtype:
        raise ValueError(
            f"`weak` is in {weak_dtype}, and {name}'s denoiser in {strong_dtype}. Accepted: one dtype for both, as"
            " loaded by `from_pretrained(…, torch_dtype=…)`."
        )
    place = getattr(weak, "device", None)
    runs = device if _is_moved(strong) else getattr(strong, "device", None)
    if place is None or runs is None or _is_moved(weak):
        return
    if place.type != runs.type or None not in (place.index, runs.index) and place.index != runs.index:
        raise ValueError(
            f"`weak` is on {place}, and {name}'s denoiser runs on {runs}. Accepted: one device for both, or a weak"
            " network whose inputs accelerate moves to its device, by"
            f" `accelerate.dispatch_model(weak, {{'': {str(place)!r}}}, force_hooks=True)`."
        )


def _is_moved(network: nn.Module) -> bool:
    """Whether a network has hooks that move it, or its inputs, to the device where it runs."""
    return hasattr(network, "_hf_hook") or any("offloading" in key for key, _ in hooks_of(network))


def hooks_of(network: nn.Module) -> list[tuple[str, ModelHook]]:
    """The diffusers hooks in a network, each with its name."""
    registries = [_registry(module) for module in network.modules()]
    return [named for each in registries for named in getattr(each, "hooks", {}).items()]


def _registry(module: nn.Module) -> Any:
    """What holds a module's diffusers hooks. None: it has none."""
    return getattr(module, "_diffusers_hook", None)


def second_guidance(
    name: str, denoisers: Mapping[str, nn.Module], strong: float | None, weak: float | None
) -> dict[nn.Module, tuple[float | None, float | None]]:
    """The guidance of the strong and the weak arm while a pipeline's second denoiser runs, by that denoiser.

    Raises:
        ValueError: the pipeline has no second denoiser.
    """
    for argument, number in (("strong_guidance_2", strong), ("weak_guidance_2", weak)):
        if number is not None and len(denoisers) < 2:
            raise ValueError(f"`{argument}` is {number!r}, and {name} has one denoiser: give None.")
    return {} if strong is None and weak is None else {[*denoisers.values()][-1]: (strong, weak)}


def inputs_of(network: nn.Module) -> Mapping[str, inspect.Parameter] | None:
    """The arguments of a network's forward, by name; None if it takes `*args` or `**kwargs`."""
    parameters = dict([*inspect.signature(type(unwrap_module(network)).forward).parameters.items()][1:])
    is_open = any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())
    return None if is_open else parameters


def _check(name: str, value: Any, kind: type, accepted: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise _refusal(name, value, accepted)


def _refusal(name: str, value: Any, accepted: str) -> ValueError:
    return ValueError(f"`{name}` is {shown(value)}: give {accepted}, or None.")
