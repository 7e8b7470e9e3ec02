"""Loads the pipelines of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from .. import runs
from ..devices import usable_device
from ..errors import Refused, WeightsError, WeightsNotFound, did_you_mean
from ..families import FAMILIES
from ..models.sources import local, resolve
from ..runs import Request
from ..runs.request import METHOD_FIELDS
from ..runs.schedules import scheduler_class
from .method import method_of

if TYPE_CHECKING:
    import torch

    from ..pipelines.reflection import Reflection as Pipeline
    from ..settings import Variant

INDEX = "model_index.json"  # of a model's folder or repository


def load(request: Request, variant: Variant | None = None) -> dict[str, Pipeline]:
    """Loads the pipelines of a request, by the video that each makes: "weak", "strong" and "w2sd". They share networks.

    Args:
        variant: load the pipelines of this variant, which has to include the request's: those of "w2sd" also make
            "plain", and those of "compare" make all. Default: the request's own.

    Raises:
        OSError, ValueError: weights are missing or cannot be read; the message says how to get them.
        Refused: the device is not there, or the models cannot serve a setting, such as the number of frames.
    """
    _check_before(request)
    pipelines = _pipelines(request if variant is None else replace(request, variant=variant))
    _check_after(request, pipelines)
    return pipelines


def pipelines_of(request: Request, pipelines: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    """Those of a request's videos, by video, among the pipelines that `load` returned for its models."""
    pair = pipelines.get("w2sd")
    named = pipelines if pair is None else {"strong": pair, **pipelines}
    return {video: named[video] for video in runs.VARIANTS[request.variant]}


def check(request: Request, pipelines: Mapping[str, Pipeline]) -> None:
    """Refuses settings of a request that its models cannot serve, which `load` returned for another one.

    Raises:
        Refused: names the setting.
    """
    _check_before(request)
    _check_after(request, pipelines)


def _check_before(request: Request) -> None:
    """Refuses what can be refused before anything is read."""
    check_schedule(request)
    for variant in runs.VARIANTS[request.variant]:
        _check_branches(request, variant)
    if request.variant != "weak" or not request.weak_alone:
        _check_experts(request)


def _check_after(request: Request, pipelines: Mapping[str, Pipeline]) -> None:
    """Refuses what the loaded models tell cannot be served."""
    for pipe in pipelines_of(request, pipelines).values():
        for name in ("height", "width"):
            value = getattr(request, name)
            if pipe.side is not None and value != pipe.side:
                raise Refused(name, value, f"the model makes pictures of {pipe.side}x{pipe.side}")
            if value % pipe.multiple:
                raise Refused(name, value, f"give a multiple of {pipe.multiple}, as this model takes")
        if request.guidance_rescale is not None and "guidance_rescale" not in signature(type(pipe).__call__).parameters:
            accepted = "pipelines with a ControlNet have none here: give none"
            raise Refused("guidance_rescale", request.guidance_rescale, accepted)
        if request.num_frames is not None and (longest := pipe.most_frames) and request.num_frames > longest:
            raise Refused("num_frames", request.num_frames, f"the motion module takes from 1 to {longest}")


def _pipelines(request: Request) -> dict[str, Pipeline]:
    """The pipelines of a request, on their device."""
    device = usable_device(request.device)
    if request.offload != "none" and device.type == "cpu":
        raise Refused("offload", request.offload, "it needs an accelerator, and the models are on the CPU: give none")
    variants = runs.VARIANTS[request.variant]
    # Only a separate weak model, sampled alone, needs a pipeline of its own, with its text encoders and VAE.
    apart = ["weak"] if request.weak_alone and "weak" in variants else []
    if apart and variants[1:] and request.offload != "none":
        accepted = (
            "the weak model alone and the pair share networks, which one of them would move: give none, or make the"
            " three one by one, as the variants weak, plain and w2sd"
        )
        raise Refused("offload", request.offload, accepted)
    pipelines: dict[str, Pipeline] = {}
    if both := [variant for variant in variants if variant not in apart]:
        pair: dict[str, Any] = {}
        if request.weak is not None and set(both) != {"strong"}:
            pair = {"weak": request.weak, "weak_text_encoders": request.weak_text_encoders}
            pair |= {"weak_config": request.weak_config} if request.weak_config else {}
        if set(both) != {"strong"} and request.weak_motion_adapter is not None:
            pair["weak_motion_adapter"] = request.weak_motion_adapter
        pipe = _load(request, request.strong, **pair)
        _adapt(pipe, request)
        pipelines = dict.fromkeys(both, pipe)
    if apart:
        pipelines["weak"] = _weak_alone(request, pipelines.get("w2sd"))
    for pipe in pipelines.values():
        _place(pipe, device, request.offload)
        if request.compile:
            _compile(pipe)
        if hasattr(pipe.vae, "enable_slicing"):
            pipe.vae.enable_slicing()  # frames are decoded one by one: memory does not grow with their number
        pipe.set_progress_bar_config(disable=True)
    return pipelines


