"""`w2sd-video generate` and `w2sd-video image`: requests of what the command line says, made under progress bars."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Container, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .. import plugins, presets, runs, settings
from ..errors import Named, Refused
from ..generate import Made, conflicts
from ..generate import generate as make
from ..runs import Request
from ..sampling import differences, weak_arm
from ..settings import METHOD, MODELS, SIZE, VIDEOS
from ..terminal import PATH, err, messages, number, out, quiet, say
from .options import (
    MOST_REQUESTS,
    OUTPUT,
    adapters,
    option,
    parse_seeds,
    read_fields,
    read_prompts,
    refuse_empty,
    words,
)

DEFAULTS = {"video": presets.DEFAULT, "image": "shapes-image"}
IMAGES = tuple(family for family in settings.FAMILIES if family not in VIDEOS)


def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to show.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="The same, as an option.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts, one a line; # starts a comment.", **PATH)
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="A number, or several: 0,3,8-15. Each prompt with each (default: 0).")
    ] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="Make the video of a sidecar again.", **{**PATH, "metavar": "SIDECAR"})
    ] = None,
    preset: Annotated[
        str | None,
        option(
            MODELS,
            "Models and settings: one of `w2sd-video presets`, or a YAML file (default: the shipped model).",
            "--preset",
            "--pair",
            autocompletion=presets.names,
        ),
    ] = None,
    lora_path: Annotated[
        str | None, option(MODELS, "The same as --lora MODEL, as the published script has it.", "--lora_path")
    ] = None,
    strong_lora_scale: Annotated[
        float | None,
        option(
            MODELS,
            "The LoRA's scale in the strong arm.",
            "--strong_lora_scale",
            parser=number(float),
            metavar="NUMBER",
        ),
    ] = None,
    weak_lora_scale: Annotated[
        float | None,
        option(
            MODELS, "The LoRA's scale in the weak arm.", "--weak_lora_scale", parser=number(float), metavar="NUMBER"
        ),
    ] = None,
    image_encoder: Annotated[
        str | None, option(MODELS, "The IP-Adapter's image encoder, where it is not beside it: a folder.")
    ] = None,
    plain: Annotated[bool, option(METHOD, "The strong model without reflection.", "--plain")] = False,
    weak_only: Annotated[
        bool,
        option(
            METHOD,
            "The weak arm alone, at --guidance; where guidance is all that tells it apart, at --weak-guidance.",
            "--weak-only",
        ),
    ] = False,
    compare: Annotated[
        bool,
        option(
            METHOD,
            "Weak, strong and W2SD side by side: video and contact sheet; and each alone, in weak/, plain/ and w2sd/.",
            "--compare",
        ),
    ] = False,
    refine: Annotated[
        str | None,
        option(
            METHOD,
            "Refine prompts, of which the weak arm keeps the raw ones: shapes, or a language model's folder or hub id.",
            **words("shapes"),
        ),
    ] = None,
    size: Annotated[int | None, option(SIZE, "Height and width.", parser=number(int), metavar="N")] = None,
    out_folder: Annotated[Path, option(OUTPUT, "The folder to write to.", "--out", "--save_dir", **PATH)] = Path(
        "outputs"
    ),
    gif: Annotated[bool, option(OUTPUT, "Write a GIF too.", "--gif")] = False,
    png: Annotated[bool, option(OUTPUT, "Write every frame as PNG too.", "--png")] = False,
    record: Annotated[
        bool,
        option(
            OUTPUT,
            "Record what the method does at every step: its numbers in the sidecar, and a plot, *-differences.svg.",
            "--record",
        ),
    ] = False,
    overwrite: Annotated[bool, option(OUTPUT, "Replace files without asking.", "--overwrite")] = False,
    verify: Annotated[
        bool,
        option(
            OUTPUT, "Compare what is made already with its sidecar by hashes, not by sizes and times alone.", "--verify"
        ),
    ] = False,
    *,
    kind: str,
    **fields: Any,
) -> None:
    """Make videos from prompts: an MP4 each, and a JSON sidecar with all that it takes to make it again.

    Settings come from the preset; an option replaces one of them. What is already made is kept and skipped.
    """
    prompts = [*(prompts or []), *(prompt or [])]
    with messages(context) as flags:
        refuse_empty(context)
        if size is not None:
            if fields.keys() & {"height", "width"}:
                raise Refused("--size", size, "give it, or --height and --width")
            fields |= {"height": size, "width": size}
            flags |= {"height": "--size", "width": "--size"}
        loras = [*fields.pop("adapters", []), *([lora_path] if lora_path else [])]
        fields = read_fields(fields)
        method = fields.get("method")
        file = plugins.from_file("method", method) if method and plugins.is_file(method) else None
        if file:
            fields |= {"method": file.name, "method_sha256": file.sha256}
        also = {"gif": gif, "png": png, "differences": record}
        formats = ["mp4", *(each for each, wanted in also.items() if wanted)]
        variants = [name for name, on in [("plain", plain), ("weak", weak_only), ("compare", compare)] if on]
        if len(variants) > 1:
            raise ValueError("--plain, --weak-only and --compare exclude one another")
        without = "--plain and --weak-only sample without a method"
        for name in ("method", "options"):
            if name in fields and (plain or weak_only):
                raise Refused(name, fields[name], f"{without}: give one or the other")
        if record and (plain or weak_only):
            raise ValueError(f"--record: {without}, and there is nothing to record")
        by_arm = {"strong": strong_lora_scale, "weak": weak_lora_scale}
        scales = {arm: scale for arm, scale in by_arm.items() if scale is not None}
        before: dict[str, Any] | None = None
        if again:
            free = {"device", "offload", "compile", *(("method", "method_sha256") if file else ())}
            replaced = fields.keys() - free
            others = (prompts_file, preset, refine, seed, image_encoder)
            if prompts or variants or loras or scales or replaced or any(x is not None for x in others):
                accepted = (
                    "--out, --overwrite, --verify, --gif, --png, --record, --device, --offload, --compile and --method"
                    " FILE.py:CLASS"
                )
                raise ValueError(f"--from takes everything from the sidecar; only {accepted} go with it")
            request, before = _again(again, kind, fields, file)
            requests, verify = [request], True
            if record and request.variant not in ("w2sd", "compare"):
                raise ValueError(f"--record: {again} was sampled without a method, and there is nothing to record")
            formats = [each for each in runs.FORMATS if each in {*formats, *before.get("formats", [])}]
        else:
            seeds = parse_seeds("0" if seed is None else seed)
            pair = presets.load(preset or DEFAULTS[kind])
            check_kind(pair, kind, "--preset", pair.name)
            fields["preset"] = pair
            if image_encoder is not None:
                if (ip := fields.get("ip_adapter") or pair.ip_adapter) is None:
                    raise Refused("image_encoder", image_encoder, "the pair has no IP-Adapter; give --ip-adapter")
                fields["ip_adapter"] = {**ip, "image_encoder": image_encoder}
            alone = not fields.keys() & {"weak", "weak_motion_adapter"}
            if named := adapters(loras, pair, scales, alone):
                fields["adapters"] = named
                flags |= {f"adapters.{name}.{arm}": f"--{arm}_lora_scale" for name in named for arm in scales}
                flags |= {"adapters": "--lora_path"} if loras == [lora_path] else {}
            fields["variant"] = variants[0] if variants else "w2sd"
            texts = read_prompts(prompts, prompts_file, kind)
            if len(texts) * len(seeds) > MOST_REQUESTS:
                accepted = f"{len(texts)} prompts with each are more than {MOST_REQUESTS} {kind}s: give fewer at once"
                raise Refused("seed", seed, accepted)
            refiner = refine or (pair.refine if "weak_prompt" not in fields else None)
            requests = _requests(texts, seeds, fields, refiner)
            if idle := _without_effect(requests[0], fields, "weak" in scales):
                err.print(escape(f"Note: {idle}"))
        with _of_sidecar(again, fields) if again else presets.naming(pair, fields):
            sample(requests, out_folder, formats, overwrite, before, verify)


@contextmanager
def _of_sidecar(path: Path, overrides: Container[str]) -> Iterator[None]:
    """Errors inside that are of a sidecar's request say so, but for those of settings that are replaced."""
    try:
        yield
    except Named as error:
        name = settings.whole(error.argument)
        if not error.origin and name in settings.names() and name not in overrides:
            error.origin = f"--from: {path}: its request's"
        raise


