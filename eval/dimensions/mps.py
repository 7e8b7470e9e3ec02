"""MPS, the multi-dimensional preference score of an image for a prompt, with the weights for overall preference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..frames import CLIP_NORM, by_pillow, normalised
from ..networks.mps import load
from ..weights import MPS_OVERALL
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class Preference(ByFrame):
    name = "mps"
    weights = (MPS_OVERALL,)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = load(paths[MPS_OVERALL.name]).to(device)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        frames = normalised(by_pillow(batch, 224, 224, round_up=False), CLIP_NORM)
        return self.network.score(frames, video.prompt or "")


DIMENSION = Preference
