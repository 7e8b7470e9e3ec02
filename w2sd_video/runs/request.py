"""A request: one output, with every setting that decides its frames."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plugins, presets, settings
from ..documents import read_json
from ..errors import ArgumentError, Refused, WeightsNotFound, check_whole, did_you_mean
from ..families import FAMILIES, least_steps
from ..hashing import sha256, sha256_of
from ..models.sources import absolute, resolve
from ..setting_types import MOST_STEPS, WIDEST
from ..settings import Settings
from ..validation import by_option
from .schedules import read_schedule

if TYPE_CHECKING:
    from ..methods import Method

METHOD_FIELDS = {  # by a method's field, the request's field that sets it; the others are set by `options`
    "strong_guidance": "strong_guidance_scale",
    "weak_guidance": "weak_guidance_scale",
    "reflection_steps": "reflection_steps",
    "inversion": "inversion",
    "convention": "convention",
}
# What a hash in a file's name always holds; later settings count where they are not their defaults.
_HASHED = """
    family strong weak vae weak_text_encoders motion_adapter weak_motion_adapter weak_motion_scale adapters
    controlnet ip_adapter weak_routing grammar method options num_inference_steps guidance_scale
    strong_guidance_scale weak_guidance_scale num_frames fps height width dtype prompt seed preset scheduler
    reflection_steps device variant negative_prompt weak_prompt weak_negative_prompt control ip_image pictures
    inversion convention
