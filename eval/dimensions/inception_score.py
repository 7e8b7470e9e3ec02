"""Inception score (Salimans et al. 2016, arXiv:1606.03498): whether pictures show one thing each, and many together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..networks.inception import outputs
from .of_inception import OfInception

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..frames import Batch

SPLITS = 10


class InceptionScore(OfInception):
    name = "inception_score"
    referenced = False

    def features(self, batch: Batch) -> torch.Tensor:
        return outputs(self.network, batch)[1]

    def compare(self, features: NDArray[np.float32], references: NDArray[np.float32]) -> float:
        """exp E KL(p(y|x) || p(y)), a mean over 10 parts of the pictures, which are shuffled as by torch-fidelity."""
        n = len(features)
        if n < SPLITS:
            raise ValueError(f"the Inception score is of {SPLITS} pictures or more, and there are {n}")
        shuffled = torch.from_numpy(features[np.random.RandomState(2020).permutation(n)]).double()
        scores = []
        for start, end in zip(range(SPLITS), range(1, SPLITS + 1), strict=True):
            log_p = shuffled[start * n // SPLITS : end * n // SPLITS].log_softmax(1)
            p = log_p.exp()
            scores.append((p * (log_p - p.mean(0).log())).sum(1).mean().exp().item())
        return float(np.mean(scores))


DIMENSION = InceptionScore
