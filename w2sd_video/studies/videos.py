"""Rows of videos of a shipped pair, as studies sample and keep them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import presets
from ..errors import ArgumentError, note_once
from ..runs import alone, gone_if_empty, writable
from ..shapes import bench, rows
from ..shapes.bench import Row, seed_of
from ..shapes.columns import ALWAYS, OF_EVERY
from ..shapes.pairs import prompt_of
from .study import Run

# Relative. Machines round differently: of 1,275 scores of 75 videos sampled twice, none differs by more than 3e-4.
ROUNDING = 1e-3


@contextmanager
def kept_rows(run: Run, name: str) -> Iterator[Path]:
    """A study's results file: in the run's cache, or else for this run alone."""
    if run.cache is None:
        with TemporaryDirectory() as folder:
            yield Path(folder) / f"{name}.jsonl"
    else:
        with gone_if_empty(run.cache):
            writable(run.cache)
            yield run.cache / f"{name}{'-quick' * run.quick}.jsonl"


def rows_of(path: Path, pair: str | None = None) -> list[dict[str, Any]]:
    """The lines of a file of `--rows`; see `rows.read`."""
    try:
        return rows.read(path, pair)
    except ArgumentError as error:
        raise ArgumentError("--rows", error.problem) from None


def named(preset: presets.Preset, arguments: Mapping[str, Any]) -> str:
    """A row's name: the settings of its requests that differ from the preset's.

    So the same videos have the same name, whatever they are sampled for and whichever file holds them.
    """
    says = {name: value for name, value in arguments.items() if value != getattr(preset, name, None)}
    steps = says.pop("num_inference_steps", preset.num_inference_steps)
    first = says.pop("method", says.pop("variant", "w2sd"))
    text = [f"{first}, {steps} steps"]
    for name, value in sorted(says.items()):
        short = f"{value:g}" if isinstance(value, (int, float)) else sha256(json.dumps(value).encode()).hexdigest()[:8]
        text.append(f"{name} {short}")
    return ", ".join(text)


def same_scores(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two files can hold the scores of one video, sampled on different machines."""

    def alike(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING**2) or (math.isnan(a) and math.isnan(b))

    return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class Videos:
    """Samples rows of videos into a results file.

    Args:
        path: the results file. Samples that it holds are not generated again.
        pair: one of `shapes.pairs.PAIRS`.
        settings: fields that replace the preset's.
    """

    run: Run
    path: Path
    pair: str
    settings: Mapping[str, Any]

    @cached_property
    def preset(self) -> presets.Preset:
        return bench.preset(self.pair, self.settings)

    def name_of(self, row: Row) -> str:
        """A row's name; see `named`."""
        return named(self.preset, bench.arguments_of("", row, self.settings))

    def lines(
        self, wanted: Mapping[str, Row], texts: Sequence[str], count: int, tuned: bool = False
    ) -> dict[str, dict[int, dict[str, Any]]]:
        """The lines of rows for the first `count` texts, by name and number, after sampling those that are missing."""
        done, unread = 0, set(wanted)  # rows of which is not known yet how many samples are kept
        self.adopt({name: bench.arguments_of(name, row, self.settings) for name, row in wanted.items()}, texts, tuned)

        def progress(name: str, more: int) -> None:
            nonlocal done
            done += more
            unread.discard(name)
            if not unread:  # else the time left would be estimated from samples that took none
                self.run.progress("tuning guidance" if tuned else "sampling", done / (count * len(wanted)))

        if workers := self.run.workers:
            bench.run(
                self.pair, self.path, wanted, texts[:count], self.settings, progress, workers, tuned, by_prompt=True
            )
        lines: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in wanted}
        for line in self.read(self.path, tuned):
            if line["method"] in lines and line["n"] < count:
                lines[line["method"]][line["n"]] = line
        return lines

    def adopt(
        self,
        wanted: Mapping[str, Mapping[str, Any]],
        texts: Sequence[str],
        tuned: bool,
        needs: Sequence[str] = OF_EVERY,
        numbers: Sequence[str] = ALWAYS,
    ) -> None:
        """Copies samples from earlier runs' files if weights, judge, preset, prompt, seed and settings are equal.

        All are checked before one is copied.

        Args:
            wanted: the arguments of each row, by name.
            needs: the scores that each sample has to have.
            numbers: those of them that are never missing.

        Raises:
            ArgumentError: a sample lacks a score, or differs from the same sample of another file by more than
                `ROUNDING`, or in its evaluations from the rest of its row.
        """
        of_run = {(line["method"], line["n"]): line for line in self.read(self.path, tuned, mend=True)}
        known, costs = dict(of_run), {name: line["evaluations"] for (name, _), line in of_run.items()}
        earlier = [(file, line) for file in self.run.rows for line in self._of_rows(file, tuned)]
        for file, line in earlier:
            name, n = named(self.preset, line.get("arguments", {})), line["n"]
            if name not in wanted or n >= len(texts):
                continue
            seed, scores, of = seed_of(n, tuned), line["scores"], f"{file}: {line['method']} {n}"
            if line.get("seed") != seed or line["prompt"] != prompt_of(self.preset, seed, texts[n]):
                continue
            if lost := [each for each in needs if each not in scores or (each in numbers and math.isnan(scores[each]))]:
                raise ArgumentError("--rows", f"{of} has no score {lost[0]}")
            if line["evaluations"] != costs.setdefault(name, line["evaluations"]):
                raise ArgumentError("--rows", f"{of} took {line['evaluations']} evaluations, others {costs[name]}")
            first = known.setdefault((name, n), line | {"method": name, "arguments": wanted[name]})
            if not same_scores(first["scores"], scores):
                raise ArgumentError("--rows", f"{of} has other scores than the same sample of {self.path} or before")
        with alone(self.path):
            rows.add(self.path, [line for key, line in known.items() if key not in of_run])

    def _of_rows(self, path: Path, tuned: bool) -> list[dict[str, Any]]:
        """The lines of a file of `--rows` with the same weights, judge and preset as now."""
        lines = rows_of(path)
        own = self._own(lines, tuned)
        pair = [line for line in lines if line["pair"] == self.pair and line.get("tuning", False) == tuned]
        if len(own) < len(pair):
            other = f"{len(pair) - len(own)} of {len(pair)} rows of {path}"
            note_once(f"{other} are of another model, judge or preset: not used")
        return own

    def read(self, path: Path, tuned: bool, mend: bool = False) -> list[dict[str, Any]]:
        """The lines of a file with the same weights, judge and preset as now."""
        return self._own(rows.read(path, None, mend), tuned)

    def _own(self, lines: Sequence[dict[str, Any]], tuned: bool) -> list[dict[str, Any]]:
        of = bench.origin(self.pair)
        own = [line for line in lines if line["pair"] == self.pair and line.get("of") == of]
        return [line for line in own if line.get("tuning", False) == tuned]