def _again(
    sidecar: Path, kind: str, fields: dict[str, Any], file: plugins.Plugin | None
) -> tuple[Request, dict[str, Any]]:
    """The request of a sidecar, and all that it says. Says of files that are no longer what they were.

    Args:
        kind: what the command makes, "video" or "image".
        fields: what of the request is replaced.
        file: the method, where it is one of a file.

    Raises:
        Refused: it cannot be read, or its method is another one.
        ValueError: its request cannot be used.
    """
    try:
        request, before = runs.read_sidecar(sidecar)
    except OSError as error:
        raise Refused("--from", str(sidecar), f"give a sidecar that can be read ({error})") from None
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
            err.print(f"{path} {what}: it is damaged or another one", markup=False)
    return request, before


def _requests(prompts: list[str], seeds: list[int], fields: dict[str, Any], refiner: str | None) -> list[Request]:
    """A request of each prompt with each seed.

    Raises:
        Refused: one cannot be used.
    """
    requests = []
    for prompt in prompts:
        raw = {"weak_prompt": prompt} if refiner else {}
        requests += [Request.of(prompt, seed, **{**raw, **fields}) for seed in seeds]
    if refiner:  # which may load a language model, so that all else is refused before
        by_prompt = dict(zip(prompts, refine_prompts(prompts, refiner), strict=True))
        requests = [replace(request, prompt=by_prompt[request.prompt]) for request in requests]
    return requests


