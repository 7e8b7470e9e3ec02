"""`w2sd-video shapes …`: the small world and its model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import grammar, world

app = typer.Typer(help="The shapes world: its prompts, its renderer, its judge, its model.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Prompt = Annotated[str, typer.Argument(help="A prompt of the shapes world.")]


@app.command()
def words() -> None:
    """The words that prompts of the shapes world are made of."""
    out.print(grammar.help_text(), markup=False)


@app.command()
def render(
    prompt: Prompt,
    path: Annotated[Path, typer.Option("--out", help="The MP4 to write.")] = Path("rendered.mp4"),
    seed: Annotated[int, typer.Option(min=0, help="What the prompt leaves open is drawn with this.")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="Frames.")] = world.FRAMES,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = world.CANVAS,
    fps: Annotated[int, typer.Option(min=1, help="Frames a second.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Draw a prompt exactly: what a perfect model would make."""
    from .. import runs, video

    with _messages():
        scene = grammar.parse(prompt)
        if path.exists() and not overwrite:
            raise ValueError(f"--out: {path} is there already; --overwrite replaces it")
        runs.writable(path.parent)
        pixels = (world.render(scene, seed, frames, size, size) * 255).round().astype("uint8")
        with runs.whole({"mp4": path}) as staged:
            video.write_mp4(pixels, staged["mp4"], fps)
    out.print(f"Wrote {path}")


@app.command()
def judge(
    path: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video, or a folder of frames as PNG.")],
    prompt: Prompt,
) -> None:
    """Read a video back and score it against a prompt, without any network."""
    from ..video import read
    from .judge import judge as score
    from .judge import read as look

    with _messages():
        scene = grammar.parse(prompt)
        frames = read(path)
        scores = score(frames, scene)
        seen = look(frames)
    for track in seen.tracks:
        motion = "standing still" if track.direction == "still" else f"moving {track.direction} {track.speed}"
        out.print(f"sees a {track.size} {track.colour} {track.shape} {motion}")
    out.print(f"on a {seen.background} background")
    table = Table("score", "value")
    for name, value in scores.items():
        table.add_row(name, f"{value:.4g}")
    out.print(table)


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="The run's folder; a run that stands there goes on.")],
    only: Annotated[list[str] | None, typer.Option("--stage", help="Only this stage; may be repeated.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the recipe; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")] = None,
) -> None:
    """Train the shapes model from nothing; FOLDER/weights then holds base, tuned and motion.

    It can be interrupted, and goes on where it was.
    """
    from .train import STAGES, Recipe, Trainer

    with _messages():
        known: dict[str, type] = {name: type(value) for name, value in asdict(Recipe()).items()}
        chosen = {}
        for setting in settings or []:
            name, _, value = setting.partition("=")
            if name not in known:
                raise ValueError(f"--set: {name!r} is not a setting; there are {', '.join(known)}")
            try:
                chosen[name] = known[name](value)
            except ValueError:
                raise ValueError(f"--set: {name}={value!r} is not of type {known[name].__name__}") from None
        if wrong := set(only or []) - set(STAGES):
            raise ValueError(f"--stage: {', '.join(wrong)} is not one of {', '.join(STAGES)}")
        trainer = Trainer(folder, Recipe(**chosen), device)
        trainer.train(only or STAGES)
        if trainer.finished:
            command = " ".join(["w2sd-video shapes train", str(folder), *(f"--set {s}" for s in settings or [])])
            trainer.export(folder / "weights", command)
            out.print(f"Wrote {folder / 'weights'}")


@app.command()
def bench(
    path: Annotated[Path, typer.Option("--out", help="The results file (JSON lines); goes on where it stands.")] = Path(
        "shapes-bench.jsonl"
    ),
    videos: Annotated[int, typer.Option(min=1, help="Videos a method.")] = 500,
    steps: Annotated[int, typer.Option(min=2, help="Denoising steps, T.")] = 15,
    strong: Annotated[float, typer.Option(help="Guidance of the strong model, in the reflection and after.")] = 3.0,
    weak: Annotated[float, typer.Option(help="Guidance of the weak model in the reflection.")] = 1.0,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be repeated.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos sampled at once; does not change them.")] = 10,
    table_only: Annotated[bool, typer.Option("--table", help="Only print what the file holds.")] = False,
) -> None:
    """Measure weak, strong, W2SD, raised guidance and equal cost on the shipped model, and print the table."""
    from . import bench as measure

    with _messages():
        known = ["rendered", *measure.methods(steps, strong, weak)]
        if wrong := set(method or []) - set(known):
            raise ValueError(f"--method: {', '.join(wrong)} is not one of {', '.join(known)}")
        if not table_only:
            pipeline, weak_pipeline = measure.load()
            with Progress(console=err) as bar:
                tasks = {name: bar.add_task(name, total=None) for name in method or known}
                measure.run(
                    path, pipeline, weak_pipeline, list(tasks), videos, steps, strong, weak, batch,
                    lambda name, done, total: bar.update(tasks[name], completed=done, total=total),
                )  # fmt: skip
        elif not path.exists():
            raise ValueError(f"--out: {path} is not there")
        labels = {k: m.label for k, m in measure.methods(steps, strong, weak).items()} | {"rendered": "rendered truth"}
        out.print(measure.markdown(measure.summarise(path), labels), markup=False)


def _messages():
    """The command line's way with errors, imported late: it imports this module."""
    from ..cli import messages

    return messages()
