"""Presets: named pairs as data, a file `NAME.yaml` in this folder for each, with the paper's expected numbers.

The keys are the fields of `Preset`. A missing key has the value of the preset that the file `extends`, or else the
field's default. Unknown keys are refused, and so are missing keys without a default, so a misspelt key is not ignored.

Installed plug-ins bring more presets (see `w2sd_video.plugins`): the entry point NAME is a package with a `NAME.yaml`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from .. import plugins, setting_options, settings
from ..documents import read_yaml, words_as_booleans
from ..errors import Named, OfWeights, Refused, did_you_mean, shown
from ..families import FAMILIES, Family
from ..setting_types import Names, Note, Text
from ..settings import Pair
from ..validation import Setting, by_option, plain, validated

__all__ = ["DEFAULT", "FAMILIES", "FOLDER", "Family", "Pair", "Preset", "load", "names", "naming", "read", "text"]

FOLDER = Path(__file__).parent
DEFAULT = "shapes"


@validated
class Preset(Pair):
    """A pair of models and the settings to run it with."""

    name: Text
    description: Note
    source: Note  # the paper's table, or who made the models
    reflection_steps: int | None = None  # lambda; null: all steps but the last
    refine: Text | None = None  # the refiner of the strong arm's prompt, as for `--refine`
    schedule: Annotated[Note, Setting("One of the preset's noise schedules.", ("--schedule",), "Models")]
    schedules: Annotated[  # name -> {class: a diffusers scheduler, **its arguments}
        dict[str, Names],
        BeforeValidator(plain),
        Setting("Noise schedules.", accepted="give names, each with a class and its arguments"),
    ]
    expected: Annotated[  # the paper's numbers, as tables
        list[dict[str, Any]], BeforeValidator(plain), Setting("Tables.", accepted="give a list of tables")
    ] = field(default_factory=list)


def builtin() -> list[str]:
    """The presets of this package, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))


def names() -> list[str]:
    """The names of all presets, the default first, those of plug-ins last."""
    own = builtin()
    return [*own, *plugins.names("preset", own)]


def every() -> tuple[list[Preset], list[ValueError]]:
    """All presets that can be loaded, in the order of `names`; and what is wrong with the plug-ins' other ones."""
    loaded: list[Preset] = []
    broken: list[ValueError] = []
    own = builtin()
    for name in [*own, *(name for name in plugins.installed("preset") if name not in own)]:
        try:
            loaded.append(load(name))
        except ValueError as error:
            broken.append(error)
    return loaded, [*broken, *plugins.taken("preset", own)]


def source(name: str) -> str:
    """The distribution and version of a plug-in's preset; empty if the preset is built in."""
    plugin = plugins.find("preset", name, builtin())
    return plugin.source if plugin else ""


def load(name: str) -> Preset:
    """Loads a preset by its name, or from a file (`*.yaml`).

    Raises:
        Refused: there is no preset of that name.
        ValueError: its file lacks a key, or has an unknown one.
    """
    if not isinstance(name, str):
        raise Refused("preset", name, "give the name of a preset or of its YAML file, a text")
    if name.endswith((".yaml", ".yml")):
        path = Path(os.path.expanduser(name))
        if not os.path.isfile(path):
            raise Refused("preset", name, f"there is no such file; {did_you_mean(path.stem, names())}")
        return read(path)
    if name not in names() and not plugins.installed("preset").get(name):
        raise Refused("preset", name, did_you_mean(name, names()))
    plugin = plugins.find("preset", name, builtin())
    if plugin is None:
        return read(FOLDER / f"{name}.yaml")
    try:
        return read(plugin.value, name)
    except (OSError, ValueError) as error:
        raise ValueError(f"preset {name!r}, of {plugin.source}: {error}") from None


def read(path: Path, name: str | None = None) -> Preset:
    """Reads one preset file. `name` is the preset's name. Default: that of its file."""
    data = _said(path)
    known = {field.name: field for field in fields(Preset) if field.name != "name"}
    needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if (family := data.get("family")) is not None and family not in list(FAMILIES):
        raise ValueError(f"{path}: family {shown(family)} is unknown; {did_you_mean(str(family)[:100], FAMILIES)}")
    if family is not None:
        needed += settings.needed(family)
    missing = [name for name in needed if data.get(name) is None]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing")
    try:
        preset = Preset(name=name or (path.stem if path.parent == FOLDER else str(path.absolute())), **data)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    for schedule, config in preset.schedules.items():
        if not isinstance(config.get("class"), str):
            raise ValueError(f"{path}: schedules.{schedule} needs a class, the name of a diffusers scheduler")
    if preset.schedule not in preset.schedules:
        hint = did_you_mean(preset.schedule, preset.schedules)
        raise ValueError(f"{path}: schedule {preset.schedule!r} is not among its schedules; {hint}")
    return preset


