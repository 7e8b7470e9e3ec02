"""LAION's improved aesthetic predictor, `sac+logos+ava1-l14-linearMSE`: a rating of 1-10, by CLIP features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import features
from ..networks.head import head
from ..weights import CLIP_L14, LAION_AESTHETIC, assign, tensors
from .clip_head import ClipHead

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class LaionAesthetic(ClipHead):
    name = "laion_aesthetic"
    weights = (CLIP_L14, LAION_AESTHETIC)

    def read_head(self, path: Path) -> torch.nn.Module:
        layers = head()
        assign(layers, {name.removeprefix("layers."): tensor for name, tensor in tensors(path).items()}, path)
        return layers

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.head(features(self.network, batch))


DIMENSION = LaionAesthetic
