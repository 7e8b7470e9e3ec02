"""The judge of the shapes world as a dimension, without a network; its columns are `shapes_right`, `shapes_jerk` …"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from w2sd_video.shapes.columns import SHAPES
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.judge import judge

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Shapes(Dimension):
    name = "shapes"
    prompted = True
    columns = tuple(f"shapes_{column.name}" for column in SHAPES)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """The judge's scores; NaN where the prompt does not say what one is about."""
        scene = parse(video.prompt or "")
        frames = []
        while (batch := (yield)) is not None:
            frames.append(batch.pixels)
        judged = judge(np.concatenate(frames), scene)
        return {f"shapes_{column.name}": judged.get(column.name, math.nan) for column in SHAPES}


DIMENSION = Shapes
