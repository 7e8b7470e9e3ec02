"""What LoRAs and IP-Adapters have in common: tensors by name, and the base that a width is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..checks import BASE_OF_WIDTH

Tensors = dict[str, torch.Tensor]


def flat(weights: Mapping[str, Any]) -> Tensors:
    """Tensors by name, those in parts too: an IP-Adapter's two parts are dictionaries of their own."""
    tensors = {name: tensor for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}
    for part, inner in weights.items():
        if isinstance(inner, Mapping):
            tensors |= {f"{part}.{name}": tensor for name, tensor in flat(inner).items()}
    return tensors


def base_of(width: int) -> str:
    """The base of a cross-attention width, in parentheses; empty where it is of none."""
    return f" ({BASE_OF_WIDTH[width]})" if width in BASE_OF_WIDTH else ""
