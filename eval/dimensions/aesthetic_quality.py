"""VBench's aesthetic_quality: LAION's linear aesthetic predictor on CLIP features, as a tenth of its 0-10."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..weights import AESTHETIC, CLIP_L14, tensors
from .clip_head import ClipHead

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class AestheticQuality(ClipHead):
    name = "aesthetic_quality"
    weights = (CLIP_L14, AESTHETIC)

    def read_head(self, path: Path) -> torch.nn.Linear:
        linear = torch.nn.Linear(768, 1)
        try:
            linear.load_state_dict(tensors(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold a linear layer of 768 inputs: {error}") from None
        return linear

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.head(F.normalize(self.network(batch.clip).image_embeds, dim=-1)) / 10


DIMENSION = AestheticQuality