def _weak_alone(request: Request, pair: Pipeline | None) -> Pipeline:
    """The pipeline of the weak model alone, with its own text encoders and autoencoder.

    Args:
        pair: the pair's pipeline, if there is one. Its networks that are the weak model's are not read again.
    """
    assert request.weak is not None
    alone = replace(request, motion_adapter=request.weak_motion_adapter or request.motion_adapter)
    alone = replace(alone, vae=request.vae or _shared_vae(request))
    parts: dict[str, Any] = {}
    for name in (*pair.denoiser_names, *pair.encoder_names) if pair is not None else ():
        network = getattr(pair, f"weak_{name}")
        if not any(network is each for each in (None, *parts.values())):  # one may serve beside two experts
            parts[name] = network
    if pair is not None and alone.vae is not None:
        parts["vae"] = pair.vae
    if pair is not None and alone.motion_adapter is not None and request.weak_motion_adapter is None:
        parts["motion_adapter"] = pair.motion_adapter
    try:
        return _load(alone, request.weak, **parts)
    except (WeightsError, WeightsNotFound) as error:  # the loader calls the model that leads `strong`
        called = {"strong": "weak"}
        if request.weak_motion_adapter is not None:
            called["motion_adapter"] = "weak_motion_adapter"
        error.argument = called.get(error.argument, error.argument)
        raise


def _check_experts(request: Request) -> None:
    """Refuses settings of a second expert where the strong model's index says that it has none.

    Of a hub repository only the index is fetched. If it cannot be read, the loader says so.
    """
    names = ("guidance_scale_2", "strong_guidance_scale_2", "weak_guidance_scale_2")
    name = next((name for name in names if getattr(request, name) is not None), None)
    ahead = any((method := method_of(request, each)) and method.looks_ahead for each in runs.VARIANTS[request.variant])
    if name is None and not (ahead and FAMILIES[request.family].transformer):
        return
    source = resolve(request.strong, "strong")
    try:
        index = local(replace(source, inside=INDEX)) if source.path is None else source.path / INDEX
        boundary = json.loads(index.read_text(encoding="utf-8")).get("boundary_ratio")
    except (OSError, ValueError):
        return
    if boundary is None and name is not None:
        raise Refused(name, getattr(request, name), "the model has one expert, and not a second: give none")
    if boundary is not None and ahead:
        accepted = "it evaluates the network at the times of later steps, some of which are the other expert's"
        raise Refused("method", request.method, f"{accepted}: give another method")


def _place(pipe: Any, device: torch.device, offload: str) -> None:
    """Puts a pipeline on a device, or under an offload policy, which keeps only the running part there."""
    if offload == "none":
        pipe.to(device)
    elif offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        streamed = device.type == "cuda"  # the next blocks are fetched while these are evaluated
        pipe.enable_group_offload(
            onload_device=device, offload_type="block_level", num_blocks_per_group=1, use_stream=streamed
        )


def _compile(pipe: Any) -> None:
    """Compiles the denoisers: their repeated blocks, which is quick, or else the whole network."""
    for network in pipe.denoisers():
        if getattr(network, "_repeated_blocks", None):
            network.compile_repeated_blocks()
        else:
            network.compile()


