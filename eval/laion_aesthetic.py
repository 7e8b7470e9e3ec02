"""LAION's improved aesthetic predictor, `sac+logos+ava1-l14-linearMSE`: a rating of 1-10, by CLIP features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .clip import features, image_encoder
from .dimensions import ByFrame
from .weights import CLIP_L14, LAION_AESTHETIC, assign, shared, tensors

if TYPE_CHECKING:
    from .videos import Batch, Video


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


def head(width: int = 768) -> nn.Sequential:
    """The layers of a published head, with nothing between them; dropout, which does nothing here, counts among them.

    ImageReward has the same on other features.
    """
    sizes, dropout = (width, 1024, 128, 64, 16, 1), nn.Identity
    linear = [nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(linear[0], dropout(), linear[1], dropout(), linear[2], dropout(), linear[3], linear[4])
