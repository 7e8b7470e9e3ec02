"""The arms and cells of a plan: the points of its axes, with their settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from .. import settings
from ..errors import ArgumentError, Refused
from ..prompts import Prompt
from ..runs import Request

# Keys beside the settings of a label.
AS_COSTLY = "as_costly_as"  # another label: the steps are chosen to match its network evaluations
STEPS = ("num_inference_steps", "reflection_steps")  # which that sets
TUNE = "tune"  # a setting and the numbers to try, of which the best is used; see `tuning`
Value = tuple[str, dict[str, Any]]  # a value of an axis: its label and its settings


@dataclass(frozen=True)
class Grid:
    """The numbers over which an arm is tuned.

    Args:
        name: the setting that is tuned.
        values: the numbers to try.
        fields: the arm's other settings.
        costly: a request whose network evaluations every number has to match. None: the arm's own steps.
    """

    name: str
    values: tuple[float, ...]
    fields: Mapping[str, Any]
    costly: Request | None


@dataclass(frozen=True)
class Arm:
    """A point of the axes.

    Args:
        labels: its label on each axis.
        template: its request for the first prompt and seed.
        refiner: the refiner of its prompts. None: they are used as they are.
        grid: the numbers over which it is tuned. None: it is not tuned.
        cost: its network evaluations, in all and in evaluations of the strong network. Set only if the arm was read
            from a run's note and its method comes from a file.
        key: the hash from which its cells' keys derive, see `record.Keys`. Set only if the arm was read from a run's
            note.
    """

    labels: Mapping[str, str]
    template: Request
    refiner: str | None = None
    grid: Grid | None = None
    cost: tuple[int, float | None] | None = None
    key: str | None = None

    @cached_property
    def name(self) -> str:
        """Its name in tables: its labels; a label that is a number follows the axis' name."""
        return name_of(self.labels)

    @cached_property
    def folder(self) -> str:
        """The name of its folder: the arm's name in characters safe for a path, and a short hash if that changed it."""
        words = re.sub(r"[^\w.=+-]+", "_", self.name.replace(", ", "_")).strip("._")
        words = words.encode()[:80].decode(errors="ignore")
        if words.lower() != self.name:
            words = f"{words}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}".strip("-")
        return words

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings that decide the frames, except the prompt and the seed."""
        of_cells = ("prompt", "seed", *(["weak_prompt"] if self.refiner else []))
        return {name: value for name, value in asdict(self.template).items() if name not in of_cells}


@dataclass(frozen=True)
class Cell:
    """One output of a plan. `refined` replaces the prompt for the strong arm."""

    arm: Arm
    prompt: Prompt
    seed: int
    number: int
    refined: str | None = None

    def request(self) -> Request:
        weak_prompt = self.prompt.text if self.arm.refiner else self.arm.template.weak_prompt
        prompt = self.refined or self.prompt.text
        return replace(self.arm.template, prompt=prompt, seed=self.seed, weak_prompt=weak_prompt)

    @property
    def stem(self) -> str:
        """The name of its files in the arm's folder."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.text.lower()).strip("-")[:48].strip("-")
        return f"{words}-{hashlib.sha256(self.prompt.text.encode()).hexdigest()[:10]}-seed{self.seed}".strip("-")


def points_of(name: str, values: Any) -> list[Value]:
    """The labels of an axis and the settings of each."""
    if not name.strip() or not name.isprintable():
        raise Refused("axes", name, "give names of printable characters, not only spaces")
    if isinstance(values, list) and values:
        return [(label_of(value), {name: value}) for value in values]
    if isinstance(values, Mapping) and values:
        for label, of_label in values.items():
            if not isinstance(of_label, Mapping):
                accepted = "give settings, such as {variant: plain}; or {} for none"
                raise Refused(f"axes.{name}.{label}", of_label, accepted)
            if not label.strip() or not label.isprintable():
                raise Refused(f"axes.{name}", label, "give labels of printable characters, not only spaces")
        return [(label, dict(of_label)) for label, of_label in values.items()]
    raise Refused(f"axes.{name}", values, "give a list of values, or labels with settings")


