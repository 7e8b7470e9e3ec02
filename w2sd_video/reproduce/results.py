"""The results of a run for a table: our figures beside the paper's, and whether we reproduce the paper's directions.

A direction says whether an arm or the base is better, or, in columns without a better side, which one is higher. If
`w2sd_video.verdicts` gives a verdict, the paper's direction is "reproduced" or "opposite". Otherwise it is "not shown",
which does not mean that the two are equal.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import tables
from ..columns import Column as Kind
from ..runs import whole
from ..tables import Block, Items, Marked, Paragraph, Text
from ..verdicts import ENOUGH, LEVEL, Comparison, Interval, decide
from .table import ALWAYS, Column, Part, Table, load, names

if TYPE_CHECKING:
    from ..eval.report import Published
    from ..eval.results import Summary

REPRODUCED, OPPOSITE, NOT_SHOWN = "reproduced", "opposite", "not shown"
FIFTY = 50.0  # percent: the share of preferences at which neither side is better


@dataclass(frozen=True)
class Figure:
    """The figures of one arm in one column.

    Args:
        column: the table's column, or one of the columns that every table adds to the paper's.
        ours: the name of our column; None if there is none.
        mean: our figure with its interval, in the paper's unit; None if there is none.
        paper: the paper's figure; None if there is none.
        difference: our difference from the base, in the paper's unit.
        paper_difference: the paper's difference from the base.
        compared: our comparison with the base, in our column's own unit.
        direction: "reproduced", "opposite", "not shown", or "" if the paper has none.
    """

    arm: str
    column: Column
    ours: str | None
    mean: Interval | None
    paper: float | None
    difference: Interval | None = None
    paper_difference: float | None = None
    compared: Comparison | None = None
    direction: str = ""


@dataclass(frozen=True)
class Result:
    """The results of a part of a table.

    Args:
        figures: by column, then by arm, in the paper's order.
        counts: by arm, in words, how many prompts and videos it has, and how many failed.
        tested: how many comparisons have an adjusted p.
    """

    part: str
    title: str
    base: str
    arms: tuple[str, ...]
    figures: tuple[tuple[Figure, ...], ...]
    counts: Mapping[str, str]
    tested: int

    @property
    def directions(self) -> dict[str, int]:
        """How many directions are reproduced, not shown and opposite."""
        all_of = [figure.direction for row in self.figures for figure in row if figure.direction]
        return {kind: all_of.count(kind) for kind in (REPRODUCED, NOT_SHOWN, OPPOSITE)}


def results(table: Table, summaries: Mapping[str, Summary], on_shapes: bool) -> list[Result]:
    """The results of a table's parts. Verdicts are adjusted over all comparisons of the table.

    Args:
        summaries: the scores of each part's plan, whose first group is the base. Parts with the same plan share one
            object.
        on_shapes: whether the scores come from the plan on the shipped models.
    """
    columns: dict[str, Kind] = {}
    compared: list[tuple[int, Comparison]] = []
    for summary in {id(each): each for each in summaries.values()}.values():
        columns |= summary.columns
        wanted = {ours for _, ours in _mapped(table, summary, on_shapes)}
        compared += [(id(summary), c) for c in summary.comparisons if c.column in wanted]
    together = decide([c for _, c in compared], columns)
    decided: dict[int, dict[tuple[str, str], Comparison]] = {}
    for (run, _), c in zip(compared, together, strict=True):
        decided.setdefault(run, {})[c.group, c.column] = c
    return [_result(table, name, each, decided.get(id(each), {}), on_shapes) for name, each in summaries.items()]


def paper_of(table: Table, part: str, on_shapes: bool) -> dict[str, dict[str, Published]]:
    """The paper's figures of a part for its page, by arm and our column.

    On the real models, they are in the unit of our column; on the shipped models, whose columns measure something else,
    in the paper's unit.
    """
    from ..eval.report import Published

    figures: dict[str, dict[str, Published]] = {}
    for number, column in enumerate(table.columns):
        ours = column.shapes if on_shapes else column.column
        for arm, figure in table.parts[part].figures(number).items():
            if ours and column.shows == "mean" and figure is not None:
                value = figure if on_shapes else figure / column.factor
                figures.setdefault(arm, {})[ours] = Published(value, column.title, column.sign)
    return figures


def paper_of_preset(preset: str | None) -> dict[str, dict[str, Published]]:
    """The figures of the paper's first table that has a preset's pair, for the page of any run of it; else none."""
    for table in map(load, names()):
        for name, part in table.parts.items():
            if preset is not None and part.plan.get("preset") == preset:
                figures, source = paper_of(table, name, on_shapes=False), table.source.rpartition(", ")[2]
                return {
                    arm: {ours: each._replace(title=f"{source}, {each.title}") for ours, each in columns.items()}
                    for arm, columns in figures.items()
                }
    return {}


def _mapped(table: Table, summary: Summary, on_shapes: bool) -> list[tuple[Column, str | None]]:
    """The table's columns and those that every table adds, each with the name of our column; None if not scored."""
    mapped = [(column, column.shapes if on_shapes else column.column) for column in table.columns]
    mapped += [(Column(title=ours, column=ours), ours) for ours in ALWAYS if ours in summary.columns]
    return [(column, ours if ours in summary.columns else None) for column, ours in mapped]