def _without_effect(request: Request, fields: dict[str, Any], weak_lora_scale: bool) -> str:
    """A note on options that have no part in what is made, or an empty text."""
    from ..methods import find

    method = find(request.method, request.method_sha256)
    arms: tuple[str, ...] = ("weak",)
    used: tuple[str, ...] = ()
    match request.variant:
        case "plain":
            by, arms = "--plain samples the strong model alone", ("weak", "reflection")
        case "weak":
            by, arms = "--weak-only samples the weak arm alone, without reflection", ("reflection",)
            if "weak_guidance_scale" in fields and (request.weak or request.weak_motion_adapter or weak_arm(request)):
                return f"--weak-only samples at --guidance {request.guidance_scale:g}; --weak-guidance has no effect."
        case "w2sd" if method.one_model:
            by, used = f"{request.method_name} has the strong model in both arms", ("weak_guidance_scale",)
        case "w2sd" if not method.uses_weak:
            by = f"{request.method_name} has no weak arm"
        case _:
            return ""
    named = [name for name in fields if name in settings.names() and name not in used]
    idle = [settings.option(name) for name in named if settings.of(name).arm in arms]
    if weak_lora_scale and "weak" in arms:
        idle.append("--weak_lora_scale")
    return f"{by}; {', '.join(idle)} {'have' if idle[1:] else 'has'} no effect." if idle else ""


def check_kind(pair: presets.Pair, kind: str, option: str, value: str) -> None:
    """Refuses, for one of the commands, what is made by the other."""
    if pair.kind != kind:
        other = "image" if kind == "video" else "generate"
        raise Refused(option, value, f"it makes {pair.kind}s: w2sd-video {other}")


