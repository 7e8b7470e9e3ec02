"""Shared files: written once, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shared import WEEK, shared

WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from shared import shared
def write(folder):
    (folder / "a").write_text("a")
    time.sleep(0.3)
    (folder / "b").write_text("b")
    with open(sys.argv[2] + "/log", "a") as log:
        log.write("written ")
place = shared("two", write, "recipe", folder=Path(sys.argv[2]))
print(sorted(path.name for path in place.iterdir()))
"""


def test_two_processes_at_once_write_it_once_and_both_read_it_whole(tmp_path):
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["['a', 'b']"] * 2
    assert (tmp_path / "log").read_text() == "written "


def test_another_recipe_is_another_folder_and_what_failed_leaves_nothing(tmp_path):
    first = shared("x", lambda folder: None, {"shape": [1]}, folder=tmp_path)
    assert shared("x", lambda folder: pytest.fail("written again"), {"shape": [1]}, folder=tmp_path) == first

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared("x", fail, {"shape": [2]}, folder=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [first]
    assert shared("x", lambda folder: None, {"shape": [2]}, folder=tmp_path) != first


def test_what_no_test_has_read_for_a_week_is_removed(tmp_path):
    old, used = (shared("x", lambda folder: None, n, folder=tmp_path) for n in (1, 2))
    for place in (old, used):
        os.utime(place, (0, old.stat().st_mtime - WEEK - 60))
    shared("x", lambda folder: None, 2, folder=tmp_path)  # reads it
    shared("x", lambda folder: None, 3, folder=tmp_path)
    assert not old.exists() and used.exists()
