"""`w2sd-video`: the command line. Commands are thin: the work is in `generate`, `doctor` and `shapes`.

torch and diffusers take seconds to import, so nothing here imports them before a command needs them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import presets, runs
from .generate import Made, conflicts, differences
from .generate import generate as make
from .runs import Refused, Request

app = typer.Typer(
    help="Text to video by weak-to-strong diffusion with reflection (W2SD).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MOST_SEEDS = 10_000

# The option that sets each field of a request, for messages.
OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "strong_guidance_scale": "--strong-guidance",
    "weak_guidance_scale": "--weak-guidance",
    "num_frames": "--frames",
    "motion_adapter": "--motion",
    "formats": "--gif/--png",
    "prompt": "PROMPT",
    "videos": "VIDEO",
}
SAME = (
    "seed schedule reflection_steps height width fps dtype device out inversion convention strong weak method"
    " dimensions prompts weights backend"
)
OPTIONS |= {name: f"--{name.replace('_', '-')}" for name in SAME.split()}


def main() -> None:
    """The program. Exit codes: 0 done; 1 it failed; 2 the input cannot be used; 130 interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that half-made files are cleared away
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # what they warn of, a user of this program cannot mend
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def messages() -> Iterator[None]:
    """Turns the errors that a user can mend into one message and an exit code."""
    try:
        yield
    except Refused as error:
        option = OPTIONS.get(error.argument, error.argument)
        _fail(f"{option}: {error.value!r} is not accepted; {error.accepted}", 2)
    except (ValueError, OSError) as error:
        _fail(str(error), 2)
    except (FloatingPointError, MemoryError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("Interrupted. Finished videos are kept; the same command goes on from there.", 130)
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch.OutOfMemoryError, without importing torch
            raise
        _fail(f"Out of memory: {error}\nTry fewer --frames, less --height and --width, or --dtype float16", 1)


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]Error:[/] {escape(message)}" if code != 130 else escape(message))
    raise typer.Exit(code)