def refine_prompts(prompts: list[str], refiner: str) -> Iterator[str]:
    """Prompts as the strong arm is told them."""
    refine: Callable[[str], str]
    if refiner == "shapes":
        from ..shapes import grammar

        refine = grammar.refine
    else:
        from ..refine import language_model

        quiet()
        try:
            refine = language_model(refiner)
        except (OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            accepted = f"give shapes, or a causal language model that is here ({said})"
            raise Refused("--refine", refiner, accepted) from None
    yield from map(refine, prompts)


def sample(
    requests: list[Request],
    folder: Path,
    formats: list[str],
    overwrite: bool,
    before: dict[str, Any] | None,
    verify: bool = False,
    way: str = "Give --overwrite, or another --out",
    to: Console = out,
) -> None:
    """Runs the requests under progress bars, and says where everything is."""
    overwrite = confirm_writable(requests, folder, formats, overwrite, verify, way=way)

    # A terminal shows results above the bars; a file or pipe gets them as they are.
    to_terminal, quietly = sys.stdout is not None and sys.stdout.isatty(), not err.is_terminal
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, redirect_stdout=to_terminal, disable=quietly) as progress:
        videos = progress.add_task("videos", total=len(requests), visible=len(requests) > 1)
        steps = progress.add_task("loading", total=None)

        began = 0.0  # when the models were loaded

        def on_step(name: str, done: int, total: int) -> None:
            nonlocal began
            began = began or time.monotonic()
            if done == 1:
                progress.reset(steps, description=escape(name), total=total)
            progress.update(steps, completed=done)

        quiet()
        sampled = 0
        with closing(make(requests, folder, formats, overwrite, on_step, _command(), verify)) as results:
            for number, made in enumerate(results, 1):
                progress.update(videos, advance=1)
                sampled += not made.kept
                if quietly and len(requests) > 1 and not made.kept:
                    left = round((time.monotonic() - began) / sampled * (len(requests) - number))
                    err.print(f"{number}/{len(requests)}, {timedelta(seconds=left)} left", markup=False)
                lines = [] if made.kept else [f"  {line}" for line in _summary(made, before)]
                lines = [f"{next(iter(made.paths.values()))}{'  (already made)' * made.kept}", *lines]
                if to is out:
                    say(*lines)
                else:
                    to.print(*lines, sep="\n", markup=False)


def confirm_writable(
    requests: list[Request], folder: Path, formats: list[str], overwrite: bool, verify: bool = False, *, way: str
) -> bool:
    """Makes sure, before any model is loaded, that the names of the outputs can be written to.

    Args:
        way: what a user can do where they cannot; on a terminal, one who can overwrite is asked.

    Returns:
        Whether files may be replaced.

    Raises:
        FileExistsError: they are taken.
    """
    for request in requests:
        request.check()
    runs.writable(folder)
    states = conflicts(requests, folder, formats, verify)
    never = [reason for state, reason in states if state == "blocked"]
    taken = never or [reason for _, reason in states if not overwrite]
    if not taken:
        return overwrite
    there = f"{'; '.join(taken[:3])}{f'; and {len(taken) - 3} more' * bool(taken[3:])}."
    if never:
        raise FileExistsError(f"{there} Give another --out")
    if "--overwrite" not in way or not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise FileExistsError(f"{there} {way}")
    if not typer.confirm(f"{there} Replace?", err=True):
        raise typer.Exit(1)
    return True


def _summary(made: Made, before: dict[str, Any] | None) -> Iterator[str]:
    """What is said of a video: its other files, what it took, and whether it is what it was `before`."""
    yield from map(str, list(made.paths.values())[1:])
    yield from (str(next(iter(paths.values()))) for paths in made.singles.values())
    for variant, video in made.record["videos"].items():
        name = video["method"] or variant
        count, seconds, device = video["evaluations"], video["seconds"], made.record["device"]
        of = f" ({count['strong']} by the strong arm, {count['weak']} by the weak)" if count["weak"] else ""
        yield f"{name}: {count['total']} network evaluations{of}, {seconds:.1f} s on {device}"
    if before and not before.get("videos"):
        yield "the sidecar does not say which frames it had"
    elif before:
        differing = differences(before, made.record)
        yield (
            "frames differ from the sidecar's; what differs: " + ", ".join(differing)
            if differing
            else "every frame is the same as the sidecar's"
        )


def _command() -> list[str]:
    """The command line, for the record; what is not UTF-8 in it is escaped."""
    return ["w2sd-video", *(a.encode(errors="surrogateescape").decode(errors="backslashreplace") for a in sys.argv[1:])]
