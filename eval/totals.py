"""VBench's totals with 95 % intervals over prompts, and their differences between groups.

A total is linear in its dimensions' means: T = c + sum over d of a_d m_d. A mean is over videos v with weights w. By
the delta method, prompt i pulls it by u_di = sum over v of i of w_v (s_v - m_d) / sum of w. Prompts are independent,
and the scores of one prompt are not, so the variance of T is the sum over prompts of (sum over d of a_d u_di)^2. With
n_d prompts, u_di is multiplied by sqrt(n_d / (n_d - 1)), which makes the variance of a single mean unbiased. Student's
t has the degrees of freedom of the dimension with the fewest prompts in any of the groups, n_d - 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from w2sd_video.statistics import half_width
from w2sd_video.verdicts import Interval

from .vbench import QUALITY, SEMANTIC, totals, weights_of

if TYPE_CHECKING:
    from .results import Summary

Pulls = Mapping[str, Mapping[str, float]]  # u, by dimension and prompt
Totals = dict[str, dict[str, Interval]]  # by group and name


def totals_of(summary: Summary) -> tuple[Totals, Totals]:
    """The totals of each group, and their differences from the first group's."""
    values = {g: totals({d: one for d, (one, _) in a.items()}) for g, a in summary.aggregates.items()}
    pulled = {group: _pulled(summary, group) if values[group] else {} for group in summary.groups}
    own: Totals = {}
    differences: Totals = {}
    for group, videos in summary.groups.items():
        counts = sum(video in summary.scores.of for video in videos), len(videos)
        own[group] = with_intervals(values[group], pulled[group], *counts)
        if group != summary.base:
            both = {n: v - values[summary.base][n] for n, v in values[group].items() if n in values[summary.base]}
            differences[group] = with_intervals(both, pulled[group], *counts, first=pulled[summary.base])
    return own, differences


def lines(summary: Summary) -> list[str]:
    """The totals of each group and their differences from the first group's, as printed text."""
    said = []
    for group, of_group in summary.totals.items():
        for name, total in of_group.items():
            d = summary.total_differences.get(group, {}).get(name)
            difference = f", difference {d.text(sign='+')}" if d else ""
            said.append(f"{group}: VBench {name} score {total}{difference}")
    return said


def _pulled(summary: Summary, group: str) -> Pulls:
    pulled = {}
    for dimension in summary.scores.dimensions:
        if scored := summary.scored(summary.groups[group], dimension.name):
            # A results file of VBench does not say how many frames a video has.
            facts = [summary.scores.facts.get(video, {"frames": 2}) for video, _ in scored]
            weights = weights_of([each["frames"] for each in facts], dimension.weighted[0])
            scores = [score / summary.columns[dimension.name].scale for _, score in scored]
            pulled[dimension.name] = pulls([summary.prompt(video) for video, _ in scored], scores, weights)
    return pulled


def pulls(prompts: Sequence[str], scores: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """u of a dimension by prompt, from its videos' prompts, scores and weights; NaN if all are of one prompt."""
    mean = math.fsum(w * s for w, s in zip(weights, scores, strict=True)) / math.fsum(weights)
    sums: dict[str, float] = {}
    for prompt, weight, score in zip(prompts, weights, scores, strict=True):
        sums[prompt] = sums.get(prompt, 0.0) + weight * (score - mean)
    n = len(sums)
    factor = math.sqrt(n / (n - 1)) if n > 1 else math.nan
    return {prompt: factor * each / math.fsum(weights) for prompt, each in sums.items()}


def subtracted(second: Pulls, first: Pulls) -> Pulls:
    """u of the differences of means, of the dimensions that both have."""
    return {
        name: {p: second[name].get(p, 0.0) - first[name].get(p, 0.0) for p in {**first[name], **second[name]}}
        for name in second
        if name in first
    }


def with_intervals(
    values: Mapping[str, float], own: Pulls, n: int, of: int, first: Pulls | None = None
) -> dict[str, Interval]:
    """Totals, or differences of totals, with their intervals; without, if a dimension has a single prompt.

    Args:
        values: by name: quality, semantic, total.
        own: u of the group.
        n, of: how many videos have a score, and how many there are.
        first: of differences, u of the group that is subtracted.
    """
    groups = [own] if first is None else [own, first]
    pulled = own if first is None else subtracted(own, first)
    nothing = dict.fromkeys((*QUALITY, *SEMANTIC), 0.0)
    intervals = {}
    for name, value in values.items():
        by_prompt: dict[str, float] = {}
        fewest = math.inf
        for dimension in nothing:
            if slope := totals({**nothing, dimension: 1.0})[name] - totals(nothing)[name]:
                fewest = min(fewest, *(len(each[dimension]) for each in groups))
                for prompt, pull in pulled[dimension].items():
                    by_prompt[prompt] = by_prompt.get(prompt, 0.0) + slope * pull
        half = float(half_width(math.fsum(pull**2 for pull in by_prompt.values()), fewest - 1))
        intervals[name] = Interval(value, value - half, value + half, n, of, len(by_prompt))
    return intervals
