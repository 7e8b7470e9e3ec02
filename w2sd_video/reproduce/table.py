"""A table of the paper as data, `tables/NAME.yaml`: its figures, the plans that make it, and what stands for them.

title, source     what it is, and where in the paper
plan              what the plans of all parts have in common
columns           title, ours (column), its unit (factor), and the column of the shipped models (shapes) with why
parts             by name: title, plan (what it says beside), and the paper's figures by arm, in the columns' order
shapes            the plan on the shipped models that stands for each part, and why; or why none can
notes             what a reader has to know
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from .. import columns as kinds
from ..documents import read_yaml
from ..errors import Refused, did_you_mean
from ..plans import Plan
from ..validation import Setting, plain, validated

FOLDER = Path(__file__).parent / "tables"
ALWAYS = ("temporal_flickering", "clipped")  # columns of every table, the first of videos alone
Values = Annotated[dict[str, Any], BeforeValidator(plain), Setting("Values.", accepted="give names and values")]


@validated
class Column:
    """A column of a table.

    Args:
        title: the paper's name.
        column: ours, as of `w2sd-video dimensions`; None where a run has none of it.
        lacks: why a run has none.
        lower: whether lower is better, where `column` does not say so.
        factor: what ours is multiplied by to be in the paper's unit.
        shows: the mean, or the share of pairs in which an arm is better than the base.
        shapes: the column of the shipped models that stands for it; None where none can.
        why: what that measures, or why none can.
    """

    title: str
    column: str | None = None
    lacks: str = ""
    lower: bool = False
    factor: float = 1.0
    shows: Literal["mean", "share"] = "mean"
    shapes: str | None = None
    why: str = ""

    @property
    def sign(self) -> int:
        """1 where a higher figure of the paper is better, else -1; 0 where neither is."""
        return -1 if self.lower else record(self.column).sign if self.column else 1


@validated
class Part:
    """A part of a table: one pair of models.

    Args:
        plan: what its plan says beside the table's.
        paper: the paper's figures by arm, in the order of the table's columns.
    """

    title: str
    plan: Values = field(default_factory=dict)
    paper: dict[str, list[float | None]]

    def figures(self, column: int) -> dict[str, float | None]:
        """The paper's figures of a column, by arm."""
        return {arm: row[column] for arm, row in self.paper.items()}


@validated
class Shapes:
    """What stands for a table on the shipped models: a plan, what it says beside the table's; or None."""

    why: str
    plan: Values | None = None


@validated
class _File:
    title: str
    source: str
    plan: Values = field(default_factory=dict)
    columns: list[Any]
    parts: dict[str, Any]
    shapes: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A table of the paper; see the module."""

    name: str
    title: str
    source: str
    common: Mapping[str, Any]
    columns: tuple[Column, ...]
    parts: Mapping[str, Part]
    shapes: Shapes
    notes: tuple[str, ...] = ()

    def plan(self, part: Part, **more: Any) -> Plan:
        """The plan of a part on the real models; `more` takes the place of what it says."""
        return _always(Plan(**{**self.common, **part.plan, **more}))

    def on_shapes(self, **more: Any) -> Plan:
        """The plan on the shipped models that stands for every part.

        Raises:
            Refused: none can; says why.
        """
        if self.shapes.plan is None:
            raise Refused("--shapes", self.name, f"the shipped models cannot stand for it: {self.shapes.why}")
        return _always(Plan(**{**self.common, **self.shapes.plan, **more}))

    @cached_property
    def numbers(self) -> dict[str, dict[str, dict[str, float]]]:
        """The paper's figures by part, arm and the column's title."""
        return {
            name: {
                arm: {c.title: v for c, v in zip(self.columns, row, strict=True) if v is not None}
                for arm, row in part.paper.items()
            }
            for name, part in self.parts.items()
        }


def record(column: str) -> kinds.Column:
    """What is known of a column of ours."""
    from ..eval.columns import COLUMNS

    return COLUMNS.get(column) or kinds.Column(column)


def _always(plan: Plan) -> Plan:
    """A plan that is scored on flickering, where it is of videos, and on clipping, too."""
    from .. import presets

    wanted = ALWAYS if presets.load(plan.preset).video else ALWAYS[1:]
    return replace(plan, dimensions=list(dict.fromkeys((*plan.dimensions, *wanted))))


def names() -> list[str]:
    """The tables there are, in the paper's order."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (len(name), name))


def load(name: str) -> Table:
    """The table of that name.

    Raises:
        Refused: there is none.
    """
    if name not in names():
        raise Refused("TABLE", name, did_you_mean(name, names()))
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Table:
    """The table of a file.

    Raises:
        Refused, ValueError: it is none.
    """
    said = _File(**read_yaml(path))
    table = Table(
        path.stem,
        said.title,
        said.source,
        said.plan,
        tuple(Column(**each) for each in said.columns),
        {name: Part(**each) for name, each in said.parts.items()},
        Shapes(**said.shapes),
        tuple(said.notes),
    )
    for part in table.parts.values():
        for arm, row in part.paper.items():
            if len(row) != len(table.columns):
                raise Refused(f"{path}: {arm}", row, f"give {len(table.columns)} figures, one a column")
    return table