def _result(
    table: Table, name: str, summary: Summary, compared: Mapping[tuple[str, str], Comparison], on_shapes: bool
) -> Result:
    part = table.parts[name]
    rows = []
    for number, (column, ours) in enumerate(_mapped(table, summary, on_shapes)):
        paper = part.figures(number) if number < len(table.columns) else dict.fromkeys(part.paper)
        rows.append(tuple(_figures(part, column, ours, paper, summary, compared, on_shapes)))
    tested = sum(not math.isnan(c.p_adjusted) for c in compared.values())
    counts = {arm: summary.counted(arm) for arm in part.paper}
    return Result(name, part.title, summary.base, tuple(part.paper), tuple(rows), counts, tested)


def _figures(
    part: Part,
    column: Column,
    ours: str | None,
    paper: Mapping[str, float | None],
    summary: Summary,
    compared: Mapping[tuple[str, str], Comparison],
    on_shapes: bool,
) -> Iterator[Figure]:
    factor = 100.0 if column.shows == "share" else 1.0 if on_shapes else column.factor
    middle = FIFTY if column.shows == "share" else None
    base = paper[summary.base] if paper[summary.base] is not None else middle
    rivals = [arm for arm, figure in paper.items() if figure is not None and arm != summary.base]
    for arm in part.paper:
        c = compared.get((arm, ours or ""))
        mean = summary.means[arm][ours] if ours and column.shows == "mean" else None
        if ours and column.shows == "share" and paper[arm] is not None:
            rival = compared.get((rivals[0], ours)) if arm == summary.base and len(rivals) == 1 else None
            mean = _share(c) if c else _rest(_share(rival)) if rival else None
        figure = paper[arm]
        beside = None if figure is None or base is None or arm == summary.base else figure - base
        outcome = direction(c, summary.columns[ours], column.sign, beside) if ours and beside is not None else ""
        yield Figure(
            arm,
            column,
            ours,
            _scaled(mean, factor) if mean and mean.n else None,
            figure,
            _scaled(c.difference, factor) if c and column.shows == "mean" else None,
            beside,
            c,
            outcome,
        )


def direction(compared: Comparison | None, ours: Kind, sign: int, paper_difference: float) -> str:
    """Whether our difference has the paper's direction, as a word; "" if the paper's difference is 0.

    Args:
        compared: our comparison, with its verdict; None if there is none.
        ours: our column.
        sign: 1 if a higher figure of the paper is better, -1 if a lower one is, 0 if neither.
        paper_difference: the paper's figure minus the base's.
    """
    if not paper_difference:
        return ""
    if compared is None or not compared.verdict:
        return NOT_SHOWN
    up = compared.difference.mean * (ours.sign or 1) > 0
    return REPRODUCED if up == (paper_difference * (sign or 1) > 0) else OPPOSITE


def _share(c: Comparison) -> Interval:
    """The share of pairs in which the group is better; for columns of odds, the mean probability that it is."""
    return c.preferred or c.wins


def _rest(share: Interval) -> Interval:
    return replace(share, mean=1 - share.mean, low=1 - share.high, high=1 - share.low)


def _scaled(each: Interval, factor: float) -> Interval:
    return replace(each, mean=each.mean * factor, low=each.low * factor, high=each.high * factor)


# As a table


def document(table: Table, parts: Sequence[Result], on_shapes: bool) -> list[Block]:
    """The document of a table: title, mapping of columns, one table per part, and notes for the reader."""
    blocks: list[Block] = [Paragraph([f"{table.title} ({table.source})"])]
    if on_shapes:
        blocks += [Paragraph([f"On the shipped models. {table.shapes.why}"]), mapping(table)]
    for each in parts:
        blocks += [Paragraph([each.title]), grid(each), Paragraph([_counted(each)])]
    lines = [*legend(parts, on_shapes), *table.notes]
    if not on_shapes:
        lines += [f"{column.title} is not scored: {column.lacks}." for column in table.columns if column.lacks]
    return [*blocks, Items([[line] for line in lines])]


def mapping(table: Table) -> Items:
    """A list of the paper's columns, each with the column of the shipped models that stands in for it."""
    lines = []
    for c in table.columns:
        if c.shapes is None:
            lines.append([f"{c.title}: nothing stands for it; {c.why}"])
        else:
            lines.append([f"{c.title}: {c.shapes}{', as a share' * (c.shows == 'share')}; {c.why}"])
    return Items(lines)


