"""The number of prompts needed to show a difference by the rule of `verdicts`."""

from __future__ import annotations

import math

from scipy import special

from .columns import Column
from .errors import Refused
from .statistics import student
from .verdicts import ENOUGH, LEVEL, Values, failure_value, numbers_of, paired_differences, units

POWER = 0.8
MOST = 10**7  # prompts


def prompts_needed(column: Column, first: Values, second: Values, size: float, comparisons: int = 1) -> int | None:
    """The fewest prompts with which a difference of `size` between two groups is shown in 80 of 100 runs.

    New prompts are assumed to have differences with the same variance, and as many seeds each. A difference counts as
    shown if Student's test rejects at the level 0.05 / `comparisons`, which implies rejection by Holm's method. The
    power comes from the noncentral t distribution; the exact test of verdict columns has nearly the same power.

    Args:
        first, second: values of the two groups by prompt and seed; see `verdicts`.
        size: in units of the column, above 0.
        comparisons: how many comparisons are shown together.

    Returns:
        The number of prompts. None if it cannot be estimated, because fewer than two prompts have a difference or all
        differences are equal, or if it is above ten million.

    Raises:
        Refused: the size is not above 0, or the number of comparisons not from 1 up.
    """
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not (math.isfinite(size) and size > 0):
        raise Refused("power", size, "give the size of a difference, above 0, such as 0.02")
    if isinstance(comparisons, bool) or not isinstance(comparisons, int) or comparisons < 1:
        raise Refused("comparisons", comparisons, "give a whole number from 1 up")
    failure = failure_value(column)
    own = units(paired_differences(numbers_of(first, failure), numbers_of(second, failure)), column)
    _, variance, _ = own.moments
    if own.unit != "prompt" or not variance > 0:
        return None
    spread = math.sqrt(variance * own.n)
    level = LEVEL / comparisons
    if t_test_power(MOST, size / spread, level) < POWER:
        return None
    low, high = ENOUGH - 1, ENOUGH
    while t_test_power(high, size / spread, level) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if t_test_power(middle, size / spread, level) >= POWER else (middle, high)
    return high


def t_test_power(n: int, size: float, level: float) -> float:
    """The power of the two-sided t test on n values from a normal distribution with a mean of `size` standard
    deviations."""
    df, shift = n - 1, size * math.sqrt(n)
    if shift > 37:  # scipy cannot compute the noncentral distribution here, and the power is 1 to rounding
        return 1.0
    critical = float(student(1 - level / 2, df))
    return float(1 - special.nctdtr(df, shift, critical) + special.nctdtr(df, shift, -critical))
