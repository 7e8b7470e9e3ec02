"""Named pairs as data: one YAML a pair, `NAME.yaml` in this folder, with the paper's expected numbers in it.

A key is a field of `Preset`. What a file does not say is what the preset says that it `extends`, and else the field's
default. A key that `Preset` does not know, or one without a default that nobody says, is refused, so that a misspelt
one cannot be silently ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import did_you_mean

FOLDER = Path(__file__).parent
DEFAULT = "shapes"


@dataclass(frozen=True)
class Family:
    """What a pair's `family` says: the classes of `w2sd_video.pipelines`, and whether they make videos."""

    pipeline: str
    with_controlnet: str | None = None
    video: bool = False


FAMILIES = {
    "animatediff-sdxl": Family("W2SDAnimateDiffSDXLPipeline", video=True),
    "animatediff": Family("W2SDAnimateDiffPipeline", "W2SDAnimateDiffControlNetPipeline", video=True),
    "stable-diffusion-xl": Family("W2SDStableDiffusionXLPipeline", "W2SDStableDiffusionXLControlNetPipeline"),
    "stable-diffusion": Family("W2SDStableDiffusionPipeline", "W2SDStableDiffusionControlNetPipeline"),
    "dit-moe": Family("W2SDDiTMoEPipeline"),
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a preset and a request both say: two arms, as the differences between them, and how they are sampled.

    Models are hub ids, files in a hub repository (`OWNER/NAME/FILE`), paths, or `package:FOLDER` for what the package
    itself ships. Guidance is `uncond + w (cond - uncond)`: 1 is the conditional prediction alone, 0 the unconditional
    one. Differences compose by being named together.
    """

    family: str  # one of FAMILIES
    strong: str
    weak: str | None = None  # null: the weak arm is the strong model
    vae: str | None = None  # another autoencoder than the strong model's
    weak_text_encoders: bool = False  # whether the weak arm encodes prompts with the weak model's own text encoders
    motion_adapter: str | None = None  # of a video: both arms' motion module
    weak_motion_adapter: str | None = None  # another one for the weak arm
    weak_motion_scale: float | None = None  # times which the weak arm's motion module adds what it adds
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # LoRAs: name -> {model, strong, weak}
    controlnet: Mapping[str, Any] | None = None  # {model, strong, weak}: scales of the residuals
    ip_adapter: Mapping[str, Any] | None = None  # {model, strong, weak, image_encoder}: the last where it is elsewhere
    weak_routing: str | list[int] | None = None  # of a mixture of experts: the weak arm's
    grammar: str | None = None  # the `w2sd_video.GRAMMAR.grammar` that prompts must follow; null: any text
    num_inference_steps: int
    guidance_scale: float  # of the final denoising step
    strong_guidance_scale: float  # of the reflection's strong arm
    weak_guidance_scale: float  # of the reflection's weak arm
    num_frames: int | None = None  # of a video
    fps: int | None = None  # of a video
    height: int
    width: int
    dtype: str

    @property
    def video(self) -> bool:
        """Whether it makes videos, or else images."""
        return self.family in FAMILIES and FAMILIES[self.family].video

    @property
    def kind(self) -> str:
        """What it makes: `video` or `image`."""
        return "video" if self.video else "image"

    @property
    def models(self) -> dict[str, str]:
        """Every model that it names, by what it is."""
        named = {
            name: getattr(self, name) for name in ("strong", "weak", "vae", "motion_adapter", "weak_motion_adapter")
        }
        named |= {f"adapters.{name}": each["model"] for name, each in self.adapters.items()}
        named |= {
            f"{name}.model": each["model"]
            for name in ("controlnet", "ip_adapter")
            if (each := getattr(self, name)) is not None
        }
        return {name: model for name, model in named.items() if model is not None}


@dataclass(frozen=True, kw_only=True)
class Preset(Pair):
    """A pair of models and the settings to run it with."""

    name: str
    description: str
    source: str  # the paper's table, or who made the models
    reflection_steps: int | None = None  # lambda; null: all steps but the last
    refine: str | None = None  # what makes the strong arm's prompt of the weak arm's, as `--refine` takes it
    schedule: str  # the default among `schedules`
    schedules: dict[str, dict[str, Any]]  # name -> {class: a diffusers scheduler, **its arguments}
    expected: tuple[dict[str, Any], ...] | list[dict[str, Any]] = ()  # the paper's numbers for it, a table each


def names() -> list[str]:
    """The presets there are, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))


