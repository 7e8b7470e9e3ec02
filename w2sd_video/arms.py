"""Differences between two arms of one network: attributes that are set while the weak arm is evaluated.

The strong arm is the network as it is. Each function here goes through a network once and returns the attributes to
set, as `Overrides`. `switched` sets them, and restores the former values afterwards, even on error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.utils.torch_utils import unwrap_module
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .methods.perturbed import check_layers, select_layers

if TYPE_CHECKING:
    from .models.dit_moe import DiTMoETransformer2DModel, Routing

# Entries (dictionary, key, value) to set; the dictionary may be the `vars` of an object.
Overrides = list[tuple[dict[str, Any], str, Any]]
_ABSENT = object()


@contextmanager
def switched(overrides: Overrides) -> Iterator[None]:
    """Applies overrides while the context lasts."""
    before = [owner.get(key, _ABSENT) for owner, key, _ in overrides]
    try:
        for owner, key, value in overrides:
            owner[key] = value
        yield
    finally:
        for (owner, key, _), value in zip(overrides, before, strict=True):
            if value is _ABSENT:
                owner.pop(key, None)
            else:
                owner[key] = value


def adapters(network: nn.Module) -> dict[str, list[Any]]:
    """The LoRA layers of a network by adapter: the layers in which the adapter is active and has weights.

    PEFT lists each active adapter at every layer that any LoRA changes, also where that adapter has no weights.
    """
    layers: dict[str, list[Any]] = {}
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in set(layer.active_adapters) & layer.scaling.keys():
                layers.setdefault(name, []).append(layer)
    return layers


def adapter_scales(network: nn.Module, scales: Mapping[str, float]) -> Overrides:
    """Sets LoRAs to other scales, which may be negative.

    A scale multiplies alpha / r, as in diffusers' `set_adapters`. Nothing is loaded or merged.

    Args:
        scales: scales by adapter name. Names of adapters that the network lacks are ignored.
    """
    loaded = adapters(network)
    settings = []
    for name, scale in scales.items():
        for layer in loaded.get(name, ()):
            now = layer.scaling[name]
            layer.set_scale(name, scale)
            settings.append((layer.scaling, name, layer.scaling[name]))
            layer.scaling[name] = now
    return settings


def ip_adapter_scale(network: nn.Module, scale: float | list[float]) -> Overrides:
    """Sets IP-Adapters to another scale: one number for all of them, or a list with one for each."""
    processors = ip_adapter_processors(network)
    several = [isinstance(p.scale, list) and not isinstance(scale, list) for p in processors]  # SD 3's has one number
    scales = [[scale] * len(p.scale) if each else scale for p, each in zip(processors, several, strict=True)]
    return [(vars(p), "scale", each) for p, each in zip(processors, scales, strict=True)]


def ip_adapter_processors(network: nn.Module) -> list[Any]:
    """The attention processors that IP-Adapters have put into a network."""
    processors = [getattr(module, "processor", None) for module in network.modules()]
    return [processor for processor in processors if hasattr(processor, "to_k_ip")]


def motion_scale(network: nn.Module, scale: float) -> Overrides:
    """Multiplies what motion modules add to the hidden states by `scale`; at 0 they are not evaluated."""

    def scaled(forward: Any) -> Any:
        def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if scale == 0:
                return hidden_states
            return hidden_states + scale * (forward(hidden_states, *args, **kwargs) - hidden_states)

        return run

    modules = [module for module in network.modules() if isinstance(module, AnimateDiffTransformer3D)]
    return [(vars(module), "forward", scaled(module.forward)) for module in modules]


def routing(network: DiTMoETransformer2DModel, value: Routing) -> Overrides:
    """Routes the tokens of a mixture-of-experts network to other experts; see `dit_moe`.

    Raises:
        ValueError: the network has no such routing.
    """
    network.ranks(value)
    return [(network.__dict__, "active_routing", value)]


def without_peft(network: Any) -> Any:
    """The network that PEFT's `get_peft_model` has wrapped, with its adapters; any other network as it is."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


# Parts of networks that prepare texts or pictures, and do not see the latents, by the beginning of their names.
BESIDE_LATENTS = ("caption_", "context_", "encoder_hid_proj", "siglip_", "text_", "token_refiner", "txt_")


