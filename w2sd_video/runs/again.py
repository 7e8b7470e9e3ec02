"""The command that makes the output of a request again."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import presets, settings
from .request import Request

FLAGS = {"w2sd": [], "plain": ["--plain"], "weak": ["--weak-only"], "compare": ["--compare"]}
# Settings that have no option, or whose option does not say all that they hold, or that name a user's own files.
ELSEWHERE = {"grammar", "adapters", "controlnet", "ip_adapter", "pictures", "control", "ip_image", "method_sha256"}


def command(request: Request, sidecar: Path | None = None) -> str:
    """A line for a POSIX shell that makes a request's output again, with each argument quoted.

    It has the options by which the request differs from its preset. Where options cannot say the request exactly, such
    as one with a preset of a file or with LoRAs, the line reads the sidecar; without one it is empty.
    """
    program = ["w2sd-video", "generate" if request.video else "image"]
    options = _options(_key(request))
    if options is None:
        words = [*program, "--from", str(sidecar)] if sidecar else []
    else:
        prompt = ["--prompt", request.prompt] if request.prompt.startswith("-") else [request.prompt]
        words = [*program, *prompt, "--seed", str(request.seed), *options]
    return shlex.join(words)


def _key(request: Request) -> str:
    """All of a request but for its prompt and seed, in which cells of an arm differ."""
    said = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in ("prompt", "seed")}
    return json.dumps(said, sort_keys=True)


@lru_cache(256)
def _options(key: str) -> list[str] | None:
    """The options of a request; None where they cannot say it."""
    said: dict[str, Any] = json.loads(key)
    if said["preset"] not in presets.names():
        return None
    pair = presets.load(said["preset"])
    schedule = next((name for name, each in pair.schedules.items() if dict(each) == said["scheduler"]), None)
    if schedule is None or pair.refine:
        return None
    try:
        # Another strong model lifts the preset's grammar, and other steps set those that reflect.
        own = {name: said[name] for name in ("variant", "strong", "num_inference_steps")}
        usual = Request._of("a", 0, pair, schedule, own)
    except (ValueError, OSError):
        return None
    options = ["--preset", said["preset"], *FLAGS[said["variant"]]]
    options += ["--schedule", schedule] if schedule != pair.schedule else []
    before = json.loads(_key(usual)) | {"strong": pair.strong, "num_inference_steps": pair.num_inference_steps}
    for name, value in said.items():
        if value == before[name] or name in ("preset", "variant", "scheduler"):
            continue
        words = _option(name, value, before[name])
        if words is None:
            return None
        options += words
    return options


def _option(name: str, value: Any, before: Any) -> list[str] | None:
    """A setting as its option; None where there is none that says it."""
    about = settings.of(name)
    if name in ELSEWHERE or not about.options or not about.options[0].startswith("--") or value is None:
        return None
    option = about.options[0]
    if isinstance(value, bool):
        return [option.split("/")[0 if value else 1]] if "/" in option else None
    if name == "options":
        changed = {key: each for key, each in value.items() if key not in before or before[key] != each}
        words = [word for key, each in changed.items() for word in ("--set", f"{key}={json.dumps(each)}")]
        return None if before.keys() - value.keys() else words
    if isinstance(value, (int, float, str)):
        text = str(value)
        return [f"{option}={text}"] if text.startswith("-") else [option, text]
    if name == "weak_routing" and isinstance(value, list):
        return [option, ",".join(map(str, value))]
    return None
