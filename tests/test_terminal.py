"""What commands say where they cannot print, and of paths that are empty, are folders or were cut short."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from w2sd_video import cli, progress
from w2sd_video.shapes import cli as shapes

FULL = Path("/dev/full")


def said(*arguments: object, app=cli.app, code: int = 2) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("generate", "a red circle", "--out", ""), "--out"),
        (("generate", "--prompts", ""), "--prompts"),
        (("image", "--from", ""), "--from"),
        (("eval", "videos", "--out", ""), "--out"),
        (("eval", "videos", "--prompts", ""), "--prompts"),
        (("eval", "videos", "--weights", ""), "--weights"),
        (("check-pair", "--out", ""), "--out"),
        (("check-pair", "videos", "--control", ""), "--control"),
        (("shapes", "train", ""), "FOLDER"),
        (("shapes", "render", "a red circle", "--out", ""), "--out"),
        (("shapes", "judge", "", "a red circle"), "VIDEO"),
        (("shapes", "bench", "--table", "--out", ""), "--out"),
    ],
)
def test_an_empty_path_is_refused_by_name_and_is_not_the_current_folder(command, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app, command = (shapes.app, command[1:]) if command[0] == "shapes" else (cli.app, command)
    message = said(*command, app=app)
    assert f"'{names}'" in message and "'' is not accepted; give a path" in message
    assert not list(tmp_path.iterdir())


def test_an_empty_name_is_no_preset():
    assert "NAME: '' is not accepted; Available: shapes" in said("presets", "")


def test_a_folder_in_the_place_of_a_file_is_named_by_its_path(tmp_path):
    assert f"--prompts: '{tmp_path}' is not accepted; it is a folder without" in said("generate", "--prompts", tmp_path)
    message = said("generate", "--from", tmp_path)
    assert f"--from: '{tmp_path}' is not accepted" in message and "Is a directory" in message


def test_a_number_of_thousands_of_digits_is_not_repeated():
    assert len(said("generate", "a red circle", "--steps", "9" * 5000)) < 1000


def test_a_refiner_is_loaded_after_all_else_is_checked(tmp_path):
    out = ("--out", tmp_path / "out")
    assert "--steps: 0" in said("generate", "a red circle", "--refine", "./no-such-model", "--steps", 0, *out)
    assert not (tmp_path / "out").exists()


def test_an_option_that_replaces_a_plans_setting_is_named_as_the_option(tmp_path):
    (tmp_path / "plan.yaml").write_text("prompts: [a red circle]\n")
    message = said("run", tmp_path / "plan.yaml", "--names", "x", "--dry-run")
    assert "Error: --names: 'x' is not accepted; Available: own, vbench" in message


@pytest.mark.parametrize("plan", ["", "{}", '{"moves": [], "removed": []}', '{"moves": [["a"]], "removed": []}', "[]"])
def test_a_plan_that_a_power_cut_left_unreadable_is_named_and_kept(tmp_path, plan):
    folder = tmp_path / ".partial-1-abcdefgh"
    folder.mkdir()
    (folder / "plan.json").write_text(plan)
    message = said("generate", "a red circle", "--out", tmp_path)
    assert message.startswith(f"Error: --out: '{folder}' is not accepted; its plan") and "remove it" in message
    assert (folder / "plan.json").read_text() == plan


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "stream", "code"),
    [
        (["presets"], "stdout", 1),
        (["--help"], "stdout", 1),
        (["shapes", "words"], "stdout", 1),
        (["generate", "a red circle", "--steps", "0"], "stderr", 2),
    ],
)
def test_a_stream_that_cannot_be_written_to_is_named_and_changes_no_exit_code(arguments, stream, code):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "w2sd_video", *arguments]
        ran = subprocess.run(command, **(streams | {stream: full}), text=True, env=os.environ | {"COLUMNS": "200"})
    assert ran.returncode == code
    if stream == "stdout":
        assert (
            ran.stderr.startswith("Error: standard output: No space left on device") and "Traceback" not in ran.stderr
        )


@pytest.mark.slow
def test_who_reads_no_further_ends_a_listing_as_sigpipe_does():
    command = f"{sys.executable} -m w2sd_video presets | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] in ("0", "1") and not ran.stderr  # 0 where all was written before


@pytest.mark.parametrize("kind", ["pipe", "folder", "deep", "rows"])
def test_measuring_names_a_results_file_that_is_none(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    row = '{"pair": ["shapes"], "method": "w2sd", "n": 1, "evaluations": 1, "seconds": 1, "scores": {}}'
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_text(("[" * 100_000 if kind == "deep" else row) + "\n")
    assert f"--out: {path}" in said("bench", "--out", path, "--table", app=shapes.app)


def test_a_video_that_is_not_there_is_refused_as_an_argument():
    assert "VIDEO: 'no.mp4' is not accepted" in said("judge", "no.mp4", "a red circle", app=shapes.app)


def test_what_is_wrong_with_a_video_is_said_in_words(tmp_path):
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for name, says in [("list.mp4", "(it names other files"), ("empty", "(it has no frame)"), ("text.mp4", "Invalid")]:
        message = said("judge", tmp_path / name, "a red circle", app=shapes.app)
        assert says in message and " @ 0x" not in message


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [(0, 4), (1, 4), (3, 4)],
            "cells: 0/4\ncells: 1/4\ncells: 3/4, 0:00:05 left\n",
        ),  # models load first
        ([(2, 5), (3, 5), (4, 5)], "cells: 2/5\ncells: 3/5\ncells: 4/5, 0:00:10 left\n"),  # two of a former run
        ([(0.0, 1.0), (0.5, 1.0), (0.75, 1.0)], "cells: 0%\ncells: 50%\ncells: 75%, 0:00:10 left\n"),
        (
            [(0.5, 1.0), (1.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 1.0)],
            "cells: 50%\ncells: 100%\ncells: 20%\ncells: 40%\ncells: 60%, 0:00:20 left\n",
        ),  # the next stage of the work
    ],
)
def test_off_a_terminal_long_work_says_how_far_it_is_and_how_long_it_takes(steps, said, monkeypatch):
    clock = iter(range(0, 1000, 10))  # a step takes ten seconds
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    console = Console(file=io.StringIO())
    with progress.bar("cells", console, shares=isinstance(steps[0][0], float)) as show:
        for step in steps:
            show(*step)
    assert console.file.getvalue() == said


def test_short_work_says_nothing_of_how_far_it_is():
    console = Console(file=io.StringIO())
    with progress.bar("cells", console) as show:
        show(1, 2)
    assert console.file.getvalue() == ""


def test_on_a_terminal_a_bar_says_how_far_work_is_and_leaves_nothing_behind(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.bar("videos", console) as show:
        show(0, 3)
        show(1, 3)
        show(2, 3, doing="[b] a.mp4")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert "[b] a.mp4, 0:00:10 left" in shown and "2/3" in shown
    assert "videos: " not in shown  # the lines of what is no terminal
