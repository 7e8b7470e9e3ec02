"""How many parameters a model's networks have, without reading weights.

The number comes from the headers of the weight files; else from the configurations, by building the networks on the
meta device; else, for some models, from their published configurations.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import Refused, WeightsError
from .sources import SUFFIXES, Source, cached, resolve
from .weight_files import usual_variant, weight_files

Tensors = dict[str, int]
"""Numbers of parameters by a tensor's name."""

_WAN_SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
_WAN_LARGE = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
_WAN = {"class": "WanTransformer3DModel", "attention_head_dim": 128, "text_dim": 4096, "in_channels": 16}
_LTX = {"class": "LTXVideoTransformer3DModel", "num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 28}

# Published configurations of transformers: the class, and its arguments. Text encoders, which both arms share, are left
# out.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"transformer": _WAN | _WAN_SMALL},
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": {"transformer": _WAN | _WAN_LARGE},
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": {name: _WAN | _WAN_LARGE for name in ("transformer", "transformer_2")},
    "Lightricks/LTX-Video": {"transformer": _LTX},
}


def parameters(reference: str, argument: str = "model", only: str = "") -> tuple[dict[str, Tensors], list[str]]:
    """The tensors of each network of a model, by the network's name; and the names of networks that are not known.

    Args:
        reference: a folder in diffusers' layout, a hub id, or a single file, which counts as a `transformer`.
        argument: the argument's name, for messages.
        only: the beginning of the names of the networks to return.
    """
    try:
        source = resolve(reference, argument)
    except (Refused, OSError):
        return {}, []
    if source.path is not None and source.path.is_file():
        known = _of_files(source, [source.path])
        return ({"transformer": known}, []) if known else ({}, ["transformer"])
    index = None if source.path or not source.repository else cached(source, None, "model_index.json")
    folder = source.path or (index and index.parent)
    if folder is None:
        return {name: each for name, each in _published(reference).items() if name.startswith(only)}, []
    sizes: dict[str, Tensors] = {}
    unknown = []
    for name, kind in _networks(folder).items():
        if name.startswith(only):
            if known := _of_component(source, folder / name, kind):
                sizes[name] = known
            else:
                unknown.append(name)
    return sizes, unknown


def built(config: Mapping[str, Any]) -> Tensors:
    """The tensors of a diffusers network of this class and configuration, built on the meta device."""
    import diffusers

    return _of_network(getattr(diffusers, config["class"]), {k: v for k, v in config.items() if k != "class"})


@cache
def _published(reference: str) -> Mapping[str, Tensors]:
    return {name: built(config) for name, config in PUBLISHED.get(reference, {}).items()}


def total(sizes: Mapping[str, Tensors]) -> int:
    """The number of parameters of all networks together."""
    return sum(sum(each.values()) for each in sizes.values())


def largest_at_once(tensors: Tensors) -> int:
    """The most parameters in memory if blocks are fetched ahead: the two largest blocks, and what is in no block."""
    blocks: dict[str, int] = {}
    rest = 0
    for name, count in tensors.items():
        if block := re.match(r"[^.]*(?:\.[^.\d]+)*\.\d+(?=\.)", name):
            blocks[block[0]] = blocks.get(block[0], 0) + count
        else:
            rest += count
    return rest + sum(sorted(blocks.values())[-2:])


def _networks(folder: Path) -> dict[str, tuple[str, str]]:
    """The components of a pipeline's folder that have a configuration of a network: library and class."""
    from . import checkpoints

    try:
        index = checkpoints.configuration(Source("model", str(folder), folder), folder / "model_index.json")
    except WeightsError:
        return {}
    pairs = {name: tuple(each) for name, each in index.items() if isinstance(each, list) and len(each) == 2}
    return {name: (str(a), str(b)) for name, (a, b) in pairs.items() if (folder / name / "config.json").is_file()}


def _of_component(source: Source, folder: Path, kind: tuple[str, str]) -> Tensors:
    """The tensors of a component; empty where they are not known."""
    return _of_files(source, weight_files(folder, usual_variant(folder))) or _of_configuration(source, folder, kind)


def _of_files(source: Source, files: list[Path]) -> Tensors:
    from .checkpoints import shapes

    tensors: Tensors = {}
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            return {}
        try:
            tensors |= {name: math.prod(shape) for name, shape in shapes(source, file).items()}
        except WeightsError:  # damaged; loading says so
            return {}
    return tensors


def _of_configuration(source: Source, folder: Path, kind: tuple[str, str]) -> Tensors:
    import diffusers
    import transformers

    from . import checkpoints

    library, name = kind
    cls = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), name, None)
    try:
        config = checkpoints.configuration(source, folder / "config.json")
    except WeightsError:
        return {}
    if inspect.isclass(cls) and issubclass(cls, (diffusers.ModelMixin, transformers.PreTrainedModel)):
        return _of_network(cls, config)
    return {}


def _of_network(cls: Any, config: Mapping[str, Any]) -> Tensors:
    import torch
    from accelerate import init_empty_weights

    try:
        if getattr(cls, "config_class", None) is not None:  # of transformers, whose tied weights stay tied there
            with torch.device("meta"):
                network = cls(cls.config_class(**config))
        else:
            with init_empty_weights():
                network = cls.from_config(dict(config))
    except Exception:  # a configuration may say anything; loading says what is wrong with it
        return {}
    return {name: parameter.numel() for name, parameter in network.named_parameters()}
