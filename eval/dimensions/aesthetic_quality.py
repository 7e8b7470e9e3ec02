"""VBench's aesthetic_quality: LAION's linear aesthetic predictor on CLIP features, as a tenth of its 0-10."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..networks.clip import image_encoder
from ..weights import AESTHETIC, CLIP_L14, shared, tensors
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class AestheticQuality(ByFrame):
    name = "aesthetic_quality"
    weights = (CLIP_L14, AESTHETIC)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(image_encoder, paths[CLIP_L14.name], device, "L/14")
        self.head = torch.nn.Linear(768, 1)
        path = paths[AESTHETIC.name]
        try:
            self.head.load_state_dict(tensors(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold a linear layer of 768 inputs: {error}") from None
        self.head.requires_grad_(False).to(device)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.head(F.normalize(self.network(batch.clip).image_embeds, dim=-1)) / 10


DIMENSION = AestheticQuality
