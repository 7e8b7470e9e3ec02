"""CLIP-T (DreamBooth, arXiv:2208.12242, section 4.2): how well a picture shows its prompt, by the cosine in CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import Clip, features
from ..weights import CLIP_B32
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class ClipT(ByFrame):
    name = "clip_t"
    weights = (CLIP_B32,)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.clip = Clip(paths[CLIP_B32.name], device, "B/32")

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return features(self.clip.vision, batch) @ self.clip.text(video.prompt or "")


DIMENSION = ClipT
