"""Links to a run's videos under the names that VBench's own tools read: `RUN/vbench/ARM/{prompt}-{index}.mp4`.

The links have their own folders because VBench infers the type of all files in a folder from the first one listed, and
the videos' folders also hold sidecars.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .. import runs
from ..errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .arms import Cell
    from .plan import Plan

FOLDER = "vbench"
LONGEST = 255  # bytes in the name of a file


def name_of(cell: Cell, seeds: list[int]) -> str:
    """The name of a video in VBench: the prompt, and the index of its seed among the plan's seeds."""
    return f"{cell.prompt.text}-{seeds.index(cell.seed)}.mp4"


def check_names(plan: Plan) -> None:
    """Refuses a plan whose videos cannot have these names.

    Raises:
        Refused: the plan makes pictures or no mp4, or a prompt cannot be part of a file name.
    """
    if not plan.arms[0].template.video or "mp4" not in plan.formats:
        raise Refused("names", plan.names, "VBench reads videos as mp4, and the plan makes none")
    for prompt in plan.suite.prompts:
        length = len(f"{prompt.text}-{len(plan.all_seeds)}.mp4".encode())
        if set(prompt.text) & set("/\\\0") or prompt.text.startswith(".") or length > LONGEST:
            raise Refused("names", plan.names, f"the prompt {prompt.text[:100]!r} cannot be the name of a file")


def link(plan: Plan, path: Path, complete: Iterable[tuple[Cell, Path]], whole: bool = True) -> None:
    """Links a run's videos.

    Args:
        path: the run's folder.
        complete: the generated cells, each with its video.
        whole: whether these are all cells of the run; if so, other links are removed.
    """
    wanted: dict[Path, Path] = {
        path / FOLDER / cell.arm.folder / name_of(cell, plan.all_seeds): video for cell, video in complete
    }
    for folder in dict.fromkeys(each.parent for each in wanted):
        runs.writable(folder)
        for old in folder.glob("*.mp4") if whole else ():
            if old not in wanted:
                old.unlink()
    for name, video in wanted.items():
        if name.exists() and os.path.samefile(name, video):
            continue
        staged = name.with_name(f".{os.getpid()}.mp4")
        staged.unlink(missing_ok=True)
        try:
            os.link(video, staged)
        except OSError:  # a disk without links
            shutil.copyfile(video, staged)
        os.replace(staged, name)
