"""The judge of handwritten digits as a dimension, without a network; the prompt is the digit, by name or number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from w2sd_video.shapes import digits
from w2sd_video.shapes.columns import DIGITS

from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class Digits(Dimension):
    name = "digits"
    prompted = True
    columns = tuple(f"digits_{column.name}" for column in DIGITS)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """The judge's scores of the first frame."""
        batch = yield
        assert batch is not None
        return {f"digits_{name}": value for name, value in digits.judge(batch.pixels[0], video.prompt or "").items()}


DIMENSION = Digits
