"""`w2sd-video shapes …`: the small world and its model. numpy and all that needs it are imported by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from ..errors import Refused, did_you_mean
from ..terminal import (
    FORMAT,
    PATH,
    check_file,
    err,
    finish,
    messages,
    number,
    out,
    quiet,
    read_settings,
    say,
    wants_json,
)

app = typer.Typer(
    help="The shipped world of moving shapes: train its models, render it, judge videos of it.", no_args_is_help=True
)

MOST_PIXELS = 2**30  # of a video to render
Prompt = Annotated[str, typer.Argument(help="A prompt of the shapes world.")]


@app.command()
def words(form: Annotated[str, FORMAT] = "text") -> None:
    """The words that prompts of the shapes world are made of."""
    with messages():
        as_json = wants_json(form)
    from . import grammar

    if as_json:
        say(json.dumps(grammar.WORDS, indent=1))
    else:
        out.print(grammar.help_text(), markup=False)


@app.command()
def render(
    prompt: Prompt,
    path: Annotated[Path, typer.Option("--out", help="The MP4 to write, or a PNG of the first frame.", **PATH)] = Path(
        "rendered.mp4"
    ),
    seed: Annotated[int, typer.Option(help="Seed of what the prompt leaves open.", **number(int, 0))] = 0,
    frames: Annotated[
        int | None,
        typer.Option(help="Frames (default: as many as the shipped model makes).", **number(int, 1, 100_000)),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Height and width in pixels (default: the shipped model's).", **number(int, 16, 8192)),
    ] = None,
    fps: Annotated[int, typer.Option(help="Frames a second.", **number(int, 1, 1000))] = 8,
    edges: Annotated[bool, typer.Option("--edges", help="Its edges, as the shipped ControlNet is shown them.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Draw a prompt exactly: what a perfect model would make."""
    from PIL import Image

    from .. import runs, video
    from . import grammar, world

    frames, size = frames or world.FRAMES, size or world.CANVAS
    with messages():
        scene = grammar.parse(prompt)
        if frames * size**2 > MOST_PIXELS:
            raise Refused("--frames", frames, f"give at most {MOST_PIXELS // size**2} of {size}x{size}")
        if path.suffix not in (".mp4", ".png"):
            raise Refused("--out", str(path), "give an .mp4 or a .png")
        check_file(path, overwrite)
        runs.usable(path.parent)
        drawn = world.render(scene, seed, frames, size, size)
        pixels = ((world.edges(drawn) if edges else drawn) * 255).round().astype("uint8")
        with runs.whole({"file": path}) as staged:
            if path.suffix == ".png":
                Image.fromarray(pixels[0]).save(staged["file"], format="PNG")
            else:
                video.write_mp4(pixels, staged["file"], fps)
    out.print(f"Wrote {path}")


