"""Comparisons on fresh prompts: those after the first ones, on which methods or settings were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..columns import Column
from ..errors import Refused
from ..shapes import rows, tuning
from ..shapes.bench import Row
from ..shapes.grammar import prompts
from ..shapes.table import compare_all, values_of
from ..verdicts import NOTHING, Comparison, decide, mean
from .cost_table import Lines, cell_of, evaluations_of
from .figures import COLOURS, figure
from .study import Result, Run
from .videos import Videos, kept_rows

PAIR = "shapes"
UNITS = {"jerk": "px/frame³", "form": "IoU"}  # of columns that are no share
Stage = Mapping[str, Mapping[str, Any]]  # by method, the settings of its requests
_STEPS = "num_inference_steps"
_QUICK, _MORE = {_STEPS: 3, "num_frames": 4}, {_STEPS: 4}  # the latter for rows of more steps


def sampled(
    run: Run, name: str, stages: Sequence[Stage], count: int, chosen: int, needed: Sequence[str]
) -> tuple[dict[str, Lines], bytes]:
    """The lines of each method that has all prompts, by number, after sampling those that are missing; and all packed.

    Args:
        name: the study's.
        stages: the methods, in order of importance; a stage is finished before the next starts.
        count: how many prompts.
        chosen: the first of them that are not fresh.
        needed: methods without which there is no result.

    Raises:
        Refused: a setting of the run is not accepted, or, without `workers`, rows of a method that is needed lack.
    """
    if run.seed:
        raise Refused("seed", run.seed, "sample n has seed n in every run, so that runs can be combined: give 0")
    if not chosen < count <= tuning.FIRST:
        accepted = f"give {chosen + 1} to {tuning.FIRST}: the first {chosen} are those on which the methods were picked"
        raise Refused("--prompts", count, accepted)
    texts, every = prompts(tuning.FIRST), dict[str, Lines]()
    with kept_rows(run, name) as path:
        videos = Videos(run, path, PAIR, _QUICK if run.quick else {})
        for stage in stages:
            wanted = {
                method: Row(method, {**says, **(_MORE if run.quick and _STEPS in says else {})})
                for method, says in stage.items()
            }
            lines = videos.lines({videos.name_of(row): row for row in wanted.values()}, texts, count)
            every |= {method: lines[videos.name_of(row)] for method, row in wanted.items()}
        raw = b"" if run.quick else rows.packed(path, PAIR)
    by = {method: own for method, own in every.items() if len(own) == count}
    if lacking := [method for method in needed if method not in by]:
        has = f"{lacking[0]} has {len(every[lacking[0]])} of {count} prompts yet"
        raise Refused("--workers", run.workers, f"{has}: give 1 or more, which samples them")
    return by, raw


@dataclass(frozen=True)
class Fresh:
    """Methods' rows, and their comparisons on fresh prompts alone.

    Args:
        by: the lines of each method, by number.
        chosen: how many of the first prompts are not fresh.
        pairs: what is compared, (base, method). Those of methods without rows are not shown, but p is adjusted for all.
        columns: in which columns.
        ours: the methods that the figure has in W2SD's colour.
    """

    by: Mapping[str, Lines]
    chosen: int
    pairs: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    ours: Sequence[str]

    @cached_property
    def own(self) -> dict[str, Lines]:
        """The lines of fresh prompts."""
        return {name: {n: line for n, line in own.items() if n >= self.chosen} for name, own in self.by.items()}

    @cached_property
    def first(self) -> dict[str, Lines]:
        """The lines of the first prompts."""
        return {name: {n: line for n, line in own.items() if n < self.chosen} for name, own in self.by.items()}

    @property
    def count(self) -> int:
        """How many fresh prompts there are."""
        return len(next(iter(self.own.values())))

    @cached_property
    def compared(self) -> list[tuple[str, str]]:
        """The pairs of methods for which there are rows."""
        return [pair for pair in self.pairs if set(pair) <= self.by.keys()]

    @cached_property
    def decided(self) -> list[Comparison]:
        """The comparisons on fresh prompts, decided together, and with those of methods without rows, as if their p
        were 1. So the next stage's rows make no p larger."""
        found = compare_all(self.own, self.compared, self.columns)
        absent = [
            Comparison(column.name, base, group, replace(NOTHING, units=self.count), NOTHING, None, p=1.0, p_least=0.0)
            for base, group in self.pairs
            if (base, group) not in self.compared
            for column in self.columns
        ]
        return decide([*found, *absent], {column.name: column for column in self.columns})[: len(found)]

    @cached_property
    def before(self) -> dict[tuple[str, str, str], Comparison]:
        """The comparisons on the first prompts, by base, method and column."""
        return {(c.base, c.group, c.column): c for c in compare_all(self.first, self.compared, self.columns)}

    def of(self, base: str, group: str) -> dict[str, Comparison]:
        """The comparisons of two methods, by column."""
        return {c.column: c for c in self.decided if (c.base, c.group) == (base, group)}

    def result(self, outcome: str, agrees: str) -> Result:
        """The study's result, with table and figure of all comparisons."""
        better, worse = ([c.name for c in self.columns if c.sign == sign] for sign in (1, -1))
        sides = f"right of 0 is better for {_listed(better)}" + f", left for {_listed(worse)}" * bool(worse)
        caption = (
            f"Differences on the {self.count} prompts on which nothing was picked (95 % intervals, not adjusted;"
            f" {sides}). Hollow: on the {self.chosen} prompts before."
        )
        tables = {
            f"Differences, {self.count} prompts": self._differences(),
            f"Means, {self.count} prompts": self._means(),
        }
        return Result(self._rows(), outcome, agrees, self._figure(), caption, tables)

    def verdicts(self, methods: Iterable[str]) -> str:
        """The verdicts in words, worse ones first; the comparisons of which nothing is decided; and those of the
        study's methods that have no rows."""
        parts, undecided = [], []
        for base, group in self.compared:
            own = self.of(base, group).values()
            said = [
                f"{verdict} in {', '.join(c.column for c in own if c.verdict == verdict)}"
                for verdict in ("worse", "better")
                if any(c.verdict == verdict for c in own)
            ]
            if said:
                parts.append(f"{group} against {base}: {'; '.join(said)}")
            else:
                undecided.append(f"{group} against {base}")
        if undecided:
            parts.append(f"Nothing is decided of: {'; '.join(undecided)}")
        if absent := [name for name in methods if name not in self.by]:
            parts.append(f"Not sampled yet on all of them: {', '.join(absent)}")
        return ". ".join(parts) + "."

    def _rows(self) -> list[dict[str, Any]]:
        """The lines of the CSV."""
        table = []
        for base, group in self.compared:
            for c in self.of(base, group).values():
                earlier = self.before.get((base, group, c.column))
                row: dict[str, Any] = {"method": group, "base": base, "column": c.column}
                row |= {"prompts": self.count, "pairs": c.difference.units}
                row |= {"difference": c.difference.mean, "low": c.difference.low, "high": c.difference.high}
                row |= {"p": c.p, "p_adjusted": c.p_adjusted, "verdict": c.verdict, "reason": c.reason}
                row["difference_where_picked"] = earlier.difference.mean if earlier else ""
                table.append(row)
        return table

    def _differences(self) -> list[list[str]]:
        text = [["", *(column.label for column in self.columns)]]
        for base, group in self.compared:
            own = self.of(base, group)
            cells = [cell_of(own[c.name], self.count) if c.name in own else "" for c in self.columns]
            text.append([f"{group} less {base}", *cells])
        return text

    def _means(self) -> list[list[str]]:
        means = [["", "evaluations", *(column.label for column in self.columns)]]
        for name, each in self.own.items():
            cells = [mean(column, values_of(each, column)).text(3) for column in self.columns]
            means.append([name, str(evaluations_of(each)), *cells])
        return means

    def _figure(self) -> Any:
        drawn, axes = figure(columns=len(self.columns), height=1 + 0.2 * len(self.compared), sharey=True)
        for ax, column in zip(axes[0], self.columns, strict=True):
            for place, (base, group) in enumerate(self.compared):
                colour = COLOURS["w2sd" if group in self.ours else "other"]
                if c := self.before.get((base, group, column.name)):
                    ax.plot(c.difference.mean, place, "o", color=colour, markersize=4, markerfacecolor="white")
                if c := self.of(base, group).get(column.name):
                    ends = [[c.difference.mean - c.difference.low], [c.difference.high - c.difference.mean]]
                    ax.errorbar(c.difference.mean, place, xerr=ends, fmt="o", color=colour, markersize=4, capsize=2)
            ax.axvline(0, color="0.6", linewidth=0.8)
            ax.set(xlabel=f"{column.name} ({UNITS.get(column.name, 'share')})")
            ax.locator_params(axis="x", nbins=3)
        axes[0][0].set_yticks(range(len(self.compared)), [f"{group} less {base}" for base, group in self.compared])
        axes[0][0].invert_yaxis()
        return drawn


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
