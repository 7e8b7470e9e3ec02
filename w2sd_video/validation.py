"""Dataclasses that pydantic validates. An invalid value raises a `Refused` that names the field and what is accepted.

A field is `Annotated` with its bounds and, for the command line and for messages, with a `Setting`. Types are strict;
unknown names and numbers that are not finite are refused. Messages come from pydantic's list of errors, never from its
text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError
from typing_extensions import dataclass_transform

from .errors import Refused, did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, regex_engine="python-re")
DEEPEST, MOST_VALUES = 16, 10_000  # of what stands in lists and dictionaries
Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class Setting:
    """How the command line and messages describe a setting.

    Args:
        help: its description, for `--help`.
        options: its names on the command line, the usual one first.
        panel: the panel of `--help` that lists it.
        arm: "weak" or "reflection" if the setting has no effect on the strong model alone; else None.
        families: the families that have it. None: all.
        accepted: the accepted values, for messages, if its type and bounds do not tell them.
        metavar: the placeholder for its value in `--help`.
    """

    help: str
    options: tuple[str, ...] = ()
    panel: str | None = None
    arm: Literal["weak", "reflection"] | None = None
    families: tuple[str, ...] | None = None
    accepted: str | None = None
    metavar: str | None = None


def refuse(accepted: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{accepted}", {"accepted": accepted})


def plain(value: Any) -> Any:
    """What JSON can hold, tuples as lists.

    Raises:
        PydanticCustomError: there is something else in it.
    """
    left = MOST_VALUES

    def copy(each: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise refuse(f"give at most {MOST_VALUES} values, {DEEPEST} deep")
        if each is None or isinstance(each, bool):
            return each
        if isinstance(each, str):
            try:
                each.encode()
            except UnicodeEncodeError:
                raise refuse("give text that is Unicode") from None
            return each
        if isinstance(each, (int, float)):
            if isinstance(each, int) and not -(2**63) <= each < 2**64:
                raise refuse("give smaller whole numbers")
            if not math.isfinite(each):
                raise refuse("give finite numbers")
            return each
        if isinstance(each, Mapping):
            if (key := next((key for key in each if not isinstance(key, str)), "")) != "":
                raise refuse(f"give names that are texts, such as '{key}' with quotes in place of {key}")
            return {copy(key, depth): copy(one, depth + 1) for key, one in each.items()}
        if isinstance(each, (list, tuple)):
            return [copy(one, depth + 1) for one in each]
        raise refuse("give numbers, texts, true, false, null, lists and names with values")

    return copy(value, 0)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def validated(cls: Class) -> Class:
    """A frozen dataclass of keywords whose values pydantic validates; what it cannot hold is `Refused`."""
    dataclass_of: Any = pydantic_dataclass(frozen=True, kw_only=True, config=STRICT)(cls)
    init = dataclass_of.__init__

    @functools.wraps(init)
    def __init__(self: Any, /, **values: Any) -> None:
        try:
            init(self, **values)
        except ValidationError as error:
            raise refusal(error, type(self)) from None

    dataclass_of.__init__ = __init__
    return dataclass_of


def info(cls: type, name: str) -> FieldInfo:
    """What pydantic knows of a field of a validated class."""
    field_info: FieldInfo = cls.__pydantic_fields__[name]  # type: ignore[attr-defined]
    return field_info


def setting_of(name: str, cls: type) -> Setting:
    """What there is to say of a setting."""
    return next(each for each in info(cls, name).metadata if isinstance(each, Setting))


def number(name: str, cls: type) -> type[int] | type[float] | None:
    """`int` or `float` where a setting is a number."""
    kinds = _kinds(info(cls, name))
    return int if int in kinds else float if float in kinds else None


def _kinds(about: FieldInfo) -> list[Any]:
    """The types of a field's values, but for None."""
    kinds: list[Any] = [about.annotation]
    if get_origin(about.annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(about.annotation) if kind is not type(None)]
    return [kind.__origin__ if get_origin(kind) is Annotated else kind for kind in kinds]


def words(name: str, cls: type) -> list[str]:
    """The texts that a setting accepts, where its type lists them; else none."""
    return _words(info(cls, name))


def _words(about: FieldInfo) -> list[str]:
    return [str(word) for each in _kinds(about) if get_origin(each) is Literal for word in get_args(each)]


def names(cls: type) -> list[str]:
    """The names of a validated class's fields."""
    return list(cls.__pydantic_fields__)  # type: ignore[attr-defined]


