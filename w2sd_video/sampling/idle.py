"""Settings that do not affect a request's videos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from .. import presets, settings
from ..families import FAMILIES
from ..models.sources import absolute
from ..runs import VARIANTS, Request
from .load import scheduler
from .method import method_of, weak_arm

if TYPE_CHECKING:
    from ..methods import Method

OF_ARMS = {"strong_guidance_scale", "weak_guidance_scale", "strong_guidance_scale_2", "weak_guidance_scale_2"}
OF_METHOD = ("method", "method_sha256", "options")
# What a model's own schedule may add to a request's, by which its noise levels change.
_TO_ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
_TRAINED: tuple[dict[str, Any], ...] = ({}, _TO_ZERO, {**_TO_ZERO, "timestep_spacing": "trailing"})


def idle(request: Request) -> dict[str, str]:
    """The settings that change nothing of a request's videos, whatever their values, each with the reason in words.

    It lists only what is certain. Under a method that is not the package's own, which may use every setting, that is
    nothing. The scale of an adapter in the weak arm is called as in `adapters.NAME.weak`.
    """
    of_each = [dict(_of_variant(request, variant)) for variant in VARIANTS[request.variant]]
    return {name: why for name, why in of_each[-1].items() if all(name in each for each in of_each)}


def in_effect(request: Request) -> dict[str, Any]:
    """The settings of a request without those that are `idle`, and without its preset's name."""
    values = asdict(request)
    for name in ("preset", *idle(request)):
        *outer, last = name.split(".")
        part = values
        for each in outer:
            part = part[each]
        del part[last]
    return values


def changed(request: Request) -> list[str]:
    """The settings that may be idle, and have another value than in the request's preset. None if the preset is not
    here any more."""
    try:
        preset = presets.load(request.preset)
    except (OSError, ValueError):
        return []
    usual: dict[str, Any] = {field.name: field.default for field in fields(Request)}
    usual |= {field.name: getattr(preset, field.name) for field in fields(preset) if field.name in usual}
    usual |= {name: absolute(usual[name]) for name in settings.PLACES if usual[name]}
    usual["reflection_steps"] = request.of_steps(request.num_inference_steps).reflection_steps
    usual["options"] = preset.options if request.method == preset.method else {}
    kept = {"method_sha256", *(["weak_prompt"] if preset.refine else [])}  # which a refined prompt sets
    return [name for name in idle(request) if name in usual.keys() - kept and getattr(request, name) != usual[name]]


def sentences(idle: Mapping[str, str], names: Iterable[str], called: Callable[[str], str] = str) -> Iterator[str]:
    """Says of some settings that they are idle, a sentence for each reason.

    Args:
        idle: by name, the reason; see the function.
        names: the names to speak of; others than those of idle settings are passed over.
        called: what a setting is called.
    """
    named = [name for name in dict.fromkeys(names) if name in idle]
    for why in dict.fromkeys(idle[name] for name in named):
        same = list(dict.fromkeys(called(name) for name in named if idle[name] == why))
        yield f"{why}; {', '.join(same)} {'have' if same[1:] else 'has'} no effect"


def _of_variant(request: Request, variant: str) -> Iterator[tuple[str, str]]:
    """The idle settings of one video of a request."""
    numbers: list[float | None]
    match variant:
        case "strong":
            yield from _all(
                (*_names("weak", request), *_names("reflection"), *OF_METHOD), "the strong model is sampled alone"
            )
            numbers = [request.guidance_scale]
        case "weak":
            why = "the weak arm is sampled alone, without reflection"
            yield from _all((*_names("reflection"), "weak_guidance_scale_2", *OF_METHOD), why)
            guidance = request.weak_guidance_scale
            if weak_arm(request) or request.weak or request.weak_motion_adapter:
                guidance = request.guidance_scale
                yield "weak_guidance_scale", f"the weak arm is sampled alone, at guidance_scale {guidance:g}"
            numbers = [request.guidance_scale, guidance]
        case _:
            from ..methods import METHODS

            if request.method not in METHODS:
                return
            method = method_of(request, variant)
            assert method is not None
            yield from _of_method(request, method)
            numbers = _guidances(request, method)
    if variant != "strong" and request.weak_motion_scale == 0:
        yield "weak_motion_adapter", "at weak_motion_scale 0 the weak arm evaluates no motion module"
    if all(number in (1, None) for number in numbers):
        yield from _all(("negative_prompt", "weak_negative_prompt"), "at guidance 1 no negative prompt is used")
        yield "guidance_rescale", "at guidance 1 there is nothing to rescale"


def _of_method(request: Request, method: Method) -> Iterator[tuple[str, str]]:
    """The idle settings of a video that one of the package's methods makes, beside those that guidance decides."""
    weak, reflection = _names("weak", request), _names("reflection")
    if not _reflects(request, method):
        cause = "reflection_steps" if request.reflection_steps == 0 else "options"  # which holds `interval`
        own = {*weak, *reflection, "options"} - {cause}
        # Guidance of arms can make a pipeline evaluate both branches, which changes rounding.
        hidden = request.guidance_scale <= 1 and (cause == "options" or FAMILIES[request.family].embedded)
        yield from _all(sorted(own - OF_ARMS if hidden else own), "no step reflects")
        return
    if method.one_model:
        without = {name for name in set(weak) - OF_ARMS if not method.takes(name)}
        yield from _all(without, f"{request.method_name} has the strong model in both arms")
    elif not method.uses_weak:
        yield from _all(weak, f"{request.method_name} has no weak arm")
    elif request.weak_guidance_scale == 1 and request.weak_guidance_scale_2 in (1, None):
        yield "weak_negative_prompt", "at weak guidance 1 the weak arm uses no negative prompt"
    if not method.guides:
        embedded = {"strong_embedded_guidance", "weak_embedded_guidance"}
        yield from _all(OF_ARMS | embedded, f"{request.method_name} has no guidance of a reflection")


def _guidances(request: Request, method: Method) -> list[float | None]:
    """All guidance numbers of a video that a method makes."""
    final = [request.guidance_scale, request.guidance_scale_2]
    if not method.reflects(0, request.num_inference_steps):  # whatever the levels: see `cost`
        return final
    return [*final, *method.guidances, request.strong_guidance_scale_2, request.weak_guidance_scale_2]


def _reflects(request: Request, method: Method) -> bool:
    """Whether one of the package's methods changes a step, or may do so."""
    if method.reflection_steps == 0 or tuple(method.interval) == (0, 1):
        return method.reflection_steps != 0
    if FAMILIES[request.family].transformer:  # whose pipelines choose the noise levels by the size of the latents
        return True
    from ..schedulers import read_step

    for trained in _TRAINED:
        built = scheduler(request, trained)
        with suppress(ValueError, IndexError):  # with which sampling is refused, too
            built.set_timesteps(request.num_inference_steps)
            levels = [read_step(built, t, index=n).level for n, t in enumerate(built.timesteps)]
            if any(method.reflects(n, len(levels), level) for n, level in enumerate(levels)):
                return True
    return False


def _names(arm: str, request: Request | None = None) -> list[str]:
    """The settings of an arm, "weak" or "reflection"; of a request, also its adapters' scales in that arm."""
    named = [name for name in settings.names() if settings.of(name).arm == arm]
    if request is not None:
        named += [f"adapters.{name}.{arm}" for name in request.adapters]
        named += [f"{name}.{arm}" for name in ("controlnet", "ip_adapter") if getattr(request, name) is not None]
    return named


def _all(names: Collection[str], why: str) -> Iterator[tuple[str, str]]:
    return ((name, why) for name in names)
