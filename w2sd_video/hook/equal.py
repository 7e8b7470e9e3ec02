"""Whether the two arms of a pipeline are certainly the same, so that a method costs evaluations for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..methods import S2WD, W2SD, AutoGuidance, Method, Optimistic

# Methods that change a step by the difference of the arms alone. Z-Sampling and its like have one network on purpose.
BY_DIFFERENCE = (W2SD, S2WD, AutoGuidance, Optimistic)


def equal_arms(
    method: Method,
    denoisers: Mapping[str, nn.Module],
    weak: Mapping[str, nn.Module],
    second: Iterable[tuple[float | None, float | None]],
    own: Iterable[object],
) -> str | None:
    """What to say where a method reflects by arms that certainly do not differ. None: they may.

    Args:
        denoisers: the strong arm's networks, by name.
        weak: the weak arm's, by the same names, where they are others.
        second: guidance of the strong and the weak arm that replaces the method's while a second denoiser runs.
        own: what else may be set for one of the arms. None: it is not.
    """
    more = method.convention != "exact" or getattr(method, "inversion_noise", 0.0) != 0
    strong_w, weak_w = method.strong_guidance, method.weak_guidance
    pairs = [(strong_w if s is None else s, weak_w if w is None else w) for s, w in [(None, None), *second]]
    if type(method) not in BY_DIFFERENCE or more or any(s != w for s, w in pairs):
        return None
    if all(each is None for each in own) and all(same(network, denoisers[name]) for name, network in weak.items()):
        return (
            f"the two arms do not differ: both have one network, guidance {weak_w:g} and the same inputs, so"
            f" {type(method).__name__} costs evaluations and has no effect beyond its inverse's error. Give the weak"
            " arm another network, guidance, prompt or setting"
        )
    return None


def same(weak: nn.Module, strong: nn.Module) -> bool:
    """Whether two networks certainly predict the same: the same modules, around the same parameters."""
    ours, theirs = dict(weak.named_modules()), dict(strong.named_modules())
    return ours.keys() == theirs.keys() and all(_same_module(ours[name], theirs[name]) for name in ours)


def _same_module(a: nn.Module, b: nn.Module) -> bool:
    if type(a) is not type(b) or _settings(a) != _settings(b) or _hooked(a) or _hooked(b):
        return False
    if a._parameters.keys() != b._parameters.keys() or a._buffers.keys() != b._buffers.keys():
        return False
    shared = all(b._parameters[name] is each for name, each in a._parameters.items())
    return shared and all(_same_buffer(each, b._buffers[name]) for name, each in a._buffers.items())


def _same_buffer(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)


def _hooked(module: nn.Module) -> bool:
    """Whether something changes what a module computes, such as a hook."""
    return "forward" in vars(module) or bool(module._forward_hooks or module._forward_pre_hooks)


def _settings(module: nn.Module) -> dict[str, Any]:
    """A module's attributes and its configuration: plain values as they are, and the types of others."""
    config = getattr(module, "config", None)
    values = {**vars(module), **(config if isinstance(config, Mapping) else {})}
    plain = (bool, int, float, str, tuple, type(None))
    public = {name: value for name, value in values.items() if not name.startswith("_")}
    return {name: value if isinstance(value, plain) else type(value) for name, value in public.items()}
