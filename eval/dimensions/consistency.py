"""How alike the frames of a video are, as VBench counts it: by features, to the frame before and to the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from ..frames import Batch
    from .dimension import Scoring


def consistency(features: Callable[[Batch], torch.Tensor]) -> Scoring:
    """The mean over t >= 1 of (max(0, cos(f_t, f_{t-1})) + max(0, cos(f_t, f_0))) / 2.

    `features` gives those of a batch's frames, (n, channels).
    """
    seen: list[torch.Tensor] = []
    while (batch := (yield)) is not None:
        seen.append(F.normalize(features(batch), dim=-1))
    f = torch.cat(seen)
    to_previous, to_first = F.cosine_similarity(f[1:], f[:-1]), F.cosine_similarity(f[1:], f[:1])
    return (to_previous.clamp(min=0) + to_first.clamp(min=0)).double().mean().item() / 2
