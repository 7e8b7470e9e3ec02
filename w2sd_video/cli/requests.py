"""The requests of a command line: new ones from prompts and seeds, or the request of a sidecar."""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from .. import plugins, presets, runs, setting_options, settings
from ..errors import ArgumentError, Named, Refused
from ..runs import Request
from ..sampling import idle, sentences
from ..terminal import err, quiet
from .options import MOST_REQUESTS, adapters, parse_seeds, read_prompts

DEFAULTS = {"video": presets.DEFAULT, "image": "shapes-image"}
WITHOUT_METHOD = "--plain and --weak-only sample without a method"


@dataclass(frozen=True)
class Batch:
    """Requests to make, in these formats.

    Attributes:
        origin: a context in which errors say whether a value comes from a preset or a sidecar.
        before: the sidecar's content, for a request that is made again.
        verify: whether existing outputs are compared by hashes.
    """

    requests: list[Request]
    formats: list[str]
    origin: AbstractContextManager[None]
    before: dict[str, Any] | None = None
    verify: bool = False


@dataclass(frozen=True)
class Line:
    """The options of a command line beside the settings of a run.

    Attributes:
        kind: what the command makes, "video" or "image".
        lora_scales: by arm, a scale that replaces those of the LoRAs, or None.
        variants: which of "plain", "weak" and "compare" are set.
        record: whether to record what the method does.
        unquoted: whether the prompts may be the words of one that was typed without quotes.
    """

    kind: str
    prompts: list[str]
    unquoted: bool
    suite: Path | None
    seed: str | None
    sidecar: Path | None
    preset: str | None
    loras: list[str]
    lora_scales: dict[str, float | None]
    image_encoder: str | None
    variants: list[str]
    refine: str | None
    record: bool

    @property
    def scales(self) -> dict[str, float]:
        """The LoRAs' scales that are set, by arm."""
        return {arm: scale for arm, scale in self.lora_scales.items() if scale is not None}

    def batch(self, formats: Collection[str], fields: dict[str, Any], flags: dict[str, str]) -> Batch:
        """The requests of the line.

        Args:
            formats: the formats of the outputs; those of a sidecar are added.
            fields: the settings that options set, as a request takes them.
            flags: is extended by the options that set a part of a setting, for messages.

        Raises:
            Refused, ValueError: an option cannot be used, or two do not fit together.
        """
        method = fields.get("method")
        file = plugins.from_name("method", method) if method else None
        if file:
            fields |= {"method": file.name, "method_sha256": file.sha256}
        if len(self.variants) > 1:
            raise ValueError("--plain, --weak-only and --compare exclude one another")
        methodless = bool({"plain", "weak"} & {*self.variants})
        for name in ("method", "options"):
            if name in fields and methodless:
                raise Refused(name, fields[name], f"{WITHOUT_METHOD}: give one or the other")
        if self.record and methodless:
            raise ValueError(f"--record: {WITHOUT_METHOD}, and there is nothing to record")
        if self.sidecar is not None:
            return self._again(self.sidecar, formats, fields, file)
        return self._new(formats, fields, flags)

    def _new(self, formats: Collection[str], fields: dict[str, Any], flags: dict[str, str]) -> Batch:
        """A request for each prompt with each seed."""
        seeds = parse_seeds("0" if self.seed is None else self.seed)
        pair = presets.load(self.preset or DEFAULTS[self.kind])
        check_kind(pair, self.kind, "--preset", pair.name)
        fields |= {"preset": pair, "variant": self.variants[0] if self.variants else "w2sd"}
        if self.image_encoder is not None:
            if (ip := fields.get("ip_adapter") or pair.ip_adapter) is None:
                raise Refused("image_encoder", self.image_encoder, "the pair has no IP-Adapter; give --ip-adapter")
            fields["ip_adapter"] = {**ip, "image_encoder": self.image_encoder}
        alone = not fields.keys() & {"weak", "weak_motion_adapter"}
        if named := adapters(self.loras, pair, self.scales, alone):
            fields["adapters"] = named
            flags |= {f"adapters.{name}.{arm}": f"--{arm}_lora_scale" for name in named for arm in self.scales}
        texts = read_prompts(self.prompts, self.suite, self.kind)
        if not self.prompts:
            flags["prompt"] = "--prompts"
        if self.unquoted and pair.textual:
            err.print("note: several prompts of one word each: quote a prompt of several words", markup=False)
        if len(texts) * len(seeds) > MOST_REQUESTS:
            accepted = f"{len(texts)} prompts with each are more than {MOST_REQUESTS} {self.kind}s: give fewer at once"
            raise Refused("seed", self.seed, accepted)
        refiner = self.refine or (pair.refine if "weak_prompt" not in fields else None)
        requests = _requests(texts, seeds, fields, refiner)
        called = {**{name: setting_options.option(name) for name in fields}, **flags}
        for line in sentences(idle(requests[0]), called, called.__getitem__):
            err.print(escape(f"Note: {line}."))
        return Batch(requests, _ordered(formats), presets.naming(pair, fields))

    def _again(
        self, sidecar: Path, formats: Collection[str], fields: dict[str, Any], file: plugins.Plugin | None
    ) -> Batch:
        """The request of a sidecar, with the sidecar's formats added.

        Args:
            fields: settings that replace the request's.
            file: the method, if it is in a file.
        """
        free = {"device", "offload", "compile", *(("method", "method_sha256") if file else ())}
        others: dict[str, object] = {"--prompts": self.suite, "--preset": self.preset, "--refine": self.refine}
        others |= {
            "--seed": self.seed,
            "image_encoder": self.image_encoder,
            "PROMPT": self.prompts or None,
            "adapters": self.loras or None,
        }
        others |= {f"--{'weak-only' if each == 'weak' else each}": each for each in self.variants}
        others |= {f"--{arm}_lora_scale": scale for arm, scale in self.scales.items()}
        refused = [name for name, value in others.items() if value is not None]
        refused += [name for name in fields if name not in free]
        if refused:
            accepted = (
                "--out, --overwrite, --verify, --gif, --png, --record, --device, --offload, --compile and --method"
                " FILE.py:CLASS"
            )
            raise ArgumentError(refused[0], f"--from takes everything from the sidecar; only {accepted} go with it")
        request, before = _recorded(sidecar, self.kind, fields, file)
        if self.record and request.variant not in ("w2sd", "compare"):
            raise ValueError(f"--record: {sidecar} was sampled without a method, and there is nothing to record")
        formats = _ordered({*formats, *before.get("formats", [])})
        return Batch([request], formats, _of_sidecar(sidecar, fields), before, verify=True)