def check_apart(settings: Mapping[str, Any], axes: Mapping[str, Sequence[Value]]) -> None:
    """Refuses a setting that two axes set, or one label or the plan's settings twice: an arm would use one value, and
    the plan says both.

    Raises:
        ArgumentError: names the axes and the setting.
    """
    if twice := _twice(settings):
        raise ArgumentError("settings", f"they set {twice} twice: set it once")
    by: dict[str, str] = {}
    for axis, values in axes.items():
        for label, of_label in values:
            if twice := _twice(of_label):
                raise ArgumentError(f"axes.{axis}.{label}", f"it sets {twice} twice: set it once")
        for name in dict.fromkeys(name for _, of_label in values for name in set_by(of_label)):
            if by.setdefault(name, axis) != axis:
                raise ArgumentError("axes", f"{by[name]} and {axis} both set {name}: set it on one of them")


def _twice(of_label: Mapping[str, Any]) -> str | None:
    """A setting that is set twice. None: there is none."""
    names = list(set_by(of_label))
    return next((name for name in names if names.count(name) > 1), None)


def set_by(of_label: Mapping[str, Any]) -> Iterator[str]:
    """The settings that a label sets, and the options of its method."""
    for name, value in of_label.items():
        if name != "options":
            yield name
        if name in ("options", TUNE) and isinstance(value, Mapping):
            yield from value


def label_of(value: Any) -> str:
    if isinstance(value, float):  # with six digits where they say it
        return short if float(short := f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def name_of(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}={label}" if _bare(label) else label for axis, label in labels.items()) or "all"


def tuned_setting(value: Any) -> tuple[str, tuple[float, ...]]:
    """The setting to tune, and the numbers to try.

    Raises:
        Refused: it is not one setting with two numbers or more.
    """
    accepted = "give a setting and two numbers or more, such as {guidance_scale: [2, 3, 5]}"
    if not isinstance(value, Mapping) or len(value) != 1:
        raise Refused(TUNE, value, accepted)
    ((name, values),) = value.items()
    numbers = values if isinstance(values, list) else []
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers) or len(set(numbers)) < 2:
        raise Refused(f"{TUNE}.{name}", values, accepted)
    return name, tuple(dict.fromkeys(numbers))


def settings_of(tuned: Any) -> Mapping[str, Any]:
    """The best settings of a tuned arm, from its entry under `tuned` of a plan."""
    if not isinstance(tuned, Mapping) or not isinstance(best := tuned.get("settings"), Mapping):
        raise Refused("tuned", tuned, "leave it out: the run writes it")
    return best


def _bare(label: str) -> bool:
    return re.fullmatch(r"[-+.\deE]+|true|false|null|\[.*\]", label) is not None


SETTINGS = {*settings.names(), "preset", "schedule"} - {"prompt", "seed", "pictures"}


def request_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as fields of a request. A name that is no setting counts as an option of the method."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("prompt", "seed", "prompts", "seeds"):
            raise Refused(name, value, "all arms share the plan's own: set prompts and seeds there")
        if name in (*SETTINGS, AS_COSTLY, TUNE):
            fields = over(fields, {name: value})
        else:
            fields = over(fields, {"options": {name: value}})
    return fields


def check_costly(values: Mapping[str, Any], point: Sequence[Value]) -> None:
    """Refuses numbers of steps of an arm whose steps `as_costly_as` chooses.

    Args:
        values: the arm's settings. Those that a label replaces may have `num_inference_steps`, the other label's.
        point: a value of each axis.

    Raises:
        Refused: names the setting.
    """
    beside = next(of_label for _, of_label in point if AS_COSTLY in of_label)
    reflects = values.get("variant") in (None, "w2sd")
    for name in STEPS:
        said = values.get(name) is not None
        if said and (name in beside or (name == "reflection_steps" and reflects)):
            raise Refused(name, values[name], f"{AS_COSTLY} sets it: leave it out")


def over(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both; the second win. Options are merged in the same way."""
    options: dict[str, Any] = {}
    for each in (first, second):
        if not isinstance(own := each.get("options") or {}, Mapping):
            raise Refused("options", own, "give names and values")
        options |= own
    return {**first, **second, **({"options": options} if options else {})}
