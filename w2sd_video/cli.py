"""`w2sd-video`: the command line. Commands are thin: the work is in `generate`, `doctor` and `shapes`.

torch and diffusers take seconds to import, so nothing here imports them before a command needs them.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import w2sd_video

from . import plugins, presets, runs, settings
from .documents import read_json, read_text
from .generate import Made, conflicts, differences
from .generate import generate as make
from .runs import Refused, Request
from .settings import METHOD, MODELS, SCALED, SIZE, Scaled, Variant
from .terminal import MACHINE, PATH, err, give_up, messages, number, out, quiet, read_settings, unwritable

app = typer.Typer(
    help="Text to video by weak-to-strong diffusion with reflection (W2SD).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)

MOST_SEEDS = 10_000
DEFAULTS = {"video": presets.DEFAULT, "image": "shapes-image"}

MOST_REQUESTS = 1_000_000
EMPTY = ("negative_prompt", "weak_prompt", "weak_negative_prompt")  # options that may be an empty text


def main() -> None:
    """The program. Its exit codes are those of `EXITS`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-made files are cleared away
    for stream in ("stdin", "stdout", "stderr"):  # that are closed: without this, the next file opened takes its place
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "r" if stream == "stdin" else "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be UTF-8
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # what they warn of, a user of this program cannot mend
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of how diffusers calls it
    # Threads that wait busily take the cores from those that work, where other programs run. With a shorter wait than
    # OpenMP's own, seen on two cores: as fast on an idle machine, 5 times as fast on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # of typer's own messages, such as --help
        give_up("stdout")
        with suppress(typer.Exit), messages():
            raise unwritable(error) from None
        sys.exit(1)


def _say(*lines: str) -> None:
    """Prints lines; where nobody reads them any more, ends as programs then do.

    Raises:
        OSError: they cannot be written, as to a full disk.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        give_up("stdout")
        raise unwritable(error) from None


FORMAT = typer.Option("--format", help="text, or json: data on stdout, all else on stderr.")


def _as_json(form: str) -> bool:
    if form not in ("text", "json"):
        raise Refused("--format", form, "give text or json")
    return form == "json"


def _option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


def _setting(name: str, text: str | None = None, of: type = settings.Settings) -> Any:
    """The option of a setting of a run; see `settings`."""
    about, kind = settings.of(name, of), settings.number(name, of)
    more: dict[str, Any] = {"metavar": about.metavar} if about.metavar else {}
    if kind:
        more = {"parser": number(kind), "metavar": "N" if kind is int else "NUMBER"}
    return typer.Option(*about.options, help=text or about.help, rich_help_panel=about.panel, **more)


OUTPUT = "Output"
EXITS = (
    "Exit codes: 0 done; 1 something failed or the machine did (a broken video, a full disk, no memory); 2 the input"
    " cannot be used; 130 and 143 interrupted."
)
app.info.epilog = EXITS


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"w2sd-video {w2sd_video.__version__}")
        raise typer.Exit()


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself."""


