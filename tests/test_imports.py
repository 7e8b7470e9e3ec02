"""Imports go one way: core <- pipelines <- command line; `eval` reads files; few files know diffusers."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"w2sd_video": ROOT / "w2sd_video"}
ROOMS |= {f"w2sd_video.{room}": ROOT / room for room in ("pipelines", "eval", "prompts")}
FILES = {
    ".".join([room, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
    for room, folder in ROOMS.items()
    for path in sorted(folder.rglob("*.py"))
}
TOP = tuple(f"w2sd_video.{name}" for name in ("cli", "generate", "doctor", "check_pair", "shapes"))
# Who may know diffusers: the hook, what loads and makes networks, the pipelines, and the top.
KNOW_DIFFUSERS = (
    "w2sd_video.arms",
    "w2sd_video.dit_moe",
    "w2sd_video.hook",
    "w2sd_video.loading",
    "w2sd_video.models",
    "w2sd_video.motion",
    "w2sd_video.pipelines",
    "w2sd_video.refine",
    *TOP,
)


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def imports(module: str) -> set[str]:
    """All that a file imports at run time, within functions too; not what is for type checkers only."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: package.count(".") + 2 - node.level]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    found = imports(module)
    if inside(module, ("w2sd_video.eval", "w2sd_video.prompts")):
        forbidden = ("w2sd_video.pipelines", *TOP[:4])
    elif inside(module, ("w2sd_video.pipelines",)):
        forbidden = ("w2sd_video.eval", *TOP)
    elif inside(module, TOP):
        forbidden = ()
    else:
        forbidden = ("w2sd_video.pipelines", "w2sd_video.eval", *TOP)
    assert not {name for name in found if inside(name, forbidden)}


@pytest.mark.parametrize("module", [name for name in FILES if not inside(name, KNOW_DIFFUSERS)])
def test_the_rest_does_not_know_diffusers(module):
    others = () if inside(module, ("w2sd_video.eval",)) else ("transformers",)  # the scorers' networks are theirs
    assert not {name for name in imports(module) if inside(name, ("diffusers", "peft", *others))}


def test_the_command_line_starts_without_torch():
    code = "import sys, w2sd_video.cli; print({'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def processor_time(*arguments: str) -> float:
    """The least seconds of the processor that Python takes with these arguments, of four runs."""
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.slow  # on the clock
def test_help_takes_little_longer_than_to_import_what_prints_it():
    """0.46 against 0.22 s where it was measured; torch alone takes seconds."""
    assert processor_time("-m", "w2sd_video.cli", "--help") < 4 * processor_time("-c", "import typer, rich.progress")
