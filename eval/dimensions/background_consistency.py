"""VBench's background_consistency: whether the scene stays itself, by CLIP features (arXiv:2311.17982, section 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import image_encoder
from ..weights import CLIP_B32, shared
from .consistency import consistency
from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Batch, Reader
    from ..videos import Video
    from .dimension import Scoring


class BackgroundConsistency(Dimension):
    name = "background_consistency"
    weights = (CLIP_B32,)
    least_frames = 2
    weighted = (1, 1)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(image_encoder, paths[CLIP_B32.name], device, "B/32")

    def features(self, batch: Batch) -> torch.Tensor:
        return self.network(batch.clip).image_embeds

    def score(self, video: Video, reader: Reader) -> Scoring:
        return consistency(self.features)


DIMENSION = BackgroundConsistency
