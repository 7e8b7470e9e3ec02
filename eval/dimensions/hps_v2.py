"""HPS v2 (Wu et al. 2023, arXiv:2306.09341): human preference by a tuned CLIP ViT-H/14, 100 times its cosine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..frames import CLIP_NORM, centre, normalised, resized
from ..networks.clip import Clip
from ..weights import HPS_V2
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class HPSv2(ByFrame):
    name = "hps_v2"
    weights = (HPS_V2,)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.clip = Clip(paths[self.weights[0].name], device, "H/14")

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        # Its package resizes in floating point, where what bicubic overshoots stays.
        frames = normalised(centre(resized(batch.frames, 224, "bicubic", antialias=True), 224), CLIP_NORM)
        return 100 * self.clip.images(frames) @ self.clip.text(video.prompt or "")


DIMENSION = HPSv2