def by_option(cls: type) -> dict[str, str]:
    """The fields of a validated class by the names of their options: `num_inference_steps` by `steps`."""
    found: dict[str, str] = {}
    for name in names(cls):
        for about in (each for each in info(cls, name).metadata if isinstance(each, Setting)):
            options = (option.partition("/")[0].lstrip("-").replace("-", "_") for option in about.options)
            found |= {option: name for option in options if option != name}
    return found


def refusal(error: ValidationError, cls: type) -> Refused:
    """The first of pydantic's errors as a refusal: which setting, the value, and what is accepted."""
    first = min(error.errors(include_url=False), key=lambda each: each["type"] == "missing")
    kind, loc, value = first["type"], list(first["loc"]), first["input"]
    if kind == "missing" or kind == "missing_keyword_only_argument":
        if len(loc) == 1:
            return Refused(str(loc[0]), None, "give one")
        lacking = f"it lacks {loc.pop()}"
        return Refused(_dotted(loc), value, f"{lacking}; {_accepted(first, loc, cls)}")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        if len(loc) == 1:
            known = did_you_mean(str(loc[0]), names(cls), by_option(cls))
            return Refused(str(loc[0]), value, f"no setting has this name; {known}")
        return Refused(_dotted(loc), value, _accepted(first, loc, cls))
    if loc and loc[-1] == "[key]":
        loc = loc[:-2]
    if len(_kinds(info(cls, str(loc[0])))) > 1 and setting_of(str(loc[0]), cls).accepted:
        # Of several types that a value may have, pydantic lists what is wrong as each; first of the value as it is.
        return Refused(str(loc[0]), value, str(setting_of(str(loc[0]), cls).accepted))
    return Refused(_dotted(loc), value, _accepted(first, loc, cls))


def _dotted(loc: Sequence[int | str]) -> str:
    return ".".join(map(str, loc))


WAYS = (("least", "ge"), ("most", "le"))


def _accepted(error: ErrorDetails, loc: Sequence[int | str], cls: type) -> str:
    """What is accepted in the place of an error."""
    kind, known = error["type"], error.get("ctx", {})
    if kind == "refused":
        return str(known["accepted"])
    if kind == "string_unicode":
        return "give text that is Unicode"
    if kind == "string_too_long":
        return f"give at most {known['max_length']} characters"
    if kind == "too_long":
        return f"give at most {known['max_length']}"
    about = info(cls, str(loc[0]))
    setting = next((each for each in about.metadata if isinstance(each, Setting)), None)
    if len(loc) > 1 and kind == "string_type":
        return "give a text"
    if len(loc) > 1 and ("float" in kind or kind in ("finite_number", "greater_than_equal", "less_than_equal")):
        return "give a finite number" + "".join(f", at {way} {known[of]:.0f}" for way, of in WAYS if of in known)
    if setting and setting.accepted:
        return setting.accepted
    kinds = _kinds(about)
    if known_words := _words(about):
        return did_you_mean(str(error["input"])[:100], known_words)
    bounds = {
        name: getattr(each, name)
        for each in _flat(about)
        for name in ("ge", "le", "multiple_of")
        if getattr(each, name, None) is not None
    }
    if kind == "finite_number":
        return "give a finite number"
    if bool in kinds:
        return "give true or false"
    if int in kinds or float in kinds:
        return _number(bounds, whole=int in kinds)
    if str in kinds:
        return "give a text"
    return "give a list of texts" if list[str] in kinds else "give names and values"


def _flat(about: FieldInfo) -> list[Any]:
    """A field's metadata, and that of the types within its own."""
    flat: list[Any] = []
    waiting: list[Any] = [*about.metadata, *get_args(about.annotation)]
    while waiting:
        each = waiting.pop(0)
        flat.append(each)
        waiting += [*getattr(each, "__metadata__", ()), *(getattr(each, "metadata", None) or ())]
    return flat


def _number(bounds: Mapping[str, float], whole: bool = False) -> str:
    if "multiple_of" in bounds:
        return f"give a multiple of {bounds['multiple_of']}, from {bounds['ge']} to {bounds['le']}"
    if not whole:
        return "give a finite number" + (f" from {bounds['ge']:.0f} to {bounds['le']:.0f}" if bounds else "")
    return f"give a whole number from {bounds['ge']} to {bounds['le']}"
