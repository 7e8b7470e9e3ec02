"""VBench's subject_consistency: whether the subject stays itself, by DINO features (arXiv:2311.17982, section 4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.dino import load
from ..weights import DINO, shared
from .consistency import consistency
from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Batch, Reader
    from ..videos import Video
    from .dimension import Scoring


class SubjectConsistency(Dimension):
    name = "subject_consistency"
    weights = (DINO,)
    least_frames = 2
    weighted = (1, None)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = shared(load, paths[DINO.name], device)

    def features(self, batch: Batch) -> torch.Tensor:
        return self.network(batch.dino, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    def score(self, video: Video, reader: Reader) -> Scoring:
        return consistency(self.features)


DIMENSION = SubjectConsistency
