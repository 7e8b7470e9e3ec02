"""Means with intervals, paired differences and verdicts, by one rule for each kind of column.

The unit is the prompt, by its text. y_i is the mean over the seeds of prompt i; d_i is the mean of (group - base) over
the seeds that both groups have, or the difference of the two means if they share no seed. The estimate is the
unweighted mean over prompts. With a single prompt, the unit is its seed. If a column has classes, such as the ten
digits, and all of them are present, the classes are strata: the estimate is the mean over classes of each class' mean.

Continuous columns have Student's t. Verdict columns (0 or 1 for a video, or their mean over a few objects) have an
exact sign-flip test over prompts, intervals of means by Korn & Graubard (1998, Survey Methodology 24, 193), and
intervals of differences by Student's t with two pseudo-prompts (after Agresti & Min 2005, Statistics in Medicine 24,
729). p values are adjusted by Holm's method over all comparisons shown together (1979, Scandinavian Journal of
Statistics 6, 65). Sums are exact (`math.fsum`), so that the order of videos changes nothing.
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

# Scores of a group in a column, by prompt and seed. NaN: the column does not apply to the video. None: it failed.
Values = Mapping[str, Mapping[str, float | None]]

ENOUGH = 10  # the fewest units for a verdict
LEVEL = 0.05
NO_VERDICT = "no verdict: "  # prefix of a comparison's `reason`, unless p cannot be small enough
TOO_FEW = f"{NO_VERDICT}under {ENOUGH} "  # followed by the unit, in the plural


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; NaN if there is none.

    Args:
        n: how many videos (or pairs of videos) have a value.
        of: how many videos (or pairs) there are.
        units: how many units the interval is computed from.
        unit: "prompt"; "seed", if there is a single prompt; or "video", if classes are strata.
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
        """The mean with ± half the interval's width or, if the interval is not symmetric, its ends in brackets."""
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
        """How many of the videos have a value, in words."""
        return f"{self.n} of {self.of}"

    @property
    def over(self) -> str:
        """The units of the interval, in words."""
        plural = "s" * (self.units != 1)
        return f"{self.units} {self.unit}{plural}" + " of this prompt" * (self.unit == "seed")


NOTHING = Interval(math.nan, math.nan, math.nan, 0, 0, 0)


@dataclass(frozen=True)
class Comparison:
    """The comparison of a group with the base in a column.

    Args:
        difference: group minus base, paired; its interval is not adjusted.
        wins: share of pairs in which the group is better; ties count half. Descriptive only.
        preferred: mean probability that people prefer the group's video, for columns of log odds; else None.
        p: p value for no difference; if videos failed, the largest one over the ways to fill them in, see `compare`.
        p_least: the smallest p that this number of units allows.
        p_adjusted: p by Holm's method over all comparisons shown together; NaN if it was not tested.
        verdict: "better", "worse", "differs" (columns without a better side), or "".
        reason: why there is no verdict, unless p is simply too large.
        lost: in how many pairs only the base has a value, and in how many only the group.
        failed: in how many pairs a video failed.
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
        """Whether the group is better; None without a verdict on that."""
        return {"better": True, "worse": False}.get(self.verdict)

    @property
    def win_rate(self) -> float:
        return self.wins.mean

    @property
    def preference(self) -> float | None:
        return self.preferred.mean if self.preferred else None

    @property
    def said(self) -> str:
        """Difference, win rate and preference as printed text."""
        preference = "" if self.preferred is None else f", preferred {self.preferred.mean:.0%}"
        return f"difference {self.difference.text(sign='+')}, wins {self.wins.mean:.0%}{preference}"

    def beside(self, mean: Interval, column: Column) -> str:
        """`said` for a place beside the group's mean, with "higher in" for "wins" if the column has no better side.

        It adds the number of pairs if there are fewer of them than videos in the mean, or if in some pairs only one
        video has a value.
        """
        said = self.said if column.sign else self.said.replace(", wins ", ", higher in ")
        return said + f" ({self.difference.counted} pairs)" * (self.difference.n < mean.n or any(self.lost))

    @property
    def decision(self) -> str:
        """The verdict, or the reason why there is none, with the adjusted p, as printed text."""
        if math.isnan(self.p_adjusted):
            return self.reason
        return f"{self.verdict or self.reason or 'not decided'}, adjusted p {small(self.p_adjusted)}"


def small(p: float) -> str:
    """A p value as printed text."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


# Units


