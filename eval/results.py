"""Results of scoring: a summary by group, paired comparisons, and the files that hold them."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from w2sd_video.columns import Column
from w2sd_video.documents import finite
from w2sd_video.errors import Refused, did_you_mean
from w2sd_video.provenance import package_versions
from w2sd_video.runs import whole
from w2sd_video.verdicts import ENOUGH, LEVEL, Comparison, Interval, Values, compare, decide, mean

from . import notes, vbench
from .dimensions import Compared
from .evaluate import Scores
from .totals import totals_of
from .videos import Video
from .worse import Prompt, Worse, worse

PACKAGES = ("w2sd-video", "torch", "torchvision", "transformers", "numpy", "scipy", "decord", "av", "pillow", "vbench")

WORST = 3  # prompts of a column that are listed


class Summary:
    """Scores by group: `means[group][column]`, `totals[group]`, and `comparisons` of each group with the first.

    Means are on VBench's scale, so imaging_quality is in 0-1. `aggregates[group][dimension]` are VBench's own two
    means. `total_differences[group]` are from the first group. `scores.videos` are all expected videos; one that could
    not be read counts as failed.

    Args:
        primary: columns that were declared as primary before the scores were seen. They are a family of their own when
            p values are adjusted; see `verdicts.decide`.
        worst: how many prompts `worse` lists for each column, on which a group is worse than the first group.

    Raises:
        Refused: a primary column is not among the scores, or `worst` is no whole number from 0 up.
    """

    def __init__(self, scores: Scores, primary: Iterable[str] = (), worst: int = WORST):
        if isinstance(worst, bool) or not isinstance(worst, int) or worst < 0:
            raise Refused("worst", worst, "give a whole number from 0 up")
        self.scores, self.worst = scores, worst
        self.groups: dict[str, list[Video]] = {}
        for video in scores.videos:
            self.groups.setdefault(video.group, []).append(video)
        for videos in self.groups.values():
            videos.sort(key=lambda video: str(video.path))
        self.base, *self.others = self.groups
        self.paired: dict[str, dict[str, list[Video]]] = {group: {} for group in self.groups}
        for video in (video for videos in self.groups.values() for video in videos):
            self.paired[video.group].setdefault(video.pair, []).append(video)
        self.columns = {c: d.record(c) for d in scores.dimensions for c in d.columns}
        for name in primary:
            if name not in self.columns:
                raise Refused("primary", name, did_you_mean(name, self.columns))
            self.columns[name] = replace(self.columns[name], primary=True)
        self.failed = {v for v, dimension, _ in scores.problems if not dimension and v not in scores.of}
        frames = [facts["frames"] for facts in scores.facts.values()]
        self.thing = "picture" if frames and max(frames) == 1 else "video"
        self._silent = self._silences()
        self.means = {g: {c: self._mean(g, c) for c in self.columns} for g in self.groups}
        self.aggregates = {group: self._aggregates(group) for group in self.groups}
        self.totals, self.total_differences = totals_of(self)
        self.comparisons = decide(self._comparisons(), self.columns)
        self.worse = list(self._worse()) if worst else []

    def prompt(self, video: Video) -> str:
        """The prompt that a video counts for: its own, or that of its pair in the first group."""
        first = self.paired[self.base].get(video.pair, [video])[0]
        return first.prompt or video.prompt or video.pair

    def _silences(self) -> set[tuple[str, str]]:
        """Prompts and columns without a score for any scored video of the prompt, or not to be scored."""
        speaks: dict[tuple[str, str], bool] = {}
        for video in (v for videos in self.groups.values() for v in videos if v not in self.failed):
            for column in self.columns:
                key = self.prompt(video), column
                speaks[key] = speaks.get(key, False) or self.scores.of.get(video, {}).get(column) is not None
        return {key for key, any_score in speaks.items() if not any_score} | self.scores.unasked

    def _mean(self, group: str, column: str) -> Interval:
        if kept := self.scores.of_groups.get(group, {}).get(column):
            score, n = kept
            of = n + sum(video in self.failed for video in self.groups[group])
            return Interval(score, math.nan, math.nan, n, of, n, "video")
        return mean(self.columns[column], self.values(group, column))

    def values(self, group: str, column: str) -> Values:
        """A column of a group, on VBench's scale, by prompt and by seed or name."""
        return self._values(self.groups[group], column)

    def _values(self, videos: list[Video], column: str) -> dict[str, dict[str, float | None]]:
        values: dict[str, dict[str, float | None]] = {}
        for video in videos:
            prompt, score = self.prompt(video), self.scores.of.get(video, {}).get(column)
            of_prompt = values.setdefault(prompt, {})
            seed = video.pair if video.pair not in of_prompt else str(video.path)
            if video in self.failed and (prompt, column) not in self._silent:
                of_prompt[seed] = None
            else:
                of_prompt[seed] = math.nan if score is None else score / self.columns[column].scale
        return values

    def _aggregates(self, group: str) -> dict[str, tuple[float, float]]:
        aggregates = {name: (mean, mean) for name, mean in self.scores.stated.get(group, {}).items()}
        for dimension in self.scores.dimensions:
            scored = self.scored(self.groups[group], dimension.name)
            if scored and dimension.name not in aggregates:
                frames = [self.scores.facts[video]["frames"] for video, _ in scored]
                values = [score for _, score in scored]
                scale = self.columns[dimension.name].scale
                aggregates[dimension.name] = vbench.aggregate(values, frames, dimension.weighted, scale)
        return aggregates

    def scored(self, videos: list[Video], column: str) -> list[tuple[Video, float]]:
        """The videos that have a score in a column, each with its score."""
        every = ((video, self.scores.of.get(video, {}).get(column)) for video in videos)
        return [(video, score) for video, score in every if score is not None]

    def comparable(self, group: str) -> tuple[list[Video], list[Video]]:
        """The compared videos of the first group and another. A pair that either group has twice is left out."""
        theirs, own = self.paired[self.base], self.paired[group]
        twice = {pair for each in (theirs, own) for pair, videos in each.items() if len(videos) > 1}
        first, second = ([videos[0] for pair, videos in each.items() if pair not in twice] for each in (theirs, own))
        return first, second

    def _comparisons(self) -> Iterator[Comparison]:
        for column, group, first, second in self.compared():
            if compared := compare(column, self.base, group, first, second):
                yield compared

    def _worse(self) -> Iterator[Worse]:
        for column, group, first, second in self.compared():
            if column.sign and (listed := worse(column, self.base, group, first, second, self.worst)).of:
                yield listed

    def compared(self) -> Iterator[tuple[Column, str, Values, Values]]:
        """For each column and group, the values to compare: the first group's and that group's."""
        for group in self.others:
            videos = self.comparable(group)
            for name, column in self.columns.items():
                if column.kind != "group":
                    first, second = (self._values(each, name) for each in videos)
                    yield column, group, first, second

    def counted(self, group: str) -> str:
        """How many prompts and videos a group has, and how many of them failed."""
        videos = self.groups[group]
        prompts = len({self.prompt(video) for video in videos})
        failed = sum(video in self.failed for video in videos)
        counts = f"{prompts} prompt{'s' * (prompts != 1)}, {len(videos)} {self.thing}{'s' * (len(videos) != 1)}"
        return counts + (f"; {failed} of {len(videos)} failed" if failed else "")

    @property
    def legend(self) -> list[str]:
        """The notes for readers of the table on a page; see `legend_of`."""
        return self.legend_of(self.has_intervals)

    def legend_of(self, intervals: bool) -> list[str]:
        """The notes for readers of a table, with intervals or without."""
        things = f"{self.thing}s"
        interval = ", its 95 % interval," if intervals else ""
        first = f"Each cell: the mean{interval} and how many of the group's {things} have a score (n of N)."
        return [first, *self.rules("Green, red and blue mark that and nothing else.", intervals)]

    @property
    def has_intervals(self) -> bool:
        """Whether any mean has an interval; of a single video there is none."""
        means = (self.means[g][c] for g in self.groups for c in self.columns if self.columns[c].kind != "group")
        return any(mean.high >= mean.low for mean in means)

    def rules(self, marks: str, intervals: bool | None = None) -> list[str]:
        """The notes for readers of means and differences.

        Args:
            marks: a sentence on what marks a verdict.
            intervals: whether there are intervals. None: where the means have them.
        """
        intervals = self.has_intervals if intervals is None else intervals
        means = [self.means[g][c] for g in self.groups for c in self.columns if self.columns[c].kind != "group"]
        units = {mean.unit for mean in (*means, *(c.difference for c in self.comparisons)) if mean.n}
        things = f"{self.thing}s"
        lines = []
        if "prompt" in units:
            lines.append(f"Seeds of a prompt are averaged first: intervals and tests are over prompts, not {things}.")
        if "seed" in units:
            lines.append("With one prompt only, intervals and tests are over its seeds, and are of this prompt alone.")
        if "video" in units:
            lines.append(f"The ten digits are weighted alike; intervals and tests of their columns are over {things}.")
        if self.failed and any(column.kind == "verdict" for column in self.columns.values()):
            lines.append(f"Where a column is 0 or 1 for a {self.thing}, one that failed counts as the worse.")
        unadjusted = "Intervals are not adjusted for the number of columns and groups"
        if not self.comparisons:
            return [*lines, *[f"{unadjusted}."] * intervals]
        lines += [
            f"Difference: from {self.base}, over pairs of the same prompt and seed. Wins: the share of pairs in which"
            " the group is better; of ties, half. Both are averaged by prompt first.",
            *[f"{unadjusted}, so that some differences exclude 0 by chance."] * intervals,
        ]
        if all(math.isnan(c.p_adjusted) for c in self.comparisons):
            few = f"No verdict is given: a verdict takes {_enough(self.comparisons)}, and no comparison has as many."
            return [*lines, f"{few} That is not the same as equal."]
        lines += [
            f"What decides is the adjusted p, by Holm's method over {self._families()}: where it is at most {LEVEL},"
            f" the group is better, worse or, in a column without a better side, differs. {marks} Not decided is not"
            " the same as equal.",
        ]
        if any(any(c.lost) for c in self.comparisons):
            lines.append(
                f"Measures of an object are compared where both {things} of a pair show it (n of N pairs), and never in"
                f" favour of the group that shows it in fewer {things}."
            )
        if any(c.failed and self.columns[c.column].kind != "verdict" for c in self.comparisons):
            lines.append(
                f"Where {things} failed, p of a measure is the larger of two: without their pairs, and with the worst"
                " value of either group in their place."
            )
        return lines

    @property
    def listing(self) -> str:
        """The notes for readers of `worse`, which follow its list."""
        return (
            f"the worst first, at most {self.worst} of a column. They are listed because they differ most, chance"
            " included: look at their videos, and leave the verdict to the table."
        )

    def _families(self) -> str:
        tested = [self.columns[c.column].primary for c in self.comparisons if not math.isnan(c.p_adjusted)]
        if not any(tested):
            count = f"all {len(tested)} comparisons" if len(tested) > 1 else "the one comparison"
            return f"{count} of {_enough(c for c in self.comparisons if not math.isnan(c.p_adjusted))} or more"
        names = ", ".join(name for name, column in self.columns.items() if column.primary)
        others = len(tested) - sum(tested)
        return f"the {sum(tested)} comparisons of primary columns ({names}), and apart from them the other {others}"

    @property
    def notes(self) -> list[str]:
        """The notes for readers of the means."""
        enough = {d.name: d.enough for d in self.scores.dimensions if isinstance(d, Compared)}
        alone = [
            len(videos) == 1 and os.path.isfile(os.path.expanduser(group)) for group, videos in self.groups.items()
        ]
        single = len(alone) > 2 and all(alone)
        said = ["each argument is a group; put a glob in quotes, and what it finds is one group"] * single
        return [*said, *self.scores.notes, *notes.of_pairs(self), *notes.of_summary(self)] + [
            f"{group}: {column} of {n} pictures is biased; it takes {enough[column]} at the very least"
            for group, columns in self.scores.of_groups.items()
            for column, (_, n) in columns.items()
            if n < enough[column]
        ]

    def data(self, command: Sequence[str] = ()) -> dict[str, Any]:
        """The whole summary with its provenance, as it is written to JSON."""
        scores = self.scores
        return {
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": list(command),
            "seconds": round(scores.seconds, 2),
            "device": scores.device,
            "precision": "unknown" if scores.stated else "float32",
            "versions": {"python": platform.python_version()}
            | {name: number for name, number in package_versions(PACKAGES).items() if number},
            "dimensions": {
                d.name: {
                    "version": d.version,
                    **({"source": d.source} if d.source else {}),
                    "weights": scores.weights[d.name],
                    "licences": {w.name: w.licence for w in d.weights},
                    "columns": [self.columns[c].label for c in d.columns],
                    "records": [asdict(self.columns[c]) for c in d.columns],
                }
                for d in scores.dimensions
            },
            "notes": scores.notes,
            "skipped": {each.name: each.reason for each in scores.skipped},
            "statistics": {
                "intervals": "95 %, over units, not adjusted for the number of columns",
                "adjustment": "Holm",
                "level": LEVEL,
                "least units of a verdict": ENOUGH,
                "primary": [name for name, column in self.columns.items() if column.primary],
            },
            "groups": {
                group: {
                    "prompts": len({self.prompt(video) for video in videos}),
                    "videos": len(videos),
                    "failed": sum(video in self.failed for video in videos),
                    "columns": {c: asdict(m) for c, m in self.means[group].items() if m.n},
                    "vbench": {
                        d: {"one process": one, "several": several}
                        for d, (one, several) in self.aggregates[group].items()
                    },
                    "totals": {name: asdict(total) for name, total in self.totals[group].items()},
                    "total_differences": {n: asdict(d) for n, d in self.total_differences.get(group, {}).items()},
                }
                for group, videos in self.groups.items()
            },
            "comparisons": [
                {**asdict(c), "win_rate": c.win_rate, "preference": c.preference, "better": c.better}
                for c in self.comparisons
            ],
            "worse": [
                {**asdict(each), "prompts": [self._located(each, prompt) for prompt in each.prompts]}
                for each in self.worse
            ],
            "videos": [
                {
                    "path": str(video.path),
                    "group": video.group,
                    "pair": video.pair,
                    "prompt": video.prompt,
                    **({"sha256": video.sha256, **scores.facts[video]} if video in scores.facts else {}),
                    "scores": scores.of[video],
                }
                for videos in self.groups.values()
                for video in videos
                if video in scores.of
            ],
            "problems": [
                {"path": str(video.path), "dimension": dimension, "problem": problem}
                for video, dimension, problem in scores.problems
            ],
        }

    def _located(self, listed: Worse, prompt: Prompt) -> dict[str, Any]:
        """A prompt of `worse` with the paths of its videos."""
        where = {g: {pair: str(v[0].path) for pair, v in self.paired[g].items()} for g in (listed.base, listed.group)}
        pairs = [
            {
                "pair": pair.name,
                "seed": pair.seed,
                "base": {"path": where[listed.base].get(pair.name), "score": pair.base},
                "group": {"path": where[listed.group].get(pair.name), "score": pair.group},
            }
            for pair in prompt.pairs
        ]
        return {"prompt": prompt.prompt, "difference": prompt.difference, "pairs": pairs}

    def write(self, out: str | Path, command: Sequence[str] = ()) -> list[Path]:
        """Writes `out` (JSON), and beside it the summary as CSV, and a file in VBench's schema for each group.

        Of groups that are no longer there, the latter are removed: they are known by their numbers alone.

        Args:
            command: the command line, for the record.

        Returns:
            The files, `out` first.
        """
        if not isinstance(out, (str, Path)) or not str(out) or str(out).endswith("/"):
            raise Refused("out", out, "give a file, such as results.json")
        out = Path(out)
        files = [out, out.with_suffix(".csv")]
        with whole({"csv": files[1], "json": out}) as staged:
            staged["json"].write_text(json.dumps(finite(self.data(command)), indent=1) + "\n", encoding="utf-8")
            with open(staged["csv"], "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                self._csv(csv.writer(file))
        for number, (group, videos) in enumerate(self.groups.items(), 1):
            results: vbench.Results = {}
            for dimension, (one, _) in self.aggregates[group].items():
                scored = self.scored(videos, dimension)
                listed = [(str(v.path), bool(s) if dimension == "dynamic_degree" else s) for v, s in scored]
                results[dimension] = (one, listed)
            if results and not self.scores.stated:  # else they come from such files
                name = f"{out.stem}_{number}" if len(self.groups) > 1 else out.stem
                files.append(out.with_name(f"{name}_eval_results.json"))
                vbench.write(files[-1], results)
        for former in set(vbench_files(out)) - set(files):
            if former.is_file():
                former.unlink()
        return files

    def _csv(self, table: Any) -> None:
        head = "column group n mean low high"
        head += " base pairs difference difference_low difference_high win_rate preference"
        head += " of units unit compared_units p p_adjusted verdict reason"
        table.writerow(head.split())
        compared = {(c.group, c.column): c for c in self.comparisons}
        rows = []
        for column in self.columns:
            for group in self.groups:
                m, c = self.means[group][column], compared.get((group, column))
                d = c.difference if c else None
                row = [column, group, m.n, m.mean, m.low, m.high]
                row += [c.base, d.n, d.mean, d.low, d.high, c.win_rate, c.preference] if c and d else [None] * 7
                row += [m.of, m.units, m.unit]
                row += [d.units, c.p, c.p_adjusted, c.verdict, c.reason] if c and d else [None] * 5
                rows.append(row)
        for group, totals in self.totals.items():
            for name, m in totals.items():
                d = self.total_differences.get(group, {}).get(name)
                row = [f"vbench_{name}", group, m.n, m.mean, m.low, m.high]
                row += [self.base, None, d.mean, d.low, d.high, None, None] if d else [None] * 7
                rows.append([*row, m.of, m.units, m.unit, d and d.units, None, None, None, None])
        for row in rows:
            table.writerow("" if value is None or value != value else inert(value) for value in row)


def vbench_files(out: Path) -> list[Path]:
    """The files in VBench's schema that lie beside results."""
    named = re.compile(re.escape(out.stem) + r"(_\d+)?_eval_results\.json")
    return [file for file in out.parent.glob("*_eval_results.json") if named.fullmatch(file.name)]


def _enough(comparisons: Iterable[Comparison]) -> str:
    """How many of what a verdict on comparisons takes."""
    return f"{ENOUGH} {' or '.join(sorted({f'{c.difference.unit}s' for c in comparisons}))}"


def inert(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: behind an apostrophe, if it is a text that begins like one."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def printable(text: str) -> str:
    """A text in which the bytes of a file's name that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
