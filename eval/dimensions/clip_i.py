"""CLIP-I (DreamBooth, arXiv:2208.12242, section 4.2): how alike pictures and references are, by the cosine in CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import features, image_encoder
from ..weights import CLIP_B32, shared
from .dimension import Similarity

if TYPE_CHECKING:
    from ..frames import Batch


class ClipI(Similarity):
    name = "clip_i"
    weights = (CLIP_B32,)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(image_encoder, paths[CLIP_B32.name], device, "B/32")

    def features(self, batch: Batch) -> torch.Tensor:
        return features(self.network, batch)


DIMENSION = ClipI
