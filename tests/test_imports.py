"""Imports go one way, from the command line down to the errors, and without circles; few files know diffusers."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
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
# From the ground up. A file imports from its own floor and those below; see `floor`.
FLOORS = (
    "claims columns devices documents errors families figures hashing interrupts method_names plugins power prompts"
    " statistics tables threads validation verdicts",
    "levels presets progress provenance schedulers setting_options setting_types settings terminal",
    "methods",
    "alignment arms hook strength",
    "dit_moe models",
    "pipelines",
    "generation refine runs sampling video",
    "eval shapes",
    "check_pair doctor",
    "bench plans reproduce studies trial",
    "__main__ cli",
)
# Whose import loads diffusers: the hook, what makes networks and loads them, the pipelines, the training of the shapes.
LOAD_DIFFUSERS = tuple(
    f"w2sd_video.{name}"
    for name in (
        "arms bench.models bench.transformers dit_moe hook models pipelines"
        " shapes.denoising shapes.miniatures shapes.model shapes.reading shapes.run shapes.train studies"
    ).split()
)
# Who else may know it, within functions.
KNOW_DIFFUSERS = (
    *LOAD_DIFFUSERS,
    *(
        f"w2sd_video.{name}"
        for name in ("generation", "refine", "runs.schedules", "sampling", "shapes.digits", "terminal")
    ),
)


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def floor(module: str) -> int:
    """The number of a file's floor. The package's own file is the ground: it imports two tables of names."""
    room = module.split(".")[1:2]
    return FLOORS.index(next(floor for floor in FLOORS if room[0] in floor.split())) if room else 0


class Imports(ast.NodeVisitor):
    """What a file imports, `at_start` outside of functions; not what is for type checkers only."""

    def __init__(self, package: str) -> None:
        self.package, self.depth = package, 0
        self.everywhere: set[str] = set()
        self.at_start: set[str] = set()

    def add(self, names: set[str]) -> None:
        self.everywhere |= names
        if not self.depth:
            self.at_start |= names

    def visit_If(self, node: ast.If) -> None:
        for each in node.orelse if "TYPE_CHECKING" in ast.dump(node.test) else [*node.body, *node.orelse]:
            self.visit(each)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_Import(self, node: ast.Import) -> None:
        self.add({alias.name for alias in node.names})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")[: self.package.count(".") + 2 - node.level]
            base = ".".join([*above, *([base] if base else [])])
        self.add({base, *(f"{base}.{alias.name}" for alias in node.names)})


@cache
def imports(module: str) -> Imports:
    path = FILES[module]
    seen = Imports(module if path.name == "__init__.py" else module.rpartition(".")[0])
    seen.visit(ast.parse(path.read_text(encoding="utf-8")))
    return seen


def loaded(module: str) -> dict[str, str]:
    """All that an import of a file loads, and the file of ours that asks for it."""
    by: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}
        for each in imports(name).at_start | parents:
            if each not in by:
                by[each] = name
                waiting += [each] if each in FILES else []
    return by


@pytest.mark.slow
@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module):
    ours = imports(module).everywhere & FILES.keys()
    assert not {name for name in ours if floor(name) > floor(module)}


def test_no_files_import_each_other_in_a_circle():
    graph = {module: (imports(module).everywhere & FILES.keys()) - {module} for module in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)  # or it raises, and names the circle


@pytest.mark.parametrize("module", [name for name in FILES if not inside(name, KNOW_DIFFUSERS)])
def test_the_rest_does_not_know_diffusers(module):
    others = () if inside(module, ("w2sd_video.eval",)) else ("transformers",)  # the scorers' networks are theirs
    assert not {name for name in imports(module).everywhere if inside(name, ("diffusers", "peft", *others))}


@pytest.mark.parametrize("module", [name for name in FILES if not inside(name, LOAD_DIFFUSERS)])
def test_an_import_of_the_rest_does_not_load_diffusers(module):
    assert not {name: by for name, by in loaded(module).items() if inside(name, ("diffusers", "peft"))}


def imported(code: str) -> set[str]:
    """Which libraries of models are loaded after some code."""
    code += "; import sys; print(*{'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", ["cli", "eval", "shapes", "shapes.cli", "terminal", "verdicts"])
def test_a_process_starts_without_torch(module):
    assert imported(f"import w2sd_video.{module}") == set()


@pytest.mark.slow
def test_no_scorer_loads_diffusers():
    scorers = [name for name in FILES if inside(name, ("w2sd_video.eval",))]
    assert "diffusers" not in imported(f"import {', '.join(scorers)}")


def processor_time(cache: Path, *arguments: str) -> float:
    """The least seconds of the processor that Python takes with these arguments, of four runs with compiled files."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache)}
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.slow  # on the clock
def test_help_takes_little_longer_than_to_import_what_prints_it(tmp_path):
    """0.41 against 0.27 s where it was measured; torch alone takes seconds."""
    libraries = processor_time(tmp_path, "-c", "import typer, rich.progress, rich.markdown, pydantic.dataclasses, yaml")
    assert processor_time(tmp_path, "-m", "w2sd_video", "--help") < 2.5 * libraries
