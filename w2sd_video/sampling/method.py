"""What a request says of its method and its weak arm."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..runs import Request
from ..runs.request import METHOD_FIELDS

if TYPE_CHECKING:
    from ..methods import Method


def weak_arm(request: Request) -> dict[str, Any]:
    """The arguments of a pair's call that say what the weak arm is."""
    call: dict[str, Any] = {
        "weak_prompt": request.text("weak_prompt"),
        "weak_negative_prompt": request.weak_negative_prompt,
        "weak_motion_scale": request.weak_motion_scale,
        "weak_routing": tuple(r) if isinstance(r := request.weak_routing, list) else r,
        "weak_skip_layers": request.weak_skip_layers,
        "strong_embedded_guidance": request.strong_embedded_guidance,
        "weak_embedded_guidance": request.weak_embedded_guidance,
    }
    loras = {name: each["weak"] for name, each in request.adapters.items() if request.one_network or each["weak"]}
    call["weak_adapter_scales"] = loras or None
    if request.one_network:
        call["weak_ip_adapter_scale"] = request.ip_adapter and request.ip_adapter["weak"]
    if request.controlnet is not None:
        call["weak_controlnet_conditioning_scale"] = float(request.controlnet["weak"])
    return {name: value for name, value in call.items() if value is not None}


def method_of(request: Request, variant: str) -> Method | None:
    """The method that one variant of a request is sampled by; None: the stock pipeline's loop."""
    method: Method | None = method_call(request, variant)["method"]
    return method


def method_call(request: Request, variant: str) -> dict[str, Any]:
    """The arguments of a pipeline's call that say what is sampled by, and what the weak arm is."""
    if variant == "strong" or (variant == "weak" and request.weak_alone):
        return {"method": None}
    from ..methods import Weak, find

    cls = find(request.method, request.method_sha256)
    call = {name: value for name, value in weak_arm(request).items() if variant != "w2sd" or cls.takes(name)}
    if variant == "weak":  # as it would be used, unless guidance is all there is to tell the two apart
        apart = call or request.weak_motion_adapter or request.weak
        guidance = request.guidance_scale if apart else request.weak_guidance_scale
        return call | {"method": Weak(weak_guidance=guidance)}
    seconds = ("strong_guidance_scale_2", "weak_guidance_scale_2")
    call |= {name: number for name in seconds if (number := getattr(request, name)) is not None}
    takes = {each.name for each in fields(cls)}
    values = {name: getattr(request, field) for name, field in METHOD_FIELDS.items() if name in takes}
    return call | {"method": cls(**values, **request.options)}
