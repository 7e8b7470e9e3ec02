"""DINO similarity (DreamBooth, arXiv:2208.12242, section 4.2): the cosine of pictures and references, by ViT-S/16.

Pictures are prepared as for DINO's own evaluation (arXiv:2104.14294): short side to 256, the centre's 224.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..frames import DINO_NORM, by_pillow, normalised
from ..networks.dino import load
from ..weights import DINO_S16, shared
from .dimension import Similarity

if TYPE_CHECKING:
    from ..frames import Batch


class Dino(Similarity):
    name = "dino"
    weights = (DINO_S16,)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(load, paths[DINO_S16.name], device)

    def features(self, batch: Batch) -> torch.Tensor:
        return self.network(normalised(by_pillow(batch, 256, 224), DINO_NORM)).last_hidden_state[:, 0]


DIMENSION = Dino