@app.command()
def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to show.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="The same, as an option.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts, one a line; # starts a comment.", **PATH)
    ] = None,
    negative_prompt: Annotated[str | None, _setting("negative_prompt")] = None,
    seed: Annotated[
        str | None, typer.Option(help="A number, or several: 0,3,8-15. Each prompt with each (default: 0).")
    ] = None,
    again: Annotated[
        Path | None, typer.Option("--from", help="Make the video of a sidecar again.", **{**PATH, "metavar": "SIDECAR"})
    ] = None,
    preset: Annotated[
        str | None,
        _option(
            MODELS,
            "Models and settings: one of `w2sd-video presets`, or a YAML file (default: the shipped model).",
            "--preset",
            "--pair",
        ),
    ] = None,
    schedule: Annotated[str | None, _setting("schedule", of=presets.Preset)] = None,
    strong: Annotated[str | None, _setting("strong")] = None,
    weak: Annotated[str | None, _setting("weak")] = None,
    vae: Annotated[str | None, _setting("vae")] = None,
    motion: Annotated[str | None, _setting("motion_adapter")] = None,
    weak_motion: Annotated[str | None, _setting("weak_motion_adapter")] = None,
    weak_text_encoders: Annotated[bool | None, _setting("weak_text_encoders")] = None,
    loras: Annotated[list[str] | None, _setting("adapters")] = None,
    lora_path: Annotated[
        str | None, _option(MODELS, "The same, as the published script has it.", "--lora_path")
    ] = None,
    strong_lora_scale: Annotated[
        float | None,
        _option(
            MODELS,
            "The LoRA's scale in the strong arm.",
            "--strong_lora_scale",
            parser=number(float),
            metavar="NUMBER",
        ),
    ] = None,
    weak_lora_scale: Annotated[
        float | None,
        _option(
            MODELS, "The LoRA's scale in the weak arm.", "--weak_lora_scale", parser=number(float), metavar="NUMBER"
        ),
    ] = None,
    controlnet: Annotated[str | None, _setting("controlnet")] = None,
    control: Annotated[str | None, _setting("control")] = None,
    ip_adapter: Annotated[str | None, _setting("ip_adapter")] = None,
    image_encoder: Annotated[
        str | None, _option(MODELS, "The IP-Adapter's image encoder, where it is not beside it: a folder.")
    ] = None,
    ip_image: Annotated[str | None, _setting("ip_image")] = None,
    dtype: Annotated[str | None, _setting("dtype")] = None,
    device: Annotated[str | None, _setting("device")] = None,
    plain: Annotated[bool, _option(METHOD, "The strong model without reflection.", "--plain")] = False,
    weak_only: Annotated[
        bool,
        _option(
            METHOD,
            "The weak arm alone, at --guidance; where guidance is all that tells it apart, at --weak-guidance.",
            "--weak-only",
        ),
    ] = False,
    compare: Annotated[
        bool,
        _option(
            METHOD,
            "Weak, strong and W2SD side by side: video and contact sheet; and each alone, in weak/, plain/ and w2sd/.",
            "--compare",
        ),
    ] = False,
    method: Annotated[str | None, _setting("method")] = None,
    chosen: Annotated[list[str] | None, _setting("options")] = None,
    guidance: Annotated[float | None, _setting("guidance_scale")] = None,
    strong_guidance: Annotated[float | None, _setting("strong_guidance_scale")] = None,
    weak_guidance: Annotated[float | None, _setting("weak_guidance_scale")] = None,
    weak_motion_scale: Annotated[float | None, _setting("weak_motion_scale")] = None,
    weak_routing: Annotated[str | None, _setting("weak_routing")] = None,
    weak_prompt: Annotated[str | None, _setting("weak_prompt")] = None,
    weak_negative_prompt: Annotated[str | None, _setting("weak_negative_prompt")] = None,
    refine: Annotated[
        str | None,
        _option(
            METHOD,
            "Refine prompts, of which the weak arm keeps the raw ones: shapes, or a language model's folder or hub id.",
        ),
    ] = None,
    reflection_steps: Annotated[int | None, _setting("reflection_steps")] = None,
    inversion: Annotated[str | None, _setting("inversion")] = None,
    convention: Annotated[str | None, _setting("convention")] = None,
    steps: Annotated[int | None, _setting("num_inference_steps")] = None,
    frames: Annotated[int | None, _setting("num_frames")] = None,
    size: Annotated[int | None, _option(SIZE, "Height and width.", parser=number(int), metavar="N")] = None,
    height: Annotated[int | None, _setting("height")] = None,
    width: Annotated[int | None, _setting("width")] = None,
    fps: Annotated[int | None, _setting("fps")] = None,
    out_folder: Annotated[Path, _option(OUTPUT, "The folder to write to.", "--out", "--save_dir", **PATH)] = Path(
        "outputs"
    ),
    gif: Annotated[bool, _option(OUTPUT, "Write a GIF too.", "--gif")] = False,
    png: Annotated[bool, _option(OUTPUT, "Write every frame as PNG too.", "--png")] = False,
    overwrite: Annotated[bool, _option(OUTPUT, "Replace files without asking.", "--overwrite")] = False,
    verify: Annotated[
        bool,
        _option(
            OUTPUT, "Compare what is made already with its sidecar by hashes, not by sizes and times alone.", "--verify"
        ),
    ] = False,
) -> None:
    """Make videos from prompts: an MP4 each, and a JSON sidecar with all that it takes to make it again.

    Settings come from the preset; an option replaces one of them. What is already made is kept and skipped.
    """
    fields: dict[str, Any] = {
        "schedule": schedule,
        "strong": strong,
        "weak": weak,
        "vae": vae,
        "motion_adapter": motion,
        "weak_motion_adapter": weak_motion,
        "weak_text_encoders": weak_text_encoders,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "strong_guidance_scale": strong_guidance,
        "weak_guidance_scale": weak_guidance,
        "reflection_steps": reflection_steps,
        "inversion": int(inversion) if inversion and re.fullmatch(r"-?\d{1,9}", inversion) else inversion,
        "convention": convention,
        "method": method,
        "negative_prompt": negative_prompt,
        "control": control,
        "ip_image": ip_image,
        "weak_motion_scale": weak_motion_scale,
        "weak_prompt": weak_prompt,
        "weak_negative_prompt": weak_negative_prompt,
        "num_frames": frames,
        "fps": fps,
        "dtype": dtype,
        "device": device,
    }
    kind = "image" if context.info_name == "image" else "video"
    prompts = [*(prompts or []), *(prompt or [])]
    with messages():
        _refuse_empty(context)
        if size is not None:
            if height is not None or width is not None:
                raise Refused("--size", size, "give it, or --height and --width")
            if not 8 <= size <= settings.WIDEST or size % 8:
                raise Refused("--size", size, f"give a multiple of 8, from 8 to {settings.WIDEST}")
            height = width = size
        fields |= {"height": height, "width": width}
        fields = {name: value for name, value in fields.items() if value is not None}
        if chosen:
            fields["options"] = read_settings(chosen)
        file = plugins.from_file("method", method) if method and plugins.is_file(method) else None
        if file:
            fields |= {"method": file.name, "method_sha256": file.sha256}
        if weak_routing is not None:
            ends = re.fullmatch(r"(\d{1,9}),(\d{1,9})", weak_routing)
            fields["weak_routing"] = [int(ends[1]), int(ends[2])] if ends else weak_routing
        if controlnet is not None:
            fields["controlnet"] = read_scaled("--controlnet", controlnet, 1.0, 0.0)
        if ip_adapter is not None:
            fields["ip_adapter"] = read_scaled("--ip-adapter", ip_adapter, 0.6, 0.0)
        formats = ["mp4", *(["gif"] if gif else []), *(["png"] if png else [])]
        variants = [name for name, on in [("plain", plain), ("weak", weak_only), ("compare", compare)] if on]
        if len(variants) > 1:
            raise ValueError("--plain, --weak-only and --compare exclude one another")
        for name in ("method", "options"):
            if name in fields and (plain or weak_only):
                raise Refused(
                    name, fields[name], "--plain and --weak-only sample without a method: give one or the other"
                )
        loras = [*(loras or []), *([lora_path] if lora_path else [])]
        scales = {"strong": strong_lora_scale, "weak": weak_lora_scale}
        before: dict[str, Any] | None = None
        if again:
            asked = (prompts_file, preset, refine, seed, image_encoder, *scales.values())
            replaced = fields.keys() - {"device", *(("method", "method_sha256") if file else ())}
            if prompts or variants or loras or replaced or any(x is not None for x in asked):
                others = "--out, --overwrite, --verify, --gif, --png, --device and --method FILE.py:CLASS"
                raise ValueError(f"--from takes everything from the sidecar; only {others} go with it")
            try:
                request, before = runs.read_sidecar(again)
            except OSError as error:
                raise Refused("--from", str(again), f"give a sidecar that can be read ({error})") from None
            except ValueError as error:
                raise ValueError(f"--from: {error}") from None
            if file and (file.name, file.sha256) != (request.method, request.method_sha256):
                was = f"{request.method}{f', SHA-256 {request.method_sha256}' if request.method_sha256 else ''}"
                raise Refused("method", method, f"it is not the method of the sidecar: {was}")
            requests = [replace(request, **fields)]
            try:
                requests[0].check()
            except (ValueError, OSError) as error:
                if getattr(error, "argument", None) in fields or getattr(error, "errno", None) in MACHINE:
                    raise
                raise ValueError(f"--from: {again}: its request's {error}") from None
            check_kind(requests[0], kind, "--from", str(again))
            formats = [kind for kind in runs.FORMATS if kind in {*formats, *before.get("formats", [])}]
            verify = True
            for path, what in runs.check_files(again.parent, before, hashed=True).items():
                if os.path.lexists(path):
                    err.print(f"{path} {what}: it is damaged or another one", markup=False)
        else:
            seeds = parse_seeds("0" if seed is None else seed)
            fields["preset"] = pair = presets.load(preset or DEFAULTS[kind])
            check_kind(pair, kind, "--preset", pair.name)
            if image_encoder is not None:
                if (ip := fields.get("ip_adapter") or pair.ip_adapter) is None:
                    raise Refused("image_encoder", image_encoder, "the pair has no IP-Adapter; give --ip-adapter")
                fields["ip_adapter"] = {**ip, "image_encoder": image_encoder}
            said = {arm: x for arm, x in scales.items() if x is not None}
            if adapters := _adapters(loras, pair, said, alone=weak is None and weak_motion is None):
                fields["adapters"] = adapters
            refiner = refine or (pair.refine if weak_prompt is None else None)
            texts = read_prompts(prompts, prompts_file, kind)
            if len(texts) * len(seeds) > MOST_REQUESTS:
                accepted = f"{len(texts)} prompts with each are more than {MOST_REQUESTS} {kind}s: give fewer at once"
                raise Refused("seed", seed, accepted)
            raw = ((text, {"weak_prompt": text} if refiner else {}) for text in texts)
            requests = [
                Request.of(text, number, **{**told, **fields}, variant=variants[0] if variants else "w2sd")
                for text, told in raw
                for number in seeds
            ]
            if refiner:  # which may load a language model, so that all else is refused before
                refined = dict(zip(texts, _refined(texts, refiner), strict=True))
                requests = [replace(request, prompt=refined[request.prompt]) for request in requests]
            if idle := _without_effect(requests[0], fields, weak_lora_scale):
                err.print(escape(f"Note: {idle}"))
        _generate(requests, out_folder, formats, overwrite, before, verify)


