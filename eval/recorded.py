"""Scores as a results file holds them, of dimensions whose code is not run: a file's, a plug-in's, VBench's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2sd_video.columns import Column

from .dimensions import NAMES, Dimension
from .evaluate import Scores
from .frames import FACTS, MORE_FACTS


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
