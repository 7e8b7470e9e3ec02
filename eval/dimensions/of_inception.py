"""What FID and the Inception score have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..networks.inception import load
from ..weights import INCEPTION, shared
from .dimension import Compared

if TYPE_CHECKING:
    import torch


class OfInception(Compared):
    """A score of a whole group, by what Inception makes of its pictures."""

    weights = (INCEPTION,)
    of_groups = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(load, paths[INCEPTION.name], device)
