"""What the dimensions of the shapes world's judge have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from w2sd_video.shapes.grammar import parse

from .dimension import Dimension

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from w2sd_video.shapes.world import Scene

    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Judged(Dimension):
    """The judge's scores of a whole video, each in the column `NAME_SCORE`."""

    version = 2
    prompted = True

    def judged(self, frames: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
        """The scores by name of frames (F, H, W, 3), against the scene that the prompt describes."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        """The judge's scores; NaN where the prompt does not say what one is about, or one frame does not show it."""
        scene = parse(video.prompt or "")
        batches = []
        while (batch := (yield)) is not None:
            batches.append(batch.pixels)
        judged = self.judged(np.concatenate(batches), scene)
        return {column: judged.get(column.removeprefix(f"{self.name}_"), math.nan) for column in self.columns}