def grid(each: Result) -> tables.Table:
    """The table of a part, one row per column: for each arm our figure and the paper's, then the directions."""
    others = [arm for arm in each.arms if arm != each.base]
    head = ["", *(text for arm in each.arms for text in (arm, "paper"))]
    head += [f"{arm} against {each.base}" for arm in others]
    rows: list[list[Text]] = []
    for figures in each.figures:
        by_arm = {figure.arm: figure for figure in figures}
        row: list[Text] = [_label(figures[0])]
        for arm in each.arms:
            figure = by_arm[arm]
            verdict = figure.compared.verdict if figure.compared else ""
            row += [Marked(_number(figure.mean), verdict), "" if figure.paper is None else f"{figure.paper:g}"]
        rows.append([*row, *(by_arm[arm].direction for arm in others)])
    return tables.Table(head, rows)


def _label(figure: Figure) -> str:
    own = figure.ours if figure.ours and figure.ours != figure.column.title else ""
    share = ", %" if figure.column.shows == "share" else ""
    if not own or own == figure.column.column:
        return f"{figure.column.title}{share}"
    from .table import record

    return f"{figure.column.title}: {record(own).label}{share}"


def _number(mean: Interval | None) -> str:
    return "" if mean is None else mean.text(1 if abs(mean.mean) >= 20 else 2 if abs(mean.mean) >= 2 else 3)


def _counted(each: Result) -> str:
    counts = "; ".join(f"{arm}: {count}" for arm, count in each.counts.items())
    ways = ", ".join(f"{count} {kind}" for kind, count in each.directions.items())
    return f"Directions: {ways}. {counts}."


def legend(parts: Sequence[Result], on_shapes: bool) -> list[str]:
    """Notes for the reader of the table."""
    base = parts[0].base
    lines = [
        "Means with 95 % intervals over prompts (of digits: over pictures, each digit weighted alike), not adjusted.",
        f"A direction is which of an arm and {base} is better; where neither side is better, which is higher. It is"
        " reproduced, or opposite, where the p of the paired difference, adjusted by Holm's method over all comparisons"
        f" of the table, is at most {LEVEL}; else it is not shown, which is not the same as equal.",
    ]
    if few := [each.title for each in parts if not each.tested]:
        lines.append(f"No direction can be shown with under {ENOUGH} prompts: {', '.join(few)}.")
    if on_shapes:
        lines.append(
            "Figures of the shipped models are in the units of their judge, and are not those of the paper: compare"
            " directions, not sizes."
        )
    return lines


# As files


def write(folder: Path, table: Table, parts: Sequence[Result], on_shapes: bool) -> list[Path]:
    """Writes `table.csv` and `table.md`."""
    files = {"csv": folder / "table.csv", "md": folder / "table.md"}
    with whole(files) as staged:
        staged["md"].write_text(tables.markdown(document(table, parts, on_shapes)) + "\n", encoding="utf-8")
        with open(staged["csv"], "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows(parts))
    return list(files.values())


HEAD = """part column ours arm n of units mean low high paper base difference difference_low difference_high p_adjusted
verdict paper_difference direction reason""".split()


def data(table: Table, parts: Sequence[Result], on_shapes: bool) -> dict[str, object]:
    """The content of `document` as data: the parts, and the lines of `table.csv` as dictionaries, with None for ""."""
    head, *lines = rows(parts)
    figures = [
        {str(key): None if value == "" else value for key, value in zip(head, line, strict=True)} for line in lines
    ]
    about = [
        {"part": each.part, "title": each.title, "base": each.base, "counts": dict(each.counts)}
        | {"directions": each.directions}
        for each in parts
    ]
    heading = {"name": table.name, "title": table.title, "source": table.source, "on_shapes": on_shapes}
    return {**heading, "parts": about, "figures": figures}


def rows(parts: Iterable[Result]) -> Iterator[list[object]]:
    """The lines of `table.csv`: one per part, column and arm."""
    yield list(HEAD)
    for each in parts:
        for figure in (figure for row in each.figures for figure in row):
            mean, c = figure.mean, figure.compared
            line: list[object] = [each.part, figure.column.title, figure.ours, figure.arm]
            line += [mean.n, mean.of, mean.units, mean.mean, mean.low, mean.high] if mean else [None] * 6
            line += [figure.paper, each.base if c else None]
            d = figure.difference
            line += [d.mean, d.low, d.high] if d else [None] * 3
            line += [c.p_adjusted, c.verdict] if c else [None] * 2
            line += [figure.paper_difference, figure.direction, c.reason if c else None]
            yield ["" if value is None or value != value else value for value in line]
