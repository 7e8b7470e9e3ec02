"""The page: a static folder, or a page and its folder, with the scores, plots, a gallery and blind voting.

It opens from disk, without a server or a network: its data, style and script are within it, and beside it lie the
videos and plotly's script.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from w2sd_video.errors import Refused
from w2sd_video.runs import whole

from . import media
from .data import Data, Experiment
from .votes import Vote, tally

if TYPE_CHECKING:
    from ..results import Summary
    from ..videos import Video

__all__ = ["SIGNS", "Experiment", "check", "page", "write"]

FOLDER = Path(__file__).parent
# What near the start of a page tells that this command wrote it; the second of earlier versions.
SIGNS = ("<meta name=generator content=w2sd-video>", "<title>Scores</title>")
PLOTLY = "plotly.min.js"


def write(
    path: Path,
    summary: Summary,
    experiment: Experiment | None = None,
    gallery: bool = False,
    votes: Sequence[Vote] = (),
) -> list[Path]:
    """Writes the page, and beside it the folder of what it shows.

    The folder of `index.html` is `media`, that of `NAME.html` is `NAME_files`. What is there from before is used again.

    Args:
        experiment: what a plan knows of the videos.
        gallery: whether the videos are shown, which takes links to them, or copies, and a still of each.
        votes: what people preferred, from files that the page saved.

    Returns:
        The page and its folder.

    Raises:
        Refused: something else has one of their names.
        OSError: a file cannot be written.
        ModuleNotFoundError: plotly, which draws, is not installed.
    """
    from plotly.offline import get_plotlyjs

    check(path)
    folder = files_of(path)
    clips: dict[Video, dict[str, Any]] = {}
    broken: dict[Video, str] = {}
    if gallery:
        clips, broken = media.add(folder, summary.scores.videos)
    folder.mkdir(parents=True, exist_ok=True)
    script = get_plotlyjs()
    text = page(summary, experiment, clips, broken, votes, folder.name)
    with whole({"script": folder / PLOTLY, "page": path}) as staged:
        staged["script"].write_text(script, encoding="utf-8")
        staged["page"].write_text(text, encoding="utf-8", errors="backslashreplace")
    media.prune(folder, clips)
    return [path, folder]


def files_of(path: Path) -> Path:
    """The folder beside a page."""
    return path.with_name("media" if path.name == "index.html" else f"{path.stem}_files")


def check(path: Path) -> None:
    """Refuses places that something else has.

    Raises:
        Refused: says what is there.
    """
    folder = files_of(path)
    if path.is_dir() or (path.exists() and not any(sign in _start(path) for sign in SIGNS)):
        raise Refused("out", str(path), f"{path} is there and not of this command; give another name")
    if folder.exists() and not folder.is_dir():
        raise Refused("out", str(path), f"{folder} is there and no folder; give another name")


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).decode(errors="replace")


def page(
    summary: Summary,
    experiment: Experiment | None = None,
    clips: Mapping[Video, dict[str, Any]] | None = None,
    broken: Mapping[Video, str] | None = None,
    votes: Sequence[Vote] = (),
    folder: str = "media",
) -> str:
    """The page's text; the same of the same scores.

    Args:
        clips: the files in `folder` of each video of the gallery; without any, there is none.
        broken: why a video cannot be shown.
        folder: the name of the folder beside the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    data = Data(summary, experiment or Experiment(), clips or {}, broken or {})
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and
        not isinstance(value, Markup) else value,
    )  # fmt: skip
    parts = sorted((FOLDER / "script").glob("*.js"))  # which share one scope, in this order
    style, *scripts = (path.read_text(encoding="utf-8") for path in (FOLDER / "page.css", *parts))
    return environment.get_template("page.html.j2").render(
        summary=summary,
        data=data,
        json=Markup(data.json()),
        tally=tally(votes, summary),
        style=Markup(style),
        script=Markup("\n".join(scripts)),
        folder=quote(os.fsencode(folder)),
        title=data.experiment.title or f"Scores of {len(summary.scores.videos)} {data.thing}s",
    )
