"""Means with intervals, paired differences, and which of them count: one rule for each kind of column.

The unit is the prompt, by its text: y_i is the mean over the seeds of prompt i, d_i the mean over the seeds that both
groups have of (group - base), or the difference of the two means where no seed is common. What is estimated is the
unweighted mean over prompts. With one prompt only, the unit is its seed. Where all classes of a population are there,
such as the ten digits, they are strata: the mean over classes of the mean over their videos.

Continuous columns have Student's t. Verdict columns (0 or 1 for a video, or their mean over a few objects) have an
exact sign-flip test over prompts, intervals of means by Korn & Graubard (1998, Survey Methodology 24, 193), and
intervals of differences by Student's t with two pseudo-prompts (after Agresti & Min 2005, Statistics in Medicine 24,
729). p values are adjusted over all that is shown together by Holm's method (1979, Scandinavian Journal of Statistics
6, 65). Sums are exact (`math.fsum`), so that the order of videos changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from scipy import special

from .columns import Column
from .statistics import half_width, holm, korn_graubard, pseudo_prompts, sign_flip, t_test

# Scores of a group in a column, by prompt and seed. NaN: the column says nothing of the video. None: the video failed.
Values = Mapping[str, Mapping[str, float | None]]

ENOUGH = 10  # units, with fewer of which nothing is called better or worse
LEVEL = 0.05
NO_VERDICT = "no verdict: "  # which a comparison's reason begins with, where it is not that p cannot be small enough
TOO_FEW = f"{NO_VERDICT}under {ENOUGH} "  # and what they are


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; NaN where there is none.

    `n` of `of` videos (or pairs of videos) have a value. The interval is over `units`, each a "prompt"; a "seed", of
    the only prompt; or a "video", of classes that are all there.
    """

    mean: float
    low: float
    high: float
    n: int
    of: int
    units: int
    unit: str = "prompt"

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 4, sign: str = "") -> str:
        """The mean, and ± the half-width or, of an interval that is not symmetric, its ends in brackets."""
        if not self.n:
            return ""
        mean = f"{self.mean:{sign}.{digits}f}"
        if not self.high >= self.low:
            return mean
        if abs(self.low + self.high - 2 * self.mean) > 1e-9 * max(abs(self.low), abs(self.high)):
            return f"{mean} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{mean} ± {(self.high - self.low) / 2:.{digits}f}"

    @property
    def counted(self) -> str:
        """How many videos have a value, of how many."""
        return f"{self.n} of {self.of}"

    @property
    def over(self) -> str:
        """What the interval is over."""
        plural = "s" * (self.units != 1)
        return f"{self.units} {self.unit}{plural}" + " of this prompt" * (self.unit == "seed")


NOTHING = Interval(math.nan, math.nan, math.nan, 0, 0, 0)


