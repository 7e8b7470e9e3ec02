"""VBench's imaging_quality: the mean over frames of MUSIQ's quality, learnt on SPAQ; 0-100 by video, 0-1 over them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..networks.musiq import load
from ..weights import MUSIQ_SPAQ
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video

LONGEST = 512


class ImagingQuality(ByFrame):
    name = "imaging_quality"
    weights = (MUSIQ_SPAQ,)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = load(paths[MUSIQ_SPAQ.name]).to(device)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        # More at once are slower on a CPU.
        return torch.cat([self.network(frames / 255) for frames in shrunk(batch.frames).split(4)])


DIMENSION = ImagingQuality


def shrunk(frames: torch.Tensor) -> torch.Tensor:
    """Frames (n, 3, h, w) with the long side at most 512, bilinear, without antialias.

    The whole part of the scaled side is taken, which for some sides is 511.
    """
    height, width = frames.shape[-2:]
    if max(height, width) <= LONGEST:
        return frames
    scale = LONGEST / max(height, width)
    size = (int(scale * height), int(scale * width))
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
