"""Notes for readers of scores: cautions without which a number would mislead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.errors import shown

from .dimensions import VBENCH, Dimension
from .prompts import match
from .videos import Video, left_out

if TYPE_CHECKING:
    from .evaluate import Scores
    from .results import Summary

LONG = 5.0  # seconds, from which on VBench-Long takes videos
FLICKERING = 5  # videos of a prompt that VBench's leaderboard scores


def of_files(
    videos: Sequence[Video],
    dimensions: Iterable[Dimension],
    arguments: Sequence[str | Path],
    prompts: Mapping[str, str] | None,
    images: bool,
) -> Iterator[str]:
    """Notes before scoring: on prompts, on files left out, and on videos that differ from their sidecars."""
    named = [video for video in videos if video.prompt_from == "name"]
    if named and not prompts and any(dimension.prompted for dimension in dimensions):
        yield f"{_videos(named)} without a prompt, so the prompt is taken from the file's name: {named[0].prompt!r}"
    yield from of_prompts_file(videos, prompts)
    if not images and (others := left_out(arguments)):
        suffixes = ", ".join(sorted({path.suffix.lower() for path in others}))
        yield f"{_files(others)} left out of folders for the suffix ({suffixes}); name such files to score them"
    if changed := [video for video in videos if video.differs_from_its_sidecar]:
        yield f"{_videos(changed)} not the file that the sidecar has the hash of: it was changed after it was made"


def of_prompts_file(videos: Sequence[Video], prompts: Mapping[str, str] | None) -> Iterator[str]:
    """Notes on videos that a file of prompts does not have, and on prompts of none of the videos."""
    for source, owner in (("sidecar", "sidecar"), ("name", "file's name")) if prompts else ():
        if taking := [video for video in videos if video.prompt_from == source]:
            yield f"{_videos(taking)} not in the prompts file, so the prompt is taken from the {owner}"
    _, unused = match(prompts, [video.path for video in videos])
    if unused:
        yield f"{len(unused)} of the {len(prompts or ())} prompts are of no video that is scored, such as {unused[0]!r}"


def of_scores(scores: Scores, images: bool, asked: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Notes after scoring: on videos with peculiarities, and on dimensions that VBench restricts."""
    peculiar: dict[str, list[Video]] = {}
    for video, facts in scores.facts.items():
        for note in facts.get("notes", ()):
            peculiar.setdefault(note, []).append(video)
    for note, videos in peculiar.items():
        yield f"{videos[0].path}{f' and {len(videos) - 1} more' * (len(videos) > 1)}: {note}"
    names = {dimension.name for dimension in scores.dimensions}
    timed = {video: facts for video, facts in scores.facts.items() if not images and video.timed}
    long = [video for video, facts in timed.items() if facts["frames"] >= LONG * facts["fps"] > 0]
    if long and not names.isdisjoint(VBENCH):
        yield (
            f"{_videos(long)} {LONG:g} s long or longer: VBench-Long scores such videos by short clips, and its"
            " scores do not compare with those of whole videos"
        )
    if not images:
        yield from of_flickering(scores, asked)


