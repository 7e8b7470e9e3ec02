"""ImageReward (Xu et al. 2023, arXiv:2304.05977): how people would like an image as an answer to a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..networks.image_reward import load
from ..weights import BERT_VOCABULARY, IMAGE_REWARD
from .dimension import ByFrame

if TYPE_CHECKING:
    from ..frames import Batch
    from ..videos import Video


class Reward(ByFrame):
    name = "image_reward"
    weights = (IMAGE_REWARD, BERT_VOCABULARY)
    prompted = True

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        self.network = load(paths[IMAGE_REWARD.name], paths[BERT_VOCABULARY.name]).to(device)

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        return self.network.reward(batch.clip_by_pillow, video.prompt or "")


DIMENSION = Reward
