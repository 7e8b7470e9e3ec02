"""LAION's improved aesthetic predictor, `sac+logos+ava1-l14-linearMSE`: a rating of 1-10, by CLIP features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import features, image_encoder
from ..networks.head import head
from ..weights import CLIP_L14, LAION_AESTHETIC, assign, shared, tensors
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class LaionAesthetic(ByFrame):
    name = "laion_aesthetic"
    weights = (CLIP_L14, LAION_AESTHETIC)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(image_encoder, paths[CLIP_L14.name], device, "L/14")
        self.head = head().requires_grad_(False)
        path = paths[LAION_AESTHETIC.name]
        assign(self.head, {name.removeprefix("layers."): tensor for name, tensor in tensors(path).items()}, path)
        self.head.to(device)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.head(features(self.network, batch))


DIMENSION = LaionAesthetic