def _refuse_empty(context: typer.Context) -> None:
    """Refuses options whose value is an empty text, as of a shell's variable that is not set."""
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        empty = value == "" or (isinstance(value, (list, tuple)) and "" in value)
        if empty and parameter.param_type_name == "option" and parameter.name not in (*EMPTY, "prompt"):
            raise Refused(parameter.opts[0], "", f"give {parameter.metavar or 'a value'}, or leave the option out")


def _without_effect(request: Request, fields: dict[str, Any], weak_lora_scale: float | None) -> str:
    """What is said where options have no part in what is made; empty where each has."""
    from .generate import weak_arm

    arms: tuple[str, ...] = ("weak",)
    used: tuple[str, ...] = ()
    match request.variant, request.method:
        case "plain", _:
            by, arms = "--plain samples the strong model alone", ("weak", "reflection")
        case "weak", _:
            by, arms = "--weak-only samples the weak arm alone, without reflection", ("reflection",)
            if "weak_guidance_scale" in fields and (request.weak or request.weak_motion_adapter or weak_arm(request)):
                return f"--weak-only samples at --guidance {request.guidance_scale:g}; --weak-guidance has no effect."
        case "w2sd", "z_sampling":
            by, used = "z_sampling has the strong model in both arms", ("weak_guidance_scale",)
        case "w2sd", "re_sampling":
            by = "re_sampling has no weak arm"
        case _:
            return ""
    named = [name for name in fields if name in settings.names() and name not in used]
    idle = [settings.option(name) for name in named if settings.of(name).arm in arms]
    if weak_lora_scale is not None and "weak" in arms:
        idle.append("--weak_lora_scale")
    return f"{by}; {', '.join(idle)} {'have' if idle[1:] else 'has'} no effect." if idle else ""


