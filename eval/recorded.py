"""Scores as a results file holds them, of dimensions whose code is not run: a file's, a plug-in's, VBench's own."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2sd_video.columns import LARGEST, Column
from w2sd_video.errors import Refused, did_you_mean, shown

from . import vbench
from .dimensions import GROUPS, NAMES, OFFICIAL, AllSkipped, Dimension, Skipped
from .evaluate import Scores
from .frames import FACTS, MORE_FACTS
from .notes import of_prompts_file
from .prompts import match
from .videos import Video, grouped, video_at


class Recorded(Dimension):
    """A dimension as a results file describes it. It scores nothing."""

    def __init__(self, name: str, about: Mapping[str, Any]):
        self.name, self.version, self.source = name, about["version"], about.get("source", "")
        self.records = tuple(Column(**record) for record in about["records"])


def add(scores: Scores, data: Mapping[str, Any]) -> None:
    """Adds the recorded scores of dimensions that are not built in, of videos whose files are those that were scored.

    Args:
        scores: of all other dimensions; it is changed.
        data: what `Summary.write` wrote, of videos that have the same groups and pairs.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is something else.
    """
    new = [Recorded(name, about) for name, about in data["dimensions"].items() if name not in NAMES]
    if not new:
        return
    scores.dimensions = [*scores.dimensions, *new]
    scores.weights = scores.weights | {each.name: data["dimensions"][each.name]["weights"] for each in new}
    rows = {(row["group"], row["pair"]): row for row in data["videos"]}
    later = 0
    for video in (video for video in scores.videos if video.path.exists()):
        row = rows.get((video.group, video.pair))
        if row is None or row["sha256"] != video.sha256:
            later += 1
            continue
        own = {column: row["scores"][column] for each in new for column in each.columns if column in row["scores"]}
        scores.of.setdefault(video, {}).update(own)
        scores.facts.setdefault(video, {name: row[name] for name in (*FACTS, *MORE_FACTS) if name in row})
    for group, said in data["groups"].items():
        for column in (column for each in new for column in each.records if column.kind == "group"):
            if mean := said["columns"].get(column.name):
                scores.of_groups.setdefault(group, {})[column.name] = mean["mean"], mean["n"]
    by_name = {video.path.parts[-2:]: video for video in scores.videos}
    for problem in data["problems"]:
        if problem["dimension"] in [each.name for each in new] and (at := Path(problem["path"]).parts[-2:]) in by_name:
            scores.problems.append((by_name[at], problem["dimension"], problem["problem"]))
    if later:
        names = ", ".join(each.name for each in new)
        scores.notes.append(f"{names}: {later} videos were made after it was scored; w2sd-video score scores them")


def files_of(arguments: Sequence[str | Path]) -> dict[str, list[Path]]:
    """By group, the results files in VBench's schema that arguments name; empty if they name videos.

    Raises:
        Refused: some arguments name results and others do not, or one names no file.
    """
    named = {group: os.path.expanduser(path) for group, path in grouped(arguments)}
    others = [path for path in named.values() if not path.endswith(".json")]
    if len(others) == len(named):
        return {}
    if others:
        accepted = (
            "give videos alone, or VBench's results alone: `eval` writes the results of videos in VBench's schema"
        )
        raise Refused("videos", others[0], accepted)
    files = {
        group: [Path(path)] if os.path.exists(path) else [Path(each) for each in sorted(glob.glob(path))]
        for group, path in named.items()
    }
    for group, own in files.items():
        if not own:
            raise Refused(
                "videos", named[group], "there is no such file; give VBench's results, NAME_eval_results.json"
            )
    return files


def of_results(
    files: Mapping[str, Sequence[Path]],
    dimensions: str | None = None,
    prompts: Mapping[str, str] | None = None,
    **unused: object,
) -> Scores:
    """The scores in results files in VBench's schema, such as `NAME_eval_results.json`. No video is read.

    A video's prompt and seed are those of its sidecar if that is there, and else of its name, as VBench writes it. Two
    paths in lists of different dimensions that have one prompt and seed are one video.

    Args:
        files: by group. A group has a dimension in one of its files alone.
        dimensions: names with commas between. None: all that the files have.
        prompts: prompts by path or file name, in place of the names'.
        unused: what `evaluate` takes besides, to score videos.

    Raises:
        Refused: a file or a score in it cannot be used, there is no such dimension, or a group has one twice.
        AllSkipped: no file has one of the dimensions.
    """
    names = None if dimensions is None else [name.strip() for name in dimensions.split(",")]
    named = names and list(dict.fromkeys(each for name in names for each in GROUPS.get(name, (name,))))
    read = {group: _read(own, named) for group, own in files.items()}
    known = list(dict.fromkeys(name for results in read.values() for name in results))
    wanted = named or known
    for name in wanted:
        if name not in (*known, *NAMES, *OFFICIAL):
            raise Refused("dimensions", name, did_you_mean(name, known))
    skipped = [Skipped(name, "no results file has it") for name in wanted if name not in known]
    there = [name for name in wanted if name in known]
    if not there:
        raise AllSkipped(skipped)
    scores = Scores([Recorded(name, {"version": "unknown", "records": ()}) for name in there], [], skipped=skipped)
    scores.weights, scores.device = {name: {} for name in there}, "unknown"
    paths = [Path(path) for results in read.values() for _, listed in results.values() for path, _ in listed]
    texts, _ = match(prompts, paths)
    for group, results in read.items():
        scores.stated[group] = {name: results[name][0] for name in there if name in results}
        if not scores.stated[group]:
            accepted = f"{group} has none of {', '.join(there)}: leave it out, or give other --dimensions"
            raise Refused("videos", ", ".join(map(str, files[group])), accepted)
        if lacking := [name for name in there if name not in results]:
            scores.notes.append(f"{group}: its results have no {', '.join(lacking)}")
        by_pair: dict[str, Video] = {}
        for name in scores.stated[group]:
            for video, score in _videos(group, results[name][1], texts, by_pair):
                scores.of.setdefault(video, {})[name] = score
    scores.videos = list(scores.of)
    scores.notes += of_prompts_file(scores.videos, prompts)
    scores.unasked = {(str(v.prompt), name) for v, own in scores.of.items() for name in there if name not in own}
    return scores


def _read(files: Sequence[Path], wanted: Collection[str] | None) -> vbench.Results:
    """The results in the files of a group.

    Args:
        wanted: the dimensions whose scores are used. None: all.

    Raises:
        Refused: a file is none of VBench's results, two have one dimension, or scores cannot be used.
    """
    joined: vbench.Results = {}
    of: dict[str, Path] = {}
    for file in files:
        try:
            results = vbench.read(file)
        except (OSError, ValueError) as error:
            raise Refused("videos", str(file), f"give VBench's results, NAME_eval_results.json ({error})") from None
        for name, (mean, listed) in results.items():
            if name in joined:
                raise Refused("videos", str(file), f"{of[name]}, of the same group, has {name} too: give each once")
            if problem := _problem(name, mean, listed) if wanted is None or name in wanted else "":
                raise Refused("videos", str(file), f"{problem}; --dimensions can leave {name} out")
            joined[name], of[name] = (mean, listed), file
    return joined


def _problem(name: str, mean: float, listed: Sequence[tuple[Any, Any]]) -> str:
    """Why a dimension's mean, or its scores by path, cannot be used; empty if they can."""
    column, paths = Dimension().record(name), set()
    for path, score in listed:
        if not isinstance(path, str) or not Path(path).name or "\0" in path:
            return f"a video_path of {name} is {path!r}, and has to be that of a file"
        if path in paths:
            return f"{name} has {path} twice"
        paths.add(path)
        if not isinstance(score, (bool, int, float)) or not -LARGEST <= score <= LARGEST:
            return f"{name} of {path} is {shown(score)}, and has to be a number"
        if column.kind == "verdict" and not 0 <= score <= 1:
            return f"{name} of {path} is {score:g}, and has to be from 0 to 1"
    if not listed:
        return f"{name} has no video"
    low, high = (end(score for _, score in listed) / column.scale for end in (min, max))
    slack = 1e-3 * max(abs(low), abs(high))
    if not low - slack <= mean <= high + slack:
        # VBench of 2023 wrote the mean of imaging_quality from 0 to 100, where its totals take 0 to 1.
        of = f" divided by {column.scale:g}" * (column.scale != 1)
        return f"the mean of {name} is {mean:g}, and its videos' scores{of} are from {low:g} to {high:g}"
    return ""


def _videos(
    group: str, listed: Sequence[tuple[str, Any]], texts: Mapping[Path, str], by_pair: dict[str, Video]
) -> Iterator[tuple[Video, float]]:
    """The videos of a dimension's list, each with its score; `by_pair` has those of other dimensions, and gets more."""
    used: set[Video] = set()
    for path, score in listed:
        video = video_at(Path(path), group, "", texts.get(Path(path)))
        if (same := by_pair.setdefault(video.pair, video)) not in used:
            video = same
        used.add(video)
        yield video, float(score)