@dataclass(frozen=True)
class Units:
    """The values to average.

    Args:
        strata: the values of each stratum; without strata, there is a single one.
        unit: "prompt", "seed" or "video".
        videos: how many values of videos, or of pairs of videos, they summarise.
    """

    strata: tuple[tuple[float, ...], ...]
    unit: str
    videos: int

    @property
    def n(self) -> int:
        return sum(len(stratum) for stratum in self.strata)

    @property
    def moments(self) -> tuple[float, float, float]:
        """The mean, its variance, and Satterthwaite's degrees of freedom; NaN if there are too few values."""
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
            constant = math.sqrt(spread) <= 1e-9 * abs(own)  # all values are equal, except for rounding
            parts.append((0.0 if constant else spread / n / count**2, n - 1))
        variance = math.fsum(part for part, _ in parts)
        if not variance or count == 1:
            return mean, variance, float(sum(df for _, df in parts))
        return mean, variance, variance**2 / math.fsum(part**2 / df for part, df in parts)


def units(values: Mapping[str, Mapping[str, float]], column: Column) -> Units:
    """The units of a column, from values by prompt and seed without NaN."""
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

    In a verdict column, a failed video counts as 0, or as 1 if lower is better. In others it is left out.
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
    """Compares the group `second` with the base `first` in a column; None if no pair of videos has a value.

    In a verdict column, a failed video counts as in `mean`. In others, pairs with a failed video are left out, and p is
    the largest of two or three: without these pairs, and with the worst value of the column in place of failed videos.
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
    low, high = centre - half, centre + half
    if column.kind == "verdict":  # a difference of shares
        low, high = max(low, -1.0), min(high, 1.0)
    interval = Interval(centre, low, high, own.videos, of, own.n, own.unit)
    wins = _described(paired, column, lambda d: ((column.sign or 1) * ((d > 0) - (d < 0)) + 1) / 2)
    preferred = _described(paired, column, lambda d: float(special.expit(d))) if column.odds else None
    return Comparison(column.name, base, group, interval, wins, preferred, p, least, lost, failed)


def paired_differences(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Second minus first, by prompt and seed; see `combined`."""
    return combined((first, second), lambda v: v[1] - v[0])


def combined(
    arms: Sequence[Mapping[str, Mapping[str, float]]], of: Callable[[list[float]], float]
) -> dict[str, dict[str, float]]:
    """A function of the arms' values, by prompt and seed; of their means, under the seed "", if they share no seed."""
    values: dict[str, dict[str, float]] = {}
    for prompt in sorted(set.intersection(*map(set, arms))):
        own = [arm[prompt] for arm in arms]
        if seeds := sorted(set.intersection(*map(set, own))):
            values[prompt] = {seed: of([each[seed] for each in own]) for seed in seeds}
        else:
            there = [[v for v in each.values() if not math.isnan(v)] for each in own]
            values[prompt] = {"": of([math.fsum(each) / len(each) if each else math.nan for each in there])}
    return values


def decide(comparisons: Iterable[Comparison], columns: Mapping[str, Column]) -> list[Comparison]:
    """Adds adjusted p values and verdicts to comparisons that are shown together.

    Primary columns form one family, the others another. Comparisons of fewer than 10 units are in neither.
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
    """The value that replaces a failed video's; NaN leaves it out."""
    return math.nan if column.kind != "verdict" else 1.0 if column.sign < 0 else 0.0


def numbers_of(values: Values, failure: float) -> dict[str, dict[str, float]]:
    """The values, with `failure` for each failed video."""
    return {p: {seed: failure if v is None else float(v) for seed, v in seeds.items()} for p, seeds in values.items()}


def one_sided(first: Values, second: Values, paired: Mapping[str, Iterable[str]]) -> tuple[tuple[int, int], int]:
    """In how many pairs only `first` has a value, in how many only `second`, and in how many a video failed."""
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
    """The worst value of a column in any of the groups; both extremes if the column has no better side."""
    seen = [v for g in groups for seeds in g.values() for v in seeds.values() if v is not None and not math.isnan(v)]
    return [min(seen)] * (column.sign >= 0) + [max(seen)] * (column.sign <= 0)


@lru_cache(maxsize=1024)
def _fraction(value: float) -> Fraction:
    """A mean of verdicts over a few objects as an exact fraction, since thirds are not exact in binary."""
    return Fraction(value).limit_denominator(64)


def _exact(first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]], own: Units) -> float:
    """p of the exact sign-flip test over the units `own`."""
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
    """Groups values by prompt for `mean` and `compare`; the index of a value serves as its seed."""
    placed: dict[str, dict[str, float | None]] = {}
    for n, (prompt, value) in enumerate(zip(prompts, values, strict=True)):
        placed.setdefault(prompt, {})[str(n)] = value
    return placed
