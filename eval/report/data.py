"""The page's data: the videos of its gallery and the numbers of its plots."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from w2sd_video.documents import finite
from w2sd_video.runs import read_sidecar
from w2sd_video.runs.again import command
from w2sd_video.verdicts import failure_value, numbers_of

from .. import vbench
from ..dimensions import VBENCH
from ..results import printable
from ..totals import lines
from ..videos import sidecar_of

if TYPE_CHECKING:
    from w2sd_video.verdicts import Comparison

    from ..results import Summary
    from ..videos import Video

# Styles of the groups' lines: colours that are distinct on white and on black, then dashes, then symbols.
COLOURS = ("#6a5acd", "#d98200", "#0e9aa7", "#c2528b", "#7a7f87", "#8c5a3c", "#9a9a00", "#4f7fd9")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


class Published(NamedTuple):
    """A published number, with the title of its column there, and its sign: 1 if higher is better, -1 if lower."""

    number: float
    title: str
    sign: int


@dataclass(frozen=True)
class Experiment:
    """The plan behind the videos.

    Args:
        title: the page's title.
        axes: the labels of every axis, in order.
        labels: by group, its label on each axis.
        prompts: the texts in the plan's order.
        tags: by prompt.
        paper: published numbers by group and column, on the scale of the page's means.
    """

    title: str = ""
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paper: Mapping[str, Mapping[str, Published]] = field(default_factory=dict)


class Data:
    """The page's data.

    Args:
        clips: the media of each video, see `media.add`.
        broken: the reason for each video that cannot be shown.
    """

    def __init__(
        self,
        summary: Summary,
        experiment: Experiment,
        clips: Mapping[Video, dict[str, Any]],
        broken: Mapping[Video, str],
    ):
        self.summary, self.experiment, self.clips, self.broken = summary, experiment, clips, broken
        self.columns = {
            name: column
            for name, column in summary.columns.items()
            if any(summary.means[group][name].n for group in summary.groups)
        }
        self.compared = {(c.group, c.column): c for c in summary.comparisons}
        self.sidecars = {video: video.sidecar for video in summary.scores.videos}
        self.totals = lines(summary)
        self.gallery = bool(clips)
        pictures = self.gallery and all(media["frames"] == 1 for media in clips.values())
        self.thing = "picture" if pictures else summary.thing

    # Numbers

    @cached_property
    def evaluations(self) -> dict[str, float]:
        """By group, the mean number of network evaluations per video, from the sidecars."""
        means = {}
        for group, videos in self.summary.groups.items():
            counts = [n for video in videos if (n := _evaluations(self.sidecars[video])) is not None]
            if counts:
                means[group] = math.fsum(counts) / len(counts)
        return means

    @cached_property
    def radar(self) -> dict[str, Any]:
        """The radar plot: VBench's dimensions, normalised, or else verdict columns; empty with fewer than three."""
        summary = self.summary
        names = [d for d in VBENCH if d in self.columns]
        judged = [name for name, column in self.columns.items() if column.kind == "verdict"]
        if len(names) >= 3:
            title = "VBench, normalised"
            values = {
                group: [vbench.normalise(d, each[d][0]) if d in each else math.nan for d in names]
                for group, each in summary.aggregates.items()
            }
        elif len(judged) >= 3:
            names, title = judged, "Shares of the judge's columns"
            values = {group: [summary.means[group][name].mean for name in names] for group in summary.groups}
        else:
            return {}
        return {"title": title, "columns": names, "values": values}

    @cached_property
    def bars(self) -> dict[str, list[dict[str, Any]]]:
        """By group, its differences from the base in units of the column's standard deviation over videos. They are
        above 0 if the group is better or, in a column without a better side, higher."""
        bars: dict[str, list[dict[str, Any]]] = {}
        for c in self.summary.comparisons:
            if spread := self._spread(c):
                d = c.difference
                low, high = (-d.high, -d.low) if self.columns[c.column].sign < 0 else (d.low, d.high)
                bars.setdefault(c.group, []).append(
                    {
                        "column": c.column,
                        # Better is to the right: only a column without a better side says more than its name.
                        "label": c.column if self.columns[c.column].sign else self.columns[c.column].label,
                        "mean": (-d.mean if self.columns[c.column].sign < 0 else d.mean) / spread,
                        "low": low / spread,
                        "high": high / spread,
                        "verdict": c.verdict,
                        "text": c.difference.text(sign="+"),
                    }
                )
        return bars

    @cached_property
    def constant(self) -> dict[str, list[str]]:
        """By group, the columns that are not drawn because all videos have the same score."""
        constant: dict[str, list[str]] = {}
        for c in self.summary.comparisons:
            if not self._spread(c):
                constant.setdefault(c.group, []).append(c.column)
        return constant

    def _spread(self, c: Comparison) -> float:
        groups = [self.summary.values(group, c.column) for group in (c.base, c.group)]
        failure = failure_value(self.columns[c.column])
        numbers = [v for group in groups for seeds in numbers_of(group, failure).values() for v in seeds.values()]
        values = [v for v in numbers if v == v]
        return float(np.std(values)) if values else 0.0

    @property
    def quality(self) -> str:
        """The column that plots show first; empty without columns."""
        better = [name for name, column in self.columns.items() if column.sign > 0]
        return next((name for name in better if self.columns[name].primary), (better or list(self.columns) or [""])[0])

    @property
    def motion(self) -> str:
        """The column that measures the amount of motion; empty if there is none."""
        names = [name for name in self.columns if re.search(r"motion(?!_smoothness)|dynamic_degree", name)]
        return names[0] if names else ""

    def paper(self, group: str, column: str) -> str:
        """The paper's number and, for a compared group with a verdict here, whether that has the paper's direction."""
        published = self.experiment.paper
        own = published.get(group, {}).get(column)
        if own is None:
            return ""
        number, base = own.number, published.get(self.summary.base, {}).get(column)
        c = self.compared.get((group, column))
        said = f"paper, {own.title}: {number:.4g}"
        if base is None or c is None or number == base.number:
            return said
        outcome = ""
        if c.verdict:  # signs differ where our column stands for another one
            ours = c.difference.mean * (self.columns[column].sign or 1)
            same = (ours > 0) == ((number - base.number) * (own.sign or 1) > 0)
            outcome = ": reproduced" if same else ": reversed here"
        return f"{said} ({number - base.number:+.4g}{outcome})"

    # The gallery

    def json(self) -> str:
        """The data as JSON for a script element. Its escapes keep prompts from ending the element."""
        text = json.dumps(finite(self.all()), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

    def all(self) -> dict[str, Any]:
        summary = self.summary
        rows, cells, recipes = self._cells()
        means = {
            group: {name: [m.mean, m.low, m.high] for name in self.columns if (m := summary.means[group][name]).n}
            for group in summary.groups
        }
        return {
            "thing": self.thing,
            "base": summary.base,
            "groups": [
                {
                    "name": printable(group),
                    "labels": dict(self.experiment.labels.get(group, {})),
                    "evaluations": self.evaluations.get(group),
                    "colour": COLOURS[n % len(COLOURS)],
                    "dash": DASHES[n // len(COLOURS) % len(DASHES)],
                    "symbol": SYMBOLS[n // len(COLOURS) % len(SYMBOLS)],
                }
                for n, group in enumerate(summary.groups)
            ],
            "axes": [{"name": name, "labels": list(labels)} for name, labels in self.experiment.axes.items()],
            "columns": [
                {"name": name, "label": column.label, "sign": column.sign} for name, column in self.columns.items()
            ],
            "means": [means[group] for group in summary.groups],
            "radar": self.radar and {**self.radar, "values": [self.radar["values"][g] for g in summary.groups]},
            "bars": [self.bars.get(group, []) for group in summary.groups],
            "quality": self.quality,
            "motion": self.motion,
            "rows": rows,
            "cells": cells,
            "recipes": recipes,
        }

    def _cells(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[list[list[str]]]]:
        """The gallery: rows, each a prompt and seed; cells, each a video; and recipes, settings that cells share."""
        if not self.gallery:
            return [], [], []
        keyed: dict[tuple[str, int], dict[str, Video]] = {}
        for group, videos in self.summary.groups.items():
            for video in videos:
                number = 0
                while group in keyed.setdefault((video.pair, number), {}):  # several videos of one prompt and seed
                    number += 1
                keyed[video.pair, number][group] = video
        order = {text: n for n, text in enumerate(self.experiment.prompts)}
        groups = {group: n for n, group in enumerate(self.summary.groups)}
        rows, cells = [], []
        recipes: dict[str, int] = {}
        described = []
        for (pair, number), of in keyed.items():
            first = next(iter(of.values()))
            prompt = self.summary.prompt(first)
            match = re.search(r", seed (-?\d+)$", pair)
            place = (order.get(prompt, len(order)), prompt, int(match[1]) if match else 0, pair, number)
            described.append((place, prompt, match[1] if match else "", pair, of))
        for place, prompt, seed, pair, of in sorted(described, key=lambda each: each[0]):
            name = hashlib.sha256(f"{pair}\n{place[-1]}".encode(errors="surrogatepass")).hexdigest()[:10]
            tags = list(self.experiment.tags.get(prompt, ()))
            rows.append({"id": name, "prompt": printable(prompt), "seed": seed, "tags": tags})
            for group, video in of.items():
                cells.append({"row": len(rows) - 1, "group": groups[group], **self._cell(video, recipes)})
        return rows, cells, [json.loads(text) for text in recipes]

    def _cell(self, video: Video, recipes: dict[str, int]) -> dict[str, Any]:
        scores = self.summary.scores.of.get(video, {})
        values = [scores.get(name) for name in self.columns]
        scaled = [None if v is None else v / c.scale for v, c in zip(values, self.columns.values(), strict=True)]
        cell: dict[str, Any] = {"scores": [None if v is None else float(f"{v:.6g}") for v in scaled]}
        if video not in self.clips:
            return {**cell, "why": printable(self.broken.get(video, "it is not there"))}
        media = self.clips[video]
        cell |= {name: media[name] for name in ("file", "still", "strip", "frames", "fps", "width", "height")}
        cell |= {"sha256": video.sha256, "path": printable(str(video.path))}
        sidecar = self.sidecars[video]
        if sidecar:
            recipe = json.dumps(list(_settings(sidecar)))
            cell["recipe"] = recipes.setdefault(recipe, len(recipes))
            cell["facts"] = list(_facts(sidecar))
            cell["command"] = _command(video)
        return cell


def _evaluations(sidecar: Mapping[str, Any]) -> float | None:
    try:
        return float(sum(each["evaluations"]["total"] for each in sidecar["videos"].values())) if sidecar else None
    except (KeyError, TypeError, AttributeError):
        return None


def _settings(sidecar: Mapping[str, Any]) -> Iterator[list[str]]:
    """The settings of a sidecar that several videos may share, as (name, value) texts."""
    request = sidecar.get("request")
    for name, value in request.items() if isinstance(request, dict) else ():
        if name not in ("prompt", "seed") and value not in (None, {}, [], "", False):
            yield [str(name), value if isinstance(value, str) else json.dumps(value)]


def _facts(sidecar: Mapping[str, Any]) -> Iterator[list[str]]:
    """The facts of a sidecar that belong to one video, as (name, value) texts."""
    if (count := _evaluations(sidecar)) is not None:
        yield ["network evaluations", f"{count:g}"]
    for name in ("seconds", "device_name", "threads", "created"):
        if isinstance(value := sidecar.get(name), (str, int, float)):
            yield [name.replace("_", " "), str(value)]
    if isinstance(versions := sidecar.get("versions"), dict):
        yield ["versions", ", ".join(f"{name} {value}" for name, value in versions.items())]


def _command(video: Video) -> str:
    """The command that generates a video again; empty if its sidecar was not written by this program."""
    sidecar = sidecar_of(video.path)
    try:
        request, record = read_sidecar(sidecar)
        line = command(request, sidecar)
        # On a CPU, the number of threads changes the last digits of a frame; the variable sets it for the command.
        threads = record.get("threads") if record.get("device") == "cpu" else None
        return printable(f"OMP_NUM_THREADS={threads} {line}" if line and isinstance(threads, int) else line)
    except (OSError, ValueError):
        return ""
