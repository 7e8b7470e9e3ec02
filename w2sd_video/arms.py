"""What tells a weak arm from a strong one when both are one network: switches, on while the weak arm is evaluated.

Each is a context that leaves the network as it was, however it is left. The strong arm is the network as it is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn


def adapters(network: nn.Module) -> dict[str, list[Any]]:
    """The LoRA layers of a network, by the adapters that are active in them."""
    found: dict[str, list[Any]] = {}
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.active_adapters:
                found.setdefault(name, []).append(layer)
    return found


@contextmanager
def adapter_scales(network: nn.Module, scales: Mapping[str, float]) -> Iterator[None]:
    """LoRAs at other scales, by adapter name; negative ones too. Those of them that a network lacks change nothing there.

    A scale multiplies alpha / r, as diffusers' `set_adapters` has it. Nothing is loaded or merged.
    """
    active = adapters(network)
    layers = [(layer, name, scale) for name, scale in scales.items() for layer in active.get(name, ())]
    before = [(layer.scaling, name, layer.scaling[name]) for layer, name, _ in layers]
    try:
        for layer, name, scale in layers:
            layer.set_scale(name, scale)
        yield
    finally:
        for scaling, name, value in before:
            scaling[name] = value


@contextmanager
def ip_adapter_scale(network: nn.Module, scale: float | list[float]) -> Iterator[None]:
    """IP-Adapters at another scale: one for all of them, or one for each."""
    processors = ip_adapter_processors(network)
    before = [processor.scale for processor in processors]
    try:
        for processor in processors:
            processor.scale = list(scale) if isinstance(scale, (list, tuple)) else [scale] * len(processor.scale)
        yield
    finally:
        for processor, value in zip(processors, before, strict=True):
            processor.scale = value


def ip_adapter_processors(network: nn.Module) -> list[Any]:
    """The attention processors of a network that attend to the pictures of IP-Adapters."""
    attentions = [module.processor for module in network.modules() if isinstance(module, Attention)]
    return [processor for processor in attentions if hasattr(processor, "to_k_ip")]


@contextmanager
def motion_scale(network: nn.Module, scale: float) -> Iterator[None]:
    """Motion modules that add `scale` times what they add to the hidden states; at 0 they are not evaluated."""
    modules = [module for module in network.modules() if isinstance(module, AnimateDiffTransformer3D)]
    before = [vars(module).get("forward") for module in modules]

    def scaled(forward: Any) -> Any:
        def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if scale == 0:
                return hidden_states
            return hidden_states + scale * (forward(hidden_states, *args, **kwargs) - hidden_states)

        return run

    try:
        for module in modules:
            module.forward = scaled(module.forward)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                vars(module).pop("forward", None)
            else:
                module.forward = forward
