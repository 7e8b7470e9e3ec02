"""`w2sd-video prompts …`: the prompt suites that there are, what is in them, and draws from them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import prompts, runs
from ..errors import Refused
from ..prompts import Suite
from ..terminal import FORMAT, PATH, check_file, messages, number, out, say, wants_json

app = typer.Typer(help="Prompt suites: what there is, what is in them, and draws from them.", no_args_is_help=True)

NAME = typer.Argument(
    metavar="SUITE",
    help="One of `w2sd-video prompts ls`, or a file: text, CSV, JSON, YAML, Parquet; or a folder of text files.",
    autocompletion=prompts.names,
)
TAG = typer.Option(
    "--tag", metavar="NAME=VALUE", help="Only prompts that have this tag, or this value of any tag; may be repeated."
)
FORM = typer.Option("--format", help="text (one per line), csv, or json (with tags and their source).")
OUT = typer.Option("--out", help="Write it to this file; its suffix is the format.", **PATH)
OVERWRITE = typer.Option("--overwrite", help="Replace the file if it is there.")


ARGUMENTS = {"prompts": "SUITE", "n": "--n", "tag": "--tag"}  # what they are called here


@app.command("ls")
def show_suites(form: Annotated[str, FORMAT] = "text") -> None:
    """List the suites, and suites of others that can be read."""
    with messages():
        as_json = wants_json(form)
        suites, broken = [], []
        for name in prompts.names():
            try:
                suites.append(prompts.load(name))
            except Refused as refused:
                broken.append(refused)
        if as_json:
            say(json.dumps([_about(suite) | {"tags": suite.tags()} for suite in suites], indent=1))
        else:
            _show(suites)
        if broken := [*broken, *prompts.taken()]:
            raise broken[0]


def _show(suites: list[Suite]) -> None:
    for suite in suites:
        count = f"{len(suite.prompts)} prompts"
        if suite.rows != len(suite.prompts):
            count += f" in {suite.rows} rows"
        out.print(f"[bold]{escape(suite.name)}[/]: {count}; {escape(suite.purpose or suite.source)}")
        lines = [f"{name}: {_few(values)}" for name, values in suite.tags().items()]
        out.print(*(f"  {line}" for line in [f"{suite.source}, {suite.licence}", *lines]), sep="\n", markup=False)
    out.print("Of others, give the file as their owners publish it:")
    for name, file in prompts.PUBLISHED.items():
        out.print(f"  {name}: {file}", markup=False)


def _few(values: list[str], most: int = 30) -> str:
    return ", ".join(values) if len(values) <= most else f"{len(values)} different values"


@app.command()
def show(
    name: Annotated[str, NAME],
    tag: Annotated[list[str] | None, TAG] = None,
    form: Annotated[str | None, FORM] = None,
    path: Annotated[Path | None, OUT] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """The prompts of a suite."""
    with messages() as arguments:
        arguments |= ARGUMENTS
        suite = prompts.select(prompts.load(name), tag or [])
        _write(suite, {"tag": tag or []}, form, path, overwrite)


@app.command()
def sample(
    name: Annotated[str, NAME],
    n: Annotated[int, typer.Option("--n", help="How many prompts.", **number(int, 1))],
    seed: Annotated[int, typer.Option(help="Seed of the draw.", **number(int, 0))] = 0,
    tag: Annotated[list[str] | None, TAG] = None,
    form: Annotated[str | None, FORM] = None,
    path: Annotated[Path | None, OUT] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> None:
    """Prompts drawn at random from a suite. The seed decides the draw, and a smaller one is part of a larger."""
    with messages() as arguments:
        arguments |= ARGUMENTS
        suite = prompts.sample(prompts.select(prompts.load(name), tag or []), n, seed)
        _write(suite, {"tag": tag or [], "n": n, "seed": seed}, form, path, overwrite)


def _write(suite: Suite, drawn: dict[str, Any], form: str | None, path: Path | None, overwrite: bool) -> None:
    """Prompts on stdout or in a file, which `prompts.load` reads again."""
    if path is not None:
        named = path.suffix.lower().lstrip(".").replace("txt", "text")
        if named not in FORMATS or form not in (None, named):
            raise Refused("--out", str(path), f"give a file of the format {form or ', '.join(FORMATS)}")
        check_file(path, overwrite)
        form = named
    form = form or "text"
    if form not in FORMATS:
        raise Refused("--format", form, f"give {', '.join(FORMATS)}")
    text = FORMATS[form](suite, drawn)
    if path is None:
        say(text.rstrip("\n"))
        return
    runs.usable(path.parent)
    runs.write_text(path, text)
    say(f"Wrote {path}")


def _about(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "source": suite.source,
        "licence": suite.licence,
        "purpose": suite.purpose,
        "sha256": suite.sha256,
        "rows": suite.rows,
        "count": len(suite.prompts),
    }


def _text(suite: Suite, drawn: dict[str, Any]) -> str:
    words = {name: " ".join(value) if isinstance(value, list) else value for name, value in drawn.items()}
    what = ", ".join(f"{name} {value}" for name, value in words.items() if value != "")
    head = f"# {len(suite.prompts)} prompts of {suite.name}{f' ({what})' if what else ''}, SHA-256 {suite.sha256}"
    lines = [prompt.text for prompt in suite.prompts]
    if split := next((line for line in lines if set(line) & {"\n", "\r"} or line.startswith("#")), None):
        raise Refused("--format", "text", f"a line cannot hold the prompt {split!r}: give json or csv")
    return "\n".join([head, *lines]) + "\n"


def _csv(suite: Suite, drawn: dict[str, Any]) -> str:
    """A row a prompt, a column a tag. A prompt with several values of a tag has as many rows, which `load` joins."""
    file, tags = io.StringIO(newline=""), list(suite.tags())
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "prompt", *tags])
    for prompt in suite.prompts:
        values = [prompt.tags.get(name, ()) for name in tags]
        for row in range(max([1, *map(len, values)])):
            cells = [each[row] if row < len(each) else each[0] if len(each) == 1 else "" for each in values]
            writer.writerow([prompt.id, prompt.text, *cells])
    return file.getvalue()


def _json(suite: Suite, drawn: dict[str, Any]) -> str:
    data = {"suite": _about(suite) | drawn, "prompts": [prompt.row for prompt in suite.prompts]}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Suite, dict[str, Any]], str]] = {"text": _text, "csv": _csv, "json": _json}