_WITH_BOOLEANS = ("weak_text_encoders", "schedules", "options")  # keys in which `no` means false


def _said(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a file, over those of the preset that it extends."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(data).__name__}")
    data = {key: words_as_booleans(each) if key in _WITH_BOOLEANS else each for key, each in data.items()}
    known = ["extends", *(field.name for field in fields(Preset) if field.name != "name")]
    for key in data:
        if key not in known:
            raise ValueError(
                f"{path}: key {shown(key)} is unknown; {did_you_mean(str(key)[:100], known, by_option(Preset))}"
            )
    if path.parent != FOLDER:
        find_beside(data, path.parent)
    base = data.pop("extends", None)
    if base is None:
        return data
    if base not in (known := builtin()):
        raise ValueError(
            f"{path}: extends {shown(base)}, which is no built-in preset; {did_you_mean(str(base)[:100], known)}"
        )
    if FOLDER / f"{base}.yaml" in (path, *extended):
        raise ValueError(f"{path}: extends itself, by {base!r}")
    theirs = _said(FOLDER / f"{base}.yaml", (path, *extended))
    own = {"description", "source", "expected"}  # what is said of the other pair alone
    return {key: value for key, value in theirs.items() if key not in own} | data


@contextmanager
def naming(pair: Preset, overrides: Mapping[str, Any]) -> Iterator[None]:
    """Makes errors inside that are about a preset's own values name the preset and the key.

    Args:
        overrides: settings that replace the preset's.
    """
    try:
        yield
    except Named as error:
        if not error.origin and _is_own(pair, overrides, error):
            error.origin, error.replaceable = f"preset {pair.name}: its", True
            if (name := error.argument.partition("."))[0] == "scheduler":
                error.argument = "".join((f"schedules.{overrides.get('schedule') or pair.schedule}", *name[1:]))
        raise


def _is_own(pair: Preset, overrides: Mapping[str, Any], error: Named) -> bool:
    """Whether an error is about a value of the preset, and not about one that replaces it."""
    name, parts = setting_options.whole(error.argument), error.argument.split(".")[1:]
    if error.argument in overrides and name != error.argument:  # no setting at all, such as `lora`
        return False
    if error.argument.startswith(setting_options.OF_METHOD):  # and then the method's name, which may have a dot
        parts = []
    if name not in {"scheduler", *(field.name for field in fields(Preset))}:
        return False
    if isinstance(error, OfWeights) and name in ("adapters", "ip_adapter"):
        own = {*pair.models.values(), pair.ip_adapter and pair.ip_adapter.get("image_encoder")}
        return error.source is not None and error.source.value in own
    value: Any = error.value if isinstance(error, Refused) else ""
    if name != "options":
        return value is not None and _is_part(getattr(pair, name, None), overrides.get(name), parts)
    keys = parts or (list(value) if isinstance(value, Mapping) else [value])
    return bool(keys) and all(_is_part(pair.options, overrides.get(name), [str(key)]) for key in keys)


def _is_part(own: Any, other: Any, parts: Sequence[str]) -> bool:
    """Whether a part of a setting comes from the preset's `own` value, and not from the `other` that replaces it."""
    if other is None:
        return True
    if not parts or not isinstance(own, Mapping) or not isinstance(other, Mapping):
        return False
    if parts[1:]:
        return _is_part(own.get(parts[0]), other.get(parts[0]), parts[1:])
    return parts[0] not in other or (parts[0] in own and own[parts[0]] == other[parts[0]])


def text(preset: Preset) -> str:
    """A preset as the text of a file that extends no other: every field is written."""
    import yaml

    said = {name: value for name, value in asdict(preset).items() if name != "name"}
    return yaml.safe_dump(said | {"expected": list(preset.expected)}, sort_keys=False, allow_unicode=True, width=120)


def find_beside(data: dict[str, Any], folder: Path) -> None:
    """Makes models in a preset file absolute paths if they exist beside the file; others stay, as hub ids."""
    adapters = data.get("adapters")
    named = [data.get("controlnet"), data.get("ip_adapter")]
    named += adapters.values() if isinstance(adapters, dict) else []
    places = [(data, name) for name in settings.PLACES]
    places += [(each, key) for each in named if isinstance(each, dict) for key in ("model", "image_encoder")]
    for place, name in places:
        if isinstance(model := place.get(name), str) and os.path.exists(folder / model):
            place[name] = str((folder / model).absolute())
