"""`w2sd-video bench …`: benchmarks of the models at their true size on this machine's device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Refused, did_you_mean
from ..terminal import FORMAT, PATH, check_file, err, messages, number, out, quiet, say, wants_json

app = typer.Typer(help="Measure speed, memory and precision on this machine's device.", no_args_is_help=True)

MOST_MINUTES = 24 * 60
LARGEST, SMALLEST, MOST_FRAMES = 2048, 16, 32  # SDXL's motion module has positions for 32 frames


@app.callback()
def bench() -> None:
    """Measure speed, memory and precision on this machine's device."""


@app.command("true-size")
def true_size(
    path: Annotated[Path, typer.Option("--out", help="The results, a JSON file.", **PATH)] = Path("true-size.json"),
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--part",
            metavar="PART",
            help="Measure this part; repeatable (default: all). card, memory, steps, precision, decode, attention,"
            " offload, compiled, vbench, wan or ltx.",
        ),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(help="Time for the whole run; parts that would take longer are cut.", **number(float)),
    ] = 5.0,
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--size",
            help="Pixels a side, a multiple of 8; repeatable (default: 1024 and 512).",
            **number(int),
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a video (default: 16).", **number(int))] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cuda:N; or cpu with --small.")] = "auto",
    small: Annotated[
        bool, typer.Option("--small", help="Tiny networks of the same classes: whether everything runs, on a CPU too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    form: Annotated[str, FORMAT] = "text",
) -> None:
    """Measure SDXL with AnimateDiff's motion module, Wan 2.1 and LTX-Video at their true size, with random weights.

    Seconds a step by each method, memory, decoding, precision, attention, compiled blocks, offloading, and VBench's
    dimensions, each with what it is compared with beside it. The most important parts come first. The results are
    written after each part, so that a run that is cut short keeps what it measured. The parts wan (14 billion
    parameters beside 1.3, on 38 GB) and ltx have sizes and frames of their own.
    """
    began = time.monotonic()
    with messages():
        as_json = wants_json(form)
        _check(path, minutes, sizes or [], frames, overwrite)
        quiet()
        from ..devices import usable_device
        from ..runs import usable
        from . import true_size as benchmark

        for name in chosen or []:
            if name not in benchmark.PARTS:
                raise Refused("--part", name, did_you_mean(name, benchmark.PARTS))
        on = usable_device(device)
        if on.type == "cpu" and not small:
            raise Refused("--device", device, "the true size needs an accelerator: choose one, or give --small")
        usable(path.parent)
        results = benchmark.run(
            path,
            on,
            chosen or list(benchmark.PARTS),
            minutes,
            small=small,
            sizes=sizes or (),
            frames=frames or 0,
            began=began,
            report=lambda line: err.print(line, markup=False),
        )
        if as_json:
            say(path.read_text(encoding="utf-8").rstrip())
        else:
            show(results)
        (err if as_json else out).print(f"Wrote {path}", markup=False)
        if any(part["state"] == "failed" for part in results["parts"].values()):
            raise typer.Exit(1)


def _check(path: Path, minutes: float, sizes: list[int], frames: int | None, overwrite: bool) -> None:
    """Checks the arguments, before anything slow is imported."""
    if not 0 < minutes <= MOST_MINUTES:
        raise Refused("--minutes", minutes, f"give more than 0, and at most {MOST_MINUTES}")
    for size in sizes:
        if not SMALLEST <= size <= LARGEST or size % 8:
            raise Refused("--size", size, f"give a multiple of 8, from {SMALLEST} to {LARGEST}")
        if sizes.count(size) > 1:
            raise Refused("--size", size, "give each size once")
    if frames is not None and not 1 <= frames <= MOST_FRAMES:
        raise Refused("--frames", frames, f"give a whole number from 1 to {MOST_FRAMES}")
    check_file(path, overwrite)


LEGEND = (
    "seconds are of one step, one call, one decoding or one video; of_X is the ratio to X of the same run; tflops is"
    " the rate of matrix products and convolutions, of_product its share of the large product's; *_apart is the largest"
    " and the root mean square difference, as shares of the reference's root mean square; GiB are of tensors on the"
    " device"
)


def show(results: Mapping[str, Any]) -> None:
    """Prints the card, the versions, and a table for each part."""
    card, versions = results["card"], results["versions"]
    out.print(", ".join(f"{name} {value}" for name, value in card.items()), markup=False)
    out.print(", ".join(f"{name} {value or '-'}" for name, value in versions.items()), markup=False)
    settings = results["settings"]
    kind = "tiny networks: these numbers say nothing of speed" if settings["small"] else "true size"
    out.print(f"{kind}, {settings['frames']} frames, {settings['dtype']}; {results['seconds']:.0f} s", markup=False)
    for name, part in results["parts"].items():
        why = f": {part['why']}" * bool(part["why"])
        out.print(f"\n{name} ({part['state']}{why})", markup=False)
        if part["rows"]:
            out.print(table(part["rows"]), markup=False)
    out.print(f"\n{LEGEND}", markup=False)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as lines of text. The columns are those of all rows, in order; an error comes last."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "error"]
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    errors = ["", *(row.get("error", "") for row in rows)]
    text = []
    for line, error in zip(lines, errors, strict=True):
        cells = [each.rjust(width) for each, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        text.append("  ".join([*cells, error]).rstrip())
    return "\n".join(text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