def transformer_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks of a network by name, in the network's own order; those of motion modules are included.

    A block is a member of an `nn.ModuleList` that has an attention among its direct parts. Blocks that prepare texts or
    pictures and do not see the latents are left out, such as those of text refiners and of IP-Adapters' projections.
    """
    network = unwrap_module(without_peft(network))
    parents = {f"{name}." * bool(name): module for name, module in network.named_modules()}
    blocks = {
        name: module
        for name, module in network.named_modules()
        if isinstance(parents.get(name.rpartition(".")[0] + "."), nn.ModuleList)
        and not name.startswith(BESIDE_LATENTS)
        and any(is_attention(part) for part in module.children())
    }
    order = ("down_blocks", "mid_block", "up_blocks")  # U-Nets of diffusers build the middle last

    def place(name: str) -> int:
        first = name.partition(".")[0]
        return order.index(first) if first in order else 0

    return {name: blocks[name] for name in sorted(blocks, key=place)}


def is_attention(module: nn.Module) -> bool:
    """Whether a module is an attention of diffusers, of any of its classes."""
    return hasattr(module, "to_q") and hasattr(module, "to_v") or hasattr(module, "to_qkv")


def skip_layers(network: nn.Module, layers: Any) -> Overrides:
    """Leaves out transformer blocks.

    Args:
        layers: numbers or names of blocks; see `layers` of `methods.SkipLayerGuidance`.

    Raises:
        ValueError: the network has no such block, or it is not known how to skip one of its class.
    """
    check_layers(layers, "weak_skip_layers")
    blocks = transformer_blocks(network)
    return skipped({name: blocks[name] for name in select_layers(layers, list(blocks), "weak_skip_layers")})


def skipped(blocks: Mapping[str, nn.Module]) -> Overrides:
    """Leaves out transformer blocks, by name: each returns its inputs unchanged.

    Raises:
        ValueError: it is not known how to skip a block of this class.
    """
    return [(vars(block), "forward", _passing(name, block)) for name, block in blocks.items()]


# For block classes that diffusers' registry does not know: how many of its first arguments a block returns.
_RETURNED = {"DiTMoEBlock": 1, "SanaTransformerBlock": 1, "HunyuanVideo15TransformerBlock": 2}


def _passing(name: str, block: nn.Module) -> Callable[..., Any]:
    """A forward for a block that returns its inputs unchanged."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    kind = type(block)
    names = [*inspect.signature(kind.forward).parameters][1:]
    try:
        known = TransformerBlockRegistry.get(kind)
    except ValueError:
        if kind.__name__ not in _RETURNED:
            raise ValueError(f"the layer {name!r} is a {kind.__name__}, and how to skip one is not known.") from None
        returned = names[: _RETURNED[kind.__name__]]
    else:
        returned = [known.hidden_states_argument_name]
        if (second := known.return_encoder_hidden_states_index) is not None:
            returned.insert(second, known.encoder_hidden_states_argument_name)

    def run(*args: Any, **kwargs: Any) -> Any:
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        kept = tuple(inputs[each] for each in returned)
        return kept if len(kept) > 1 else kept[0]

    return run


def identity_attention(blocks: Mapping[str, nn.Module]) -> Overrides:
    """Replaces the self-attention map of transformer blocks by the identity: each token attends to itself alone.

    Raises:
        ValueError: a block has no self-attention, or one for which no identity map is defined: its sequence holds more
            than the latents' tokens (those of a text), or its heads share their values.
    """
    settings: Overrides = []
    for name, block in blocks.items():
        attention = next((part for part in (getattr(block, n, None) for n in ("attn1", "attn")) if part), None)
        if attention is None or not hasattr(attention, "to_out") or not hasattr(attention, "to_v"):
            raise ValueError(f"the layer {name!r} is a {type(block).__name__}, which has no self-attention of its own.")
        if reason := _no_identity(block, attention):
            raise ValueError(
                f"the self-attention of the layer {name!r} is a {type(attention).__name__} {reason}, for which no"
                " identity map is defined. Choose other layers."
            )
        settings.append((vars(attention), "forward", _of_itself(attention)))
    return settings


def _no_identity(block: nn.Module, attention: Any) -> str | None:
    """Why no identity map is defined for a block's self-attention. None: one is."""
    several = [n for n in ("add_v_proj", "group_norm", "spatial_norm") if getattr(attention, n, None) is not None]
    takes = inspect.signature(type(attention.processor).__call__).parameters if hasattr(attention, "processor") else {}
    text = takes.get("encoder_hidden_states")
    # diffusers' name for blocks whose one sequence holds a text's tokens and the latents'
    single = "SingleTransformerBlock" in type(block).__name__
    crossed = getattr(attention, "is_cross_attention", False) or getattr(attention, "residual_connection", False)
    if several or crossed or single or attention.to_out is None or (text is not None and text.default is text.empty):
        return "that takes more than the latents' tokens"
    first = attention.to_out[0] if isinstance(attention.to_out, nn.ModuleList) else attention.to_out
    widths = getattr(attention.to_v, "out_features", None), getattr(first, "in_features", None)
    return "whose heads share their values" if None not in widths and widths[0] != widths[1] else None


def _of_itself(attention: Any) -> Callable[..., Any]:
    """A self-attention's forward with the identity in place of its map."""

    def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        values = attention.to_v(hidden_states)
        out = attention.to_out
        for layer in out if isinstance(out, nn.ModuleList) else [out]:
            values = layer(values)
        return values / getattr(attention, "rescale_output_factor", 1.0)

    return run
