"""Blind preferences of people: votes on pairs of groups, as the page saves them, and their evaluation.

A vote compares two videos of one prompt and seed. Groups are ranked by the model of Bradley & Terry (1952, Biometrika
39, 324): group i is preferred to group j with probability 1 / (1 + exp(b_j - b_i)). A tie is half a vote for either.
The unit is the prompt: intervals come from a bootstrap over prompts. Agreement between voters is Krippendorff's
alpha for nominal data (2011, "Computing Krippendorff's Alpha-Reliability").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.columns import Column
from w2sd_video.documents import read_json
from w2sd_video.errors import Refused, note_once
from w2sd_video.statistics import korn_graubard
from w2sd_video.verdicts import Interval, mean

from ..results import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..results import Summary
    from ..videos import Video

KIND, FORMAT = "w2sd-video votes", 1
CHOICES = {"left": 1.0, "tie": 0.5, "right": 0.0}  # the left video's share of the vote; a skipped pair is no vote
DRAWS = 2000  # of the bootstrap
FARTHEST = 15.0  # log odds beyond which a group counts as preferred always, or never


@dataclass(frozen=True)
class Vote:
    """A voter's preference between two videos of one prompt and seed.

    Args:
        pair: the prompt and seed of both.
        first, second: their groups.
        share: the first video's share of the vote: 1, 0.5 (a tie) or 0.
    """

    voter: str
    prompt: str
    pair: str
    first: str
    second: str
    share: float


@dataclass(frozen=True)
class Preference:
    """How often a group is preferred.

    Args:
        over_base: the probability that it is preferred to the first group, by Bradley & Terry, with the bootstrap's
            95 % interval; NaN if no votes connect the two.
        share: its share of all votes on it, whatever the other group is; ties count half.
    """

    group: str
    over_base: Interval
    share: Interval


@dataclass(frozen=True)
class Tally:
    """The result of votes.

    Args:
        alpha: Krippendorff's alpha over the pairs that several voters judged; NaN if there are none.
        equal: the probability that two votes on the same pair are equal; NaN if no pair has two.
        several: how many pairs several voters judged.
        columns: by column, the share of votes that agree with the better score, without ties and equal scores.
    """

    base: str
    preferences: list[Preference]
    voters: int
    votes: int
    prompts: int
    alpha: float = math.nan
    equal: float = math.nan
    several: int = 0
    columns: dict[str, Interval] = field(default_factory=dict)


def read(paths: Iterable[Path], summary: Summary) -> list[Vote]:
    """Reads the votes in files that the page saved. If a voter judged a pair repeatedly, the last vote counts, and a
    note says how often it differs. Files without a voter's name are of a voter each.

    Raises:
        Refused: a file is truncated or is no file of votes, or has a vote on a group or a video that `summary` lacks.
    """
    known: dict[tuple[str, str], list[Video]] = {}  # several prompts of a group may have identical videos
    for video in summary.scores.videos:
        known.setdefault((video.group, _sha256(video)), []).append(video)
    votes: dict[tuple[str, str, frozenset[str]], Vote] = {}
    changed: Counter[str] = Counter()  # by voter
    for path in paths:
        voter, listed = _listed(path)
        for number, each in enumerate(listed, 1):
            try:
                sides = [(str(each[side]["arm"]), str(each[side]["sha256"])) for side in ("left", "right")]
                choice = str(each["choice"])
            except (KeyError, TypeError):
                raise _refused(path, f"its vote {number} lacks left, right or choice") from None
            for arm, sha256 in sides:
                if arm not in summary.groups:
                    raise _refused(path, f"its vote {number} is on {arm!r}; there are {', '.join(summary.groups)}")
                if not sha256 or (arm, sha256) not in known:
                    raise _refused(path, f"its vote {number} is on a video of {arm!r} that is not of this run")
            pairs = [(left, right) for left in known[sides[0]] for right in known[sides[1]] if left.pair == right.pair]
            if not pairs or pairs[0][0].group == pairs[0][1].group:
                raise _refused(path, f"its vote {number} is not on two groups' videos of one prompt and seed")
            named = f"{each.get('prompt')}, seed {each.get('seed')}"
            left, right = next((pair for pair in pairs if printable(pair[0].pair) == named), pairs[0])
            if choice == "skip":
                continue
            if choice not in CHOICES:
                raise _refused(path, f"its vote {number} is {choice!r}; give left, tie, right or skip")
            vote = Vote(voter, summary.prompt(left), left.pair, left.group, right.group, CHOICES[choice])
            key = (voter, left.pair, frozenset((left.group, right.group)))
            former = votes.get(key, vote)
            changed[voter] += vote.share != (former.share if former.first == vote.first else 1 - former.share)
            votes[key] = vote
    for voter, count in (+changed).items():
        on = f"{count} pair{'s' * (count != 1)} of videos"
        note_once(f"votes of {voter!r} on {on} contradict each other: the last one counts")
    return list(votes.values())


def _sha256(video: Any) -> str:
    try:
        return str(video.sha256)
    except OSError:  # the file is missing
        return ""


def _listed(path: Path) -> tuple[str, list[Any]]:
    """The voter and the votes of a file."""
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise _refused(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise _refused(path, f"it is cut short or no file that the page saved ({error})") from None
    if not isinstance(data, dict) or data.get("kind") != KIND or not isinstance(data.get("votes"), list):
        raise _refused(path, "it is no file that the page saved")
    if data.get("format") != FORMAT:
        raise _refused(path, f"it has format {data.get('format')!r}; this version reads {FORMAT}")
    if data.get("count") != len(data["votes"]):
        raise _refused(path, f"it says that it has {data.get('count')!r} votes, and has {len(data['votes'])}")
    return str(data.get("voter") or path.resolve()), data["votes"]


def _refused(path: Path, why: str) -> Refused:
    return Refused("--votes", str(path), why)


def tally(votes: Sequence[Vote], summary: Summary) -> Tally | None:
    """Evaluates votes, with the first group as the base; None without votes."""
    if not votes:
        return None
    groups = list(summary.groups)
    prompts = sorted({vote.prompt for vote in votes})
    wins = np.zeros((len(prompts), len(groups), len(groups)))
    shares: dict[str, dict[str, dict[str, float]]] = {group: {} for group in groups}
    for number, vote in enumerate(votes):
        p, i, j = prompts.index(vote.prompt), groups.index(vote.first), groups.index(vote.second)
        wins[p, i, j] += vote.share
        wins[p, j, i] += 1 - vote.share
        for group, share in ((vote.first, vote.share), (vote.second, 1 - vote.share)):
            shares[group].setdefault(vote.prompt, {})[str(number)] = share
    preferences = [
        Preference(group, interval, mean(Column("votes", kind="verdict"), shares[group]))
        for group, interval in zip(groups, over_base(wins), strict=True)
    ]
    voters = len({vote.voter for vote in votes})
    alpha, equal, several = agreement(_judged(votes))
    return Tally(
        groups[0], preferences, voters, len(votes), len(prompts), alpha, equal, several, dict(_columns(votes, summary))
    )


def over_base(wins: NDArray[Any]) -> list[Interval]:
    """The probability for every group that it is preferred to the first, with a bootstrap interval over prompts.

    Args:
        wins: (prompts, groups, groups), how often the group of a row was preferred to that of a column.
    """
    prompts, groups, _ = wins.shape
    centre = _odds(bradley_terry(wins.sum(0)))
    low = high = np.full(groups, math.nan)
    if prompts > 1:
        drawn = np.random.default_rng(0).multinomial(prompts, np.full(prompts, 1 / prompts), DRAWS)
        odds = _odds(bradley_terry(np.tensordot(drawn, wins, 1)))
        ends = [  # a draw may lack the votes that connect a group with the base, which gives NaN
            np.quantile(odds[~np.isnan(odds[:, g]), g], [0.025, 0.975]) if not np.isnan(centre[g]) else (math.nan,) * 2
            for g in range(groups)
        ]
        low, high = np.array(ends).T
    counts = [int(round(float(wins[:, g, :].sum() + wins[:, :, g].sum()))) for g in range(groups)]
    units = [int((wins[:, g, :].sum(1) + wins[:, :, g].sum(1) > 0).sum()) for g in range(groups)]
    intervals = []
    for g in range(groups):
        least, most = low[g], high[g]
        # If all prompts agree, the bootstrap has no width: use the exact interval of a proportion instead.
        if g and most - least < 1e-9:
            least, most = korn_graubard(centre[g], 0.0, units[g] - 1, units[g], counts[g])
        intervals.append(Interval(float(centre[g]), float(least), float(most), counts[g], counts[g], units[g]))
    return intervals


def _odds(strengths: NDArray[Any]) -> NDArray[Any]:
    """Probabilities of being preferred to the first group; 0 or 1 if the strength is unbounded."""
    odds = 1 / (1 + np.exp(-np.clip(strengths, -FARTHEST, FARTHEST)))
    return np.where(strengths >= FARTHEST, 1.0, np.where(strengths <= -FARTHEST, 0.0, odds))


def bradley_terry(wins: NDArray[Any]) -> NDArray[Any]:
    """Strengths by maximum likelihood, as log odds against the first group.

    Args:
        wins: (..., groups, groups), how often the group of a row was preferred to that of a column.

    Returns:
        (..., groups). NaN if no votes connect a group with the first; ±15 stands for ±infinity, for a group that was
        preferred always or never.
    """
    count = wins + wins.swapaxes(-1, -2)
    groups = wins.shape[-1]
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(200):  # Newton's method with the first group fixed at 0
        p = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
        slope = (wins - count * p).sum(-1)[..., 1:]
        bend = count * p * (1 - p)
        curve = (np.eye(groups) * (bend.sum(-1)[..., None] + 1e-9) - bend)[..., 1:, 1:]
        step = np.clip(np.linalg.solve(curve, slope[..., None])[..., 0], -1, 1)
        strengths[..., 1:] = np.clip(strengths[..., 1:] + step, -FARTHEST, FARTHEST)
        if np.abs(step).max(initial=0) < 1e-10:
            break
    reached = np.zeros(wins.shape[:-1], bool)
    reached[..., 0] = True
    for _ in range(groups):
        reached |= ((count > 0) & reached[..., None, :]).any(-1)
    return np.where(reached, strengths, math.nan)


def _judged(votes: Iterable[Vote]) -> list[list[str]]:
    """The votes on each pair of videos: "tie", or whether the alphabetically first group was preferred."""
    judged: dict[tuple[str, frozenset[str]], list[str]] = {}
    for vote in votes:
        share = vote.share if vote.first < vote.second else 1 - vote.share
        choice = {1.0: "first", 0.5: "tie", 0.0: "second"}[share]
        judged.setdefault((vote.pair, frozenset((vote.first, vote.second))), []).append(choice)
    return list(judged.values())


def agreement(units: Iterable[Sequence[str]]) -> tuple[float, float, int]:
    """Krippendorff's nominal alpha, the probability that two votes on a unit are equal, and how many units have
    several votes.

    Args:
        units: the votes on each unit.
    """
    several = [unit for unit in units if len(unit) > 1]
    if not several:
        return math.nan, math.nan, 0
    total = Counter(choice for unit in several for choice in unit)
    equal = 0.0
    shares = []
    for unit in several:
        same = sum(n * (n - 1) for n in Counter(unit).values()) / (len(unit) - 1)
        equal += same
        shares.append(same / len(unit))
    n = total.total()
    expected = sum(count * (count - 1) for count in total.values()) / (n - 1)
    alpha = 1 - (n - equal) / (n - expected) if n > expected else math.nan
    return alpha, math.fsum(shares) / len(shares), len(several)


def _columns(votes: Sequence[Vote], summary: Summary) -> Iterator[tuple[str, Interval]]:
    scores = {(video.group, video.pair): summary.scores.of.get(video, {}) for video in summary.scores.videos}
    for name, column in summary.columns.items():
        if not column.sign or column.kind == "group":
            continue
        agrees: dict[str, dict[str, float]] = {}
        for number, vote in enumerate(votes):
            first, second = (scores[group, vote.pair].get(name) for group in (vote.first, vote.second))
            if vote.share != 0.5 and first is not None and second is not None and first != second:
                better = column.sign * (first - second) > 0
                agrees.setdefault(vote.prompt, {})[str(number)] = float(better == (vote.share == 1))
        if agrees:
            yield name, mean(Column(name, kind="verdict"), agrees)
