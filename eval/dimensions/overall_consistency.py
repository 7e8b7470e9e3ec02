"""VBench's overall_consistency: the cosine of video and prompt by ViCLIP (arXiv:2307.06942)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from ..frames import CLIP_NORM, centre, normalised, resized
from ..networks.viclip import load
from ..weights import VICLIP
from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring

FRAMES = 8


class OverallConsistency(Dimension):
    name = "overall_consistency"
    weights = (VICLIP,)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = load(paths[VICLIP.name]).to(device)

    def score(self, video: Video, reader: Reader) -> Scoring:
        indices = middles(reader.frames)
        chosen: list[torch.Tensor] = []
        while (batch := (yield)) is not None:
            for index in indices:
                if batch.first <= index < batch.first + len(batch):
                    # VBench resizes these in 8 bits: what bicubic overshoots is cut off, and the rest rounded.
                    small = resized(batch.frames[index - batch.first][None], 224, "bicubic").clamp(0, 255).round()
                    chosen.append(normalised(centre(small, 224), CLIP_NORM))
        features = self.network.encode_video(torch.cat(chosen)[None])
        return F.cosine_similarity(features, self.network.encode_text([video.prompt or ""])).item()


DIMENSION = OverallConsistency


def middles(frames: int) -> list[int]:
    """The middle frame of each of 8 equal parts of a video; of a shorter one every frame, the last one repeated."""
    parts = np.linspace(0, frames, min(FRAMES, frames) + 1).astype(int)
    chosen = [(start + end - 1) // 2 for start, end in zip(parts[:-1], parts[1:], strict=True)]
    return [int(index) for index in chosen + chosen[-1:] * (FRAMES - len(chosen))]
