"""PickScore (Kirstain et al. 2023, arXiv:2305.01569): which of two pictures people pick, by a tuned CLIP ViT-H/14.

The score is 100 times the cosine of picture and prompt; 100 is the temperature of the published weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..frames import CLIP_NORM, by_pillow, normalised
from ..weights import PICK_SCORE
from .clip_cosine import ClipCosine

if TYPE_CHECKING:
    from ..frames import Batch


class PickScore(ClipCosine):
    name = "pick_score"
    weights = (PICK_SCORE,)
    clean = False

    def images(self, batch: Batch) -> torch.Tensor:
        return self.clip.images(normalised(by_pillow(batch, 224, 224, round_up=False), CLIP_NORM))


DIMENSION = PickScore
