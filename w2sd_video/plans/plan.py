"""Plans: the cells of prompts x seeds x axes. A plan is a YAML file of some ten lines:

    prompts: motion            # a suite, a file, or a list of texts
    n: 20                      # how many prompts to draw, with `sample_seed`
    seeds: 0-2
    preset: shapes
    axes:
      motion_gain: [0, 1, 2, 3]
      arm:
        strong: {variant: plain}
        w2sd: {}
    dimensions: [shapes]

An axis is a setting with its values, or a name with labelled sets of settings. Every point of the product of the axes
is an arm; an arm, a prompt and a seed make a cell. All arms have the same prompts and seeds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .. import plugins, presets, prompts, setting_options, settings
from ..documents import read_yaml
from ..errors import ArgumentError, Named, Refused, did_you_mean, nearest, note_once
from ..prompts import Prompt, Suite
from ..runs import FORMATS, Request
from ..setting_types import seeds_of
from ..validation import Setting, by_option, plain, validated
from .arms import (
    AS_COSTLY,
    SETTINGS,
    TUNE,
    Arm,
    Cell,
    Grid,
    Value,
    check_apart,
    check_costly,
    label_of,
    name_of,
    over,
    points_of,
    request_fields,
    settings_of,
    tuned_setting,
)

MOST_ARMS, MOST_CELLS = 10_000, 10_000_000
MOST_SEEDS = 100_000
# Limits of a plan's file, which may hold prompts and, in a run's folder, their refined texts.
MOST_BYTES, MOST_VALUES = 8 * 2**20, 200_000
Texts = Annotated[
    str | list[str], Setting("A suite, a file, or texts.", accepted="give a suite, a file, or a list of texts")
]
Seeds = Annotated[
    int | str | list[int],
    Setting("Seeds.", accepted="give a whole number, a list of them, or a text such as 0,3,8-15"),
]
Count = Annotated[int, Field(ge=1, le=MOST_CELLS)]  # of prompts
SampleSeed = Annotated[int, Field(ge=0, le=2**62)]
Values = Annotated[dict[str, Any], BeforeValidator(plain), Setting("Settings.", accepted="give names and values")]


@validated
class Plan:
    """The videos or pictures that a run generates, and the dimensions on which it scores them.

    Args:
        prompts: a suite's name, a file of prompts, or texts.
        n: how many prompts to use: drawn at random with `sample_seed`, or the first ones if that is None. None: all.
        tags: use only prompts with these tags, each `NAME=VALUE` or a value.
        seeds: a number, numbers, or a text such as `0,3,8-15`.
        preset: the preset of all arms, unless an axis sets another.
        settings: settings of all arms.
        axes: by name, values of the setting of that name, or labelled sets of settings.
        dimensions: the dimensions on which the videos are scored. Empty: they are not scored.
        by_dimension: whether to score a dimension only on the prompts whose tag `dimension` names it, if there are
            any, as VBench's leaderboard does.
        formats: the formats in which the videos are written.
        base: the arm with which the others are compared. None: the first.
        names: "vbench" adds links to the videos under the names that VBench reads; see `names`.
        refined: refined prompts by prompt, for arms whose preset refines prompts; their weak arm gets the original
            prompt. A run adds those that are missing.
        tuning: how arms with `tune` are tuned; see `tuning.Tuning`.
        tuned: the best settings by tuned arm. A run adds them.
    """

    prompts: Texts
    n: Count | None = None
    sample_seed: SampleSeed | None = 0
    tags: list[str] = field(default_factory=list)
    seeds: Seeds = 0
    preset: str = presets.DEFAULT
    settings: Values = field(default_factory=dict)
    axes: Values = field(default_factory=dict)
    dimensions: list[str] = field(default_factory=list)
    by_dimension: bool = False
    formats: list[str] = field(default_factory=lambda: ["mp4"])
    base: str | None = None
    names: Literal["own", "vbench"] = "own"
    refined: Values = field(default_factory=dict)
    tuning: Values = field(default_factory=dict)
    tuned: Values = field(default_factory=dict)

    @cached_property
    def suite(self) -> Suite:
        """The prompts of all arms.

        Raises:
            Refused: the suite cannot be used, or has too few prompts of these tags.
        """
        if isinstance(self.prompts, list):
            suite = Suite("texts", tuple(_numbered(self.prompts)), "the plan", len(self.prompts))
        else:
            suite = prompts.load(self.prompts)
        suite = prompts.select(suite, self.tags)
        if self.n is None:
            return suite
        drawn = prompts.sample(suite, self.n, self.sample_seed or 0)
        return drawn if self.sample_seed is not None else replace(suite, prompts=suite.prompts[: self.n])

    @cached_property
    def all_seeds(self) -> list[int]:
        """The seeds of each prompt."""
        return seeds(self.seeds)

    @cached_property
    def arms(self) -> list[Arm]:
        """The arms: the product of the axes, in which the last axis varies fastest.

        Raises:
            Refused: an axis has no values, or settings that cannot be used, or there are too many arms or cells.
            ArgumentError: two axes set one setting.
        """
        points = [points_of(name, values) for name, values in self.axes.items()]
        count = math.prod(map(len, points))
        if count > MOST_ARMS or (cells := count * len(self.suite.prompts) * len(self.all_seeds)) > MOST_CELLS:
            of = f"{count} arms" if count > MOST_ARMS else f"{cells} cells"
            most = f"{MOST_ARMS} arms and {MOST_CELLS} cells"
            raise Refused("axes", list(self.axes), f"the plan has {of}, and a run at most {most}")
        check_apart(self.settings, dict(zip(self.axes, points, strict=True)))
        arms = [self._arm(combined, points) for combined in itertools.product(*points)]
        names = [arm.name for arm in arms]
        if self.base is not None and self.base not in names:
            raise Refused("base", self.base, did_you_mean(self.base, names[:60]))
        if len({arm.folder for arm in arms}) < len(arms):
            raise Refused("axes", dict(self.axes), "two of their points have the same labels: give each its own")
        return arms

    def _arm(self, point: Sequence[Value], axes: Sequence[Sequence[Value]]) -> Arm:
        """The arm of a point.

        Args:
            point: a value of each axis.
            axes: all values of each axis, to find the label that `as_costly_as` names.

        Raises:
            Refused: its settings cannot be used.
        """
        labels = dict(zip(self.axes, (label for label, _ in point), strict=True))
        of = ", ".join(f"{name} {label}" for name, label in labels.items())
        try:
            values: dict[str, Any] = {}
            for each in (self.settings, *(of_label for _, of_label in point)):
                values = over(values, request_fields(each))
            rival, tried = values.pop(AS_COSTLY, None), values.pop(TUNE, None)
            costly = None if rival is None else self._rival(str(rival), point, axes)
            if costly is not None:
                check_costly(values, point)
            grid = None if tried is None else Grid(*tuned_setting(tried), values, costly)
            if grid:
                best = self.tuned.get(name_of(labels)) or {"settings": {grid.name: grid.values[0]}}
                values = over(values, request_fields(settings_of(best)))
            return Arm(labels, *self.template(values, costly), grid)
        except Named as error:
            if isinstance(error, Refused) and error.argument.startswith(setting_options.OF_METHOD):
                raise self._unknown(error, point, of) from None
            if error.origin:
                error.origin = f"{f'axes ({of}): ' * bool(of)}{error.origin}"
            else:
                name = setting_options.whole(error.argument)
                if name in self.settings and not any(name in of_label for _, of_label in point):
                    error.argument = f"settings.{error.argument}"
                elif of:
                    error.argument = f"axes ({of}): {error.argument}"
            raise

    def _unknown(self, error: Refused, point: Sequence[Value], of: str) -> Refused | ArgumentError:
        """The error for a name that is no setting and no option of an arm's method, at its place in the plan.

        Args:
            error: the error of the method's options.
            of: the arm's labels, for the message.
        """
        name, method = str(error.value), error.argument.removeprefix(setting_options.OF_METHOD)
        places = [*((f"axes ({of})", of_label) for _, of_label in point), ("settings", self.settings)]
        place = next((place for place, own in places if name in own or name in (own.get(TUNE) or ())), None)
        if place is None:  # under `options`, or the preset's
            return error
        from ..methods import find
        from ..methods.method import own_options

        options = [option.name for option in own_options(find(method))]
        near = nearest(name, [*SETTINGS, AS_COSTLY, TUNE, *options], by_option(Request))
        meant = f" (did you mean {near!r}?)" if near else ""
        setting, option = ("", meant) if near in options else (meant, "")
        end = "" if near else f"; {error.accepted}"
        return ArgumentError(place, f"{name!r} is no setting{setting} and no option of {method}{option}{end}")

    def template(self, fields: Mapping[str, Any], costly: Request | None = None) -> tuple[Request, str | None]:
        """A request for the first prompt and seed, and the refiner of its prompts.

        Args:
            fields: settings that replace the preset's.
            costly: a request whose network evaluations the steps have to match. None: the steps stay.

        Raises:
            Refused: the settings cannot be used, or the variant is no single video.
        """
        fields = dict(fields)
        preset, schedule = fields.pop("preset", None) or self.preset, fields.pop("schedule", None)
        single = [name for name, videos in settings.VARIANTS.items() if len(videos) == 1]
        if not isinstance(preset, str):
            raise Refused("preset", preset, "give a text")
        if isinstance(method := fields.get("method"), str) and plugins.is_file(method):
            fields["method"] = os.path.basename(method)  # `plugins` registers a file under this name
        first = self.suite.prompts[0].text
        refiner = presets.load(preset).refine if fields.get("weak_prompt") is None else None
        if refiner:
            fields["weak_prompt"] = first
        if (variant := fields.get("variant")) not in (None, *single):
            accepted = "give w2sd, plain (the strong model alone) or weak; an arm of each compares them"
            raise Refused("variant", variant, accepted)
        request = Request.of(first, self.all_seeds[0], preset, schedule, **fields)
        return request if costly is None else _as_costly(request, costly), refiner

    def _rival(self, label: str, point: Sequence[Value], axes: Sequence[Sequence[Value]]) -> Request:
        """The template of the arm that `as_costly_as` names: the same point with another label on that axis.

        Raises:
            Refused: the axis has no such label, or `as_costly_as` is not in the settings of a label.
        """
        for n, (_, of_label) in enumerate(point):
            if AS_COSTLY in of_label:
                others = [value for value in axes[n] if value[0] == label and AS_COSTLY not in value[1]]
                if not others:
                    known = [each for each, other in axes[n] if AS_COSTLY not in other]
                    accepted = did_you_mean(label, known) if known else "give the axis another label, and name that one"
                    raise Refused(AS_COSTLY, label, accepted)
                return self._arm([*point[:n], others[0], *point[n + 1 :]], axes).template
        raise Refused(AS_COSTLY, label, "set it on a label of an axis, and name another label of the same axis")

    def with_stored(self, arms: list[Arm], suite: Suite | None = None) -> Plan:
        """A copy with arms and prompts that a run stored, so that it needs no models and no files of prompts.

        Args:
            suite: None: the prompts are read as the plan says.
        """
        plan = replace(self)
        vars(plan).update({"arms": arms} | ({} if suite is None else {"suite": suite}))  # the cached properties
        return plan

    @property
    def own_dimensions(self) -> list[str]:
        """The dimensions that this package computes, without those that only VBench's package computes."""
        from ..eval.dimensions import OFFICIAL

        return [name for name in self.dimensions if name not in OFFICIAL]

    def check(self) -> None:
        """Checks the whole plan, before anything is generated; and notes settings and arms that change nothing.

        Raises:
            Refused, ValueError, OSError: see `Request.of`; or there are too many cells.
        """
        from .notes import notes

        self._check_schedules()
        self._check_formats()
        self._check_dimensions()
        for text in self.refined:
            self._refined(text)
        for grammar in dict.fromkeys(arm.template.grammar for arm in self.arms):
            arm = next(arm for arm in self.arms if arm.template.grammar == grammar)
            for prompt in self.suite.prompts if grammar else ():
                replace(arm.template, prompt=prompt.text).check_words()
        for line in notes(self):
            note_once(line)

    def _check_schedules(self) -> None:
        """Refuses schedules by which an arm's cells could not be made."""
        from ..sampling import check_schedule

        for arm in self.arms:
            try:
                check_schedule(arm.template)
            except Refused as error:
                error.argument = f"{f'axes ({arm.name}): ' * bool(arm.labels)}{error.argument}"
                raise

    def _check_dimensions(self) -> None:
        """Refuses dimensions that could not be scored after the run."""
        if not self.dimensions:
            return
        from ..eval.dimensions import Compared, chosen
        from .by_dimension import UNASKED, asked_by, names_of_none

        for name in names_of_none(self) if self.by_dimension else ():
            note_once(f"prompts have the tag dimension={name}, and no dimension has this name")
        for name in self.dimensions:
            if plugins.is_file(name):
                way = "leave it out, and score with w2sd-video score RUN --dimensions FILE.py:NAME"
                raise Refused("dimensions", name, f"a plan names no code: {way}")
            if asked_by(self, [name]).get(name) == frozenset():
                raise Refused("dimensions", name, UNASKED.format(name))
        fewest = min(self.arms, key=lambda arm: arm.template.num_frames or 1)
        if len(self.own_dimensions) < len(self.dimensions) and not fewest.template.video:
            raise Refused("dimensions", self.dimensions, "VBench's package scores videos, and the plan makes images")
        for each in chosen(self.own_dimensions) if self.own_dimensions else ():
            if each.least_frames > (frames := fewest.template.num_frames or 1):
                accepted = f"it takes {each.least_frames} frames or more, and {fewest.name!r} makes {frames}"
                raise Refused("dimensions", each.name, accepted)
            if isinstance(each, Compared) and each.referenced:
                accepted = "it compares with other pictures: use w2sd-video eval --references"
                raise Refused("dimensions", each.name, accepted)

    def _check_formats(self) -> None:
        first = self.arms[0]
        for arm in self.arms:
            if arm.template.video != first.template.video:
                accepted = f"{arm.name!r} makes {arm.template.kind}s, and {first.name!r} {first.template.kind}s"
                raise Refused("axes", list(self.axes), f"{accepted}: give arms of one kind")
        unknown = next((name for name in self.formats if name not in FORMATS), None)
        if unknown is not None or not self.formats:
            raise Refused("formats", unknown or [], f"give some of {', '.join(FORMATS)}")
        if not first.template.video and self.formats != ["mp4"]:
            raise Refused("formats", self.formats, "leave it out: images are always PNG")
        if self.dimensions and "mp4" not in self.formats:
            raise Refused("formats", self.formats, "add mp4, on which the dimensions are scored")
        if "differences" in self.formats:
            import matplotlib  # noqa: F401 - draws them, and may be missing

    def cells(self) -> Iterator[Cell]:
        """All cells; those with the same prompt and seed follow each other."""
        points = itertools.product(self.suite.prompts, self.all_seeds, self.arms)
        for number, (prompt, seed, arm) in enumerate(points):
            yield Cell(arm, prompt, seed, number, self._refined(prompt.text) if arm.refiner else None)

    def _refined(self, text: str) -> str | None:
        """The refined prompt; None if the prompt is not refined yet.

        Raises:
            Refused: the plan's entry is not a text.
        """
        refined = self.refined.get(text)
        if refined is not None and not (isinstance(refined, str) and refined.strip()):
            raise Refused(f"refined.{text}", refined, "give a text that is not empty")
        return refined