def _option(panel: str, text: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


def _number(panel: str, text: str, kind: type[int] | type[float]) -> Any:
    """An option that takes a number, and names what it got instead."""

    def parse(value: str) -> int | float:
        try:
            return kind(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not a {'whole ' * (kind is int)}number") from None

    return _option(panel, text, parser=parse, metavar="N" if kind is int else "NUMBER")


MODELS, METHOD, VIDEO, OUTPUT = "Models", "Method", "Video", "Output"


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to show.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts, one a line; # starts a comment.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to show.")] = None,
    seed: Annotated[str, typer.Option(help="A number, or several: 0,3,8-15. Each prompt with each.")] = "0",
    again: Annotated[
        Path | None, typer.Option("--from", metavar="SIDECAR", help="Make the video of a sidecar again.")
    ] = None,
    preset: Annotated[
        str | None, _option(MODELS, "Models and settings, one of `w2sd-video presets` (default: shapes).")
    ] = None,
    schedule: Annotated[str | None, _option(MODELS, "One of the preset's noise schedules.")] = None,
    strong: Annotated[str | None, _option(MODELS, "Strong model: hub id, folder or single file.")] = None,
    weak: Annotated[str | None, _option(MODELS, "Weak model: likewise.")] = None,
    motion: Annotated[str | None, _option(MODELS, "Motion module: likewise.")] = None,
    weak_text_encoders: Annotated[
        bool | None,
        _option(MODELS, "Whether the weak arm encodes prompts with the weak model's own text encoders."),
    ] = None,
    dtype: Annotated[str | None, _option(MODELS, "float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, _option(MODELS, "auto, cpu, cuda, cuda:N, mps or xpu.")] = None,
    plain: Annotated[bool, _option(METHOD, "The strong model without reflection.", "--plain")] = False,
    weak_only: Annotated[bool, _option(METHOD, "The weak model alone.", "--weak-only")] = False,
    compare: Annotated[
        bool, _option(METHOD, "Weak, strong and W2SD side by side: video and contact sheet.", "--compare")
    ] = False,
    method: Annotated[
        str | None,
        _option(
            METHOD,
            "w2sd (default), s2wd, z_sampling, re_sampling, advanced_re_sampling or auto_guidance.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _option(
            METHOD, "An option of the method, as motion_gain=2; can be given again.", "--set", metavar="NAME=VALUE"
        ),
    ] = None,
    guidance: Annotated[float | None, _number(METHOD, "Guidance of the final denoising step.", float)] = None,
    strong_guidance: Annotated[float | None, _number(METHOD, "Guidance of the reflection's strong arm.", float)] = None,
    weak_guidance: Annotated[float | None, _number(METHOD, "Guidance of the reflection's weak arm.", float)] = None,
    weak_prompt: Annotated[str | None, _option(METHOD, "Another prompt for the weak arm.")] = None,
    weak_negative_prompt: Annotated[str | None, _option(METHOD, "Another negative prompt for the weak arm.")] = None,
    refine: Annotated[
        str | None,
        _option(
            METHOD,
            "Refine prompts, of which the weak arm keeps the raw ones: shapes, or a language model's folder or hub id.",
        ),
    ] = None,
    reflection_steps: Annotated[
        int | None,
        _number(METHOD, "Steps that reflect, from the noisiest down (lambda; default: T - 1).", int),
    ] = None,
    inversion: Annotated[
        str | None,
        _option(METHOD, "Where the inverse evaluates: x_s (default), x_t, or after N iterations."),
    ] = None,
    convention: Annotated[
        str | None, _option(METHOD, "Level of the inverse: exact (default), or published (the paper's code).")
    ] = None,
    steps: Annotated[int | None, _number(VIDEO, "Denoising steps, T.", int)] = None,
    frames: Annotated[int | None, _number(VIDEO, "Frames.", int)] = None,
    height: Annotated[int | None, _number(VIDEO, "Height in pixels, a multiple of 8.", int)] = None,
    width: Annotated[int | None, _number(VIDEO, "Width in pixels, a multiple of 8.", int)] = None,
    fps: Annotated[int | None, _number(VIDEO, "Frames a second.", int)] = None,
    out_folder: Annotated[Path, _option(OUTPUT, "The folder to write to.", "--out")] = Path("outputs"),
    gif: Annotated[bool, _option(OUTPUT, "Write a GIF too.", "--gif")] = False,
    png: Annotated[bool, _option(OUTPUT, "Write every frame as PNG too.", "--png")] = False,
    overwrite: Annotated[bool, _option(OUTPUT, "Replace files without asking.", "--overwrite")] = False,
) -> None:
    """Make videos from prompts: an MP4 each, and a JSON sidecar with all that it takes to make it again.

    Settings come from the preset; an option replaces one of them. What is already made is kept and skipped.
    """
    fields: dict[str, Any] = {
        "preset": preset,
        "schedule": schedule,
        "strong": strong,
        "weak": weak,
        "motion_adapter": motion,
        "weak_text_encoders": weak_text_encoders,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "strong_guidance_scale": strong_guidance,
        "weak_guidance_scale": weak_guidance,
        "reflection_steps": reflection_steps,
        "inversion": int(inversion) if inversion and re.fullmatch(r"-?\d+", inversion) else inversion,
        "convention": convention,
        "method": method,
        "negative_prompt": negative_prompt,
        "weak_prompt": weak_prompt,
        "weak_negative_prompt": weak_negative_prompt,
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
        "dtype": dtype,
        "device": device,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if settings:
        with messages():
            fields["options"] = dict(read_setting(each) for each in settings)
    formats = ["mp4", *(["gif"] if gif else []), *(["png"] if png else [])]
    with messages():
        variants = [name for name, on in [("plain", plain), ("weak", weak_only), ("compare", compare)] if on]
        if len(variants) > 1:
            raise ValueError("--plain, --weak-only and --compare exclude one another")
        before: dict[str, Any] | None = None
        if again:
            if prompts or prompts_file or variants or fields.keys() - {"device"}:
                others = "--out, --overwrite, --gif, --png and --device"
                raise ValueError(f"--from takes everything from the sidecar; only {others} go with it")
            try:
                request, before = runs.read_sidecar(again)
            except OSError as error:
                raise Refused("--from", str(again), f"give a sidecar that can be read ({error})") from None
            requests = [replace(request, **fields)]
            formats = [kind for kind in runs.FORMATS if kind in {*formats, *before.get("formats", [])}]
        else:
            seeds = parse_seeds(seed)
            requests = [
                Request.of(prompt, number, **{**told, **fields}, variant=variants[0] if variants else "w2sd")
                for prompt, told in _refined(read_prompts(prompts or [], prompts_file), refine)
                for number in seeds
            ]
        _generate(requests, out_folder, formats, overwrite, before)


def _refined(prompts: list[str], refiner: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """Prompts as the strong arm is told them, and what else a request is told: the weak arm's, if that is another."""
    if refiner is None:
        yield from ((prompt, {}) for prompt in prompts)
        return
    refine: Callable[[str], str]
    if refiner == "shapes":
        from .shapes import grammar

        refine = grammar.refine
    else:
        from .refine import language_model

        _quiet()
        try:
            refine = language_model(refiner)
        except (OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            accepted = f"give shapes, or a causal language model that is here ({said})"
            raise Refused("--refine", refiner, accepted) from None
    yield from ((refine(prompt), {"weak_prompt": prompt}) for prompt in prompts)


def _generate(
    requests: list[Request], folder: Path, formats: list[str], overwrite: bool, before: dict[str, Any] | None
) -> None:
    """Runs the requests under progress bars, and says where everything is."""
    for request in requests:
        request.check()
    runs.writable(folder)

    taken = [] if overwrite else conflicts(requests, folder, formats)
    if taken:
        names = ", ".join(map(str, taken[:3])) + (f" and {len(taken) - 3} more" if taken[3:] else "")
        there = f"{names}: there already, and made differently."
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise FileExistsError(f"{there} Give --overwrite, or another --out")
        if not typer.confirm(f"{there} Replace?", err=True):
            raise typer.Exit(1)
        overwrite = True

    # A terminal shows results above the bars; a file or pipe gets them as they are.
    to_terminal = sys.stdout.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, redirect_stdout=to_terminal) as progress:
        videos = progress.add_task("videos", total=len(requests), visible=len(requests) > 1)
        steps = progress.add_task("loading", total=None)

        def on_step(name: str, done: int, total: int) -> None:
            if done == 1:
                progress.reset(steps, description=escape(name), total=total)
            progress.update(steps, completed=done)

        _quiet()
        for made in make(requests, folder, formats, overwrite, on_step, command=["w2sd-video", *sys.argv[1:]]):
            progress.update(videos, advance=1)
            print(f"{made.paths['mp4']}{'  (already made)' * made.kept}")
            if not made.kept:
                print(*(f"  {line}" for line in _summary(made, before)), sep="\n", flush=True)


def _summary(made: Made, before: dict[str, Any] | None) -> Iterator[str]:
    """What is said of a video: its other files, what it took, and whether it is what it was `before`."""
    for kind, path in made.paths.items():
        if kind != "mp4":
            yield str(path)
    for variant, video in made.record["videos"].items():
        name = video["method"] or variant
        count, seconds, device = video["evaluations"], video["seconds"], made.record["device"]
        of = f" ({count['strong']} of the strong model, {count['weak']} of the weak)" if count["weak"] else ""
        yield f"{name}: {count['total']} network evaluations{of}, {seconds:.1f} s on {device}"
    if before:
        differing = differences(before, made.record)
        yield (
            "frames differ from the sidecar's; what differs: " + ", ".join(differing)
            if differing
            else "every frame is the same as the sidecar's"
        )


def _quiet() -> None:
    """Leaves the terminal to our own progress, and to the hub's when it downloads."""
    import diffusers
    import huggingface_hub
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()


def read_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE`, the value as YAML reads it."""
    import yaml

    name, equals, value = text.partition("=")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        read = None
    if not name or not equals or read is None:
        raise Refused("--set", text, "give NAME=VALUE, such as motion_gain=2 or interval=[0.2,0.9]")
    return name, read


def parse_seeds(text: str) -> list[int]:
    """`0,3,8-15` as numbers, each once.

    Raises:
        Refused: it is something else, or there is a negative one.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise Refused("seed", text, "give whole numbers from 0 up, such as 7 or 0,3,8-15")
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(numbers) > MOST_SEEDS:
            raise Refused("seed", text, f"give at most {MOST_SEEDS} seeds at once")
        seeds += numbers
    return list(dict.fromkeys(seeds))


def read_prompts(prompts: list[str], file: Path | None) -> list[str]:
    """The prompts given and those of the file, each once.

    Raises:
        ValueError: there are none; or the file cannot be read.
    """
    prompts = list(prompts)
    if file:
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("--prompts", str(file), f"give a text file in UTF-8 ({error})") from None
        prompts += [line for line in lines if line and not line.startswith("#")]
        if not prompts:
            raise Refused("--prompts", str(file), "it holds no prompt; give one a line")
    if not prompts:
        raise ValueError('PROMPT is missing: w2sd-video generate "a red circle moving right"')
    return list(dict.fromkeys(prompts))


@app.command("presets")
def show_presets(
    name: Annotated[str | None, typer.Argument(help="Show every field of this one.")] = None,
) -> None:
    """The pairs of models that there are, and their settings."""
    with messages():
        if name:
            presets.load(name)
            out.print((presets.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), markup=False, end="")
            return
        for preset in map(presets.load, presets.names()):
            final, strong, weak = preset.guidance_scale, preset.strong_guidance_scale, preset.weak_guidance_scale
            out.print(f"[bold]{preset.name}[/]: {escape(preset.description)}")
            video = f"{preset.num_frames} frames of {preset.width}x{preset.height}"
            for line in (
                f"strong {preset.strong}, weak {preset.weak}",
                f"guidance {final:g} ({strong:g} and {weak:g} in the reflection), {preset.num_inference_steps} steps",
                f"{video}; {preset.source}",
            ):
                out.print(f"  {line}", markup=False)


@app.command()
def doctor() -> None:
    """What this machine has: versions, devices, ffmpeg, and the weights of every preset."""
    from .doctor import report

    for title, rows in report().items():
        out.print(f"[bold]{title}[/]")
        for label, text in rows:
            out.print(f"  {label}: {text}", markup=False)


@app.command("eval")
def evaluate(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO...",
            help="Files, folders, globs; each is a group, compared with the first by prompt and seed.",
        ),
    ],
    dimensions: Annotated[
        str, typer.Option(help="Names of dimensions, with commas between; or six, vbench, images.")
    ] = "six",
    out_file: Annotated[
        Path, typer.Option("--out", help="The results, a JSON file; others are made beside it.")
    ] = Path("results.json"),
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="A JSON file of file names and prompts.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A folder of the scorers' weights (default: caches).")] = None,
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
) -> None:
    """Score videos as VBench does, and compare groups of them.

    Scores are kept as they are made, in a .jsonl beside --out: the same command goes on where it was stopped.
    """
    with messages():
        from .eval.cli import run

        if backend not in ("own", "official"):
            raise Refused("backend", backend, "give own or official")
        official = official_python if backend == "official" else None
        options = (out_file, prompts_file, weights, device, official, images, references or [])
        if not run(out, err, videos, dimensions.split(","), *options):
            raise typer.Exit(1)


@app.command("check-pair")
def check_pair(
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIDEO...", help="Real videos with prompts, as files or folders (shapes: rendered)."),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many prompts.", min=2, max=1000)] = 16,
    preset: Annotated[str, _option(MODELS, "Models and settings, one of `w2sd-video presets`.")] = presets.DEFAULT,
    strong: Annotated[str | None, _option(MODELS, "Strong model: hub id, folder or single file.")] = None,
    weak: Annotated[str | None, _option(MODELS, "Weak model: likewise.")] = None,
    motion: Annotated[str | None, _option(MODELS, "Motion module: likewise.")] = None,
    dtype: Annotated[str | None, _option(MODELS, "float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, _option(MODELS, "auto, cpu, cuda, cuda:N, mps or xpu.")] = None,
    guidance: Annotated[float | None, _number(METHOD, "Guidance of the final denoising step.", float)] = None,
    strong_guidance: Annotated[float | None, _number(METHOD, "Guidance of the reflection's strong arm.", float)] = None,
    weak_guidance: Annotated[float | None, _number(METHOD, "Guidance of the reflection's weak arm.", float)] = None,
    steps: Annotated[int | None, _number(VIDEO, "Denoising steps, T.", int)] = None,
    dimensions: Annotated[
        str | None, typer.Option(help="What to score by, as for `eval` (default: shapes, or six); none: do not sample.")
    ] = None,
    out_folder: Annotated[Path, _option(OUTPUT, "The folder to write to.", "--out")] = Path("pair"),
) -> None:
    """Say whether a pair helps: is its difference aligned with data, and what does it change in the scores?

    Asks both models at noised data, then samples with the strong model alone and with the pair, and compares.
    """
    fields: dict[str, Any] = {"strong": strong, "weak": weak, "motion_adapter": motion, "dtype": dtype}
    fields |= {"device": device, "guidance_scale": guidance, "strong_guidance_scale": strong_guidance}
    fields |= {"weak_guidance_scale": weak_guidance, "num_inference_steps": steps}
    with messages():
        from . import check_pair as check
        from .eval.cli import run

        world = presets.load(preset).grammar
        request = Request.of("a red circle moving right" if world else "any", preset=preset, **fields)
        data = check.samples(request, samples, videos or [])
        runs.writable(out_folder)
        _quiet()
        with Progress(TextColumn("asking the models"), BarColumn(), MofNCompleteColumn(), console=err) as bar:
            task = bar.add_task("", total=len(data))
            found = check.alignment(request, data, lambda done: bar.update(task, completed=done))
        check.write(out_folder / "alignment.csv", found)
        out.print("cosine of the models' difference with what the strong one lacks, by noise level (guidance 1)")
        for sigma, cosine in check.by_level(found):
            out.print(f"  sigma {sigma:.3f}  {cosine}", markup=False)
        mean = check.overall(found)
        out.print(f"  mean         {mean}, {mean.n} samples: {check.verdict(mean)}", markup=False)
        if dimensions == "none":
            return
        for variant in ("plain", "w2sd"):
            asked = [Request.of(prompt, n, preset, variant=variant, **fields) for n, (prompt, _) in enumerate(data)]
            _generate(asked, out_folder / variant, ["mp4"], False, None)
        named = (dimensions or ("shapes" if world == "shapes" else "six")).split(",")
        folders = [str(out_folder / variant) for variant in ("plain", "w2sd")]
        auto = device or "auto"
        if not run(out, err, folders, named, out_folder / "scores.json", None, None, auto, None, False, []):
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