def load(name: str) -> Preset:
    """The preset of that name, or of that file (`*.yaml`).

    Raises:
        ValueError: there is none of that name; or its file lacks a key, or has one that is not known.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"preset {name!r} is not a file; {did_you_mean(path.stem, names())}")
        return read(path)
    if name not in names():
        raise ValueError(f"preset {name!r} is unknown; {did_you_mean(name, names())}")
    return read(FOLDER / f"{name}.yaml")


def read(path: Path) -> Preset:
    """Reads one preset file; `load` by path."""
    data = _said(path)
    known = {field.name: field for field in fields(Preset) if field.name != "name"}
    needed = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if (family := data.get("family")) is not None and family not in list(FAMILIES):
        raise ValueError(f"{path}: family {family!r} is unknown; {did_you_mean(str(family), FAMILIES)}")
    if family is not None and FAMILIES[family].video:
        needed += ["motion_adapter", "num_frames", "fps"]
    missing = [name for name in needed if data.get(name) is None]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing")
    if not isinstance(data["schedules"], dict):
        raise ValueError(f"{path}: schedules is {data['schedules']!r}; give names, each with a class and its arguments")
    preset = Preset(name=path.stem if path.parent == FOLDER else str(path.absolute()), **data)
    for schedule, config in preset.schedules.items():
        if not isinstance(config, dict) or "class" not in config:
            raise ValueError(f"{path}: schedules.{schedule} needs a class, the name of a diffusers scheduler")
    if preset.schedule not in preset.schedules:
        hint = did_you_mean(preset.schedule, preset.schedules)
        raise ValueError(f"{path}: schedule {preset.schedule!r} is not among its schedules; {hint}")
    return preset


def _said(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a file, over those of the preset that it extends."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(data).__name__}")
    known = ["extends", *(field.name for field in fields(Preset) if field.name != "name")]
    for key in data:
        if key not in known:
            raise ValueError(f"{path}: key {key!r} is unknown; {did_you_mean(str(key), known)}")
    if path.parent != FOLDER:
        _find_beside(data, path.parent)
    base = data.pop("extends", None)
    if base is None:
        return data
    if base not in names():
        raise ValueError(f"{path}: extends {base!r}, which is no preset; {did_you_mean(str(base), names())}")
    if FOLDER / f"{base}.yaml" in (path, *extended):
        raise ValueError(f"{path}: extends itself, by {base!r}")
    theirs = _said(FOLDER / f"{base}.yaml", (path, *extended))
    own = {"description", "source", "expected"}  # what is said of the other pair alone
    return {key: value for key, value in theirs.items() if key not in own} | data


def text(preset: Preset) -> str:
    """Every field of a preset, as a file of its own would say it: one that extends no other."""
    import yaml

    said = {name: value for name, value in asdict(preset).items() if name != "name"}
    return yaml.safe_dump(said | {"expected": list(preset.expected)}, sort_keys=False, allow_unicode=True, width=120)


def _find_beside(data: dict[str, Any], folder: Path) -> None:
    """Makes paths of models in a preset file those of its folder, where there is such a file; as hub ids they stay."""
    adapters = data.get("adapters")
    named = [data.get("controlnet"), data.get("ip_adapter")]
    named += adapters.values() if isinstance(adapters, dict) else []
    places = [(data, name) for name in ("strong", "weak", "vae", "motion_adapter", "weak_motion_adapter")]
    places += [(each, key) for each in named if isinstance(each, dict) for key in ("model", "image_encoder")]
    for place, name in places:
        if isinstance(model := place.get(name), str) and (folder / model).exists():
            place[name] = str((folder / model).absolute())
