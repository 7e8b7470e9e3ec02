"""What LAION's two aesthetic predictors have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import image_encoder
from ..weights import CLIP_L14, shared
from .dimension import ByFrame

if TYPE_CHECKING:
    from torch import nn


class ClipHead(ByFrame):
    """A few linear layers, of the second of `weights`, on the features of CLIP L/14, the first."""

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(image_encoder, paths[CLIP_L14.name], device, "L/14")
        self.head = self.read_head(paths[self.weights[1].name]).requires_grad_(False).to(device)

    def read_head(self, path: Path) -> nn.Module:
        """The layers with the weights of a file.

        Raises:
            ValueError: they are of other layers.
        """
        raise NotImplementedError
