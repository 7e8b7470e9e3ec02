"""How many prompts it takes to show a difference, by the rule of `verdicts`."""

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

    The differences of prompts are taken to spread as those do that are there, each over as many seeds. Shown is what
    Student's test finds at the level 0.05 / `comparisons`; Holm's method finds that, and more. The power of the test is
    that of the noncentral t distribution. The exact test of verdict columns has nearly the same.

    Args:
        first, second: values of the two groups by prompt and seed; see `verdicts`.
        size: in units of the column, above 0.
        comparisons: how many columns and groups are shown together.

    Returns:
        None where it cannot be told: fewer than two prompts have a difference, or all have the same; or it takes more
        than ten million.

    Raises:
        Refused: the size is not above 0.
    """
    if not (math.isfinite(size) and size > 0):
        raise Refused("power", size, "give the size of a difference, above 0, such as 0.02")
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
    """Of the two-sided t test of n values of a normal distribution whose mean is `size` standard deviations."""
    df, shift = n - 1, size * math.sqrt(n)
    if shift > 37:  # where the noncentral distribution is not computed, and power is 1 to rounding
        return 1.0
    critical = float(student(1 - level / 2, df))
    return float(1 - special.nctdtr(df, shift, critical) + special.nctdtr(df, shift, -critical))