def _shared_vae(request: Request) -> str | None:
    """The strong model's autoencoder, where the weak one's folder has none because both have the same."""
    assert request.weak is not None
    weak, strong = resolve(request.weak, "weak").path, resolve(request.strong, "strong").path
    if weak is None or strong is None:
        return None
    shared = weak.is_dir() and not (weak / "vae").exists() and (strong / "vae").is_dir()
    return str(strong / "vae") if shared else None


def _class(request: Request) -> type[Pipeline]:
    """The pipeline class of a request's family."""
    family = FAMILIES[request.family]
    name = family.pipeline if request.controlnet is None else family.with_controlnet
    cls: type[Pipeline] = getattr(import_module("w2sd_video.pipelines"), str(name))
    return cls


def _check_branches(request: Request, variant: str) -> None:
    """Refuses guidance that needs an unconditional branch which the family's pipeline will not have."""
    from ..methods.method import ARM_GUIDANCES

    cls, method = _class(request), method_of(request, variant)
    if not FAMILIES[request.family].transformer or cls.can_be_made_to_guide() or method is None:
        return
    if cls.guides_at(request.guidance_scale):
        return
    without = f"a guidance_scale over 1, without which {request.family} has no unconditional branch"
    if request.guidance_scale != 1:
        raise Refused("guidance_scale", request.guidance_scale, f"give 1, or {without}")
    if not method.reflects(0, request.num_inference_steps):
        return
    for name, guidance in zip(ARM_GUIDANCES, (method.strong_guidance, method.weak_guidance), strict=True):
        if guidance != 1 and guidance in method.guidances and getattr(request, METHOD_FIELDS[name]) == guidance:
            raise Refused(METHOD_FIELDS[name], guidance, f"give 1, or {without}")
    if (number := next((w for w in method.guidances if w != 1), None)) is not None:
        raise Refused("method", request.method, f"it guides by {number:g}: give {without}; or another method")


def _load(request: Request, strong: str, **pair: Any) -> Pipeline:
    """A pipeline of the request's family.

    Args:
        pair: more arguments of its `from_pretrained`. Components that are loaded already replace the request's.
    """
    import torch

    family, cls = FAMILIES[request.family], _class(request)
    if request.motion_adapter is not None:
        pair.setdefault("motion_adapter", request.motion_adapter)
    if request.vae is not None:
        pair.setdefault("vae", request.vae)
    if request.controlnet is not None:
        pair["controlnet"] = request.controlnet["model"]
    if family.transformer and "weak" in pair:
        pair["same_shift"] = False  # both are sampled by the request's schedule
        pair.pop("weak_text_encoders")
    pipe = cls.from_pretrained(strong, torch_dtype=getattr(torch, request.dtype), **pair)
    denoised, decoded = pipe.denoised_channels, pipe.decoded_channels
    if denoised != decoded:
        accepted = f"its latents have {decoded} channels, and the model's {denoised}: give one that fits"
        raise Refused("vae", request.vae, accepted)
    return pipe


def _adapt(pipe: Any, request: Request) -> None:
    """Puts the request's LoRAs and IP-Adapter on the strong arm, at its scales; into another network of the weak arm
    those LoRAs that it has too."""
    apart = getattr(pipe, "weak_unet", None) is not None
    for name, each in request.adapters.items():
        pipe.load_lora_weights(each["model"], adapter_name=name, into_weak=apart and each["weak"] != 0)
    if request.adapters:
        pipe.set_adapters(list(request.adapters), [each["strong"] for each in request.adapters.values()])
    if (ip := request.ip_adapter) is not None:
        pipe.load_ip_adapter(ip["model"], image_encoder_folder=ip.get("image_encoder") or "image_encoder")
        pipe.set_ip_adapter_scale(ip["strong"])


