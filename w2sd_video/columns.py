"""What a column of scores is: which way is better, and by which rule its means and differences are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "verdict": 0 or 1 for a video, or their mean over a few objects. "group": one score for all videos of a group.
Kind = Literal["continuous", "verdict", "group"]


@dataclass(frozen=True)
class Column:
    """A column of scores.

    Args:
        name: what the column is called.
        sign: 1 where higher is better, -1 where lower is, 0 where neither is.
        kind: decides the test and the interval; see `w2sd_video.verdicts`.
        scale: means are divided by this.
        primary: whether the column was declared as primary before the scores were seen. Primary columns are a family
            of their own when p values are adjusted.
        classes: how many prompts make up the whole population, such as ten digits; 0 where prompts are a sample of
            many more.
        odds: whether exp(a) : exp(b) are the odds that people prefer the first of two videos with scores a and b.
    """

    name: str
    sign: int = 1
    kind: Kind = "continuous"
    scale: float = 1.0
    primary: bool = False
    classes: int = 0
    odds: bool = False

    @property
    def label(self) -> str:
        """The name, and which way is better where that is not up."""
        return self.name + {1: "", 0: " (neither is better)", -1: " (lower is better)"}[self.sign]
