"""The judge of the shapes world as a dimension, without a network; its columns are `shapes_right`, `shapes_jerk` …"""

from __future__ import annotations

from typing import TYPE_CHECKING

from w2sd_video.shapes.columns import SHAPES, seen
from w2sd_video.shapes.judge import judge

from .judged import Judged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from w2sd_video.shapes.world import Scene


class Shapes(Judged):
    name = "shapes"
    columns = tuple(f"shapes_{column.name}" for column in SHAPES)

    def judged(self, frames: NDArray[np.uint8], scene: Scene) -> dict[str, float]:
        return seen(judge(frames, scene), len(frames))


DIMENSION = Shapes
