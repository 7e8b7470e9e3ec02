"""Options of commands: those of a run's settings, built from `settings`, and the parsers of their texts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from .. import plugins, presets, runs, settings
from ..errors import Refused
from ..method_names import METHODS
from ..setting_types import SCALED, SCALES, Scaled, seeds_of
from ..terminal import number, read_settings, words

OUTPUT = "Output"
# Those that `schedulers.check_scheduler` accepts, known here without torch.
SCHEDULERS = (
    "DDIMScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "EulerDiscreteScheduler",
    "EDMEulerScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
MOST_SEEDS = 10_000
MOST_REQUESTS = 1_000_000
EMPTY = ("negative_prompt", "weak_prompt", "weak_negative_prompt", "prompt")  # options that may be an empty text
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def dimension_names(incomplete: str) -> list[str]:
    """The shell completions of a list of dimensions with commas between: for the last name."""
    from ..eval.dimensions import known

    before, comma, _ = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in known()]


def option(panel: str | None, text: str, *names: str, **more: Any) -> Any:
    """An option of a command, in a panel of its help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


# Settings whose option can be repeated.
REPEATED = ("adapters", "options")


def _inversion(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text


def _routing(text: str) -> list[int] | str:
    ends = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    return [int(ends[1]), int(ends[2])] if ends else text


def _layers(text: str) -> list[int | str]:
    return [int(each) if re.fullmatch(r"\d{1,9}", each) else each for each in text.split(",")]


PARSERS: dict[str, Callable[[Any], Any]] = {
    "inversion": _inversion,
    "weak_routing": _routing,
    "weak_skip_layers": _layers,
    "options": read_settings,
    "controlnet": lambda text: read_scaled("--controlnet", text, *SCALES["controlnet"]),
    "ip_adapter": lambda text: read_scaled("--ip-adapter", text, *SCALES["ip_adapter"]),
}


def _schedules(context: typer.Context) -> list[str]:
    return list(presets.load(context.params.get("preset") or presets.DEFAULT).schedules)


# What a shell completes values of settings to, beside those whose types list them.
COMPLETED: dict[str, Callable[..., list[str]]] = {
    "method": lambda: [*METHODS, *plugins.names("method", METHODS)],
    "scheduler": lambda: list(SCHEDULERS),
    "schedule": _schedules,
    "inversion": lambda: ["x_s", "x_t"],
    "weak_routing": lambda: ["worst"],
    "weak_skip_layers": lambda: ["mid_block"],
    "device": lambda: list(DEVICES),
}


def _parameter(name: str, of: type) -> inspect.Parameter:
    """A setting as an option of a command, with None as the default."""
    about, kind = settings.of(name, of), settings.number(name, of)
    more: dict[str, Any] = {"metavar": about.metavar} if about.metavar else {}
    if listed := settings.words(name, of):
        more |= words(*listed)
    elif name in COMPLETED:
        more |= {"autocompletion": COMPLETED[name]}
    if kind:
        more = number(kind)
    value: Any = list[str] if name in REPEATED else kind or (bool if "/" in about.options[0] else str)
    annotation = Annotated[value | None, option(about.panel, about.help, *about.options, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def having(families: tuple[str, ...]) -> list[str]:
    """The names of the settings that are options, and that one of these families has."""
    own = ("seed", "preset")  # of which `generate` takes more than one value, or reads a file
    return [
        name
        for name in settings.names()
        if (about := settings.of(name)).options
        and about.options[0].startswith("--")
        and name not in own
        and (about.families is None or {*about.families} & {*families})
    ]


def with_settings(
    names: list[str], fixed: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds settings as options to a command, after `--preset`. The command gets them as `**fields`.

    Args:
        names: the settings to add.
        fixed: values for parameters of the command that are not options.
    """
    values = dict(fixed or {})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name not in values
        ]
        of_settings = [_parameter(name, presets.Preset if name == "schedule" else settings.Settings) for name in names]

        def run(**arguments: Any) -> None:
            fields = {name: value for name in names if (value := arguments.pop(name)) not in (None, [], ())}
            command(**arguments, **values, **fields)

        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        after = [parameter.name for parameter in own].index("preset") + 1
        parameters = own[:after] + of_settings + own[after:]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def read_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Parses the texts of options into settings as a request takes them.

    Raises:
        Refused: a setting does not accept its text.
    """
    return {name: PARSERS[name](value) if name in PARSERS else value for name, value in fields.items()}


def refuse_empty(context: typer.Context) -> None:
    """Refuses options with an empty text, as from an unset shell variable."""
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        empty = value == "" or (isinstance(value, (list, tuple)) and "" in value)
        if empty and parameter.param_type_name == "option" and parameter.name not in EMPTY:
            raise Refused(parameter.opts[0], "", f"give {parameter.metavar or 'a value'}, or leave the option out")


def read_scaled(option: str, text: str, strong: float, weak: float) -> Scaled:
    """Parses `MODEL[:STRONG[:WEAK]]`: a model, and its scales in the two arms, which default to `strong` and `weak`."""
    number = r":([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    match = re.fullmatch(rf"(.+?)(?:{number})?(?:{number})?", text)
    if not match:
        raise Refused(option, text, f"give {SCALED}")
    scales = [
        default if scale is None else float(scale)
        for scale, default in zip(match.groups()[1:], (strong, weak), strict=True)
    ]
    return {"model": match[1], "strong": scales[0], "weak": scales[1]}


def adapters(loras: list[str], pair: presets.Preset, scales: dict[str, float], alone: bool) -> dict[str, Scaled]:
    """The LoRAs of a command line by name; if only scales are set, the preset's LoRAs. Empty if neither is set.

    Args:
        loras: `MODEL[:STRONG[:WEAK]]` each.
        scales: by arm, scales that replace those of the LoRAs.
        alone: whether no other weak model or motion module is set. If there is one, here or in the preset, LoRAs act on
            the strong model alone by default.
    """
    named = dict(pair.adapters) if scales and not loras else {}
    option, scale = next(((f"--{arm}_lora_scale", x) for arm, x in scales.items()), ("", 0.0))
    if scales and not (loras or named):
        raise Refused(option, scale, f"preset {pair.name} has no LoRA: name one by --lora")
    strong, weak = SCALES["adapters"]
    if not alone or pair.weak is not None or pair.weak_motion_adapter is not None:
        weak = 0.0
    for text in loras:
        each = read_scaled("--lora", text, strong, weak)
        if scales and text != each["model"]:
            raise Refused(option, scale, f"--lora {text} says its scale already")
        name = each["model"]
        if name in pair.adapters:
            each["model"] = pair.adapters[name]["model"]
        else:
            each["model"] = runs.absolute(name)
            name = re.sub(r"\W+", "_", Path(name).stem)
        if any(other["model"] == each["model"] for other in named.values()):
            raise Refused("--lora", text, "it is named twice")
        named[f"{name}_{len(named)}" if name in named else name] = each
    return {
        name: {"model": e["model"], "strong": scales.get("strong", e["strong"]), "weak": scales.get("weak", e["weak"])}
        for name, e in named.items()
    }


def parse_seeds(text: str) -> list[int]:
    """Parses a list of seeds such as `0,3,8-15`; each number is returned once.

    Raises:
        Refused: the text is not such a list, or a number is negative or too large.
    """
    return seeds_of("seed", text, text.split(","), MOST_SEEDS)


def read_prompts(prompts: list[str], suite: Path | None, kind: str = "video") -> list[str]:
    """The prompts of the command line and of the suite, each once.

    Raises:
        ValueError: there is no prompt.
        Refused: the suite does not exist, or cannot be read.
    """
    prompts = list(prompts)
    if suite is not None:
        from ..prompts import load

        try:
            prompts += [prompt.text for prompt in load(str(suite)).prompts]
        except Refused as error:
            raise Refused("--prompts", error.value, error.accepted) from None
    if not prompts:
        example = 'image "a red circle"' if kind == "image" else 'generate "a red circle moving right"'
        raise ValueError(f"PROMPT is missing: w2sd-video {example}")
    return list(dict.fromkeys(prompts))