@dataclass(frozen=True)
class Comparison:
    """A column in a group against the first group.

    Args:
        difference: group less base, paired; its interval is not adjusted.
        wins: share of pairs that the group does better in, ties counting half; descriptive.
        preferred: mean probability that people prefer the group's of the two, of columns that are such odds.
        p: of no difference; the larger of two where failed videos decide.
        p_least: the smallest p that so many units can have.
        p_adjusted: p by Holm's method over all that is shown together; NaN where there is no verdict.
        verdict: "better", "worse", "differs" (of columns without a good side), or "".
        reason: why there is no verdict, where it is not just that p is too large.
        lost: pairs in which the column has a value of the base alone, and of the group alone.
        failed: pairs in which a video failed.
    """

    column: str
    base: str
    group: str
    difference: Interval
    wins: Interval
    preferred: Interval | None
    p: float
    p_least: float
    lost: tuple[int, int] = (0, 0)
    failed: int = 0
    p_adjusted: float = math.nan
    verdict: str = ""
    reason: str = ""

    @property
    def better(self) -> bool | None:
        """Whether the group is better; None where that is not decided."""
        return {"better": True, "worse": False}.get(self.verdict)

    @property
    def win_rate(self) -> float:
        return self.wins.mean

    @property
    def preference(self) -> float | None:
        return self.preferred.mean if self.preferred else None

    @property
    def said(self) -> str:
        """Difference, win rate and preference, as they are printed."""
        preference = "" if self.preferred is None else f", preferred {self.preferred.mean:.0%}"
        return f"difference {self.difference.text(sign='+')}, wins {self.wins.mean:.0%}{preference}"

    def beside(self, mean: Interval, column: Column) -> str:
        """The same as it is printed beside the group's mean in a column; in one without a better side nothing wins.

        It says of how many pairs it is where they are fewer than the mean is of, or where one of a pair shows nothing.
        """
        said = self.said if column.sign else self.said.replace(", wins ", ", higher in ")
        return said + f" ({self.difference.counted} pairs)" * (self.difference.n < mean.n or any(self.lost))

    @property
    def decision(self) -> str:
        """The verdict or the reason that there is none, with the adjusted p, as they are printed."""
        if math.isnan(self.p_adjusted):
            return self.reason
        return f"{self.verdict or self.reason or 'not decided'}, adjusted p {small(self.p_adjusted)}"


def small(p: float) -> str:
    """A p value as it is printed."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


# Units


@dataclass(frozen=True)
class Units:
    """Values that are averaged, in strata; a single one where there are none.

    `videos` is how many values of videos, or of pairs of them, they are made of.
    """

    strata: tuple[tuple[float, ...], ...]
    unit: str
    videos: int

    @property
    def n(self) -> int:
        return sum(len(stratum) for stratum in self.strata)

    @property
    def moments(self) -> tuple[float, float, float]:
        """The mean, its variance, and Satterthwaite's degrees of freedom; NaN where there is none."""
        if not self.n:
            return math.nan, math.nan, math.nan
        count, parts = len(self.strata), []
        means = [math.fsum(stratum) / len(stratum) for stratum in self.strata]
        mean = math.fsum(means) / count
        for stratum, own in zip(self.strata, means, strict=True):
            n = len(stratum)
            if n < 2:
                return mean, math.nan, math.nan
            spread = math.fsum((value - own) ** 2 for value in stratum) / (n - 1)
            constant = math.sqrt(spread) <= 1e-9 * abs(own)  # equal, but for rounding
            parts.append((0.0 if constant else spread / n / count**2, n - 1))
        variance = math.fsum(part for part, _ in parts)
        if not variance or count == 1:
            return mean, variance, float(sum(df for _, df in parts))
        return mean, variance, variance**2 / math.fsum(part**2 / df for part, df in parts)


def units(values: Mapping[str, Mapping[str, float]], column: Column) -> Units:
    """What a column is averaged over, of values by prompt and seed; NaN are left out."""
    by_prompt = {prompt: [v for v in values[prompt].values() if not math.isnan(v)] for prompt in sorted(values)}
    videos = sum(len(each) for each in by_prompt.values())
    if column.classes and len(by_prompt) == column.classes and all(len(each) > 1 for each in by_prompt.values()):
        return Units(tuple(tuple(sorted(each)) for each in by_prompt.values()), "video", videos)
    if len(by_prompt) == 1:
        (alone,) = by_prompt.values()
        return Units((tuple(sorted(alone)),), "seed", videos)
    means = [math.fsum(each) / len(each) for each in by_prompt.values() if each]
    return Units((tuple(sorted(means)),), "prompt", videos)


# Means and comparisons


def mean(column: Column, values: Values) -> Interval:
    """The mean of a group in a column, with its interval.

    In a verdict column, a video that failed is 0, or 1 where lower is better.
    """
    of = sum(len(seeds) for seeds in values.values())
    own = units(numbers_of(values, failure_value(column)), column)
    centre, variance, df = own.moments
    if not own.n:
        return replace(NOTHING, of=of)
    low = high = math.nan
    if column.kind == "verdict" and not math.isnan(variance):
        low, high = map(float, korn_graubard(centre, variance, df, own.n, own.videos))
    elif not math.isnan(variance):
        half = float(half_width(variance, df))
        low, high = centre - half, centre + half
    return Interval(centre, low, high, own.videos, of, own.n, own.unit)


