"""What was asked, what was made, what is left: requests, their files, and the sidecars that make them again.

A `Request` is one output with everything that decides its frames. Beside every video lies `NAME.json`, its
sidecar: the request, and what came of it. A sidecar is written last, so a video that has one is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import presets
from ..errors import Refused, did_you_mean
from ..models.sources import absolute, resolve

if TYPE_CHECKING:
    import torch

# What a request shows: the videos to make, in this order. Only "w2sd" is made with the method on.
VARIANTS = {"w2sd": ("w2sd",), "plain": ("strong",), "weak": ("weak",), "compare": ("weak", "strong", "w2sd")}
FORMATS = ("mp4", "gif", "png")
DTYPES = ("float32", "float16", "bfloat16")
CONVENTIONS = ("exact", "published")
# What a method has as a field of its own, and a request too.
_REQUESTED = ("strong_guidance", "weak_guidance", "reflection_steps", "inversion", "convention")


@dataclass(frozen=True, kw_only=True)
class Request(presets.Pair):
    """One output to make, with everything that decides its frames. `Request.of` fills it from a preset.

    `reflection_steps` is lambda, the number of steps that reflect, from the noisiest down. `scheduler` is a diffusers
    class and its arguments. `options` are the method's own, by name; see `methods`. `control` and `ip_image` are files:
    what a ControlNet is shown (for a video: a video or a folder of frames), and what an IP-Adapter is; `pictures` are
    their hashes, so that another picture of that name is not taken for it.
    """

    prompt: str
    seed: int
    preset: str
    scheduler: Mapping[str, Any]
    reflection_steps: int
    device: str = "auto"
    variant: str = "w2sd"
    negative_prompt: str | None = None
    weak_prompt: str | None = None
    weak_negative_prompt: str | None = None
    control: str | None = None
    ip_image: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    inversion: str | int = "x_s"
    convention: str = "exact"
    method: str = "w2sd"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        prompt: str,
        seed: int = 0,
        preset: str | presets.Preset = presets.DEFAULT,
        schedule: str | None = None,
        **overrides: Any,
    ) -> Request:
        """A request from a preset (or its name), with the fields of `overrides` in place of its own.

        Another strong model than the preset's lifts the preset's grammar.

        Raises:
            Refused: a value that cannot be used.
            ValueError: an unknown preset.
        """
        pair = presets.load(preset) if isinstance(preset, str) else preset
        schedule = schedule or pair.schedule
        if schedule not in pair.schedules:
            raise Refused("schedule", schedule, did_you_mean(schedule, pair.schedules))
        shared = {field.name for field in fields(cls)} & {field.name for field in fields(presets.Preset)}
        values: dict[str, Any] = {name: getattr(pair, name) for name in shared}
        values |= {"preset": pair.name, "scheduler": pair.schedules[schedule]}
        values |= {name: value for name, value in overrides.items() if value is not None}
        if values["strong"] != pair.strong:
            values["grammar"] = None
        for name in ("strong", "weak", "vae", "motion_adapter", "weak_motion_adapter", "control", "ip_image"):
            if isinstance(path := values.get(name), str):
                values[name] = absolute(path)
        for name in ("controlnet", "ip_adapter"):
            if isinstance(scaled := values.get(name), Mapping) and isinstance(scaled.get("model"), str):
                paths = {k: absolute(v) for k, v in scaled.items() if k in ("model", "image_encoder") and v is not None}
                values[name] = {**scaled, **paths}
        given = {name: path for name in ("control", "ip_image") if (path := values.get(name)) and os.path.exists(path)}
        values["pictures"] = {name: _hash(Path(path)) for name, path in given.items()}
        if values["reflection_steps"] is None and isinstance(values["num_inference_steps"], int):
            values["reflection_steps"] = max(values["num_inference_steps"] - 1, 0)
        request = cls(prompt=prompt, seed=seed, **values)
        request.check()
        return request

    def check(self) -> None:
        """Refuses what cannot be used, before any model is loaded.

        Raises:
            Refused: names the argument, the value and what is accepted.
            ValueError: the prompt is outside the preset's grammar.
            OSError: a model of the package, or a folder, is missing.
        """
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise Refused("prompt", self.prompt, "give a text that is not empty")
        _whole("seed", self.seed, 0, 2**63 - 1)
        trained = self.scheduler.get("num_train_timesteps", 1000)
        _whole("num_inference_steps", self.num_inference_steps, 1, trained)
        # The published code's inverse has no level for the last step.
        most = self.num_inference_steps - (self.convention == "published")
        _whole("reflection_steps", self.reflection_steps, 0, most)
        for name in ("guidance_scale", "strong_guidance_scale", "weak_guidance_scale"):
            _number(name, getattr(self, name))
        for name in ("height", "width"):
            _whole(name, getattr(self, name), 8, None, multiple=8)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("convention", self.convention, CONVENTIONS)
        _one_of("variant", self.variant, VARIANTS)
        if self.inversion not in ("x_s", "x_t"):
            if isinstance(self.inversion, str):
                raise Refused("inversion", self.inversion, "give x_s, x_t or a number of iterations")
            _whole("inversion", self.inversion, 0, None)
        self._check_method()
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", str(self.device)):
            raise Refused("device", self.device, "give auto, cpu, cuda, cuda:N, mps or xpu")
        if self.grammar:
            self._check_grammar()
        _one_of("family", self.family, presets.FAMILIES)
        self._check_models()
        self._check_family()
        self._check_arms()
        self._check_pictures()

    def _check_models(self) -> None:
        """Refuses models that are not there, and scales that are none."""
        if not isinstance(self.adapters, Mapping):
            raise Refused("adapters", self.adapters, "give names, each with model, strong and weak")
        for name in self.adapters:
            if not re.fullmatch(r"\w+", str(name)):
                raise Refused("adapters", name, "name it by letters, digits and _")
        scaled: dict[str, Any] = {f"adapters.{name}": each for name, each in self.adapters.items()}
        scaled |= {"controlnet": self.controlnet, "ip_adapter": self.ip_adapter}
        for name, each in scaled.items():
            if each is None:
                continue
            also = {"image_encoder"} if name == "ip_adapter" else set()
            if not isinstance(each, Mapping) or set(each) - also != {"model", "strong", "weak"}:
                raise Refused(name, each, "give model, strong and weak: the model, and its scale in each arm")
            for arm in ("strong", "weak"):
                _number(f"{name}.{arm}", each[arm])
        for name, model in self.models.items():
            try:
                resolve(model, name)
            except OSError as error:
                if self.preset not in presets.names() or presets.load(self.preset).models.get(name) != model:
                    raise
                raise OSError(f"{error}. `w2sd-video presets {self.preset}` says where it is from") from None
        if self.ip_adapter is not None and not resolve(self.ip_adapter["model"], "ip_adapter").is_file:
            raise Refused("ip_adapter", self.ip_adapter["model"], "name its file of weights, beside image_encoder/")
        if self.ip_adapter is not None and (encoder := self.ip_adapter.get("image_encoder")) is not None:
            resolve(encoder, "image_encoder", folders=True)

    def _check_family(self) -> None:
        """Refuses what the family does not have, and what it needs and nobody says."""
        family = presets.FAMILIES[self.family]
        for name in ("motion_adapter", "num_frames", "fps"):
            if (getattr(self, name) is None) == self.video:
                accepted = "give one" if self.video else "give none"
                raise Refused(name, getattr(self, name), f"{accepted}: {self.family} makes {self.kind}s")
        if self.video:
            assert self.motion_adapter is not None
            _whole("num_frames", self.num_frames, 1, _most_frames(self.motion_adapter))
            _whole("fps", self.fps, 1, 240)
        lacks = ["weak_motion_scale", "weak_motion_adapter"] * (not self.video)
        lacks += ["controlnet"] * (family.with_controlnet is None)
        if self.family == "dit-moe":
            lacks += ["weak", "adapters", "ip_adapter", "negative_prompt", "weak_prompt", "weak_negative_prompt"]
        else:
            lacks += ["weak_routing"]
        for name in lacks:
            if (value := getattr(self, name)) is not None and value != {}:
                raise Refused(name, value, f"{self.family} has none")

    def _check_arms(self) -> None:
        """Refuses differences that cannot be."""
        if not isinstance(self.weak_text_encoders, bool):
            raise Refused("weak_text_encoders", self.weak_text_encoders, "give true or false")
        if self.weak_text_encoders and self.weak is None:
            raise Refused("weak_text_encoders", True, "there is no other weak model to take them of")
        if self.weak_motion_scale is not None:
            _number("weak_motion_scale", self.weak_motion_scale)
        match self.weak_routing:
            case None | "best" | "worst" | [int(), int()]:
                pass
            case _:
                accepted = "give worst, or two ranks, the first that runs and the first that does not: 2,4"
                raise Refused("weak_routing", self.weak_routing, accepted)
        scaled = [("adapters", each) for each in self.adapters.values()] + [("ip_adapter", self.ip_adapter or {})]
        for name, each in [] if self.one_network else scaled:
            if each.get("weak", 0) != 0:
                accepted = "it acts on the strong arm's network, and the weak one is another: give 0 for the weak arm"
                raise Refused(name, each["weak"], accepted)

    def _check_pictures(self) -> None:
        """Refuses pictures that are not there, or not those that they were."""
        for name, of in (("control", self.controlnet), ("ip_image", self.ip_adapter)):
            path = getattr(self, name)
            if of is None and path is not None:
                raise Refused(name, path, "the pair has no use for it; give a preset that has")
            if of is not None and path is None:
                raise Refused(name, path, f"preset {self.preset} needs a picture: give a file")
            if path is not None and not os.path.exists(path):
                raise Refused(name, path, "give a file that is there")
            if path is not None and self.pictures.get(name) != _hash(Path(path)):
                raise Refused(name, path, "it is not the picture that it was when this was asked for")

    @property
    def one_network(self) -> bool:
        """Whether both arms are evaluated by the strong model's network, differently set."""
        return self.weak is None and self.weak_motion_adapter is None

    def _check_method(self) -> None:
        if self.variant != "w2sd" and self.guidance_scale < 1 and (self.variant != "weak" or self.weak is not None):
            accepted = "without a method the pipelines take everything up to 1 as 1: give 1 or more"
            raise Refused("guidance_scale", self.guidance_scale, accepted)
        if self.method == "w2sd" and not self.options:
            return  # without torch, which takes seconds to import
        from ..methods import METHODS

        _one_of("method", self.method, [name for name in METHODS if name != "weak"])  # that is a variant
        has = [f.name for f in fields(METHODS[self.method])]
        if self.inversion != "x_s" and "inversion" not in has:
            raise Refused("inversion", self.inversion, f"{self.method} inverts nothing: give none")
        known = [name for name in has if name not in _REQUESTED]
        for name in self.options:
            if name not in known:
                raise Refused(f"option of {self.method}", name, did_you_mean(name, known))
        try:
            METHODS[self.method](**self.options).check((1, 1, 1, 1, 1) if self.video else (1, 1, 1, 1))
        except ValueError as error:
            raise Refused("options", dict(self.options), str(error)) from None

    def _check_grammar(self) -> None:
        """Refuses a prompt that the model never learnt to read."""
        _one_of("grammar", self.grammar, ("shapes",))
        parse = import_module(f"w2sd_video.{self.grammar}.grammar").parse
        for name in ("prompt", "weak_prompt"):
            try:
                if (text := getattr(self, name)) is not None:
                    parse(text)
            except ValueError as error:
                said = str(error).removeprefix("prompt: ")
                way = "Any text is taken by the presets of real models, which `w2sd-video presets` lists"
                raise ValueError(f"{name}: {said}\n{way}") from None

    @property
    def stem(self) -> str:
        """The name of the output files, without suffix: the prompt's words, the seed, the method, the variant.

        A prompt that its words do not give back (case, punctuation, length) adds a few digits of its hash, so
        that two prompts do not share a name.
        """
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:60].strip("-")
        if words.replace("-", " ") != self.prompt:
            words = f"{words}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:6]}".strip("-")
        by = [self.method] if self.variant in ("w2sd", "compare") else []
        return "-".join([words, f"seed{self.seed}", *(name for name in [*by, self.variant] if name != "w2sd")])

    def outputs(self, out: Path, formats: Sequence[str]) -> dict[str, Path]:
        """Where each format goes in `out`; `json` is the sidecar, `sheet` a comparison's contact sheet. The formats are
        of videos: an image is a PNG."""
        if not self.video:
            return {kind: out / f"{self.stem}.{kind}" for kind in ("png", "json")}
        paths = {kind: out / f"{self.stem}.{kind}" for kind in formats if kind != "png"}
        if "png" in formats:
            paths["png"] = out / f"{self.stem}-frames"
        if self.variant == "compare":
            paths["sheet"] = out / f"{self.stem}.png"
        return paths | {"json": out / f"{self.stem}.json"}

    def state(self, out: Path, formats: Sequence[str]) -> str:
        """`made`: this very request is in `out`, in all these formats. `taken`: something else has one of its
        names. `new`: neither."""
        paths = self.outputs(out, formats)
        there = [path for path in paths.values() if os.path.lexists(path)]
        if not there:
            return "new"
        try:
            same = read_sidecar(paths["json"])[0] == self
        except (OSError, ValueError):
            same = False
        if not same:
            return "taken"
        return "made" if len(there) == len(paths) else "new"