def check_schedule(request: Request) -> None:
    """Refuses what diffusers cannot build, what the pipeline or the method cannot be stepped by, and steps that a table
    of noise levels does not have.

    Raises:
        Refused: says which argument of the schedule, or how many steps.
    """
    from ..schedulers import check_scheduler

    built, name = scheduler(request), str(request.scheduler["class"])
    _check_table(request, built)
    if _class(request).scales_noise and not hasattr(built, "init_noise_sigma"):
        accepted = f"{request.family} takes one that scales its first noise, such as EulerDiscreteScheduler"
        raise Refused("scheduler", name, accepted)
    for method in (method_of(request, variant) for variant in runs.VARIANTS[request.variant]):
        try:
            if method is not None:
                check_scheduler(built, convention=method.convention)
        except ValueError as error:
            raise Refused("scheduler", name, str(error)) from None
    if name != _class(request).own_scheduler:
        _try_step(request, built)


def _try_step(request: Request, built: Any) -> None:
    """Refuses a scheduler that cannot step as pipelines call it: some take more than a prediction, time and sample."""
    import torch

    from ..schedulers import shifted

    x = torch.zeros(1, 4, 1, 8, 8)
    try:
        with torch.random.fork_rng(devices=[]):  # some draw noise
            built.set_timesteps(request.num_inference_steps, **shifted(built))
            t = built.timesteps[0]
            built.step(x, t, built.scale_model_input(x, t) if hasattr(built, "scale_model_input") else x)
    except MemoryError:
        raise
    except Exception as error:  # of whatever a step lacks
        accepted = f"{request.family} cannot step by it: {error}"
        raise Refused("scheduler", str(request.scheduler["class"]), accepted) from None


def _check_table(request: Request, built: Any) -> None:
    """Refuses steps that the table of noise levels of a request's scheduler does not have."""
    if not hasattr(built, "alphas_cumprod") or hasattr(built, "sigmas"):  # these look levels up between timesteps too
        return
    try:
        built.set_timesteps(request.num_inference_steps)
    except ValueError as error:
        raise Refused("scheduler", dict(request.scheduler), f"diffusers refuses it: {error}") from None
    last, levels = [int(built.timesteps.max()), int(built.timesteps.min())], len(built.alphas_cumprod)
    if last[0] >= levels or last[1] < 0:
        accepted = f"its timesteps go from {last[1]} to {last[0]}, and its levels from 0 to {levels - 1}"
        accepted += ": give fewer, or another steps_offset"
        raise Refused("num_inference_steps", request.num_inference_steps, accepted)


def scheduler(request: Request, trained: Mapping[str, Any] | None = None) -> Any:
    """The request's diffusers scheduler.

    Args:
        trained: the configuration of the scheduler that was loaded with the networks. What these predict, and whether
            they were trained to a signal-to-noise ratio of zero, is theirs to say where the request does not.

    Raises:
        Refused: diffusers has no such class, or the class no such argument; or the networks predict a flow and the
            scheduler is none of flow matching.
    """
    from ..schedulers import is_flow

    config = dict(request.scheduler)
    name = str(config.pop("class", ""))
    cls = scheduler_class(name)
    known = list(signature(cls).parameters)
    for key, value in config.items():
        if key not in known:
            raise Refused("scheduler", key, f"{name} has no such argument; {did_you_mean(key, known)}")
        usual = signature(cls).parameters[key].default
        kind = next((kind for kind in (bool, int, float, str) if isinstance(usual, kind)), None)
        kinds = (int, float) if kind in (int, float) else kind
        if kinds and value is not None and (not isinstance(value, kinds) or isinstance(value, bool) != (kind is bool)):
            accepted = f"give a value of {name} such as its default, {usual!r}"
            raise Refused(f"scheduler.{key}", value, accepted)
    trained = trained or {}
    if is_flow(trained) and not is_flow({**config, "_class_name": name}):
        raise Refused("scheduler", name, "the model is trained by flow matching: give FlowMatchEulerDiscreteScheduler")
    for key in ("prediction_type", "rescale_betas_zero_snr"):
        if trained.get(key) and key in known:
            config.setdefault(key, trained[key])
    if config.get("rescale_betas_zero_snr") and trained.get("timestep_spacing") == "trailing":
        config["timestep_spacing"] = "trailing"  # any other leaves the noisiest level out
    try:
        return cls(**config)
    except MemoryError:
        raise
    except Exception as error:  # diffusers checks few of its values
        raise Refused("scheduler", dict(request.scheduler), f"{name} takes no such value: {error}") from None
