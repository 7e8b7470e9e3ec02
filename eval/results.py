"""What scores come to: a summary by group, paired comparisons, and the files that hold them."""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from w2sd_video.runs import whole

from . import vbench
from .dimensions import Compared
from .evaluate import Scores
from .statistics import Interval, interval, preferred, wins
from .videos import Video

ENOUGH = 10  # pairs; the bootstrap of fewer says that they differ too readily
PACKAGES = ("w2sd-video", "torch", "torchvision", "transformers", "numpy", "decord", "av", "pillow", "vbench")


@dataclass(frozen=True)
class Comparison:
    """A column in a group against the first group, over videos of the same name.

    `difference` is group less base; `win_rate` the share of pairs that the group does better in, ties counting half;
    `better` whether the interval of at least 10 pairs says that it does, None where it does not say. `preference` is
    the mean probability that people prefer the group's of the two, by a dimension that says so.
    """

    column: str
    base: str
    group: str
    difference: Interval
    win_rate: float
    better: bool | None
    preference: float | None = None

    @property
    def said(self) -> str:
        """Difference, win rate and preference, as they are printed."""
        preference = "" if self.preference is None else f", preferred {self.preference:.0%}"
        return f"{self.difference.mean:+.4f}, wins {self.win_rate:.0%}{preference}"