def of_flickering(scores: Scores, asked: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Notes on temporal_flickering of videos that may move, which VBench's static filter leaves out beforehand."""
    scored = [video for video, of in scores.of.items() if of.get("temporal_flickering") is not None]
    rule = "temporal_flickering counts motion as flicker, and VBench scores still videos only"
    if scored and "temporal_flickering" in asked:
        counts = Counter((video.group, video.prompt) for video in scored)
        more = sum(count > FLICKERING for count in counts.values())
        yield (
            f"{rule}: its leaderboard takes the first {FLICKERING} of 25 of each prompt that `vbench static_filter`"
            " keeps. Here every video that it is given counts, still or not"
            + (f"; there are more than {FLICKERING} of {more} prompt{'s' * (more > 1)}" if more else "")
        )
    elif moving := [video for video in scored if scores.of[video].get("dynamic_degree")]:
        yield f"{rule}; {_videos(moving)} moving"
    elif any(scores.of[video].get("dynamic_degree") is None for video in scored):
        yield f"{rule}; dynamic_degree tells which move"


def of_prompts(scores: Scores, asked: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Notes on groups without a video of each prompt that a dimension is asked of."""
    texts: dict[str, set[str | None]] = {}
    for video in scores.videos:
        texts.setdefault(video.group, set()).add(video.prompt)
    for group, own in texts.items():
        there = {d.name: len(own & {*asked[d.name]}) for d in scores.dimensions if d.name in asked}
        few = [f"{name} of {n} of {len(asked[name])}" for name, n in there.items() if n < len(asked[name])]
        if few:
            yield f"{group} has not a video of each prompt that a dimension is asked of: {', '.join(few)}"


def of_pairs(summary: Summary) -> Iterator[str]:
    """Notes on what several videos are one pair of, and on what has no pair in the first group."""
    if all(column.kind == "group" for column in summary.columns.values()):
        return
    for group, pairs in summary.paired.items():
        if twice := [pair for pair, videos in pairs.items() if len(videos) > 1]:
            unused = ", and none of them is compared" if summary.others else ""
            yield (
                f"{group}: several {summary.thing}s have one prompt and seed, or one name, such as '{twice[0]}'"
                f" ({len(twice)} of {len(pairs)}); each counts as a seed of its own{unused}"
            )
    for group in summary.others:
        first, second = summary.comparable(group)
        theirs, own = ({video.pair: video for video in videos} for videos in (first, second))
        paired = {summary.prompt(theirs[pair]) for pair in theirs if pair in own}
        unlike = {summary.prompt(video) for video in first} & {summary.prompt(video) for video in second} - paired
        alone = [
            video
            for each, other in ((theirs, group), (own, summary.base))
            for pair, video in each.items()
            if pair not in summary.paired[other] and summary.prompt(video) not in unlike
        ]
        if not paired and not unlike:
            every = ({summary.prompt(v) for v in summary.groups[name]} for name in (summary.base, group))
            why = f"no {summary.thing} shares a prompt, or a name, with a {summary.thing} of {summary.base}"
            if set.intersection(*every):
                why = f"of all that it shares with {summary.base}, one of them has several"
            yield f"{group}: nothing to compare: {why}"
        elif alone:
            of = f"{len(alone)} {summary.thing}s of it and {summary.base}"
            yield f"{group}: {of} have no pair in the other, and are not compared"
        if unlike:
            yield (
                f"{group}: of {len(unlike)} prompts, such as '{min(unlike)}', no seed in the same folder is common"
                f" with {summary.base}; the means over their seeds are compared"
            )


def of_summary(summary: Summary) -> Iterator[str]:
    """Notes on columns that no video has, and on prompts between which a model makes no difference, such as of case."""
    names = [name for name in summary.columns if not any(means[name].n for means in summary.means.values())]
    if names:
        yield f"not in the table, because no {summary.thing} has a score of it: {', '.join(names)}"
    if any(summary.totals.values()) and not summary.scores.unasked:
        yield (
            "the totals are of scores over all videos. VBench's leaderboard takes each dimension on its own prompts:"
            " `eval --suite vbench`, or a plan with `by_dimension`"
        )
    prompts: dict[tuple[str, str], set[str]] = {}
    for video in summary.scores.facts:
        with suppress(OSError):  # it was removed since
            prompts.setdefault((video.group, video.sha256), set()).add(summary.prompt(video))
    equal = [sorted(each) for each in prompts.values() if len(each) > 1]
    if equal:
        count = len({prompt for each in equal for prompt in each})
        such = " and ".join(shown(prompt, 100) for prompt in min(equal)[:2])
        yield (
            f"{count} prompts have the same {summary.thing} as another one, such as {such}; each counts as a prompt,"
            " so that intervals are too narrow"
        )


def _videos(videos: Sequence[Video]) -> str:
    """How many, and the first of them, as the start of a sentence."""
    return _files([video.path for video in videos])


def _files(paths: Sequence[Path]) -> str:
    return f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} videos, such as {paths[0]}, are"
