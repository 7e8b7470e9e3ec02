"""The page: a static HTML file and a folder of media, with the scores, plots, a gallery and blind voting.

It opens from disk, without a server or a network: it contains its data, style and script, and the folder beside it
holds the videos and plotly's script.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from w2sd_video.errors import Refused
from w2sd_video.runs import gone_if_empty, whole, writable

from . import media
from .data import Data, Experiment, Published
from .votes import Vote, tally

if TYPE_CHECKING:
    from ..results import Summary
    from ..videos import Video

__all__ = ["SIGNS", "Experiment", "Published", "check", "page", "write"]

FOLDER = Path(__file__).parent
# Texts near the start of a page that this command wrote; earlier versions wrote the second one.
SIGNS = ("<meta name=generator content=w2sd-video>", "<title>Scores</title>")
PLOTLY = "plotly.min.js"


def write(
    path: Path,
    summary: Summary,
    experiment: Experiment | None = None,
    gallery: bool = False,
    votes: Sequence[Vote] = (),
) -> list[Path]:
    """Writes the page, and the folder of its media beside it.

    The folder of `index.html` is `media`, the folder of `NAME.html` is `NAME_files`. Media in it are reused.

    Args:
        experiment: the plan's axes, prompts and tags, if the videos come from a plan.
        gallery: whether to show the videos, for which the folder gets links or copies and a still of each.
        votes: people's preferences, from files that the page saved.

    Returns:
        The page and its folder.

    Raises:
        Refused: another file or folder has one of their names, or the folder cannot be written to.
        OSError: a file cannot be written.
        ModuleNotFoundError: plotly is not installed.
    """
    from plotly.offline import get_plotlyjs

    check(path)
    folder = files_of(path)
    with gone_if_empty(folder):
        writable(folder)
        clips: dict[Video, dict[str, Any]] = {}
        broken: dict[Video, str] = {}
        if gallery:
            clips, broken = media.add(folder, summary.scores.videos)
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
    """Refuses to replace files that this command did not write.

    Raises:
        Refused: names such a file or folder.
    """
    folder = files_of(path)
    if path.is_dir() or (path.exists() and not any(sign in _start(path) for sign in SIGNS)):
        raise Refused("out", str(path), f"{path} exists and is no page of this command; give another name")
    if folder.exists() and not folder.is_dir():
        raise Refused("out", str(path), f"{folder} exists and is no folder; give another name")


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
    """The page's text, which depends only on the arguments.

    Args:
        clips: the media of each video in the gallery, see `media.add`; without any, there is no gallery.
        broken: the reason for each video that cannot be shown.
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
    parts = sorted((FOLDER / "script").glob("*.js"))  # joined in this order; they share one scope
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