class Summary:
    """Scores by group. `means[group][column]`, `totals[group]`, and `comparisons` of each group with the first.

    Means are on VBench's scale: imaging_quality in 0-1. `aggregates[group][dimension]` are VBench's own two means.
    """

    def __init__(self, scores: Scores):
        self.scores = scores
        self.groups: dict[str, list[Video]] = {}
        for video in scores.videos:
            self.groups.setdefault(video.group, []).append(video)
        self.base, *self.others = self.groups
        self.paired: dict[str, dict[str, list[Video]]] = {group: {} for group in self.groups}
        for video in scores.videos:
            self.paired[video.group].setdefault(video.pair, []).append(video)
        self.scales = {c: d.scale for d in scores.dimensions for c in d.columns}
        self.signs = {c: d.signs.get(c, 1) for d in scores.dimensions for c in d.columns}
        self.odds = {c for d in scores.dimensions for c in d.columns if d.odds}
        self.means = {g: {c: self._mean(g, c) for c in self.scales} for g in self.groups}
        self.aggregates = {group: self._aggregates(videos) for group, videos in self.groups.items()}
        self.totals = {g: vbench.totals({d: one for d, (one, _) in a.items()}) for g, a in self.aggregates.items()}
        self.comparisons = list(self._comparisons())

    def _mean(self, group: str, column: str) -> Interval:
        if found := self.scores.of_groups.get(group, {}).get(column):
            return Interval(found[0], np.nan, np.nan, found[1])
        return interval(self.values(group, column))

    def values(self, group: str, column: str) -> np.ndarray:
        """A column by video of a group, on VBench's scale; NaN where a video has none."""
        return self._values(self.groups[group], column)

    def _values(self, videos: list[Video], column: str) -> np.ndarray:
        """A column by video, on VBench's scale; NaN where a video has none."""
        found = [self.scores.of.get(video, {}).get(column) for video in videos]
        return np.array([np.nan if value is None else value / self.scales[column] for value in found])

    def _aggregates(self, videos: list[Video]) -> dict[str, tuple[float, float]]:
        aggregates = {}
        for dimension in self.scores.dimensions:
            if scored := self._scored(videos, dimension.name):
                frames = [self.scores.facts[video]["frames"] for video, _ in scored]
                values = [score for _, score in scored]
                aggregates[dimension.name] = vbench.aggregate(values, frames, dimension.weighted, dimension.scale)
        return aggregates

    def _scored(self, videos: list[Video], column: str) -> list[tuple[Video, float]]:
        """The videos that have a score in a column, with it."""
        found = ((video, self.scores.of.get(video, {}).get(column)) for video in videos)
        return [(video, score) for video, score in found if score is not None]

    def _pairs(self, group: str) -> list[tuple[Video, Video]]:
        """The videos of the first group and those of another that each is compared with; none that has several."""
        first, second = (
            {pair: v for pair, (v, *more) in self.paired[g].items() if not more} for g in (self.base, group)
        )
        return [(first[pair], second[pair]) for pair in first if pair in second]

    def _comparisons(self) -> Iterator[Comparison]:
        for group in self.others:
            pairs = self._pairs(group)
            for column in self.scales if pairs else ():
                first, second = ([pair[n] for pair in pairs] for n in (0, 1))
                differences = self._values(second, column) - self._values(first, column)
                found = interval(differences)
                if not found.n:
                    continue
                sign = self.signs[column]
                says = sign != 0 and found.n >= ENOUGH and found.excludes_zero
                better = sign * found.mean > 0 if says else None
                preference = preferred(differences) if column in self.odds else None
                yield Comparison(column, self.base, group, found, wins((sign or 1) * differences), better, preference)

    @property
    def notes(self) -> list[str]:
        """What a reader of the means must know."""
        enough = {d.name: d.enough for d in self.scores.dimensions if isinstance(d, Compared)}
        single = len(self.groups) > 2 and all(len(videos) == 1 for videos in self.groups.values())
        said = ["each argument is a group; put a glob in quotes, and what it finds is one group"] * single
        return [*said, *self.scores.notes, *self._unpaired()] + [
            f"{group}: {column} of {n} pictures is biased; it takes {enough[column]} at the very least"
            for group, columns in self.scores.of_groups.items()
            for column, (_, n) in columns.items()
            if n < enough[column]
        ]

    def _unpaired(self) -> Iterator[str]:
        if all(isinstance(d, Compared) and d.of_groups for d in self.scores.dimensions):
            return
        for group in self.others:
            theirs, mine = self.paired[self.base], self.paired[group]
            common = [pair for pair in theirs if pair in mine]
            several = [pair for pair in common if len(theirs[pair]) + len(mine[pair]) > 2]
            alone = len(theirs) + len(mine) - 2 * len(common)
            if not common:
                yield f"{group}: nothing to compare, no prompt and seed, or name, is that of a video of {self.base}"
            elif alone:
                yield f"{group}: {alone} videos of it and {self.base} have no pair in the other, and are not compared"
            if several:
                yield (
                    f"{group}: {len(several)} of {len(common)} pairs are left out of comparisons, such as"
                    f" '{several[0]}': {self.base} or {group} has several videos of it"
                )

    def label(self, column: str) -> str:
        """A column's name, and which way is better where that is not up."""
        return column + {1: "", 0: " (neither is better)", -1: " (lower is better)"}[self.signs[column]]

    def data(self, command: list[str]) -> dict[str, Any]:
        """All of it, with its provenance, as it is written to JSON."""
        scores = self.scores
        return {
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": command,
            "seconds": round(scores.seconds, 2),
            "device": scores.device,
            "precision": "float32",
            "versions": {"python": platform.python_version(), **_versions()},
            "dimensions": {
                d.name: {
                    "version": d.version,
                    "weights": scores.weights[d.name],
                    "licences": {w.name: w.licence for w in d.weights},
                    "columns": [self.label(c) for c in d.columns],
                }
                for d in scores.dimensions
            },
            "notes": scores.notes,
            "skipped": {each.name: each.reason for each in scores.skipped},
            "groups": {
                group: {
                    "videos": len(videos),
                    "columns": {c: asdict(m) for c, m in self.means[group].items() if m.n},
                    "vbench": {
                        d: {"one process": one, "several": several}
                        for d, (one, several) in self.aggregates[group].items()
                    },
                    "totals": self.totals[group],
                }
                for group, videos in self.groups.items()
            },
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "videos": [
                {
                    "path": str(video.path),
                    "group": video.group,
                    "pair": video.pair,
                    "prompt": video.prompt,
                    "sha256": video.sha256,
                    **scores.facts[video],
                    "scores": scores.of[video],
                }
                for video in scores.videos
                if video in scores.facts
            ],
            "problems": [
                {"path": str(video.path), "dimension": dimension, "problem": problem}
                for video, dimension, problem in scores.problems
            ],
        }

    def write(self, out: Path, command: list[str]) -> list[Path]:
        """Writes `out` (JSON), and beside it the summary as CSV, and a file in VBench's schema for each group.

        Returns:
            The files, `out` first.
        """
        files = [out, out.with_suffix(".csv")]
        with whole({"csv": files[1], "json": out}) as staged:
            staged["json"].write_text(json.dumps(_finite(self.data(command)), indent=1) + "\n", encoding="utf-8")
            with open(staged["csv"], "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                self._csv(csv.writer(file))
        for number, (group, videos) in enumerate(self.groups.items(), 1):
            results: vbench.Results = {}
            for dimension, (one, _) in self.aggregates[group].items():
                scored = [(v, self.scores.of.get(v, {}).get(dimension)) for v in videos]
                listed = [
                    (str(v.path), bool(s) if dimension == "dynamic_degree" else s) for v, s in scored if s is not None
                ]
                results[dimension] = (one, listed)
            if results:
                name = f"{out.stem}_{number}" if len(self.groups) > 1 else out.stem
                files.append(out.with_name(f"{name}_eval_results.json"))
                vbench.write(files[-1], results)
        return files

    def _csv(self, table: Any) -> None:
        head = "column group n mean low high"
        head += " base pairs difference difference_low difference_high win_rate preference"
        table.writerow(head.split())
        compared = {(c.group, c.column): c for c in self.comparisons}
        for column in self.scales:
            for group in self.groups:
                m, c = self.means[group][column], compared.get((group, column))
                d = c.difference if c else None
                row = [column, group, m.n, m.mean, m.low, m.high]
                row += [c.base, d.n, d.mean, d.low, d.high, c.win_rate, c.preference] if c and d else [None] * 7
                table.writerow("" if value is None or value != value else value for value in row)


def printable(text: str) -> str:
    """A text, with escapes for what of a file's name is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
