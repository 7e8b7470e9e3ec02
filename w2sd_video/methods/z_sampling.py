"""Z-Sampling (Bai et al. 2024, arXiv:2412.10891): W2SD whose pair is one model at high and at low guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .w2sd import W2SD


@dataclass(frozen=True)
class ZSampling(W2SD):
    """W2SD with the strong model in both arms, which differ in guidance alone. A weak model is not used."""

    one_model: ClassVar[bool] = True