def _ordered(formats: Collection[str]) -> list[str]:
    return [each for each in runs.FORMATS if each in formats]


@contextmanager
def _of_sidecar(path: Path, overrides: Container[str]) -> Iterator[None]:
    """Makes errors inside name the sidecar, if they are about a setting of its request that is not replaced."""
    try:
        yield
    except Named as error:
        name = setting_options.whole(error.argument)
        if not error.origin and name in settings.names() and name not in overrides:
            error.origin = f"--from: {path}: its request's"
        raise


def _recorded(
    sidecar: Path, kind: str, fields: dict[str, Any], file: plugins.Plugin | None
) -> tuple[Request, dict[str, Any]]:
    """The request of a sidecar, and the sidecar's content. Prints which of its files have changed.

    Args:
        kind: what the command makes, "video" or "image".
        fields: settings that replace the request's.
        file: the method, if it is in a file.

    Raises:
        Refused: the sidecar cannot be read, or its method is another one.
        ValueError: its request cannot be used.
    """
    try:
        request, before = runs.read_sidecar(sidecar)
    except OSError as error:
        raise Refused("--from", str(sidecar), f"give a sidecar that can be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ValueError(f"--from: {error}") from None
    if file and (file.name, file.sha256) != (request.method, request.method_sha256):
        was = f"{request.method}{f', SHA-256 {request.method_sha256}' if request.method_sha256 else ''}"
        raise Refused("method", file.name, f"it is not the method of the sidecar: {was}")
    request = replace(request, **fields)
    with _of_sidecar(sidecar, fields):
        request.check()
    check_kind(request, kind, "--from", str(sidecar))
    for path, what in runs.check_files(sidecar.parent, before, hashed=True).items():
        if os.path.lexists(path):
            err.print(f"{path} {what}: it is damaged or was replaced", markup=False)
    return request, before


def _requests(prompts: list[str], seeds: list[int], fields: dict[str, Any], refiner: str | None) -> list[Request]:
    """A request for each prompt with each seed.

    Args:
        refiner: rewrites the prompts; the weak arm keeps the raw ones. None: prompts stay as they are.

    Raises:
        Refused: a request cannot be used.
    """
    requests = []
    for prompt in prompts:
        raw = {"weak_prompt": prompt} if refiner else {}
        requests += [Request.of(prompt, seed, **{**raw, **fields}) for seed in seeds]
    if refiner:  # last, since it may load a language model
        by_prompt = dict(zip(prompts, refine_prompts(prompts, refiner), strict=True))
        requests = [replace(request, prompt=by_prompt[request.prompt]) for request in requests]
    return requests


def check_kind(pair: presets.Pair, kind: str, option: str, value: str) -> None:
    """Refuses an image preset in the command for videos, and the reverse."""
    if pair.kind != kind:
        other = "image" if kind == "video" else "generate"
        raise Refused(option, value, f"it makes {pair.kind}s: w2sd-video {other}")


def refine_prompts(prompts: list[str], refiner: str) -> Iterator[str]:
    """The prompts refined for the strong arm, one by one."""
    from ..plans.prepare import refiner as of_name

    quiet()
    yield from map(of_name(refiner, "--refine"), prompts)
