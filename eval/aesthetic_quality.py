"""VBench's aesthetic_quality: LAION's linear aesthetic predictor on CLIP features, as a tenth of its 0-10."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from .background_consistency import load
from .dimensions import Dimension
from .weights import AESTHETIC, CLIP_L14, tensors

if TYPE_CHECKING:
    from .dimensions import Scoring
    from .videos import Reader, Video


class AestheticQuality(Dimension):
    name = "aesthetic_quality"
    weights = (CLIP_L14, AESTHETIC)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = load(paths[CLIP_L14.name]).to(device)
        self.head = torch.nn.Linear(768, 1)
        path = paths[AESTHETIC.name]
        try:
            self.head.load_state_dict(tensors(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold a linear layer of 768 inputs: {error}") from None
        self.head.requires_grad_(False).to(device)

    def score(self, video: Video, reader: Reader) -> Scoring:
        total = 0.0
        while (batch := (yield)) is not None:
            features = F.normalize(self.network(batch.clip).image_embeds, dim=-1)
            total += self.head(features).double().sum().item() / 10
        return total / reader.frames


DIMENSION = AestheticQuality
