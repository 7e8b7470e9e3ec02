"""Which prompts a group is worse on than the first group, and by how much: what to look at, and no verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from w2sd_video.columns import Column
from w2sd_video.verdicts import Values, failure_value, numbers_of, paired_differences

# Scores of a seed: None where the video failed, NaN where there is none.
Score = float | None


@dataclass(frozen=True)
class Pair:
    """A seed of a prompt, or a name where videos have no seeds, and its score in either group."""

    name: str
    base: Score
    group: Score

    @property
    def seed(self) -> str:
        """As it is printed: of `PROMPT, seed 3`, `seed 3`."""
        numbered = re.search(r", (seed -?\d+)$", self.name)
        return numbered[1] if numbered else self.name

    def __str__(self) -> str:
        return f"{self.seed}: {_text(self.base)} → {_text(self.group)}"


@dataclass(frozen=True)
class Prompt:
    """A prompt, its difference (group less base), and its pairs, of which the worst is the first."""

    prompt: str
    difference: float
    pairs: list[Pair]


@dataclass(frozen=True)
class Worse:
    """The prompts that a group is worse on in a column, the worst first: the first few of `count`, of all `of`."""

    column: str
    base: str
    group: str
    count: int
    of: int
    prompts: list[Prompt]


def worse(column: Column, base: str, group: str, first: Values, second: Values, most: int) -> Worse:
    """Where the group `second` is worse than `first`, the base, in a column; of at most so many prompts.

    A prompt's difference is that which `verdicts.compare` tests: the mean over the seeds that both groups have, or the
    difference of the means over seeds where none is common. A failed video counts as there.
    """
    failure = failure_value(column)
    paired = paired_differences(numbers_of(first, failure), numbers_of(second, failure))
    means = {prompt: [d for d in seeds.values() if not math.isnan(d)] for prompt, seeds in paired.items()}
    of = {prompt: math.fsum(each) / len(each) for prompt, each in means.items() if each}
    lost = sorted((column.sign * d, prompt) for prompt, d in of.items() if column.sign * d < 0)
    prompts = [Prompt(p, of[p], _pairs(column, paired[p], first[p], second[p])) for _, p in lost[:most]]
    return Worse(column.name, base, group, len(lost), len(of), prompts)


def _pairs(
    column: Column, seeds: Mapping[str, float], first: Mapping[str, Score], second: Mapping[str, Score]
) -> list[Pair]:
    if "" in seeds and not first.keys() & second.keys():  # no seed is common: all of either group
        pairs = [Pair(name, score, math.nan) for name, score in sorted(first.items())]
        return pairs + [Pair(name, math.nan, score) for name, score in sorted(second.items())]
    both = sorted((column.sign * d, name) for name, d in seeds.items() if not math.isnan(d))
    return [Pair(name, first[name], second[name]) for _, name in both]


def _text(score: Score) -> str:
    return "failed" if score is None else "none" if math.isnan(score) else f"{score:.4g}"
