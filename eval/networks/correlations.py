"""Correlations of the features of two frames, looked up without a volume of them all.

RAFT (Teed & Deng 2020, arXiv:2003.12039, section 3.2) and AMT (Li et al. 2023, arXiv:2304.09790) multiply each place of
one frame with each of the other, pool the volume to coarser levels, and read windows of it: at 1080p it has 4.2 GB.
Pooling is linear, so that the volume's level is the product with pooled features, and only the windows' are made here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = 2**27  # bytes of a volume; with a larger one, a CPU takes longer, too


def on_demand(features: Tensor) -> bool:
    """Whether correlations of such features, (n, channels, h, w), are to be looked up here, and not in a volume."""
    frames, _, height, width = features.shape
    return features.device.type == "cpu" and 4 * frames * (height * width) ** 2 > WHOLE


def correlations(before: Tensor, after: Tensor, levels: int = 4, radius: int = 4) -> Callable[[Tensor], Tensor]:
    """The correlations of each place of a frame with windows of another: <before, after> / sqrt(channels).

    Args:
        before, after: features of frames, (n, channels, h, w), float32, on the CPU.
        levels: of detail: `after`, and as often as that less one with both sides halved.
        radius: of the windows, places of a level.

    Returns:
        A function of the windows' centres in `after`: (n, 2, h, w), x and y, places of the finest level. It gives
        (n, levels * (2 radius + 1)^2, h, w): by level, by x, by y. Between places it interpolates; outside is zero.
    """
    frames, channels, *size = before.shape
    side = 2 * radius + 2  # with one more place to interpolate to
    reach = torch.arange(-radius, radius + 2)
    queries = before.permute(0, 2, 3, 1).reshape(-1, channels) / channels**0.5
    starts = torch.arange(len(queries) + 1) * side**2
    frame = torch.arange(len(queries))[:, None] // (size[0] * size[1])
    pyramid = []
    for _ in range(levels):
        # The zeros stand for all that is outside. (A sparse matrix has no more entries in a row than columns.)
        keys = F.pad(after.permute(0, 2, 3, 1).reshape(-1, channels), (0, 0, 0, side**2))
        pyramid.append((keys, *after.shape[-2:]))
        after = F.avg_pool2d(after, 2)

    def look_up(centres: Tensor) -> Tensor:
        windows = []
        for level, (keys, height, width) in enumerate(pyramid):
            x, y = centres.transpose(0, 1).flatten(1) / 2**level
            columns, rows = (centre.floor().long()[:, None] + reach for centre in (x, y))
            outside = ((columns < 0) | (columns >= width))[:, :, None] | ((rows < 0) | (rows >= height))[:, None]
            index = columns[:, :, None] + width * (rows + height * frame)[:, None]
            index.masked_fill_(outside, len(keys) - 1)
            window = _products(queries, keys, starts, index.flatten()).view_as(index)
            window = window[:, :-1].lerp(window[:, 1:], (x - x.floor())[:, None, None])
            windows.append(window[..., :-1].lerp(window[..., 1:], (y - y.floor())[:, None, None]).flatten(1))
        return torch.cat(windows, 1).unflatten(0, (frames, *size)).permute(0, 3, 1, 2).contiguous()

    return look_up


def _products(queries: Tensor, keys: Tensor, starts: Tensor, index: Tensor) -> Tensor:
    """The products of query i with the keys of index[starts[i]:starts[i + 1]]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        sizes = len(queries), len(keys)
        wanted = torch.sparse_csr_tensor(starts, index, queries.new_zeros(len(index)), sizes, check_invariants=False)
    return torch.sparse.sampled_addmm(wanted, queries, keys.T, beta=0).values()
