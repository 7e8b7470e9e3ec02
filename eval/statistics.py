"""Means with intervals, and paired comparisons, by the bootstrap over videos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 2000
AT_ONCE = 2**20  # values that are drawn in one go


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and its 95 % bootstrap interval; NaN where there are none.

    Of a score that only the `n` together have, there is no interval.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return ""
        return f"{self.mean:.4f}" + (f" ± {(self.high - self.low) / 2:.4f}" if self.high >= self.low else "")

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(values: NDArray[np.float64]) -> Interval:
    """The mean of the values that are not NaN, with its 95 % interval; the same values give the same interval."""
    values = values[~np.isnan(values)]
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    rng, rows = np.random.default_rng(0), max(1, AT_ONCE // n)
    means = [values[rng.integers(n, size=(min(rows, DRAWS - done), n))].mean(1) for done in range(0, DRAWS, rows)]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high), n)


def wins(differences: NDArray[np.float64]) -> float:
    """The share of differences, NaN left out, that are above 0; those of 0 count half."""
    differences = differences[~np.isnan(differences)]
    return float(np.mean((np.sign(differences) + 1) / 2)) if len(differences) else math.nan


def preferred(differences: NDArray[np.float64]) -> float:
    """The mean probability of preference, NaN left out, where differences are its log odds (Bradley & Terry 1952)."""
    differences = differences[~np.isnan(differences)]
    return float(np.mean(np.exp(-np.logaddexp(0, -differences)))) if len(differences) else math.nan
