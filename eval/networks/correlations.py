"""Correlations of the features of two frames, computed on demand instead of as a full volume.

RAFT (Teed & Deng 2020, arXiv:2003.12039, section 3.2) and AMT (Li et al. 2023, arXiv:2304.09790) multiply each position
of one frame with each of the other, pool this volume to coarser levels, and read windows of it; at 1080p it has 4.2 GB.
Pooling is linear, so a level of the volume is a product with pooled features. Here only the windows are computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = 2**27  # bytes of a volume; above this, a CPU also takes longer with the full volume


def on_demand(features: Tensor) -> bool:
    """Whether to compute correlations of such features, (n, channels, h, w), on demand instead of as a full volume."""
    frames, _, height, width = features.shape
    return features.device.type == "cpu" and 4 * frames * (height * width) ** 2 > WHOLE


def correlations(before: Tensor, after: Tensor, levels: int = 4, radius: int = 4) -> Callable[[Tensor], Tensor]:
    """The correlations of each position of a frame with windows of another: <before, after> / sqrt(channels).

    Args:
        before, after: features of frames, (n, channels, h, w), float32, on the CPU.
        levels: the number of resolutions of `after`; each level halves both sides.
        radius: of the windows, in positions of their level.

    Returns:
        A function of the windows' centres in `after`, (n, 2, h, w): x and y, in positions of the finest level. It
        returns (n, levels * (2 radius + 1)^2, h, w), ordered by level, x and y. It interpolates between positions, and
        is zero outside of the frame.
    """
    frames, channels, *size = before.shape
    side = 2 * radius + 2  # includes one more position for interpolation
    reach = torch.arange(-radius, radius + 2)
    queries = before.permute(0, 2, 3, 1).reshape(-1, channels) / channels**0.5
    starts = torch.arange(len(queries) + 1) * side**2
    frame = torch.arange(len(queries))[:, None] // (size[0] * size[1])
    pyramid = []
    for _ in range(levels):
        # The zeros serve all positions outside. (A row of a sparse matrix cannot have more entries than columns.)
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
