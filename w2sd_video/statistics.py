"""Tests and 95 % intervals of means over units, and Holm's adjustment, for numbers and arrays.

`variance` is the variance of the mean, `df` its degrees of freedom, and `n` the number of units. `verdicts` chooses the
test and the interval for each kind of column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, special

GRID = 2**18  # the most distinct sums in the exact test


def student(share: float, df: ArrayLike) -> Any:
    """The quantile of Student's t distribution."""
    return special.stdtrit(df, share)


def t_test(mean: ArrayLike, variance: ArrayLike, df: ArrayLike, n: ArrayLike) -> Any:
    """Two-sided p for a mean of 0; 2^(1 - n) if all n values are equal and not 0."""
    mean, variance = np.asarray(mean, float), np.asarray(variance, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(df, -np.abs(mean) / np.sqrt(variance))
    return np.where(variance > 0, p, np.where(mean == 0, 1.0, 2.0 ** (1 - np.asarray(n, float))))


def half_width(variance: ArrayLike, df: ArrayLike) -> Any:
    """Half the width of Student's 95 % interval of a mean."""
    return student(0.975, df) * np.sqrt(variance)


def korn_graubard(mean: ArrayLike, variance: ArrayLike, df: ArrayLike, n: ArrayLike, videos: ArrayLike) -> Any:
    """The ends of the 95 % interval of a proportion over n units: Clopper & Pearson's at the effective sample size.

    n_e = min(m (1 - m) / v, videos) (t(videos - 1) / t(df))^2, and n where the variance v of the mean is 0.
    """
    mean, variance, videos = np.asarray(mean, float), np.asarray(variance, float), np.asarray(videos, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.minimum(mean * (1 - mean) / variance, videos)
    effective = effective * (student(0.975, videos - 1) / student(0.975, df)) ** 2
    size = np.where(variance > 0, effective, n)
    successes = mean * size
    with np.errstate(invalid="ignore"):
        low = np.where(mean > 0, special.betaincinv(successes, size - successes + 1, 0.025), 0.0)
        high = np.where(mean < 1, special.betaincinv(successes + 1, size - successes, 0.975), 1.0)
    return low, high


def pseudo_prompts(mean: ArrayLike, variance: ArrayLike, df: ArrayLike, n: ArrayLike, seeds: ArrayLike) -> Any:
    """Half the width of the 95 % interval of a difference of proportions over n units.

    It is Student's interval of the units and two pseudo-units, +1 / sqrt(seeds) and -1 / sqrt(seeds).
    """
    mean, variance, n = np.asarray(mean, float), np.asarray(variance, float), np.asarray(n, float)
    squares = n * (n - 1) * variance + 2 * n * mean**2 / (n + 2) + 2 / np.asarray(seeds, float)
    return half_width(squares / ((n + 1) * (n + 2)), np.asarray(df, float) + 2)


def sign_flip(differences: Iterable[Fraction | float]) -> float:
    """Exact two-sided p for a sum of differences, if each sign is equally likely.

    The differences are scaled to whole numbers by their common denominator. If their sums then have more than GRID
    values, the differences are rounded to a grid, and p is the largest that the rounding allows.
    """
    exact = [Fraction(d) for d in differences]
    scale, slack = Fraction(math.lcm(*(d.denominator for d in exact))), 0
    total = sum((abs(d) for d in exact), Fraction())
    if total * scale > GRID:
        scale, slack = GRID / total, len(exact) + 1
    sizes = sorted(abs(round(d * scale)) for d in exact)
    observed = abs(round(sum(exact, Fraction()) * scale)) - slack
    if observed <= 0:
        return 1.0
    divisor = math.gcd(*sizes)
    sizes = [size // divisor for size in sizes]
    # The probability of each sum W of the differences with a minus sign; the sum of all is then S = sum - 2 W.
    chances = np.ones(1)
    for size in sizes:
        if size:
            padded = np.zeros(len(chances) + size)
            padded[: len(chances)] = chances / 2
            padded[size:] += chances / 2
            chances = padded
    least = -(-observed // divisor)  # |S| >= observed, on both sides alike
    return min(1.0, 2 * math.fsum(chances[: (sum(sizes) - least) // 2 + 1]))


def bounded(values: ArrayLike, bound: float) -> float:
    """One-sided p for a mean of at most `bound`, of values in [-1, 1] of any distribution.

    p = P(sum of w_i (x_i - bound) <= 0), where the weights w are uniform on the simplex and the values have one more
    among them, -1 (Gaffke 2005, Mathematical Methods of Statistics 14, 451; Learned-Miller & Thomas 2019,
    arXiv:1905.06208). Of values at both ends it is the binomial test. The sum has the sign of a sum of exponential
    variables, whose characteristic function is known, and is inverted (Gil-Pelaez 1951, Biometrika 38, 481).
    """
    weights = np.append(np.asarray(values, float), -1.0) - bound
    weights = weights / math.sqrt(math.fsum(weights**2))

    def wave(t: float) -> float:
        return math.sin(math.fsum(np.arctan(weights * t))) * math.exp(-math.fsum(np.log1p((weights * t) ** 2)) / 2) / t

    area = integrate.quad(wave, 0, math.inf, limit=200)[0]
    return min(1.0, max(0.0, 0.5 - area / math.pi))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values (..., m) adjusted by Holm's method over the last axis."""
    p = np.asarray(p, float)
    order = np.argsort(p, axis=-1, kind="stable")
    steps = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    placed = np.empty_like(adjusted)
    np.put_along_axis(placed, order, adjusted, -1)
    return placed