""".split()


class Request(Settings):
    """One output to make, with every setting that decides its frames. `Request.of` fills it from a preset."""

    @classmethod
    def of(
        cls,
        prompt: str,
        seed: int = 0,
        preset: str | presets.Preset = presets.DEFAULT,
        schedule: str | None = None,
        **overrides: Any,
    ) -> Request:
        """Builds a request from a preset.

        Args:
            prompt: what to show.
            seed: the seed of the initial noise.
            preset: a preset or its name.
            schedule: the name of one of the preset's schedules. Default: the preset's own choice.
            overrides: fields of the request that replace the preset's. None is none, where a request may have none
                (as of `weak_motion_adapter`), and else the preset's. With another `strong` model, prompts are no
                longer restricted to the preset's grammar.

        Raises:
            Refused: a value is not accepted.
        """
        pair = preset if isinstance(preset, presets.Preset) else presets.load(preset)
        schedule = schedule or pair.schedule
        if not isinstance(schedule, str) or schedule not in pair.schedules:
            raise Refused("schedule", schedule, did_you_mean(str(schedule), pair.schedules))
        with presets.naming(pair, {**overrides, "schedule": schedule}):
            request = cls._of(prompt, seed, pair, schedule, overrides)
            request.check()
        return request

    @classmethod
    def _of(cls, prompt: str, seed: int, pair: presets.Preset, schedule: str, overrides: Mapping[str, Any]) -> Request:
        """Builds a request without the checks of `check`; each value alone is validated."""
        shared = {field.name for field in fields(cls)} & {field.name for field in fields(presets.Preset)}
        values: dict[str, Any] = {name: getattr(pair, name) for name in shared}
        values |= {"preset": pair.name, "scheduler": pair.schedules[schedule]}
        clear = {field.name for field in fields(cls) if field.default is None}  # what may be without a value
        values |= {name: value for name, value in overrides.items() if value is not None or name in clear}
        values["options"] = _options(pair, overrides)
        if isinstance(scheduler := values["scheduler"], str):
            values["scheduler"] = read_schedule(scheduler, pair.schedules[schedule])
        if values["strong"] != pair.strong:
            values["grammar"] = None
        for name in (*settings.PLACES, *settings.PICTURES):
            if isinstance(path := values.get(name), str):
                values[name] = absolute(path)
        for name in ("controlnet", "ip_adapter"):
            if isinstance(scaled := values.get(name), Mapping) and isinstance(scaled.get("model"), str):
                paths = {k: scaled[k] for k in ("model", "image_encoder") if scaled.get(k) is not None}
                values[name] = {**scaled, **{k: absolute(v) for k, v in paths.items()}}
        if isinstance(method := values.get("method"), str) and plugins.is_file(method):
            plugin = plugins.find("method", method, (), values.get("method_sha256"))
            values["method_sha256"] = plugin.sha256 if plugin else None
        paths = {name: path for name in settings.PICTURES if isinstance(path := values.get(name), str)}
        values["pictures"] = {name: _hash(path) for name, path in paths.items() if _is_there(name, path)}
        if values["reflection_steps"] is None and isinstance(values["num_inference_steps"], int):
            values["reflection_steps"] = _default_steps(values, values["num_inference_steps"])
        if unknown := {name: value for name, value in overrides.items() if name not in settings.names()}:
            from ..methods import refuse_options

            refuse_options(values["method"], values.get("method_sha256"), unknown, settings.names(), by_option(cls))
        values |= unknown  # which the class refuses, None too
        return cls(prompt=prompt, seed=seed, **values)

    def of_steps(self, num_steps: int) -> Request:
        """A copy with another number of steps and the method's default number of reflected steps."""
        reflected = _default_steps(vars(self), num_steps)
        return replace(self, num_inference_steps=num_steps, reflection_steps=reflected)

    def check(self) -> None:
        """Refuses what cannot be used, before any model is loaded.

        Raises:
            Refused: names the argument, the value and what is accepted.
            ValueError: the prompt is outside the preset's grammar.
            OSError: a model of the package, or a folder, is missing.
        """
        trained = self.scheduler.get("num_train_timesteps", 1000)
        check_whole("scheduler.num_train_timesteps", trained, 1, MOST_STEPS)
        least = least_steps(FAMILIES[self.family].least_steps, self.scheduler)
        check_whole("num_inference_steps", self.num_inference_steps, least, trained)
        most = settings.most_reflected(self.num_inference_steps, self.convention)
        check_whole("reflection_steps", self.reflection_steps, 0, most)
        self._check_method()
        self.check_words()
        self._check_models()
        self._check_family()
        self._check_arms()
        self._check_pictures()

    def _check_models(self) -> None:
        """Refuses models that are not there."""
        for name, model in self.models.items():
            try:
                resolve(model, name)
            except WeightsNotFound as error:
                if self.preset not in presets.names() or presets.load(self.preset).models.get(name) != model:
                    raise
                way = f"`w2sd-video presets {self.preset}` says where it is from"
                raise WeightsNotFound(error.source or model, f"{error.what}. {way}") from None
        if self.weak_config is not None:
            resolve(self.weak_config, "weak_config")
            if not self.weak_is_file:
                raise Refused("weak_config", self.weak_config, "it is for a weak transformer that is a file: give none")
        if self.ip_adapter is not None and not resolve(self.ip_adapter["model"], "ip_adapter").is_file:
            raise Refused("ip_adapter", self.ip_adapter["model"], "name its file of weights, beside image_encoder/")
        if self.ip_adapter is not None and (encoder := self.ip_adapter.get("image_encoder")) is not None:
            resolve(encoder, "image_encoder", folders=True)

    def _check_family(self) -> None:
        """Refuses settings that the family does not have, and missing ones that it needs."""
        family = FAMILIES[self.family]
        for name in settings.OF_VIDEOS:
            if (getattr(self, name) is None) == self.video:
                accepted = "give one" if self.video else "give none"
                raise Refused(name, getattr(self, name), f"{accepted}: {self.family} makes {self.kind}s")
        if family.motion and self.motion_adapter is None:
            raise Refused("motion_adapter", None, f"give one: {self.family} makes {self.kind}s")
        if self.motion_adapter is not None:
            check_whole("num_frames", self.num_frames, 1, _most_frames(self.motion_adapter))
        for name in settings.names():
            having = settings.of(name).families
            value = getattr(self, name)
            if having and self.family not in having and value is not False and value not in (None, {}):
                raise Refused(name, value, f"{self.family} has none")
        if self.eta and self.scheduler["class"] != "DDIMScheduler":
            raise Refused("eta", self.eta, "give none: of the schedulers, DDIMScheduler takes one")
        for name in ("height", "width"):
            if (value := getattr(self, name)) % family.side:
                raise Refused(name, value, f"give a multiple of {family.side}, as {self.family} takes")
        if self.num_frames is not None and (self.num_frames - 1) % family.stride:
            accepted = f"give a multiple of {family.stride} plus 1, such as {family.stride * 10 + 1}"
            raise Refused(
                "num_frames", self.num_frames, f"{accepted}: {self.family} encodes {family.stride} frames as one"
            )

    def _check_arms(self) -> None:
        """Refuses differences between the arms that do not fit together."""
        if self.weak_text_encoders and self.weak is None:
            raise Refused("weak_text_encoders", True, "there is no other weak model to take them from")
        for name in ("strong_guidance_scale", "weak_guidance_scale"):
            first, second = getattr(self, name), getattr(self, f"{name}_2")
            if second is not None and (first in (0, 1)) != (second in (0, 1)):
                numbers = "0 or 1" if first in (0, 1) else "neither 0 nor 1"
                accepted = f"beside {first:g} with the first expert, give {numbers}: as many branches are evaluated"
                raise Refused(f"{name}_2", second, f"{accepted}, so that the cost is known")
        if self.weak_skip_layers is not None and self.weak is not None:
            raise Refused("weak_skip_layers", self.weak_skip_layers, "give none beside another weak model")
        scaled: dict[str, Any] = {}
        if self.weak is not None:
            scaled = {f"adapters.{name}": each for name, each in self.adapters.items()}
        if not self.one_network:
            scaled["ip_adapter"] = self.ip_adapter or {}
        for name, each in scaled.items():
            if each.get("weak", 0) != 0:
                accepted = "it acts on the strong arm's network, and the weak one is another: give 0 for the weak arm"
                raise Refused(f"{name}.weak", each["weak"], accepted)

    def _check_pictures(self) -> None:
        """Refuses pictures that are missing, or have changed since the request was recorded."""
        from_image = FAMILIES[self.family].from_image or None
        for name, of in zip(settings.PICTURES, (self.controlnet, self.ip_adapter, from_image), strict=True):
            path = getattr(self, name)
            if of is None and path is not None:
                raise Refused(name, path, "the pair has no use for it; give a preset that has")
            if of is not None and path is None:
                raise Refused(name, path, f"preset {self.preset} needs a picture: give a file")
            if path is not None and not _is_there(name, path):
                raise Refused(name, path, "give a file that is there")
            if path is not None and self.pictures.get(name) != _hash(path):
                raise Refused(name, path, "the file has changed since this request was recorded")

    @property
    def weak_is_file(self) -> bool:
        """Whether the weak model is a single file of a transformer, which has no text encoders or autoencoder."""
        return self.weak is not None and FAMILIES[self.family].transformer and resolve(self.weak, "weak").is_file

    @property
    def weak_alone(self) -> bool:
        """Whether the weak model is sampled alone by a pipeline of its own, and not as the weak arm of the pair's."""
        return self.weak is not None and not self.weak_is_file

    @property
    def loading(self) -> str:
        """What decides which networks are loaded, how and where, as JSON: requests with the same text can share
        pipelines, whatever their variants."""
        parts = (self.models, self.weak_config, self.weak_text_encoders, self.adapters, self.ip_adapter)
        return json.dumps([self.family, *parts, self.dtype, self.device, self.offload, self.compile], sort_keys=True)

    @property
    def one_network(self) -> bool:
        """Whether both arms are evaluated by the strong model's network, differently set."""
        return self.weak is None and self.weak_motion_adapter is None

    def _check_method(self) -> None:
        if self.variant != "w2sd" and self.guidance_scale < 1 and (self.variant != "weak" or self.weak_alone):
            accepted = "without a method, diffusers treats a guidance below 1 as 1: give 1 or more"
            raise Refused("guidance_scale", self.guidance_scale, accepted)
        if plugins.is_file(self.method) != (self.method_sha256 is not None):
            raise Refused("method_sha256", self.method_sha256, "give the SHA-256 of the file of a method FILE.py:CLASS")
        if self.method == "w2sd" and not self.options:
            return  # without torch, which takes seconds to import
        from ..methods import METHODS, find

        if self.method == "weak":  # that is a variant
            raise Refused("method", self.method, did_you_mean("weak", [name for name in METHODS if name != "weak"]))
        cls = find(self.method, self.method_sha256)
        has = [f.name for f in fields(cls)]
        if self.inversion != "x_s" and "inversion" not in has:
            raise Refused("inversion", self.inversion, f"{self.method} inverts nothing: give none")
        known = [name for name in has if name not in METHOD_FIELDS]
        for name in self.options:
            if name not in known:
                raise Refused(f"option of {self.method}", name, did_you_mean(name, known))
        if (error := self._problem(cls, self.options)) is not None:
            for name, value in self.options.items():  # which of them it is, where one alone is the reason
                alone = self._problem(cls, {name: value})
                if (type(alone), getattr(alone, "args", ())) == (type(error), error.args):
                    raise Refused("options", {name: value}, str(error))
            raise Refused("options", dict(self.options), str(error))

    def _problem(self, cls: type[Method], options: Mapping[str, Any]) -> Exception | None:
        """Why a method cannot be used with these options."""
        try:
            cls(**options).check((1,) * (3 if FAMILIES[self.family].tokens else 5 if self.video else 4))
        except (TypeError, ValueError) as error:
            return error
        return None

    def check_words(self) -> None:
        """Refuses a prompt that the model never learnt to read."""
        if not self.grammar:
            return
        parse = import_module(f"w2sd_video.{self.grammar}.grammar").parse
        for name in ("prompt", "weak_prompt"):
            try:
                if (text := getattr(self, name)) is not None:
                    parse(text, name)
            except ArgumentError as error:
                way = "Any text is taken by the presets of real models, which `w2sd-video presets` lists"
                raise ArgumentError(name, f"{error.problem}\n{way}") from None

    def text(self, name: str) -> str | None:
        """A prompt (`prompt`, `weak_prompt`) as the models read it: in the words of the grammar, where there is one."""
        text = getattr(self, name)
        if text is None or not self.grammar:
            return text
        grammar = import_module(f"w2sd_video.{self.grammar}.grammar")
        return grammar.describe(grammar.parse(text))

    @property
    def stem(self) -> str:
        """The name of the output files, without suffix: the prompt's words, the seed, the method, the variant.

        A prompt that its words do not give back (case, punctuation, length) adds a few digits of its hash, so
        that two prompts do not share a name.
        """
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower()).strip("-")[:60].strip("-")
        if words.replace("-", " ") != self.prompt:
            words = f"{words}-{hashlib.sha256(self.prompt.encode()).hexdigest()[:6]}".strip("-")
        by = [self.method_name] if self.variant in ("w2sd", "compare") else []
        return "-".join([words, f"seed{self.seed}", *(name for name in [*by, self.variant] if name != "w2sd")])

    @property
    def method_name(self) -> str:
        """The method's name; of a file's, its class alone."""
        return self.method.rpartition(":")[2]

    @property
    def long_stem(self) -> str:
        """Another name, for where another request has `stem`: with a hash of the whole request."""
        defaults = {each.name: each.default for each in fields(self)}
        said = {name: v for name, v in asdict(self).items() if name in _HASHED or v != defaults[name]}
        text = json.dumps(said, sort_keys=True)
        return f"{self.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _options(pair: presets.Preset, overrides: Mapping[str, Any]) -> Any:
    """The options of the method: the pair's, where the method is the pair's, and over them those of `overrides`."""
    method = overrides.get("method") or pair.method
    options = overrides.get("options") or {}
    if not isinstance(method, str) or not isinstance(options, Mapping):
        return options  # the request refuses it
    own = pair.options if os.path.basename(method) == os.path.basename(pair.method) else {}
    return {**own, **options}


