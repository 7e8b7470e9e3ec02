"""What a column of scores is: which way is better, and by which rule its means and differences are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import Refused

# "verdict": 0 or 1 for a video, or their mean over a few objects. "group": one score for all videos of a group.
Kind = Literal["continuous", "verdict", "group"]
LARGEST = 1e100  # of a score, whatever its sign: the squares in a variance stay finite


@dataclass(frozen=True)
class Column:
    """A column of scores.

    Args:
        name: what the column is called.
        sign: 1 where higher is better, -1 where lower is, 0 where neither is.
        kind: decides the test and the interval; see `w2sd_video.verdicts`. A verdict is a number from 0 to 1.
        scale: means are divided by this.
        primary: whether the column was declared as primary before the scores were seen. Primary columns are a family
            of their own when p values are adjusted.
        classes: how many prompts make up the whole population, such as ten digits; 0 where prompts are a sample of
            many more.
        odds: whether exp(a) : exp(b) are the odds that people prefer the first of two videos with scores a and b.

    Raises:
        Refused: the name is no text or empty, or a field has another value than these.
    """

    name: str
    sign: int = 1
    kind: Kind = "continuous"
    scale: float = 1.0
    primary: bool = False
    classes: int = 0
    odds: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise Refused("name", self.name, "give a column a name, a text that is not empty")
        if self.sign not in (1, 0, -1):
            raise Refused("sign", self.sign, "give 1 where higher is better, -1 where lower is, 0 where neither is")
        if self.kind not in get_args(Kind):
            raise Refused("kind", self.kind, f"give {', '.join(get_args(Kind)[:-1])} or {get_args(Kind)[-1]}")
        if not isinstance(self.scale, (int, float)) or not (math.isfinite(self.scale) and self.scale > 0):
            raise Refused("scale", self.scale, "give a number above 0, by which means are divided")
        if not isinstance(self.classes, int) or self.classes < 0:
            raise Refused("classes", self.classes, "give how many prompts are all that there are, or 0")

    @property
    def label(self) -> str:
        """The name, and which way is better where that is not up."""
        return self.name + {1: "", 0: " (neither is better)", -1: " (lower is better)"}[self.sign]
