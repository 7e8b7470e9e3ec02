"""What `mkdocs build` adds to the pages, and `python docs/hooks.py`, which writes their lists of the program itself
(commands, settings, pipelines and presets), or with `--tables` their tables of results and the figures of these."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LIST = re.compile(r"<!-- list of (\w+) -->\n.*?<!-- end of the list -->", re.DOTALL)
TABLE = re.compile(r"<!-- table of ([\w-]+) -->\n.*?<!-- end of the table -->", re.DOTALL)
CELLS = re.compile(r"^\|.*$", re.MULTILINE)  # of tables
KEPT = re.compile(r"`[^`]*`|[\[(]-?[\d.]+, -?[\d.]+[\])]|\d of \d")  # code as it is, the others in a line
SCRIPT = re.compile(r"^# (examples/\w+\.py)\n", re.MULTILINE)
_installed = tempfile.TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads its paths
def on_config(config: Any) -> Any:
    """The package as it is installed, for mkdocstrings: with the folders that lie at the top level."""
    folder = Path(_installed.name) / "w2sd_video"
    if not folder.exists():
        folder.mkdir()
        rooms = [ROOT / name for name in ("pipelines", "eval", "prompts")]
        for path in [*(ROOT / "w2sd_video").iterdir(), *rooms]:
            (folder / path.name).symlink_to(path)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(folder.parent)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """The picture of the README, which the package holds, for the site too."""
    picture = ROOT / "w2sd_video" / "shapes" / "comparison.png"
    files.append(File.generated(config, "assets/comparison.png", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Commands, tables, example scripts and the picture in their places; and numbers that do not break at their ±, nor
    cells of tables within an interval or a count."""
    markdown = markdown.replace("../w2sd_video/shapes/comparison.png", "assets/comparison.png")
    markdown = re.sub(r"\[(examples/\w+\.py)\]\(\.\./\1\)", r"`\1`:", markdown)  # the site has no other files
    markdown = SCRIPT.sub(lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), markdown)

    def kept(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith("`") else found[0].replace(" ", "\u00a0")

    markdown = CELLS.sub(lambda row: KEPT.sub(kept, row[0]), markdown)
    return markdown.replace(" ± ", "\u00a0±\u00a0")


def listed(markdown: str) -> str:
    """A page with its lists as the program has them now."""
    lists = {"commands": _commands, "pipelines": pipelines, "settings": settings, "transformers": transformers}

    def made(found: re.Match[str]) -> str:
        lines = "\n".join(lists[found[1]]()).strip()
        return f"<!-- list of {found[1]} -->\n\n{lines}\n\n<!-- end of the list -->"

    return LIST.sub(made, markdown)


def tabled(markdown: str) -> str:
    """A page with its tables of pairs as docs/rows has their rows now; draws the tables' figures, too."""

    def made(found: re.Match[str]) -> str:
        command = [sys.executable, "-m", "w2sd_video", "shapes", "bench", "--table", "--pair", found[1]]
        command += ["--out", str(ROOT / "docs" / "rows" / f"{found[1]}.jsonl.xz")]
        command += ["--figure", str(ROOT / "docs" / "assets" / f"{found[1]}-table.svg")]
        table = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()
        return f"<!-- table of {found[1]} -->\n\n{table}\n\n<!-- end of the table -->"

    return TABLE.sub(made, markdown)


def pipelines() -> Iterator[str]:
    """Every pipeline class of diffusers as a row: whether it is served, and how it guides."""
    yield from import_module("w2sd_video.hook.form").rows()


def transformers() -> Iterator[str]:
    """The presets of diffusion transformers as a Markdown table, from their files."""
    presets = import_module("w2sd_video.presets")
    yield from ("| preset | makes | what the arms are | strong | weak |", "|---|---|---|---|---|")
    for preset in map(presets.load, presets.builtin()):
        if presets.FAMILIES[preset.family].transformer:
            arms = re.split(r"[.;] ", preset.description)[0].rstrip(".")
            weak = f"`{preset.weak}`" if preset.weak else "the same"
            yield f"| `{preset.name}` | {preset.kind} | {_cell(arms)} | `{preset.strong}` | {weak} |"


def commands(name: str = "w2sd-video", group: Any = None) -> dict[str, Any]:
    """Every command by its whole name."""
    if group is None:
        group = typer.main.get_command(import_module("w2sd_video.cli").app)
    found: dict[str, Any] = {}
    for word, command in group.commands.items():
        whole = f"{name} {word}"
        found |= commands(whole, command) if hasattr(command, "commands") else {whole: command}
    return found


def settings() -> Iterator[str]:
    """Every field of a request as a row: its name, and what it is."""
    module = import_module("w2sd_video.settings")
    yield from ("| field | what it is |", "|---|---|")
    yield from (f"| `{name}` | {_cell(module.of(name).help)} |" for name in module.names())


def _commands() -> Iterator[str]:
    """Every command as Markdown: what it does, its arguments, and its options by panel."""
    for name, command in commands().items():
        yield from _command(name, command)


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = "".join(f" {_metavar(p)}" if p.required else f" [{_metavar(p)}]" for p in arguments)
    yield from (f"## {name}", "", _text(command.help or ""), "", f"`{name}{usage} [options]`", "")
    if about := [p for p in arguments if p.help]:
        yield from ("| argument | what it is |", "|---|---|")
        yield from (f"| `{_cell(_metavar(each))}` | {_cell(each.help)} |" for each in about)
        yield ""
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for panel, members in panels.items():
        defaults = any(map(_default, members))
        yield from (f"**{panel}**", "", "| option | what it does |" + " default |" * defaults)
        yield "|---|---|" + "---|" * defaults
        for option in members:
            names = ", ".join(f"`{each}`" for each in [*option.opts, *option.secondary_opts])
            takes = "" if option.is_flag else f" {_cell(_metavar(option))}"
            yield f"| {names}{takes} | {_cell(option.help or '')} |" + f" {_default(option)} |" * defaults
        yield ""


def _metavar(parameter: Any) -> str:
    if parameter.metavar or parameter.param_type_name == "argument":
        name = str(parameter.metavar or parameter.name)
        return name if "|" in name else name.upper()  # words that are typed as they stand
    described = getattr(parameter, "type_descriptor", None)  # of newer typer; older has click's types
    kind = str(described.annotation if described else parameter.type)
    return "N" if "int" in kind.lower() else "NUMBER" if "float" in kind.lower() else "TEXT"


def _default(option: Any) -> str:
    value = option.default
    plain = isinstance(value, (str, int, float, Path)) and not isinstance(value, bool)
    return f"`{value}`" if plain and not str(value).startswith("/") else ""


def _text(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    write = tabled if sys.argv[1:] == ["--tables"] else listed
    for path in sorted((ROOT / "docs").glob("*.md")):
        path.write_text(write(path.read_text(encoding="utf-8")), encoding="utf-8")
