"""VBench's motion_smoothness: how well AMT (arXiv:2304.09790) finds every other frame between its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..weights import AMT_S
from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class MotionSmoothness(Dimension):
    name = "motion_smoothness"
    weights = (AMT_S,)
    of_motion = True
    least_frames = 3

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        from ..networks.amt import load

        self.network = load(paths[AMT_S.name]).to(device)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """(255 - the mean absolute difference of the odd frames and those between the even ones) / 255."""
        from ..networks.amt import between

        differences: list[float] = []
        before: torch.Tensor | None = None
        odd = None
        while (batch := (yield)) is not None:
            for index, frame in enumerate(batch.pixels, batch.first):
                if index % 2:
                    odd = frame.astype(np.int16)
                    continue
                after = batch.frames[index - batch.first][None] / 255
                if before is not None:
                    interpolated = between(self.network, before, after)[0].permute(1, 2, 0).cpu().numpy()
                    differences.append(np.abs(interpolated - odd).mean())
                before = after
        return float((255.0 - np.mean(differences)) / 255.0)


DIMENSION = MotionSmoothness