def check_kind(pair: presets.Pair, kind: str, option: str, value: str) -> None:
    """Refuses, for one of the commands, what is made by the other."""
    if pair.kind != kind:
        other = "image" if kind == "video" else "generate"
        raise Refused(option, value, f"it makes {pair.kind}s: w2sd-video {other}")


def _refined(prompts: list[str], refiner: str) -> Iterator[str]:
    """Prompts as the strong arm is told them."""
    refine: Callable[[str], str]
    if refiner == "shapes":
        from .shapes import grammar

        refine = grammar.refine
    else:
        from .refine import language_model

        quiet()
        try:
            refine = language_model(refiner)
        except (OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            accepted = f"give shapes, or a causal language model that is here ({said})"
            raise Refused("--refine", refiner, accepted) from None
    yield from map(refine, prompts)


def _generate(
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
    overwrite = _free(requests, folder, formats, overwrite, verify, way=way)

    # A terminal shows results above the bars; a file or pipe gets them as they are.
    to_terminal = sys.stdout is not None and sys.stdout.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, redirect_stdout=to_terminal) as progress:
        videos = progress.add_task("videos", total=len(requests), visible=len(requests) > 1)
        steps = progress.add_task("loading", total=None)

        def on_step(name: str, done: int, total: int) -> None:
            if done == 1:
                progress.reset(steps, description=escape(name), total=total)
            progress.update(steps, completed=done)

        quiet()
        with closing(make(requests, folder, formats, overwrite, on_step, _command(), verify)) as results:
            for made in results:
                progress.update(videos, advance=1)
                lines = [] if made.kept else [f"  {line}" for line in _summary(made, before)]
                lines = [f"{next(iter(made.paths.values()))}{'  (already made)' * made.kept}", *lines]
                if to is out:
                    _say(*lines)
                else:
                    to.print(*lines, sep="\n", markup=False)


def _free(
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


def read_scaled(option: str, text: str, strong: float, weak: float) -> Scaled:
    """`MODEL[:STRONG[:WEAK]]`: a model, and its scales in the two arms."""
    number = r":([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    found = re.fullmatch(rf"(.+?)(?:{number})?(?:{number})?", text)
    if not found:
        raise Refused(option, text, f"give {SCALED}")
    scales = [
        default if said is None else float(said)
        for said, default in zip(found.groups()[1:], (strong, weak), strict=True)
    ]
    return {"model": found[1], "strong": scales[0], "weak": scales[1]}


def _adapters(loras: list[str], pair: presets.Preset, scales: dict[str, float], alone: bool) -> dict[str, Scaled]:
    """LoRAs by name, of those that are named or else the preset's; empty where nothing is asked.

    Args:
        scales: by arm, in place of those that they come with.
        alone: no other weak model or motion module is named. Where there is one, or the pair has one, LoRAs are the
            strong model's.
    """
    named = dict(pair.adapters) if scales and not loras else {}
    option, scale = next(((f"--{arm}_lora_scale", x) for arm, x in scales.items()), ("", 0.0))
    if scales and not (loras or named):
        raise Refused(option, scale, f"preset {pair.name} has no LoRA: name one by --lora")
    weak = -1.5 if alone and pair.weak is None and pair.weak_motion_adapter is None else 0.0
    for text in loras:
        each = read_scaled("--lora", text, 0.8, weak)
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
    """`0,3,8-15` as numbers, each once.

    Raises:
        Refused: it is something else, or there is a negative one.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})(?:\s*-\s*(\d{1,19}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise Refused("seed", text, "give whole numbers from 0 up, such as 7 or 0,3,8-15")
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(numbers) > MOST_SEEDS:
            raise Refused("seed", text, f"give at most {MOST_SEEDS} seeds at once")
        seeds += numbers
    return list(dict.fromkeys(seeds))


def read_prompts(prompts: list[str], file: Path | None, kind: str = "video") -> list[str]:
    """The prompts given and those of the file, each once.

    Raises:
        ValueError: there are none; or the file cannot be read.
    """
    prompts = list(prompts)
    if file:
        try:
            lines = [line.strip() for line in read_text(file).splitlines()]
        except (OSError, ValueError) as error:
            raise Refused("--prompts", str(file), f"give a text file in UTF-8 ({error})") from None
        prompts += [line for line in lines if line and not line.startswith("#")]
        if not prompts:
            raise Refused("--prompts", str(file), "it holds no prompt; give one a line")
    if not prompts:
        example = 'image "a red circle"' if kind == "image" else 'generate "a red circle moving right"'
        raise ValueError(f"PROMPT is missing: w2sd-video {example}")
    return list(dict.fromkeys(prompts))


def _without(command: Callable[..., None], *options: str) -> Callable[..., None]:
    """A command that lacks some of another's options."""
    hints = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    kept = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items() if n not in options]

    def narrowed(**arguments: Any) -> None:
        command(**arguments)

    narrowed.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    narrowed.__annotations__ = {p.name: p.annotation for p in kept}
    return narrowed


app.command("image", help="Make images from prompts: a PNG each, with a JSON sidecar; options as of `generate`.")(
    _without(generate, "motion", "weak_motion", "weak_motion_scale", "frames", "fps", "gif", "png")
)


@app.command("presets")
def show_presets(
    name: Annotated[str | None, typer.Argument(help="Show every field of this one, or of this YAML file.")] = None,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """The pairs of models that there are, and their settings."""
    with messages():
        as_json = _as_json(form)
        if name is not None and not as_json:
            out.print(presets.text(presets.load(name)), markup=False, end="")
            return
        if as_json:
            found = map(presets.load, presets.names()) if name is None else [presets.load(name)]
            data = [asdict(each) | {"plugin": _owner_of_preset(each.name)} for each in found]
            _say(json.dumps(data if name is None else data[0], indent=1))
            return
        for preset in map(presets.load, presets.names()):
            final, strong, weak = preset.guidance_scale, preset.strong_guidance_scale, preset.weak_guidance_scale
            out.print(f"[bold]{preset.name}[/]: {escape(preset.description)}")
            frames = f"{preset.num_frames} frames of " if preset.video else ""
            for line in (
                ", ".join(f"{role.replace('_', ' ')} {model}" for role, model in preset.models.items()),
                f"guidance {final:g} ({strong:g} and {weak:g} in the reflection), {preset.num_inference_steps} steps",
                f"{preset.family}, {frames}{preset.width}x{preset.height}; {preset.source}",
                *([f"plug-in of {owner}"] if (owner := presets.source(preset.name)) else []),
            ):
                out.print(f"  {line}", markup=False)


def _owner_of_preset(name: str) -> str | None:
    """The plug-in that a preset is of; None where it is built in, or a file."""
    return presets.source(name) or None if name in presets.names() else None


@app.command("methods")
def show_methods(form: Annotated[str, FORMAT] = "text") -> None:
    """The methods that there are, their options, and which plug-ins they are from."""
    with messages():
        as_json = _as_json(form)
        from . import methods

        _show_plugins("method", [name for name in methods.METHODS if name != "weak"], methods.described, as_json)


@app.command("dimensions")
def show_dimensions(form: Annotated[str, FORMAT] = "text") -> None:
    """The dimensions that `eval` scores by, and which plug-ins they are from."""
    with messages():
        as_json = _as_json(form)
        from .eval import dimensions

        _show_plugins("dimension", dimensions.NAMES, dimensions.described, as_json)
        if not as_json:
            out.print(f"groups: {', '.join(dimensions.GROUPS)}", markup=False)
            out.print(f"by VBench's own package, --backend official: {', '.join(dimensions.OFFICIAL)}", markup=False)


def _show_plugins(
    kind: plugins.Kind, builtin: Sequence[str], described: Callable[[str], dict[str, Any]], as_json: bool
) -> None:
    """Shows what there is of a kind: names, what is said of each, and for plug-ins where they are from.

    Raises:
        Refused: a plug-in cannot be used; after all others are shown.
    """
    broken: list[Refused] = []
    rows: list[dict[str, Any]] = []
    for name in [*builtin, *(name for name in plugins.installed(kind) if name not in builtin)]:
        try:
            plugin = plugins.find(kind, name, builtin)
            rows.append({"name": name, **described(name), "plugin": plugin.source if plugin else None})
        except Refused as refused:
            broken.append(refused)
    if as_json:
        _say(json.dumps(rows, indent=1, default=str))
    else:
        for row in rows:
            name, summary, plugin_of = row.pop("name"), row.pop("summary"), row.pop("plugin")
            out.print(f"[bold]{escape(name)}[/]: {escape(summary)}")
            for key, value in row.items():
                listed = [f"{k}={v!r}" for k, v in value.items()] if isinstance(value, dict) else value
                if listed and listed != [name]:
                    out.print(f"  {key}: {', '.join(listed)}", markup=False)
            if plugin_of:
                out.print(f"  plug-in of {plugin_of}", markup=False)
    for each in broken[1:]:
        err.print(f"Error: {each}", markup=False)
    if broken:
        raise broken[0]


@app.command()
def doctor(form: Annotated[str, FORMAT] = "text") -> None:
    """What this machine has: versions, devices, ffmpeg, and the weights of every preset."""
    with messages():
        as_json = _as_json(form)
        from .doctor import report

        sections = report()
        if as_json:
            data = {title: [{"what": label, "is": text} for label, text in rows] for title, rows in sections.items()}
            _say(json.dumps(data, indent=1))
            return
        for title, rows in sections.items():
            out.print(f"[bold]{title}[/]")
            for label, text in rows:
                out.print(f"  {label}: {text}", markup=False)


@app.command("eval")
def evaluate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO...",
            help="Files, folders, globs; each is a group, compared with the first by prompt and seed."
            " LABEL=PATH gives it a name.",
        ),
    ],
    dimensions: Annotated[
        str,
        typer.Option(
            help="Some of `w2sd-video dimensions`, with commas between; or six, vbench, images; or FILE.py:NAME."
        ),
    ] = "six",
    out_file: Annotated[
        Path, typer.Option("--out", help="The results, a JSON file; others are made beside it.", **PATH)
    ] = Path("results.json"),
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="A JSON file of file names and prompts.", **PATH)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A folder of the scorers' weights (default: caches).", **PATH)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    backend: Annotated[
        str, typer.Option(help="own, or official: VBench's own package, all its 16 dimensions.")
    ] = "own",
    official_python: Annotated[
        str, typer.Option(help="The Python of the environment that has VBench's package.")
    ] = sys.executable,
    images: Annotated[bool, typer.Option("--images", help="Score every picture of a folder by itself.")] = False,
    references: Annotated[
        list[str] | None, typer.Option(help="Pictures that clip_i, dino and fid compare with; or FID's .npz.")
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="List N prompts a column on which a group is worse than the first (default: 3, in the files alone).",
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option("--format", help="text (or table); or on stdout json, or the tables as markdown or latex."),
    ] = "text",
) -> None:
    """Score videos as VBench does, and compare groups of them.

    Scores are kept as they are made, in a .jsonl beside --out: the same command goes on where it was stopped.
    """
    with messages():
        from .eval.cli import run
        from .eval.dimensions import named_by_user

        form = "text" if form == "table" else form
        if form not in ("text", "json", "markdown", "latex"):
            raise Refused("--format", form, "give text, json, markdown or latex")
        if backend not in ("own", "official"):
            raise Refused("backend", backend, "give own or official")
        if not official_python:
            raise Refused("official_python", "", "give the Python of an environment that has VBench's package")
        official = official_python if backend == "official" else None
        if official is None and official_python != sys.executable:
            err.print("Note: --official-python has no effect without --backend official.")
        options = (out_file, prompts_file, weights, device, official, images, references or [])
        if not run(out, err, videos, named_by_user(dimensions), *options, form, worst):
            raise typer.Exit(1)