def _default_steps(values: Mapping[str, Any], num_steps: int) -> int:
    """How many of `num_steps` reflect where nothing is said of it: the method says."""
    method, plain = values.get("method"), max(num_steps - 1, 0)
    if not isinstance(method, str) or method == "w2sd":
        return plain  # without torch, which takes seconds to import
    from ..methods import find

    try:
        steps = find(method, values.get("method_sha256")).default_steps(num_steps)
    except Refused:
        return plain  # the request's check says why
    return min(steps, settings.most_reflected(num_steps, str(values.get("convention", "exact"))))


def _is_there(argument: str, path: str) -> bool:
    """Whether there is a file or folder of that name.

    Raises:
        Refused: something else is there, such as a pipe, which could be read once only.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise Refused(argument, path, "give a file or a folder; this is a pipe or a device")
    return os.path.exists(path)


def _hash(path: str) -> str:
    """Of a file's bytes; of a folder, of its files' in order of their names."""
    if not os.path.isdir(path):
        return sha256_of(Path(path))
    return sha256(each for each in sorted(Path(path).iterdir()) if each.is_file())


def _most_frames(motion_adapter: str) -> int:
    """How many frames the motion module was built for, where its configuration is at hand."""
    path = resolve(motion_adapter, "motion_adapter").path
    try:
        config = (path or Path(motion_adapter)) / "config.json"
        length = read_json(config).get("motion_max_seq_length") if config.is_file() else None
    except (OSError, ValueError, AttributeError):
        return WIDEST
    return length if isinstance(length, int) else WIDEST
