"""PickScore (Kirstain et al. 2023, arXiv:2305.01569): which of two pictures people pick, by a tuned CLIP ViT-H/14.

The score is 100 times the cosine of picture and prompt; 100 is the temperature of the published weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..frames import CLIP_NORM, by_pillow, normalised
from ..networks.clip import Clip
from ..weights import PICK_SCORE
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class PickScore(ByFrame):
    name = "pick_score"
    weights = (PICK_SCORE,)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.clip = Clip(paths[PICK_SCORE.name], device, "H/14", clean=False)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        frames = normalised(by_pillow(batch, 224, 224, round_up=False), CLIP_NORM)
        return 100 * self.clip.images(frames) @ self.clip.text(video.prompt or "")


DIMENSION = PickScore
