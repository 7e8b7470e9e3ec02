"""VBench's temporal_flickering: one less the mean absolute difference of neighbouring frames, of 255."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class TemporalFlickering(Dimension):
    name = "temporal_flickering"
    least_frames = 2

    def score(self, video: Video, reader: Reader) -> Scoring:
        differences: list[np.float32] = []
        before = None
        while (batch := (yield)) is not None:
            # NumPy's mean of float32 over BGR, as VBench takes it: the order of a sum shows in its last digits.
            for frame in np.ascontiguousarray(batch.pixels[..., ::-1], dtype=np.float32):
                if before is not None:
                    differences.append(np.mean(np.abs(frame - before)))
                before = frame
        return (255.0 - np.mean(np.array(differences)).item()) / 255.0


DIMENSION = TemporalFlickering
