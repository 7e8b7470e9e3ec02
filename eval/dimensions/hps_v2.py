"""HPS v2 (Wu et al. 2023, arXiv:2306.09341): human preference by a tuned CLIP ViT-H/14, 100 times its cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..frames import CLIP_NORM, centre, normalised, resized
from ..weights import HPS_V2
from .clip_cosine import ClipCosine

if TYPE_CHECKING:
    from ..frames import Batch


class HPSv2(ClipCosine):
    name = "hps_v2"
    weights = (HPS_V2,)

    def images(self, batch: Batch) -> torch.Tensor:
        # Its package resizes in floating point, where what bicubic overshoots stays.
        small = resized(batch.frames, 224, "bicubic", antialias=True)
        return self.clip.images(normalised(centre(small, 224), CLIP_NORM))


DIMENSION = HPSv2
