"""Best-of-N: of the videos of each prompt, the one that a column of scores ranks first."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from w2sd_video.columns import Column
from w2sd_video.errors import Refused, did_you_mean
from w2sd_video.runs import whole

from .columns import COLUMNS
from .dimensions import NAMES, Chosen, chosen
from .evaluate import Scores
from .videos import sidecar_of


@dataclass(frozen=True)
class Best:
    """A prompt's best video.

    Attributes:
        prompt: the prompt; of videos without one, their name.
        video: the file or folder of the best one. None: none could be scored.
        score: its score; None likewise.
        of: how many videos of the prompt were scored.
        failed: how many could not be.
    """

    prompt: str
    video: Path | None
    score: float | None
    of: int
    failed: int


def dimension_of(column: str) -> str:
    """The built-in dimension that has a column.

    Raises:
        Refused: none has.
    """
    world = column.partition("_")[0]
    if column not in COLUMNS:
        way = "One of your own needs its dimension too: --by COLUMN --dimensions FILE.py:NAME"
        raise Refused("by", column, f"{did_you_mean(column, list(COLUMNS))}. {way}")
    return world if world in NAMES and column not in NAMES else column


def ranking(by: str, dimensions: Iterable[Chosen] | Chosen) -> Column:
    """The column to rank by, before anything is scored.

    Raises:
        Refused: no dimension has it, it has no better side, or only a group as a whole has it.
    """
    columns = {name: each.record(name) for each in chosen(dimensions) for name in each.columns}
    if by not in columns:
        raise Refused("by", by, did_you_mean(str(by), list(columns)))
    column = columns[by]
    if column.kind == "group":
        raise Refused("by", by, "give a column that each video has: this one is of a group as a whole")
    if column.sign == 0:
        raise Refused("by", by, "give a column of which more, or less, is better")
    return column


def best(scores: Scores, column: Column) -> list[Best]:
    """The best video of each prompt, in the order in which prompts come; of equal ones the first.

    A score that is not there, or is not a number, is no candidate.

    Args:
        column: as of `ranking`.

    Raises:
        Refused: no dimension of the scores has the column.
    """
    known = [name for dimension in scores.dimensions for name in dimension.columns]
    if not isinstance(column, Column) or column.name not in known:
        raise Refused("column", getattr(column, "name", column), f"give what `ranking` returns for one of {known}")
    videos: dict[str, list[tuple[Path, float | None]]] = {}
    once = {video.path.absolute(): video for video in reversed(scores.videos)}  # which two arguments may name
    for video in (video for video in scores.videos if once[video.path.absolute()] is video):
        score = scores.of.get(video, {}).get(column.name)
        usable = score is not None and math.isfinite(score)
        videos.setdefault(video.prompt or video.pair, []).append((video.path, score if usable else None))
    bests = []
    for prompt, each in videos.items():
        scored = [(path, score) for path, score in each if score is not None]
        path, score = max(scored, key=lambda one: column.sign * one[1], default=(None, None))
        bests.append(Best(prompt, path, score, len(scored), len(each) - len(scored)))
    return bests


def copy(bests: Sequence[Best], folder: str | Path) -> list[Path]:
    """Copies the best videos into a folder, each with its sidecar. All appear, or none.

    Raises:
        Refused: a file of that name is there, or two of them have one name.
    """
    folder, files = Path(folder), dict[str, Path]()
    for each in bests:
        if each.video is None:
            continue
        sidecar = sidecar_of(each.video)
        for path in (each.video, *([sidecar] if sidecar.is_file() else [])):
            if path.name in files:
                raise Refused("out", str(folder), f"give none: two of the best videos are called {path.name}")
            if (folder / path.name).exists():
                raise Refused("out", str(folder), f"give another folder: it has a {path.name}")
            files[path.name] = path
    if not files:
        return []
    with whole({name: folder / name for name in files}) as staged:
        for name, path in files.items():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, staged[name])
    return [folder / name for name in files]
