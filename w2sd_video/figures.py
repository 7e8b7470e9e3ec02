"""Figures as files, with the same bytes each time, and with texts as texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import Refused

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATED = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}  # what would differ, by format


def check(path: Path) -> None:
    """Checks that a command's `--figure` can be drawn to a path.

    Raises:
        Refused: the path is a folder, or its suffix is not supported.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib  # noqa: F401 - draws the figure, and may be missing

    if path.suffix.lower() not in DATED or path.is_dir():
        raise Refused("--figure", str(path), f"give the name of a file that ends in {', '.join(DATED)}")


def save(figure: Figure, path: Path, dpi: float | None = None) -> None:
    """Saves a figure in the format of the path's suffix.

    Args:
        dpi: dots per inch of a picture, and of what is a picture inside another format. Default: the figure's.
    """
    from matplotlib import rc_context

    suffix = path.suffix.lower()
    with rc_context({"svg.hashsalt": "w2sd-video", "svg.fonttype": "none"}):  # else identifiers are random
        figure.savefig(path, format=suffix[1:], dpi=dpi or figure.dpi, metadata={DATED[suffix]: None})