def _as_costly(template: Request, rival: Request) -> Request:
    """The request with the fewest steps that take at least as many network evaluations as the rival."""
    from ..sampling import evaluations, steps_for

    return template.of_steps(steps_for(template, evaluations(rival)["total"]))


def check_plan(plan: object) -> None:
    """Refuses what is no plan, such as the name of its file."""
    if not isinstance(plan, Plan):
        file = str(plan) if isinstance(plan, (str, os.PathLike)) else "arms.yaml"
        raise Refused("plan", plan, f"give a `Plan`; `plans.read({file!r})` reads one from a file")


def read(path: str | os.PathLike[str]) -> Plan:
    """Reads a plan from a YAML file. Relative paths in it that exist beside the file become absolute.

    Raises:
        OSError: the file cannot be read.
        Refused, ValueError: it is no plan.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise Refused("path", path, "give the path of a plan's file")
    data = read_yaml(path, MOST_BYTES, MOST_VALUES)
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"{path}: give names and values, such as prompts: smoke")
    here = Path(os.path.abspath(path)).parent
    data = {name: _beside(here, name, value) for name, value in data.items()}
    try:
        return Plan(**data)
    except Refused as error:
        raise Refused(f"{path}: {error.argument}", error.value, error.accepted) from None


# Settings that name files or folders, and keys within settings that do.
_PATHS = {*settings.PLACES, *settings.PICTURES, "prompts", "preset", "model", "image_encoder"}


def _beside(folder: Path, name: str, value: Any) -> Any:
    """A part of a plan in which relative paths that exist in the plan's folder are made absolute."""
    if isinstance(value, str) and name in _PATHS and not os.path.isabs(value):
        beside = folder / value
        there = (os.path.isfile if name in ("prompts", "preset") else os.path.exists)(beside)
        return str(beside) if value and "\0" not in value and there else value
    if isinstance(value, list):
        return [_beside(folder, name, each) for each in value]
    if not isinstance(value, Mapping):
        return value
    parts = {each: _beside(folder, each, part) for each, part in value.items()}
    if name == "axes":  # the label of a path stays the path as the plan writes it
        for axis in (axis for axis, part in parts.items() if isinstance(part, list) and part != value[axis]):
            parts[axis] = {label_of(old): {axis: new} for old, new in zip(value[axis], parts[axis], strict=True)}
    return parts


def seeds(value: int | str | Sequence[int]) -> list[int]:
    """Seeds as numbers, each once.

    Raises:
        Refused: one is negative, too large or no whole number, there are none, or too many.
    """
    parts = value.split(",") if isinstance(value, str) else [str(value)] if isinstance(value, int) else map(str, value)
    return seeds_of("seeds", value, parts, MOST_SEEDS)


def _numbered(texts: Sequence[str]) -> Iterator[Prompt]:
    if not texts:
        raise Refused("prompts", [], "give at least one text")
    if (empty := next((text for text in texts if not text.strip()), None)) is not None:
        raise Refused("prompts", empty, "give texts that are not empty")
    for text in dict.fromkeys(text.strip() for text in texts):  # as in files of prompts
        try:
            yield Prompt(hashlib.sha256(text.encode()).hexdigest()[:16], text)
        except UnicodeEncodeError:
            raise Refused("prompts", text, "give text that is Unicode") from None
