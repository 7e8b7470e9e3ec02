"""What README, the site and `examples/` show: commands that exist, names that can be imported, examples that run.

A fence that is not run says why in its title, one of NOT_RUN. A title that is the name of a file has the fence written
to that file, for the fences after it. The examples of a page run in their order, in one folder, with fewer steps.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from w2sd_video import plugins, presets
from w2sd_video.cli import app
from w2sd_video.families import FAMILIES
from w2sd_video.runs import Request

ROOT = Path(__file__).parents[1]
PAGES = {
    path.stem: path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOT_RUN = (
    "needs real weights",
    "needs several machines",
    "needs a Ray cluster",
    "needs votes",
    "needs a pair that was checked",
    "installs packages",
    "takes hours",
)
DATA = ("csv", "text", "toml", "yaml")
SNIPPET = re.compile(r"\A# (examples/\w+\.py)\n\Z")  # the site has the script in its place
SMALLER = {
    "num_inference_steps=25": "num_inference_steps=2",
    "num_inference_steps: 25": "num_inference_steps: 2, num_frames: 4",
    "seeds: 0-1 ": "seeds: 0-0 ",
    "seeds: 0-1\n": "seeds: 0-0\n",
    "reflection_steps=10": "reflection_steps=1",
    "--reflection-steps 5": "--reflection-steps 1",
    "LEVELS = 8": "LEVELS = 2",
}
FASTER = {
    "generate": ["--steps", "2", "--frames", "4"],
    "image": ["--steps", "2"],
    "check-pair": ["--steps", "2", "--samples", "2"],
}


class Fence(NamedTuple):
    page: str
    language: str
    title: str
    text: str


def fences(page: str) -> list[Fence]:
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.findall(r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^ *(```|~~~)", text, re.MULTILINE)) == 2 * len(found), f"{page} has a fence of another form"
    return [Fence(page, *each) for each in found]


ALL = [fence for page in PAGES for fence in fences(page)]


def words(text: str) -> list[list[str]]:
    """The commands of a fence, one a line, or several with && between."""
    lines = text.replace("\\\n", " ").replace("&&", "\n").splitlines()
    return [split for line in lines if (split := shlex.split(line, comments=True))]


def commands() -> list[tuple[str, list[str]]]:
    """Every command that a page names, in fences and in the line, with its page."""
    named = [(f.page, split) for f in ALL if f.language == "bash" for split in words(f.text)]
    for page, path in PAGES.items():
        prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        named += [(page, shlex.split(code)) for code in re.findall(r"`(w2sd-video [^`]+)`", prose)]
    return [(page, split[1:]) for page, split in named if split[0] == "w2sd-video"]


def options(command: object) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}  # type: ignore[attr-defined]


HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
PROGRAM = HOOKS["commands"]()
OF_PROGRAM = options(typer.main.get_command(app)) | {"--help"}


@pytest.mark.parametrize("page", ["api", "command-line", "pairs", "pipelines"])
def test_the_lists_of_a_page_are_those_of_the_program(page):
    """`python docs/hooks.py` writes them."""
    text = PAGES[page].read_text(encoding="utf-8")
    assert HOOKS["listed"](text) == text and "<!-- list of " in text


def test_the_tables_that_the_site_generates_have_as_many_cells_in_each_row():
    for table in (HOOKS["_commands"](), HOOKS["transformers"]()):
        cells = 0
        for line in table:
            row = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not row or row == cells or not cells, line
            cells = row


def test_the_paragraphs_of_a_commands_help_flow_to_the_terminals_width():
    assert not [name for name, command in PROGRAM.items() if "\n" in (command.help or "").replace("\n\n", "")]


def test_the_site_lists_every_preset_of_a_transformer():
    listed = "\n".join(HOOKS["transformers"]())
    of = [name for name in presets.builtin() if FAMILIES[presets.load(name).family].transformer]
    assert of and all(f"| `{name}` |" in listed for name in of)


@pytest.mark.parametrize("fence", ALL, ids=lambda fence: fence.page)
def test_every_fence_is_run_or_says_why_not(fence):
    assert fence.language in ("bash", "python", *DATA)
    assert fence.title in ("", *NOT_RUN) or re.fullmatch(r"[\w-]+\.(py|yaml|txt|csv)", fence.title)
    assert fence.language in ("bash", "python") or fence.title not in NOT_RUN


@pytest.mark.parametrize(
    "page, split", commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_command_that_is_named_has_the_options_that_are_named(page, split):
    if split[0].startswith("--"):
        assert split[0] in OF_PROGRAM
        return
    name = next(
        (" ".join(["w2sd-video", *split[:n]]) for n in (2, 1) if " ".join(["w2sd-video", *split[:n]]) in PROGRAM), ""
    )
    assert name, f"{page} names a command that is not there: {' '.join(split)}"
    command, rest = PROGRAM[name], split
    named = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert named <= options(command) | {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_is_named_in_the_text_exists(page):
    every = {option for command in PROGRAM.values() for option in options(command)}
    prose = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    ours = [code for code in re.findall(r"`([^`]+)`", prose) if not code.startswith(("pip", "hf", "python", "pytest"))]
    named = {option for code in ours for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    assert named <= every | OF_PROGRAM


@pytest.mark.parametrize(
    "fence", [f for f in ALL if f.language == "python" and not SNIPPET.match(f.text)], ids=lambda f: f.page
)
def test_every_name_that_is_imported_exists(fence):
    for node in ast.walk(ast.parse(fence.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("w2sd_video"):
            module = import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize("page", ["README", "CONTRIBUTING"])
def test_every_link_in_the_repository_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page].read_text(encoding="utf-8"))
    assert all((ROOT / target).exists() for target in targets if not target.startswith("https://"))


def test_readme_lists_every_page_that_can_be_read_without_the_site():
    listed = re.findall(
        r"\]\(docs/([\w-]+)\.md\)", PAGES["README"].read_text(encoding="utf-8").partition("## Documentation")[2]
    )
    written = {"command-line", "api"}  # by the program, into the site
    assert set(listed) == {path.stem for path in (ROOT / "docs").glob("*.md")} - written


def test_the_reference_has_every_field_of_a_request_and_what_it_is():
    rows = list(HOOKS["settings"]())[2:]
    assert [re.match(r"\| `(\w+)` \| \S.* \|$", row)[1] for row in rows] == [each.name for each in fields(Request)]


def test_the_site_shows_every_example():
    assert {ROOT / name for f in ALL for name in SNIPPET.findall(f.text)} == set(EXAMPLES)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 40 for path in EXAMPLES)


def smaller(text: str, title: str = "") -> str:
    for full, small in SMALLER.items():
        text = text.replace(full, small)
    return "".join(text.splitlines(keepends=True)[:3]) if title == "prompts.txt" else text


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder; and no file of code has been named yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(plugins, "_RUN", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow_unless(case=lambda page: page == "README")
@pytest.mark.parametrize("page", [page for page in PAGES if any(f.title not in NOT_RUN for f in fences(page))])
def test_the_examples_of_a_page_run(page, elsewhere):
    names: dict[str, object] = {"__name__": "__main__"}
    for fence in fences(page):
        if fence.title in NOT_RUN or SNIPPET.match(fence.text):
            continue
        if fence.title:
            Path(fence.title).write_text(smaller(fence.text, fence.title), encoding="utf-8")
        elif fence.language == "python":
            exec(compile(smaller(fence.text), f"{page}.md", "exec"), names)
        elif fence.language == "bash":
            for program, name, *rest in words(smaller(fence.text)):
                assert program == "w2sd-video", f"{page}: {program} is not run by this test"
                more = [] if "--from" in rest else FASTER.get(name, [])
                if name == "check-pair" and "--preset" not in rest:  # of videos
                    more = [*more, "--frames", "4"]
                ran = CliRunner().invoke(app, [name, *rest, *more])
                assert ran.exit_code == 0, f"{page}: {name} {' '.join(rest)}: {ran.output} {ran.exception!r}"


def test_the_w2sd_that_extending_writes_in_three_lines_is_w2sd(elsewhere):
    from families import FAMILIES

    Path("mine.py").write_text(next(f.text for f in fences("extending") if f.title == "mine.py"), encoding="utf-8")
    method = plugins.from_file("method", "mine.py:Reflect").value(strong_guidance=3.0)
    image = FAMILIES[2]
    ours, theirs = image(pipe := image.pipeline(), method=method), image(pipe, method="w2sd")
    assert float((ours - theirs).abs().max()) < 1e-9 * float(theirs.abs().max())


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda path: path.stem not in ("compare", "score_folder"))  # README does the like
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, elsewhere, capsys):
    copy = Path(path.name)
    copy.write_text(smaller(path.read_text(encoding="utf-8")), encoding="utf-8")
    runpy.run_path(str(copy), run_name="__main__")
    assert capsys.readouterr().out or set(Path().iterdir()) - {copy}


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    ran = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(pages)
    loads = [tag for page in pages.values() for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page)]
    assert loads and not [tag for tag in loads if re.search(r"(src|href)=.?(https?:)?//", tag)]
    assert all(
        option in pages["command-line"] for option in ("--weak-motion-scale", "--official-python", "--miniatures")
    )
    assert all(f'id="{name}"' in pages["api"] for name in ("w2sd_video.methods.w2sd.W2SD", "w2sd_video.claims"))