def _hash(path: Path) -> str:
    """Of a file's bytes; of a folder, of its files' in order of their names."""
    whole = hashlib.sha256()
    for each in sorted(path.iterdir()) if path.is_dir() else [path]:
        if each.is_file():
            whole.update(each.read_bytes())
    return whole.hexdigest()


def _most_frames(motion_adapter: str) -> int | None:
    """How many frames the motion module was built for, where its configuration is at hand."""
    path = resolve(motion_adapter, "motion_adapter").path
    try:
        config = (path or Path(motion_adapter)) / "config.json"
        length = json.loads(config.read_text(encoding="utf-8")).get("motion_max_seq_length")
    except (OSError, ValueError, AttributeError):
        return None
    return length if isinstance(length, int) else None


def _whole(argument: str, value: object, least: int, most: int | None, multiple: int = 1) -> None:
    accepted = f"give a whole number from {least} " + ("up" if most is None else f"to {most}")
    if multiple > 1:
        accepted = f"give a multiple of {multiple}, from {least} up"
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(argument, value, accepted)
    if value < least or (most is not None and value > most) or value % multiple:
        raise Refused(argument, value, accepted)


def _number(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refused(argument, value, "give a finite number")


def _one_of(argument: str, value: object, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        raise Refused(argument, value, did_you_mean(str(value), known))


def usable_device(name: str | torch.device, auto: Sequence[str] = ("cuda", "mps")) -> torch.device:
    """The device of that name; for "auto" the first of those that is here, else the CPU.

    Raises:
        Refused: it cannot be used here.
    """
    import torch

    if not isinstance(name, (str, torch.device)) or str(name).startswith("meta"):  # which computes nothing
        raise Refused("device", name, "give auto, cpu, or an accelerator such as cuda or cuda:1")
    for each in (*auto, "cpu") if name == "auto" else (name,):
        try:
            return torch.empty(0, device=each).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            said = str(error).partition("\n")[0]
    raise Refused("device", name, f"it cannot be used here: {said}")


def read_sidecar(path: Path) -> tuple[Request, dict[str, Any]]:
    """The request of a sidecar, and all that the sidecar says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a sidecar of this program, or it has keys that this version does not know.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        asked = data["request"]
        names = {f.name for f in fields(Request)}
        needed = {f.name for f in fields(Request) if f.default is MISSING and f.default_factory is MISSING}
        unknown, missing = asked.keys() - names, needed - asked.keys()
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a sidecar, the JSON that w2sd-video writes beside a video") from None
    if unknown or missing:
        says = [f"has unknown {', '.join(sorted(unknown))}"] if unknown else []
        says += [f"lacks {', '.join(sorted(missing))}"] if missing else []
        raise ValueError(f"{path}: its request {' and '.join(says)}: it is of another version")
    return Request(**asked), data


def sidecar(request: Request, made: Mapping[str, Any]) -> str:
    """The text of a sidecar."""
    data = {"request": asdict(request), **made}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
