"""The judge of the shapes world, of outlines: how empty the shapes are, and its columns once they are filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from w2sd_video.shapes.columns import OUTLINES, seen
from w2sd_video.shapes.judge import filled, judge
from w2sd_video.shapes.pairs import emptiness

from .judged import Judged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from w2sd_video.shapes.world import Scene


class Outlines(Judged):
    name = "outlines"
    columns = tuple(f"outlines_{column.name}" for column in OUTLINES)

    def judged(self, frames: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
        """The judge's scores of the filled frames, and `outlined` of the first one."""
        return seen(judge(filled(frames), scene), len(frames)) | {"outlined": emptiness(frames)}


DIMENSION = Outlines
