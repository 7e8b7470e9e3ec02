"""How much of a video is clipped: an excess of guidance shows there first, and of reflection with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Clipped(Dimension):
    """The percentage of channel values that are 0 or 255."""

    name = "clipped"

    def score(self, video: Video, reader: Reader) -> Scoring:
        clipped = values = 0
        while (batch := (yield)) is not None:
            clipped += int(((batch.pixels == 0) | (batch.pixels == 255)).sum())
            values += batch.pixels.size
        return 100 * clipped / values


DIMENSION = Clipped
