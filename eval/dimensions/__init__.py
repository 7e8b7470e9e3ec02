"""All dimensions: one file each, found by name, and imported when it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from w2sd_video import plugins
from w2sd_video.columns import Column
from w2sd_video.errors import Refused, did_you_mean

from ..columns import COLUMNS, COMPARED, GROUPS, IMAGES, NAMES, OFFICIAL, SIX, VBENCH
from .dimension import ByFrame, ByFunction, Compared, Dimension, Similarity, is_ours

if TYPE_CHECKING:
    from .dimension import Scoring as Scoring

__all__ = [
    "COMPARED",
    "GROUPS",
    "IMAGES",
    "NAMES",
    "OFFICIAL",
    "SIX",
    "VBENCH",
    "AllSkipped",
    "ByFrame",
    "ByFunction",
    "Chosen",
    "Compared",
    "Dimension",
    "Similarity",
    "Skipped",
    "chosen",
    "described",
    "expand",
    "get",
    "known",
    "named_by_user",
    "own",
]

BUILT_IN = (*GROUPS, *NAMES, *OFFICIAL)  # the names that a plug-in cannot have


@dataclass(frozen=True)
class Skipped:
    """A requested dimension that cannot be computed here, with the reason."""

    name: str
    reason: str


class AllSkipped(FileNotFoundError):
    """None of the requested dimensions can be computed here; `skipped` has each one's reason."""

    def __init__(self, skipped: Iterable[Skipped]):
        self.skipped = list(skipped)
        super().__init__("\n".join(f"{each.name}: {each.reason}" for each in self.skipped))

    def __reduce__(self) -> Any:
        return type(self), (self.skipped,)


Chosen: TypeAlias = Union[str, Dimension, "type[Dimension]", Callable[..., Any]]  # noqa: UP007 - at run time


def chosen(dimensions: Chosen | Iterable[Chosen], official: bool = False) -> list[Dimension]:
    """Dimensions by name, as of `expand`, and those of one's own, each an instance, a class or a function.

    Args:
        official: whether VBench's package computes them, all by name.

    Raises:
        Refused: there is none of a name; one's own cannot be made, or has a name or a column of another one's.
    """
    if isinstance(dimensions, (str, Dimension)) or callable(dimensions):
        dimensions = [dimensions]
    try:
        entries = list(dimensions)
    except TypeError:
        raise Refused("dimensions", dimensions, NEEDED) from None
    listed: list[Dimension] = []
    for each in entries:
        if isinstance(each, str):
            names = [name for name in expand(each) if name not in [d.name for d in listed]]
            listed += [_named(name) if official else get(name) for name in names]
        elif official:
            raise Refused("dimensions", each, "VBench's package computes its own alone: give names")
        else:
            listed.append(own(each))
    if not listed:
        expand("")
    columns: dict[str, Dimension] = {}
    for dimension in listed:
        for column in dimension.columns:
            if column in columns:
                raise Refused("dimensions", dimension.name, f"{columns[column].name} has a column {column!r} too")
            columns[column] = dimension
    named = [dimension.name for dimension in listed]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise Refused("dimensions", twice, "two of them have this name: give each function or class its own")
    return listed


def _named(name: str) -> Dimension:
    """A dimension without its code: it only has a name."""
    dimension = Dimension()
    dimension.name = name
    return dimension


NEEDED = "give names, or a Dimension, its class or a function of the frames"


