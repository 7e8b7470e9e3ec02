"""Tests of claims such as "nothing worse", "within 2 %" and "80 % of the gain": not significant does not mean equal.

Each claim needs a margin that was fixed before the scores were seen. It holds if its one-sided p is at most 0.05 over
at least 10 prompts. Values are those of `verdicts`, with the same prompts in each arm.

Continuous columns have Student's t. Verdict columns have a test for bounded values: if no prompt's verdict differs in a
sample, the variance is 0, but a loss that is rarer than one prompt in n is still possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scipy import special

from .columns import Column
from .statistics import bounded
from .verdicts import ENOUGH, LEVEL, Units, Values, combined, failure_value, numbers_of, one_sided, units, worst_values


@dataclass(frozen=True)
class Claim:
    """A claim in words, its one-sided p (NaN with too few units), and the number of units."""

    text: str
    p: float
    units: int

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds; None with fewer than 10 units."""
        return None if self.units < ENOUGH else self.p <= LEVEL


def suggested_margin(strong: float, weak: float) -> float:
    """A tenth of the difference between the strong and the weak arm's means."""
    return 0.1 * abs(strong - weak)


def not_worse(column: Column, ours: Values, base: Values, margin: float) -> Claim:
    """The claim that ours is worse than the base by less than a margin: mean of sign (ours - base) > -margin.

    Raises:
        ValueError: the column has no better side, or the margin is no positive number.
    """
    _checked(column, margin)
    text = f"{column.name}: not worse by {margin:g} or more"
    return _claim(text, column, (ours, base), margin, lambda v: column.sign * (v[0] - v[1]))


def nothing_worse(claims: Iterable[Claim]) -> Claim:
    """The claim that all claims hold. Its p is the largest of theirs, without adjustment (intersection-union test).

    Raises:
        ValueError: there are no claims.
    """
    each = list(claims)
    if not each:
        raise ValueError("claims: there are none; give one for each column")
    p = math.nan if any(math.isnan(claim.p) for claim in each) else max(claim.p for claim in each)
    return Claim("; ".join(claim.text for claim in each), p, min(claim.units for claim in each))


def within(column: Column, ours: Values, reference: Values, share: float = 0.02) -> Claim:
    """The claim that the mean of ours is within a share of the reference's: the larger p of two one-sided tests.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: {share} is not accepted; give a number between 0 and 1")
    text = f"{column.name}: within {share:.0%}"
    above = _claim(text, column, (ours, reference), 0.0, lambda v: v[0] - (1 - share) * v[1])
    below = _claim(text, column, (ours, reference), 0.0, lambda v: (1 + share) * v[1] - v[0])
    return replace(nothing_worse([above, below]), text=text)


def gain(column: Column, ours: Values, strong: Values, better: Values, margin: float, share: float = 0.8) -> Claim:
    """The claim that ours reaches a share of the gain of `better` over `strong`, or misses it by less than a margin.

    That is, mean of sign (ours - ((1 - share) strong + share better)) > -margin.

    Raises:
        ValueError: the column has no better side, the margin is no positive number, or the share not between 0 and 1.
    """
    _checked(column, margin)
    if not 0 < share < 1:
        raise ValueError(f"share: {share} is not accepted; give a number between 0 and 1")
    text = f"{column.name}: {share:.0%} of the gain, but for {margin:g}"
    arms = (ours, strong, better)
    return _claim(text, column, arms, margin, lambda v: column.sign * (v[0] - (1 - share) * v[1] - share * v[2]))


def _checked(column: Column, margin: float) -> None:
    if not column.sign:
        raise ValueError(f"column: {column.name} has no better side; give a column in which one side is better")
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin: {margin} is not accepted; give a positive number, fixed beforehand")


def _claim(
    text: str, column: Column, arms: Sequence[Values], margin: float, of: Callable[[list[float]], float]
) -> Claim:
    """The claim that the mean over units of a function of the arms' values is above -margin.

    It also has to hold with failed videos' values replaced by the worst value of any arm. It does not hold if the
    column applies to fewer videos of the first arm than of another.
    """
    verdict = column.kind == "verdict"
    failed = any(value is None for arm in arms for seeds in arm.values() for value in seeds.values())
    fills = [failure_value(column)] + (worst_values(column, *arms) if failed and not verdict else [])
    own = [combined([numbers_of(arm, fill) for arm in arms], of) for fill in fills]
    over = [units(each, column) for each in own]
    p = max((_above(each, -margin, verdict) for each in over), key=lambda p: (math.isnan(p), p))
    for other in arms[1:]:
        (lost, gained), _ = one_sided(other, arms[0], own[0])
        if lost > gained:  # a video without anything to measure does not count in our favour
            p = 1.0
    return Claim(text, p, over[0].n)


def _above(own: Units, bound: float, verdict: bool) -> float:
    """One-sided p for a mean above a bound.

    Of continuous values that are all equal it is 1: they say nothing of how large a rare loss could be.
    """
    mean, variance, df = own.moments
    if math.isnan(variance):
        return math.nan
    if verdict:
        return bounded([value for stratum in own.strata for value in stratum], bound)
    if not variance:
        return 1.0
    return float(special.stdtr(df, -(mean - bound) / math.sqrt(variance)))
