"""Weights and pictures by rule, equal wherever numpy is: what golden numbers of large networks are recorded on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def fill(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Normal weights for parameters of these names and shapes; each depends on its place among the sorted names.

    Matrices and kernels have a deviation of 1/sqrt(fan-in), norms' weights lie about 1, biases about 0, and a tensor
    that starts with an axis of length 1 (an embedding, a single output) is not scaled by its fan-in.
    """
    weights = {}
    for index, name in enumerate(sorted(shapes)):
        shape = tuple(shapes[name])
        x = np.random.default_rng([2108, index]).standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            x = 0.2 * x + name.endswith("weight")
        elif shape[0] > 1:
            x = x / np.float32(np.sqrt(np.prod(shape[1:])))
        weights[name] = torch.from_numpy(x.astype(np.float32))
    return weights


def pictures(height: int, width: int) -> torch.Tensor:
    """Noise, black, and a gradient of all three channels: (3, 3, height, width), RGB in 0-1."""
    noise = np.random.default_rng([height, width]).random((3, height, width), dtype=np.float32)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    gradient = np.stack([x, y, (x + y) / 2]).astype(np.float32)
    return torch.from_numpy(np.stack([noise, np.zeros_like(noise), gradient]))


def encoder(width: int, layers: int, heads: int) -> dict[str, int]:
    """The size of an encoder under transformers' names."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads}
