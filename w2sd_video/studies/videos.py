"""Rows of videos of a shipped pair, as studies sample and keep them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .. import presets
from ..errors import ArgumentError
from ..runs import alone
from ..shapes import bench, rows
from ..shapes.bench import Row, seed_of
from ..shapes.pairs import prompt_of
from .study import Run


@contextmanager
def kept_rows(run: Run, name: str) -> Iterator[Path]:
    """A study's results file: in the run's cache, or else for this run alone."""
    if run.cache is None:
        with TemporaryDirectory() as folder:
            yield Path(folder) / f"{name}.jsonl"
    else:
        run.cache.mkdir(parents=True, exist_ok=True)
        yield run.cache / f"{name}{'-quick' * run.quick}.jsonl"


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
        done = 0
        self.adopt({name: bench.arguments_of(name, row, self.settings) for name, row in wanted.items()}, texts, tuned)

        def progress(name: str, more: int) -> None:
            nonlocal done
            done += more
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

    def adopt(self, wanted: Mapping[str, Mapping[str, Any]], texts: Sequence[str], tuned: bool) -> None:
        """Copies samples from earlier runs' files if weights, judge, preset, prompt, seed and settings are equal.

        Args:
            wanted: the arguments of each row, by name.
        """
        present = {(line["method"], line["n"]) for line in self.read(self.path, tuned, mend=True)}
        adopted: dict[tuple[str, int], dict[str, Any]] = {}
        earlier = [(file, line) for file in self.run.rows for line in self._of_rows(file, tuned)]
        for file, line in earlier:
            name, n = named(self.preset, line.get("arguments", {})), line["n"]
            if name not in wanted or (name, n) in present or n >= len(texts):
                continue
            seed = seed_of(n, tuned)
            if line.get("seed") == seed and line["prompt"] == prompt_of(self.preset, seed, texts[n]):
                first = adopted.setdefault((name, n), line | {"method": name, "arguments": wanted[name]})
                if json.dumps(first["scores"]) != json.dumps(line["scores"]):
                    raise ArgumentError("--rows", f"{file} has other scores of {name} {n} than a file before it")
        with alone(self.path):
            rows.add(self.path, list(adopted.values()))

    def _of_rows(self, path: Path, tuned: bool) -> list[dict[str, Any]]:
        """The lines of a file of `--rows`."""
        try:
            return self.read(path, tuned)
        except ArgumentError as error:
            raise ArgumentError("--rows", error.problem) from None

    def read(self, path: Path, tuned: bool, mend: bool = False) -> list[dict[str, Any]]:
        """The lines of a file with the same weights, judge and preset as now."""
        of, lines = bench.origin(self.pair), rows.read(path, None, mend)
        own = [line for line in lines if line["pair"] == self.pair and line.get("of") == of]
        return [line for line in own if line.get("tuning", False) == tuned]
