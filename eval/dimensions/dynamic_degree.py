"""VBench's dynamic_degree: whether there is large motion, by the optical flow of RAFT (arXiv:2003.12039)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..weights import RAFT
from .dimension import Dimension

if TYPE_CHECKING:
    from ..frames import Reader
    from ..videos import Video
    from .dimension import Scoring


class DynamicDegree(Dimension):
    name = "dynamic_degree"
    weights = (RAFT,)
    of_motion = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        from ..networks.raft import load

        self.network = load(paths[RAFT.name]).to(device)

    def score(self, video: Video, reader: Reader) -> Scoring:
        """1.0 if at least a quarter of the pairs of frames, sampled at some 8 a second, move far; else 0.0.

        The verdict is given as soon as the pairs that are left cannot change it.
        """
        every = max(1, round(reader.fps / 8))
        sampled = -(-reader.frames // every)
        needed, far = round(4 * (sampled / 16.0)), 6.0 * (min(reader.height, reader.width) / 256.0)
        moving, left, index = 0, sampled - 1, 0
        before = batch = None
        while left and moving < needed <= moving + left:
            while batch is None or index >= batch.first + len(batch):
                batch = yield
            after = self.network.features(batch.frames[index - batch.first][None])
            if before is not None:
                moving, left = moving + (self.network.magnitude(before, after) > far), left - 1
            before, index = after, index + every
        return float(sampled > 1 and moving >= needed)


DIMENSION = DynamicDegree
