"""The judge of the shapes world, of outlines: how empty the shapes are, and its columns once they are filled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from w2sd_video.shapes.columns import OUTLINES, seen
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.judge import filled, judge
from w2sd_video.shapes.pairs import emptiness

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Outlines(Dimension):
    name = "outlines"
    version = 2
    prompted = True
    columns = tuple(f"outlines_{column.name}" for column in OUTLINES)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """The judge's scores of the filled frames, and `outlined` of the first one; NaN where the prompt does not say
        what a column is about."""
        scene = parse(video.prompt or "")
        batches = []
        while (batch := (yield)) is not None:
            batches.append(batch.pixels)
        frames = np.concatenate(batches)
        judged = seen(judge(filled(frames), scene), len(frames)) | {"outlined": emptiness(frames)}
        return {f"outlines_{column.name}": judged.get(column.name, math.nan) for column in OUTLINES}


DIMENSION = Outlines