def compare(column: Column, base: str, group: str, first: Values, second: Values) -> Comparison | None:
    """A column in the group `second` against `first`, the base; None where no pair of videos has a value.

    A failed video counts as in `mean` where the column is one of verdicts. Else pairs with one are left out, and p is
    the larger of theirs without these pairs and with the worst value of either group in each failed video's place.
    """
    failure = failure_value(column)
    numbers = numbers_of(first, failure), numbers_of(second, failure)
    paired = paired_differences(*numbers)
    own = units(paired, column)
    if not own.n:
        return None
    centre, variance, df = own.moments
    lost, failed = one_sided(first, second, paired)
    if math.isnan(variance):
        half = p = least = math.nan
    elif column.kind == "verdict":
        half = float(pseudo_prompts(centre, variance, df, own.n, own.videos / own.n))
        p, least = _exact(*numbers, own), 2.0 ** (1 - own.n)
    else:
        half, least = float(half_width(variance, df)), 0.0
        p = float(t_test(centre, variance, df, own.n))
        for worst in worst_values(column, first, second) if failed else ():
            other = units(paired_differences(numbers_of(first, worst), numbers_of(second, worst)), column)
            moments = other.moments
            p = max(p, float(t_test(*moments, other.n)) if moments[0] * centre > 0 else 1.0)
    of = sum(len(seeds) for seeds in paired.values())
    interval = Interval(centre, centre - half, centre + half, own.videos, of, own.n, own.unit)
    wins = _described(paired, column, lambda d: ((column.sign or 1) * ((d > 0) - (d < 0)) + 1) / 2)
    preferred = _described(paired, column, lambda d: float(special.expit(d))) if column.odds else None
    return Comparison(column.name, base, group, interval, wins, preferred, p, least, lost, failed)


