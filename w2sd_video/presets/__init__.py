"""Named pairs as data: one YAML a pair, `NAME.yaml` in this folder, with the paper's expected numbers in it.

A key is a field of `Preset`, and every field is written out in every file: a key that is missing or that
`Preset` does not know is refused, so that a misspelt one cannot be silently ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DEFAULT = "shapes"


@dataclass(frozen=True)
class Preset:
    """A pair of models and the settings to run it with.

    Models are hub ids, or `package:FOLDER` for what the package itself ships. Guidance is
    `uncond + w (cond - uncond)`: 1 is the conditional prediction alone, 0 the unconditional one.
    """

    name: str
    description: str
    source: str  # the paper's table, or who made the models
    strong: str
    weak: str
    motion_adapter: str
    weak_text_encoders: bool  # whether the weak arm encodes prompts with the weak model's own text encoders
    grammar: str | None  # the `w2sd_video.GRAMMAR.grammar` that its prompts must follow; null: any text
    schedule: str  # the default among `schedules`
    schedules: dict[str, dict[str, Any]]  # name -> {class: a diffusers scheduler, **its arguments}
    num_inference_steps: int
    guidance_scale: float  # of the final denoising step
    strong_guidance_scale: float  # of the reflection's strong arm
    weak_guidance_scale: float  # of the reflection's weak arm
    reflection_steps: int | None  # lambda; null: all steps but the last
    num_frames: int
    height: int
    width: int
    fps: int
    dtype: str
    expected: dict[str, Any] | None  # the paper's numbers for this pair


def names() -> list[str]:
    """The presets there are, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))


def load(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none of that name; or its file lacks a key, or has one that is not known.
    """
    if name not in names():
        raise ValueError(f"preset {name!r} is unknown; {did_you_mean(name, names())}")
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Preset:
    """Reads one preset file; `load` by path."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(data).__name__}")
    known = [field.name for field in fields(Preset) if field.name != "name"]
    for key in data:
        if key not in known:
            raise ValueError(f"{path}: key {key!r} is unknown; {did_you_mean(str(key), known)}")
    missing = [key for key in known if key not in data]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing")
    preset = Preset(name=path.stem, **data)
    for schedule, config in preset.schedules.items():
        if not isinstance(config, dict) or "class" not in config:
            raise ValueError(f"{path}: schedules.{schedule} needs a class, the name of a diffusers scheduler")
    if preset.schedule not in preset.schedules:
        hint = did_you_mean(preset.schedule, preset.schedules)
        raise ValueError(f"{path}: schedule {preset.schedule!r} is not among its schedules; {hint}")
    return preset


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Available: {', '.join(known)}"
