"""The judge of the shapes world as a dimension, without a network; its columns are `shapes_right`, `shapes_jerk` …"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from w2sd_video.shapes.columns import SHAPES, seen
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.judge import judge

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Shapes(Dimension):
    name = "shapes"
    version = 2
    prompted = True
    columns = tuple(f"shapes_{column.name}" for column in SHAPES)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """The judge's scores; NaN where the prompt does not say what one is about, or one frame does not show it."""
        scene = parse(video.prompt or "")
        batches = []
        while (batch := (yield)) is not None:
            batches.append(batch.pixels)
        frames = np.concatenate(batches)
        judged = seen(judge(frames, scene), len(frames))
        return {f"shapes_{column.name}": judged.get(column.name, math.nan) for column in SHAPES}


DIMENSION = Shapes