def paired_differences(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Second less first by prompt and seed; under the seed "" the difference of means where no seed is common."""
    paired: dict[str, dict[str, float]] = {}
    for prompt in sorted(first.keys() & second.keys()):
        a, b = first[prompt], second[prompt]
        if common := sorted(a.keys() & b.keys()):
            paired[prompt] = {seed: b[seed] - a[seed] for seed in common}
        else:
            means = [[v for v in each.values() if not math.isnan(v)] for each in (a, b)]
            before, after = (math.fsum(each) / len(each) if each else math.nan for each in means)
            paired[prompt] = {"": after - before}
    return paired


def decide(comparisons: Iterable[Comparison], columns: Mapping[str, Column]) -> list[Comparison]:
    """The comparisons that are shown together, with adjusted p values and verdicts.

    Primary columns are one family, the others another. What has fewer than 10 units is in none.
    """
    decided = list(comparisons)
    for primary in (True, False):
        family = [
            n
            for n, c in enumerate(decided)
            if columns[c.column].primary == primary and c.difference.units >= ENOUGH and not math.isnan(c.p)
        ]
        p = [decided[n].p for n in family]
        for place, (n, adjusted) in enumerate(zip(family, holm(p) if p else (), strict=True)):
            best = [*p[:place], decided[n].p_least, *p[place + 1 :]]
            hopeless = holm(best)[place] > LEVEL
            decided[n] = _decided(decided[n], columns[decided[n].column], float(adjusted), bool(hopeless))
    return [replace(c, reason=f"{TOO_FEW}{c.difference.unit}s") if c.difference.units < ENOUGH else c for c in decided]


def _decided(c: Comparison, column: Column, adjusted: float, hopeless: bool) -> Comparison:
    verdict = reason = ""
    if adjusted <= LEVEL and c.difference.mean:
        up = c.difference.mean > 0
        verdict = "differs" if not column.sign else "better" if up == (column.sign > 0) else "worse"
    elif hopeless:
        reason = f"cannot be decided with {c.difference.over}"
    less = {"better": c.lost[0] - c.lost[1], "worse": c.lost[1] - c.lost[0], "differs": 0}
    if verdict and less[verdict] > 0:
        loser, other = (c.group, c.base) if verdict == "better" else (c.base, c.group)
        verdict, reason = "", f"{NO_VERDICT}{loser} shows less often than {other} what is measured"
    return replace(c, p_adjusted=adjusted, verdict=verdict, reason=reason)


# Parts


def failure_value(column: Column) -> float:
    """What stands for a video that failed."""
    return math.nan if column.kind != "verdict" else 1.0 if column.sign < 0 else 0.0


def numbers_of(values: Values, failure: float) -> dict[str, dict[str, float]]:
    """The values with a number for each video that failed."""
    return {p: {seed: failure if v is None else float(v) for seed, v in seeds.items()} for p, seeds in values.items()}


def one_sided(first: Values, second: Values, paired: Mapping[str, Iterable[str]]) -> tuple[tuple[int, int], int]:
    """How many pairs have a value in `first` alone and in `second` alone, and in how many a video failed."""
    lost, failed = [0, 0], 0
    for prompt, seeds in paired.items():
        for seed in seeds:
            both = [[each[prompt][seed]] if seed else list(each[prompt].values()) for each in (first, second)]
            empty = [[value is not None and math.isnan(value) for value in values] for values in both]
            shares = [sum(each) / len(each) for each in empty]
            failed += any(None in values for values in both)
            lost[0] += shares[1] > shares[0]
            lost[1] += shares[0] > shares[1]
    return (lost[0], lost[1]), failed


def worst_values(column: Column, *groups: Values) -> list[float]:
    """The worst value of a column in any of the groups; the least and the largest where neither side is good."""
    seen = [v for g in groups for seeds in g.values() for v in seeds.values() if v is not None and not math.isnan(v)]
    return [min(seen)] * (column.sign >= 0) + [max(seen)] * (column.sign <= 0)


@lru_cache(maxsize=1024)
def _fraction(value: float) -> Fraction:
    """A mean of verdicts over a few objects, as a fraction: thirds are not exact in binary."""
    return Fraction(value).limit_denominator(64)


def _exact(first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], own: Units) -> float:
    """p by exact sign flips of the units."""
    flipped: list[Fraction] = []
    classes = len(own.strata)
    for prompt in first.keys() & second.keys():
        a, b = (
            {seed: _fraction(v) for seed, v in each[prompt].items() if not math.isnan(v)} for each in (first, second)
        )
        if first[prompt].keys() & second[prompt].keys():
            single = [b[seed] - a[seed] for seed in a.keys() & b.keys()]
        else:
            single = [sum(b.values(), Fraction()) / len(b) - sum(a.values(), Fraction()) / len(a)] if a and b else []
        if single and own.unit == "prompt":
            single = [sum(single, Fraction()) / len(single)]
        elif own.unit == "video":
            single = [d / len(single) / classes for d in single]
        flipped += single
    return sign_flip(flipped)


def _described(paired: Mapping[str, Mapping[str, float]], column: Column, of: Callable[[float], float]) -> Interval:
    """The mean of a function of the differences, with Student's interval."""
    values = {p: {s: d if math.isnan(d) else of(d) for s, d in seeds.items()} for p, seeds in paired.items()}
    return mean(replace(column, kind="continuous"), values)


def by_prompt(prompts: Sequence[str], values: Sequence[float | None]) -> Values:
    """Values of videos with these prompts, as `mean` and `compare` take them; their places are the seeds."""
    placed: dict[str, dict[str, float | None]] = {}
    for n, (prompt, value) in enumerate(zip(prompts, values, strict=True)):
        placed.setdefault(prompt, {})[str(n)] = value
    return placed
