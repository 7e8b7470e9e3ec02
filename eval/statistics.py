"""Means with intervals, and paired comparisons, by the bootstrap over videos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and its 95 % bootstrap interval; NaN where there are none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(values: NDArray[np.float64]) -> Interval:
    """The mean of the values that are not NaN, with its 95 % interval; the same values give the same interval."""
    values = values[~np.isnan(values)]
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    drawn = np.random.default_rng(0).integers(n, size=(DRAWS, n))
    low, high = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high), n)


def wins(differences: NDArray[np.float64]) -> float:
    """The share of differences, NaN left out, that are above 0; those of 0 count half."""
    differences = differences[~np.isnan(differences)]
    return float(np.mean((np.sign(differences) + 1) / 2)) if len(differences) else math.nan