@app.command("check-pair")
def check_pair(
    context: typer.Context,
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEO...",
            help="Real videos, or pictures, with prompts, as files or folders (shipped models: drawn).",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many prompts.", min=2, max=1000)] = 16,
    preset: Annotated[
        str,
        _option(MODELS, "Models and settings: one of `w2sd-video presets`, or a YAML file.", "--preset", "--pair"),
    ] = presets.DEFAULT,
    strong: Annotated[str | None, _setting("strong")] = None,
    weak: Annotated[str | None, _setting("weak")] = None,
    vae: Annotated[str | None, _setting("vae")] = None,
    motion: Annotated[str | None, _setting("motion_adapter")] = None,
    loras: Annotated[list[str] | None, _setting("adapters", "A LoRA and its scales, as of `generate`.")] = None,
    control: Annotated[
        Path | None,
        _option(MODELS, "A folder: what the ControlNet is shown for each VIDEO, under the same name.", **PATH),
    ] = None,
    dtype: Annotated[str | None, _setting("dtype")] = None,
    device: Annotated[str | None, _setting("device")] = None,
    guidance: Annotated[float | None, _setting("guidance_scale")] = None,
    strong_guidance: Annotated[float | None, _setting("strong_guidance_scale")] = None,
    weak_guidance: Annotated[float | None, _setting("weak_guidance_scale")] = None,
    steps: Annotated[int | None, _setting("num_inference_steps")] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(
            help="What to score by, as for `eval` (default: the pair's judge, or six or images; and clipped); none:"
            " do not sample."
        ),
    ] = None,
    out_folder: Annotated[Path, _option(OUTPUT, "The folder to write to.", "--out", **PATH)] = Path("pair"),
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Say whether a pair helps: is its difference aligned with data, and what does it change in the scores?

    Asks both models at noised data, then samples with the strong model alone and with the pair, and compares.
    """
    fields: dict[str, Any] = {"strong": strong, "weak": weak, "motion_adapter": motion, "dtype": dtype}
    fields |= {"device": device, "guidance_scale": guidance, "strong_guidance_scale": strong_guidance}
    fields |= {"weak_guidance_scale": weak_guidance, "num_inference_steps": steps, "vae": vae}
    with messages():
        _refuse_empty(context)
        console = err if (as_json := _as_json(form)) else out
        if control is not None and not videos:
            raise Refused("control", str(control), "it goes with VIDEO, whose pictures to follow it has; give both")
        from . import check_pair as check
        from .eval.cli import free, run
        from .eval.dimensions import expand, named_by_user
        from .eval.results import finite

        if dimensions not in (None, "none"):
            dimensions = named_by_user(dimensions)
            expand(dimensions)
        pair = presets.load(preset)
        runs.writable(out_folder)
        if loras:
            pair = replace(pair, adapters=_adapters(loras, pair, {}, alone=weak is None))
        data = check.samples(pair, samples, videos or [], control, out_folder / "shown")
        if videos:
            raw = [each.prompt for each in data]
            if pair.refine:  # which may load a language model, so that all else is refused before
                for n, (each, text) in enumerate(zip(data, raw, strict=True)):
                    Request.of(text, n, pair, **each.told, weak_prompt=text, **fields)
                texts = _refined(raw, pair.refine)
                told = [{**each.told, "weak_prompt": text} for each, text in zip(data, raw, strict=True)]
                data = [replace(s, prompt=p, told=t) for s, p, t in zip(data, texts, told, strict=True)]
        requests = [Request.of(each.prompt, n, pair, **each.told, **fields) for n, each in enumerate(data)]
        sampled: tuple[Variant, ...] = () if dimensions == "none" else ("plain", "w2sd")
        variants = {variant: out_folder / variant for variant in sampled}
        batches = {variant: [replace(request, variant=variant) for request in requests] for variant in variants}
        check.writable(out_folder)
        for variant, folder in variants.items():
            _free(batches[variant], folder, ["mp4"], False, way="Give another --out")
        if variants:
            free(out_folder / "scores.json")
        quiet()
        with Progress(TextColumn("asking the models"), BarColumn(), MofNCompleteColumn(), console=err) as bar:
            task = bar.add_task("", total=len(data))
            shown = [each.data for each in data]
            found = check.alignment(requests, shown, lambda done: bar.update(task, completed=done))
        check.write(out_folder / check.COSINES, found)
        console.print("cosine of the models' difference with what the strong one lacks, by noise level (guidance 1)")
        units = [each.prompt for each in data]
        levels = check.by_level(found, units)
        for sigma, cosine in levels:
            console.print(f"  sigma {sigma:.3f}  {cosine}", markup=False)
        overall = check.overall(found, units)
        mean = overall.difference
        said = f"{mean}, {mean.n} samples of {mean.over}: {check.verdict(overall)}"
        console.print(f"  mean         {said}", markup=False)
        result: dict[str, Any] = {
            "levels": [{"sigma": sigma, "cosine": asdict(cosine)} for sigma, cosine in levels],
            "cosine": asdict(mean),
            "p": overall.p,
            "verdict": check.verdict(overall),
            "scores": None,
        }
        scored = True
        if dimensions != "none":
            for variant, folder in variants.items():
                _generate(batches[variant], folder, ["mp4"], False, None, way="Give another --out", to=console)
            named = dimensions.split(",") if dimensions else check.usual_dimensions(pair)
            folders = [str(folder) for folder in variants.values()]
            auto, results = device or "auto", out_folder / "scores.json"
            scored = run(console, err, folders, named, results, None, None, auto, None, not pair.video, [])
            result["scores"] = read_json(results)
        if as_json:
            _say(json.dumps(finite(result), indent=1))
        if not scored:
            raise typer.Exit(1)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    help="The shipped world of moving shapes: train its models, render it, judge videos of it.",
)
def shapes(context: typer.Context) -> None:
    """Hands over to `w2sd_video.shapes.cli`, which is imported only here."""
    from .shapes.cli import app as shapes_app

    with messages():
        shapes_app(args=context.args, prog_name="w2sd-video shapes")


if __name__ == "__main__":
    main()
