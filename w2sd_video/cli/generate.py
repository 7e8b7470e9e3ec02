"""`w2sd-video generate` and `w2sd-video image`: makes the requests of a command line under progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import presets, runs
from ..doctor import check_models, check_there, missing
from ..errors import Refused
from ..families import FAMILIES, VIDEOS
from ..generation import Made, conflicts
from ..generation import generate as make
from ..progress import bar
from ..runs import Request
from ..sampling import differences, evaluations, strong_evaluations
from ..settings import METHOD, MODELS, SIZE
from ..terminal import PATH, command_line, err, messages, number, out, quiet, say, words
from .options import OUTPUT, option, read_fields, refuse_empty
from .progress import cost
from .requests import Line


def suites() -> list[str]:
    """The names of prompt suites, which a shell completes."""
    from ..prompts import names

    return names()


IMAGES = tuple(family for family in FAMILIES if family not in VIDEOS)


def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to show.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What to show, as an option; can be given again.")
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Prompts of a suite: one of `w2sd-video prompts ls`, or a file (text, CSV, JSON, YAML, Parquet).",
            autocompletion=suites,
            **{**PATH, "metavar": "SUITE"},
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="Seeds, such as 7 or 0,3,8-15; each prompt is made with each (default: 0).")
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
            **number(float),
        ),
    ] = None,
    weak_lora_scale: Annotated[
        float | None,
        option(MODELS, "The LoRA's scale in the weak arm.", "--weak_lora_scale", **number(float)),
    ] = None,
    image_encoder: Annotated[
        str | None,
        option(MODELS, "The folder of the IP-Adapter's image encoder, if it does not lie beside the IP-Adapter."),
    ] = None,
    plain: Annotated[bool, option(METHOD, "The strong model without reflection.", "--plain")] = False,
    weak_only: Annotated[
        bool,
        option(
            METHOD,
            "The weak arm alone, at --guidance; if the arms differ in guidance alone, at --weak-guidance.",
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
            "Refine prompts for the strong arm; the weak arm keeps the raw ones: shapes, or a language model.",
            **words("shapes"),
        ),
    ] = None,
    size: Annotated[int | None, option(SIZE, "Height and width.", **number(int))] = None,
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
    overwrite: Annotated[
        bool, option(OUTPUT, "Replace existing files, whatever settings made them.", "--overwrite")
    ] = False,
    verify: Annotated[
        bool,
        option(
            OUTPUT, "Compare existing files with their sidecars by hashes, not only by sizes and times.", "--verify"
        ),
    ] = False,
    dry_run: Annotated[
        bool, option(OUTPUT, "Only say what would be made, and how many network evaluations it takes.", "--dry-run")
    ] = False,
    *,
    kind: str,
    **fields: Any,
) -> None:
    """Make videos from prompts: for each, an MP4 and a JSON sidecar with all that is needed to make it again.

    Settings come from the preset; each option replaces one. Videos that exist already are kept and skipped.
    """
    # One function because every option of the command is declared in its signature; the work is in `requests` and
    # `sample`.
    line = Line(
        kind=kind,
        prompts=[*(prompts or []), *(prompt or [])],
        unquoted=len(prompts or []) > 1 and all(len(each.split()) == 1 for each in prompts or []),
        suite=suite,
        seed=seed,
        sidecar=again,
        preset=preset,
        loras=[*fields.pop("adapters", []), *([lora_path] if lora_path else [])],
        lora_scales={"strong": strong_lora_scale, "weak": weak_lora_scale},
        image_encoder=image_encoder,
        variants=[name for name, on in [("plain", plain), ("weak", weak_only), ("compare", compare)] if on],
        refine=refine,
        record=record,
    )
    with messages(context) as flags:
        refuse_empty(context)
        if size is not None:
            if fields.keys() & {"height", "width"}:
                raise Refused("--size", size, "give it, or --height and --width")
            fields |= {"height": size, "width": size}
            flags |= {"height": "--size", "width": "--size"}
        if lora_path and line.loras == [lora_path]:
            flags["adapters"] = "--lora_path"
        fields = read_fields(fields)
        formats = {"mp4": True, "gif": gif, "png": png, "differences": record}
        batch = line.batch({name for name, wanted in formats.items() if wanted}, fields, flags)
        with batch.origin:
            if dry_run:
                check_models(batch.requests)
                _say_cost(batch.requests)
                return
            sample(batch.requests, out_folder, batch.formats, overwrite, batch.before, verify or batch.verify)


def _say_cost(requests: list[Request]) -> None:
    """Says how many videos there are and what each costs; they differ in prompt and seed alone."""
    request, count = requests[0], len(requests)
    evaluated = evaluations(request)
    price = cost(evaluated["total"], strong_evaluations(request, evaluated), each=count > 1)
    say(f"{count} {request.kind}{'s' * (count > 1)}, {price}")
    for line in missing(requests):
        err.print(f"note: {line}", markup=False)


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
    """Runs the requests under progress bars, and prints where the files are."""
    overwrite = confirm_writable(requests, folder, formats, overwrite, verify, way=way)
    check_there(requests)

    quiet()
    finished = 0  # outputs
    started: set[str] = set()  # the videos of the next output, of which a comparison has several

    with bar(f"{requests[0].kind}s") as show:

        def on_step(name: str, done: int, total: int) -> None:
            started.add(name)
            share = (len(started) - 1 + done / total) / len(runs.VARIANTS[requests[finished].variant])
            show(finished + share, len(requests), doing=f"{name}: step {done} of {total}")

        with closing(make(requests, folder, formats, overwrite, on_step, command_line(), verify)) as results:
            for output in results:
                finished += 1
                started.clear()
                lines = [] if output.kept else [f"  {line}" for line in _summary(output, before)]
                lines = [f"{next(iter(output.paths.values()))}{'  (already made)' * output.kept}", *lines]
                if to is out:
                    say(*lines)
                else:
                    to.print(*lines, sep="\n", markup=False)


def confirm_writable(
    requests: list[Request], folder: Path, formats: list[str], overwrite: bool, verify: bool = False, *, way: str
) -> bool:
    """Makes sure, before any model is loaded, that the outputs can be written.

    Args:
        way: the advice if they cannot; on a terminal, the user is asked whether to overwrite.

    Returns:
        Whether files may be replaced.

    Raises:
        FileExistsError: they are taken.
    """
    runs.usable(folder)
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


def _summary(output: Made, before: dict[str, Any] | None) -> Iterator[str]:
    """What is said of a video: its other files, what it took, and whether it is what it was `before`."""
    yield from map(str, list(output.paths.values())[1:])
    yield from (str(next(iter(paths.values()))) for paths in output.singles.values())
    for variant, video in output.record["videos"].items():
        name = video["method"] or variant
        count, seconds, device = video["evaluations"], video["seconds"], output.record["device"]
        of = f" ({count['strong']} by the strong arm, {count['weak']} by the weak)" if count["weak"] else ""
        yield f"{name}: {count['total']} network evaluations{of}, {seconds:.1f} s on {device}"
    if before and not before.get("videos"):
        yield "the sidecar does not say which frames it had"
    elif before:
        differing = differences(before, output.record)
        yield (
            "frames differ from the sidecar's; what differs: " + ", ".join(differing)
            if differing
            else "every frame is the same as the sidecar's"
        )
