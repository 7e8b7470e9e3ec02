"""What tells a weak arm from a strong one when both are one network: settings, on while the weak arm is evaluated.

The strong arm is the network as it is set. Each function here looks through a network once and gives what is to change,
as `Settings`; `switched` changes it, and leaves it as it was, however it is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

if TYPE_CHECKING:
    from .models.dit_moe import DiTMoETransformer2DModel, Routing

# Of a dictionary (an object's own attributes are one too), a key, and its value while the switch is on.
Settings = list[tuple[dict[str, Any], str, Any]]
_ABSENT = object()


@contextmanager
def switched(settings: Settings) -> Iterator[None]:
    """The settings, while the context lasts."""
    before = [owner.get(key, _ABSENT) for owner, key, _ in settings]
    try:
        for owner, key, value in settings:
            owner[key] = value
        yield
    finally:
        for (owner, key, _), value in zip(settings, before, strict=True):
            if value is _ABSENT:
                owner.pop(key, None)
            else:
                owner[key] = value


def adapters(network: nn.Module) -> dict[str, list[Any]]:
    """The LoRA layers of a network, by the adapters that are active in them and have weights there.

    PEFT names every active adapter at every layer that any LoRA changes, those too that do not change that layer.
    """
    layers: dict[str, list[Any]] = {}
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in set(layer.active_adapters) & layer.scaling.keys():
                layers.setdefault(name, []).append(layer)
    return layers


def adapter_scales(network: nn.Module, scales: Mapping[str, float]) -> Settings:
    """LoRAs at other scales, by adapter name; negative ones too. Those of them that a network lacks change nothing.

    A scale multiplies alpha / r, as diffusers' `set_adapters` has it. Nothing is loaded or merged.
    """
    there = adapters(network)
    settings = []
    for name, scale in scales.items():
        for layer in there.get(name, ()):
            now = layer.scaling[name]
            layer.set_scale(name, scale)
            settings.append((layer.scaling, name, layer.scaling[name]))
            layer.scaling[name] = now
    return settings


def ip_adapter_scale(network: nn.Module, scale: float | list[float]) -> Settings:
    """IP-Adapters at another scale: one for all of them, or one for each."""
    processors = ip_adapter_processors(network)
    scales = [list(scale) if isinstance(scale, list) else [scale] * len(p.scale) for p in processors]
    return [(vars(p), "scale", each) for p, each in zip(processors, scales, strict=True)]


def ip_adapter_processors(network: nn.Module) -> list[Any]:
    """The attention processors of a network that attend to the pictures of IP-Adapters."""
    attentions = [module.processor for module in network.modules() if isinstance(module, Attention)]
    return [processor for processor in attentions if hasattr(processor, "to_k_ip")]


def motion_scale(network: nn.Module, scale: float) -> Settings:
    """Motion modules that add `scale` times what they add to the hidden states; at 0 they are not evaluated."""

    def scaled(forward: Any) -> Any:
        def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if scale == 0:
                return hidden_states
            return hidden_states + scale * (forward(hidden_states, *args, **kwargs) - hidden_states)

        return run

    modules = [module for module in network.modules() if isinstance(module, AnimateDiffTransformer3D)]
    return [(vars(module), "forward", scaled(module.forward)) for module in modules]


def routing(network: DiTMoETransformer2DModel, value: Routing) -> Settings:
    """Other experts of a mixture.

    Raises:
        ValueError: there is no such routing.
    """
    network.ranks(value)
    return [(network.__dict__, "active_routing", value)]