def own(candidate: object, named: str = "") -> Dimension:
    """A dimension of one's own: an instance, or one made of a class or a function.

    Args:
        named: what a user named it by, for messages.

    Raises:
        Refused: it is something else, it cannot be made without arguments, or its name or a column is a built-in one's.
    """
    if isinstance(candidate, type) and issubclass(candidate, Dimension):
        try:
            candidate = candidate()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise Refused(
                "dimensions", named or candidate, f"give an instance: none can be made without arguments ({why})"
            ) from None
    elif callable(candidate) and not isinstance(candidate, (type, Dimension)):
        candidate = ByFunction(candidate)
    if not isinstance(candidate, Dimension):
        raise Refused("dimensions", named or candidate, NEEDED)
    if is_ours(type(candidate)) and not isinstance(candidate, ByFunction):
        return candidate
    name = getattr(candidate, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise Refused("dimensions", named or name or candidate, _nameless(candidate))
    if name in BUILT_IN:
        raise Refused("dimensions", named or name, "this is the name of one that is built in: give yours another")
    if not all(isinstance(record, Column) for record in candidate.records):
        raise Refused("dimensions", named or name, "its records have to be of the class Column")
    if taken := sorted(set(candidate.columns) & set(COLUMNS)):
        accepted = f"column {taken[0]!r} is that of one that is built in: give yours another"
        raise Refused("dimensions", named or name, accepted)
    return candidate


def _nameless(candidate: Dimension) -> str:
    """The advice for a dimension whose name cannot be used."""
    name = getattr(candidate, "name", None)
    if not isinstance(candidate, ByFunction) or name != "<lambda>":
        has = "it has no `name`" if name is None else f"its name is {name!r}"
        return f"{has}: give it one of letters, digits, _, . and -"
    if len(candidate.records) > 1:
        return "it is a lambda; with several columns the function needs a name: use def"
    return "it is a lambda, which has no name: use def, or ByFunction with a Column"


def get(name: str) -> Dimension:
    """A dimension by its name, built in or a plug-in's, without its networks.

    Raises:
        Refused: there is none of that name, or a plug-in's cannot be used; see `plugins.find`.
    """
    plugin = plugins.find("dimension", name, BUILT_IN)
    if name in GROUPS:
        raise Refused("dimensions", name, f"this is the group of {', '.join(GROUPS[name])}")
    if name in OFFICIAL:
        raise Refused("dimensions", name, "VBench's own package computes it: give --backend official")
    if plugin is None:
        return import_module(f".{name}", __package__).DIMENSION()
    dimension = own(plugin.value, name)
    dimension.source, dimension.plugin = plugin.source, name
    return dimension


def known() -> tuple[str, ...]:
    """The names of dimensions and of groups of them, for messages."""
    return (*GROUPS, *NAMES, *OFFICIAL, *plugins.names("dimension", BUILT_IN))


def named_by_user(text: str) -> str:
    """Names with commas between, from the command line; files that are among them, `FILE.py:NAME`, run.

    Raises:
        Refused: a file cannot be used; see `plugins.from_file`.
    """
    names = [name.strip() for name in text.split(",")]
    files = {name: plugins.from_name("dimension", name) for name in names}
    return ",".join(name if (file := files[name]) is None else file.name for name in names)


def expand(names: str | Iterable[str]) -> list[str]:
    """Names, or one text with commas between, and the groups `six`, `vbench` and `images`, as names of dimensions.

    Each is there once.

    Raises:
        Refused: there is none of that name.
    """
    try:
        names = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    except (TypeError, AttributeError):
        raise Refused("dimensions", names, "give names") from None
    expanded = [each for name in names for each in GROUPS.get(name, (name,))]
    for name in expanded:
        if (
            name not in (*NAMES, *OFFICIAL)
            and not plugins.is_file(name)
            and not plugins.installed("dimension").get(name)
        ):
            raise Refused("dimensions", name, did_you_mean(name, known()))
    if not expanded:
        raise Refused("dimensions", "", f"give some of {', '.join((*GROUPS, *NAMES))}")
    return list(dict.fromkeys(expanded))


def described(name: str) -> dict[str, Any]:
    """The first paragraph of a dimension's docstring, or its module's, as `summary`; its `columns` and `weights`."""
    dimension = get(name)
    text = type(dimension).__dict__.get("__doc__") or getattr(import_module(type(dimension).__module__), "__doc__", "")
    if isinstance(dimension, ByFunction):
        text = dimension.function.__doc__
    columns, weights = list(dimension.columns), [each.name for each in dimension.weights]
    return {"summary": plugins.first_paragraph(text or name), "columns": columns, "weights": weights}