@app.command()
def judge(
    path: Annotated[
        Path, typer.Argument(help="A video, or a folder of frames as PNG.", **{**PATH, "metavar": "VIDEO"})
    ],
    prompt: Prompt,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Read a video back and score it against a prompt, without any network."""
    with messages():
        as_json = wants_json(form)
        from ..documents import finite
        from ..video import read
        from . import grammar
        from .judge import judge as score
        from .judge import read as look

        scene = grammar.parse(prompt)
        if not path.exists():
            raise Refused("VIDEO", str(path), "give a video or a folder that is there")
        frames = read(path)
        scores = score(frames, scene)
        seen = look(frames)
    if as_json:
        names = ("size", "colour", "shape", "direction", "speed")
        objects = [{name: getattr(track, name) for name in names} for track in seen.tracks]
        say(json.dumps(finite({"objects": objects, "background": seen.background, "scores": scores}), indent=1))
        return
    for track in seen.tracks:
        moves = track.direction if track.speed is None else f"moving {track.direction} {track.speed}"
        motion = "standing still" if track.direction == "still" else moves
        out.print(f"sees a {track.size} {track.colour} {track.shape} {motion}")
    out.print(f"on a {seen.background} background")
    table = Table("score", "value")
    for name, value in scores.items():
        table.add_row(name, f"{value:.4g}")
    out.print(table)


@app.command()
def train(
    folder: Annotated[
        Path, typer.Argument(help="The run's folder; a run that stands there goes on.", **{**PATH, "metavar": "FOLDER"})
    ],
    only: Annotated[list[str] | None, typer.Option("--stage", help="Only this stage; may be repeated.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the recipe; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")] = None,
    miniatures: Annotated[
        bool, typer.Option("--miniatures", help="Train the parts of the other pairs on top of the shipped model.")
    ] = False,
) -> None:
    """Train the shapes model from nothing; FOLDER/weights then holds base, tuned and motion.

    With --miniatures: a LoRA, a ControlNet, an IP-Adapter, another motion module, and a DiT-MoE of digits. It can be
    interrupted, and goes on where it was.
    """
    from ..runs import gone_on_error
    from .miniatures import MiniatureRecipe, MiniatureTrainer
    from .recipe import Recipe
    from .train import Trainer

    with messages():
        maker: Any
        recipe: Any
        maker, recipe = (MiniatureTrainer, MiniatureRecipe) if miniatures else (Trainer, Recipe)
        known: dict[str, type] = {name: type(value) for name, value in asdict(recipe()).items()}
        chosen: dict[str, Any] = {}
        for setting in settings or []:
            name, _, value = setting.partition("=")
            if name not in known:
                raise Refused("--set", setting, f"{name!r} is no setting; {did_you_mean(name, known)}")
            if name in chosen:
                raise Refused("--set", setting, f"{name} is set twice")
            try:
                chosen[name] = known[name](value)
            except ValueError:
                raise Refused("--set", setting, f"give a value of type {known[name].__name__}") from None
        _of_set(lambda: recipe(**chosen))
        for stage in only or []:
            if stage not in maker.stages:
                raise Refused("--stage", stage, did_you_mean(stage, maker.stages))
        with gone_on_error(folder):
            trainer = maker(folder, recipe(**chosen), device)
            trainer.check(only or [])
        trainer.train(only)
        if trainer.finished:
            options = ["--miniatures"] * miniatures + [f"--set {s}" for s in settings or []]
            command = " ".join(["w2sd-video shapes train", str(folder), *options])
            trainer.export(folder / "weights", command)
            out.print(f"Wrote {folder / 'weights'}")


@app.command()
def bench(
    path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The results file, JSON lines; goes on where it stands (default: PAIR-bench.jsonl).",
            **PATH,
        ),
    ] = None,
    pair: Annotated[
        str, typer.Option("--pair", "--preset", help="What is measured: a preset of the shipped models.")
    ] = "shapes",
    samples: Annotated[
        int, typer.Option("--videos", "--samples", help="Videos, or pictures, a row.", **number(int, 1, 100_000))
    ] = 200,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this row, or one of another method; may be repeated.")
    ] = None,
    tune: Annotated[
        int,
        typer.Option(
            help="Add rows of guidance and of W2SD as they are best on so many other prompts, of a grid of settings.",
            **number(int, 0, 100_000),
        ),
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Another value for a number of the pair's preset; may be repeated."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes that make samples side by side, one thread each; rows do not depend on it.",
            **number(int, 1, 256),
        ),
    ] = 1,
    table_only: Annotated[bool, typer.Option("--table", help="Only print what the file holds.")] = False,
    form: Annotated[str, typer.Option("--format", help="The table: json, markdown or latex.")] = "markdown",
    pack: Annotated[bool, typer.Option("--pack", help="Write the rows beside the file as .jsonl.xz, too.")] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the table as a picture: a .png, .svg or .pdf file.", **PATH)
    ] = None,
) -> None:
    """Measure weak, strong, W2SD, raised guidance and equal cost on the shipped models, and print the table.

    The file can be one that --pack wrote, for --table.
    """
    # One function because its options are declared here, and most of it checks them.
    from .. import presets, tables
    from .. import settings as known
    from ..documents import finite
    from ..figures import check
    from ..validation import by_option
    from . import bench as measure
    from . import figure as drawing
    from . import pairs, rows, table, tuning

    with messages():
        if form not in ("json", *tables.FORMATS):
            raise Refused("--format", form, f"give json, {' or '.join(tables.FORMATS)}")
        if figure:
            check(figure)
        if pair not in pairs.PAIRS:
            raise Refused("--pair", pair, did_you_mean(pair, pairs.PAIRS))
        path = path or Path(f"{pair}-bench.jsonl")
        if path.suffix == ".xz" and not table_only:
            raise Refused("--out", str(path), "a packed file is only for --table: give a .jsonl")
        if path.suffix == ".xz" and pack:
            raise Refused("--pack", str(path), "it is packed already")
        chosen = read_settings(settings or [])
        numbers = [name for name in known.names(presets.Preset) if known.number(name, presets.Preset)]
        for name, value in chosen.items():
            if name not in numbers:
                raise Refused(
                    "--set",
                    name,
                    f"it is no number of a preset; {did_you_mean(name, numbers, by_option(presets.Preset))}",
                )
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise Refused("--set", f"{name}={value}", "give a number")
        pair_preset = _of_set(lambda: measure.preset(pair, chosen))
        if not pair_preset.video and (wrong := {"height", "width"} & chosen.keys()):
            raise Refused("--set", ", ".join(wrong), f"the data of {pair} has its size")
        main = measure.methods(pair_preset)
        others = {n: row for n, row in measure.OTHERS.items() if pair_preset.video or not n.startswith("motion-gain")}
        tuned = tuning.tuned(pair_preset)
        every = main | others | tuned
        for name in method or []:
            if name not in every:
                raise Refused("--method", name, did_you_mean(name, every))
            if name in tuned and not tune:
                raise Refused("--method", name, "it is tuned: give --tune, on how many prompts")
        if not table_only:
            wanted = {name: row for name, row in (main | others).items() if name in (method or main)}
            tried = {name: row for name, row in tuned.items() if tune and name in (method or tuned)}
            held = {line["method"] for line in rows.read(path, pair) if not line.get("tuning")}
            if figure and not {"strong"} < held | wanted.keys() | tried.keys():
                raise Refused("--figure", str(figure), "no row would be there to compare with strong's")
            _measure(pair, path, chosen, wanted, tried, samples, tune, processes)
        elif not path.exists():
            raise Refused("--out", str(path), "it is not there")
        lines = rows.read(path, pair)
        if not lines:
            raise Refused("--out", str(path), f"it holds no row of {pair}")
        if pack:
            err.print(f"Wrote {rows.pack(path, pair)}", markup=False)
    labels = {name: row.label for name, row in every.items()}
    labels |= tuning.labels(tuned, lines)
    unknown = {line["method"] for line in lines if not line.get("tuning")} - labels.keys()
    labels |= {name: name for name in sorted(unknown)}  # of another version of this command
    columns = pairs.PAIRS[pair]
    compared = table.decided(lines, columns)
    summarised = table.summarise(lines, columns, compared)
    if figure:
        with messages():
            if not any("against strong" in of for of in summarised.values()):
                raise Refused("--figure", str(figure), "the file holds no row to compare with strong's")
            drawing.draw(figure, summarised, labels, columns)
            err.print(f"Wrote {figure}", markup=False)
    if form == "json":  # with the comparisons of each method, and not with all of all methods again
        own = {name: {k: v for k, v in of.items() if k != "decided together"} for name, of in summarised.items()}
        summary = json.dumps(own, default=asdict)
        say(json.dumps(finite(json.loads(summary)), indent=1))
        return
    rivals = table.rivals(table.rivalry(lines, columns, compared), labels, columns)
    claims = [each for each in (rivals, table.as_good(lines, labels, columns)) if each.lines]
    blocks = [*claims, *table.document(summarised, labels, columns)]
    out.print(tables.FORMATS[form](blocks), markup=False, emoji=False)


def _measure(
    pair: str,
    path: Path,
    chosen: dict[str, Any],
    wanted: dict[str, Any],
    tried: dict[str, Any],
    samples: int,
    tune: int,
    processes: int,
) -> None:
    """Measures the rows of a bench, under progress bars; what the file holds already is kept.

    Args:
        chosen: numbers of the pair's preset that are set otherwise.
        wanted: the rows.
        tried: the rows whose settings are first found, on `tune` other prompts.
    """
    from . import bench, grammar, tuning

    quiet()
    texts = grammar.prompts(samples)
    with Progress(console=err) as bar:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            elif bar.tasks[tasks[name]].total != total:  # the rest of the prompts that settings are tuned on
                bar.reset(tasks[name], total=total)
            bar.update(tasks[name], advance=done)

        def run(rows: Any, some: list[str], **more: Any) -> None:
            bench.run(pair, path, rows, some, chosen, partial(progress, total=len(some)), processes, **more)

        others = tuning.prompts_beside(pair, tune, samples) if tried else []
        for name, each in tried.items():
            best = tuning.best(name, each, tune, partial(_tried, run, path, pair, others))
            wanted = {**wanted, name: bench.Row(each.label, each.says | best)}
        run(wanted, texts)


def _tried(
    run: Callable[..., None], path: Path, pair: str, texts: list[str], wanted: dict[str, Any], count: int
) -> dict[str, list[dict[str, float]]]:
    """The scores of rows on the first `count` of the prompts that settings are tuned on."""
    from .rows import read

    run(wanted, texts[:count], tuning=True)
    scores_by_row: dict[str, dict[int, dict[str, float]]] = {name: {} for name in wanted}
    for row in read(path, pair):
        if row.get("tuning") and row["method"] in scores_by_row and row["n"] < count:
            scores_by_row[row["method"]][row["n"]] = row["scores"]
    return {name: [scores[n] for n in range(count)] for name, scores in scores_by_row.items()}


def _of_set(make: Callable[[], Any]) -> Any:
    """What is made of settings; what is refused of them was given by --set."""
    try:
        return make()
    except Refused as error:
        raise Refused("--set", f"{error.argument}={error.value}", error.accepted) from None


finish(app)
