"""A table of the paper as data, `tables/NAME.yaml`: its figures, its plans, and a plan that stands in for them.

title, source     its title, and its place in the paper
plan              settings that the plans of all parts share
columns           title, our column (column), its unit (factor), and the shipped models' column (shapes) with the reason
parts             by name: title, further settings of its plan, and the paper's figures by arm, in the columns' order
shapes            the plan on the shipped models that stands in for each part, and why; or why none can
notes             notes for the reader
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import columns as kinds
from ..documents import read_yaml
from ..errors import Refused, did_you_mean
from ..plans import Plan
from ..plans.plan import Values
from ..validation import validated

FOLDER = Path(__file__).parent / "tables"
ALWAYS = ("temporal_flickering", "clipped")  # columns that every table adds, the first for videos only


@validated
class Column:
    """A column of a table.

    Args:
        title: the paper's name for it.
        column: our column, as `w2sd-video dimensions` lists it; None if a run cannot compute it.
        lacks: why a run cannot compute it.
        lower: whether lower is better, for a column that is not ours.
        factor: multiplies our figures to get the paper's unit.
        shows: the mean, or the share of pairs in which an arm is better than the base.
        shapes: the column of the shipped models that stands in for it; None if none can.
        why: what that column measures, or why none can.
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
        """1 if a higher figure of the paper is better, -1 if a lower one is, 0 if neither."""
        return -1 if self.lower else record(self.column).sign if self.column else 1


@validated
class Part:
    """A part of a table: one pair of models.

    Args:
        title: its title.
        plan: settings of its plan that add to the table's, or replace them.
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
    """The plan on the shipped models that stands in for a table.

    Args:
        why: why it can, or why none can.
        plan: settings that add to the table's, or replace them. None: no plan can stand in for it.
    """

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
    """A table of the paper; see the module's docstring for its fields. `common` is `plan` in the file."""

    name: str
    title: str
    source: str
    common: Mapping[str, Any]
    columns: tuple[Column, ...]
    parts: Mapping[str, Part]
    shapes: Shapes
    notes: tuple[str, ...] = ()

    def plan(self, part: Part, **more: Any) -> Plan:
        """The plan of a part on the real models. `more` replaces fields of the plan."""
        return _always(Plan(**{**self.common, **part.plan, **more}))

    def on_shapes(self, **more: Any) -> Plan:
        """The plan on the shipped models that stands in for every part. `more` replaces fields of the plan.

        Raises:
            Refused: no plan can stand in for it, with the reason.
        """
        if self.shapes.plan is None:
            raise Refused("--shapes", self.name, f"the shipped models cannot stand for it: {self.shapes.why}")
        return _always(Plan(**{**self.common, **self.shapes.plan, **more}))


def record(column: str) -> kinds.Column:
    """The record of one of our columns."""
    from ..eval.columns import COLUMNS

    return COLUMNS.get(column) or kinds.Column(column)


def _always(plan: Plan) -> Plan:
    """The plan with the dimensions that every table adds: clipping, and flickering for videos."""
    from .. import presets

    wanted = ALWAYS if presets.load(plan.preset).video else ALWAYS[1:]
    return replace(plan, dimensions=list(dict.fromkeys((*plan.dimensions, *wanted))))


def names() -> list[str]:
    """The names of all tables, in the paper's order."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (len(name), name))


def load(name: str) -> Table:
    """Loads a table by name.

    Raises:
        Refused: there is no such table.
    """
    if name not in names():
        raise Refused("TABLE", name, did_you_mean(name, names()))
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Table:
    """Reads a table from a file.

    Raises:
        Refused, ValueError: the file is no table.
    """
    file = _File(**read_yaml(path))
    table = Table(
        path.stem,
        file.title,
        file.source,
        file.plan,
        tuple(Column(**each) for each in file.columns),
        {name: Part(**each) for name, each in file.parts.items()},
        Shapes(**file.shapes),
        tuple(file.notes),
    )
    for part in table.parts.values():
        for arm, row in part.paper.items():
            if len(row) != len(table.columns):
                raise Refused(f"{path}: {arm}", row, f"give {len(table.columns)} figures, one a column")
    return table
