"""What CLIP-T, PickScore and HPS v2 have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.clip import Clip, features
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class ClipCosine(ByFrame):
    """The cosine of each frame and the prompt in the features of a CLIP, times a factor."""

    prompted = True
    layout = "H/14"  # of weights that are a file
    clean = True  # whether prompts are cleaned as by OpenAI's tokenizer
    factor = 100

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.clip = Clip(paths[self.weights[0].name], device, self.layout, clean=self.clean)

    def images(self, batch: Batch) -> torch.Tensor:
        """Features (n, channels) of a batch's n frames, of length 1, after CLIP's own preprocessing."""
        return features(self.clip.vision, batch)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.factor * self.images(batch) @ self.clip.text(video.prompt or "")
