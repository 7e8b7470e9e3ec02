"""The interface of a dimension, which scores a video from its frames as they are decoded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video.columns import Column

from ..columns import COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..frames import Batch, Reader
    from ..videos import Video
    from ..weights import Weights

    # Gets the batches of a video in order, and then None. Returns a score, scores by column, or features; it may return
    # before the last batch.
    Scoring = Generator[None, Batch | None, float | dict[str, float] | NDArray[np.float32]]


class Dimension:
    """A measure of a video. One instance, with its networks, scores all videos of a run.

    A subclass sets the class attributes, loads its networks in `load`, and computes scores in `score`. Only `load` sets
    attributes of the instance, which are removed when the networks are freed.
    """

    name: str
    version: int | str = 1  # increase it when scores change; stored scores of other versions are not reused
    weights: tuple[Weights, ...] = ()
    least_frames: int = 1
    prompted: bool = False  # whether the score depends on the prompt
    of_motion: bool = False  # whether frames are matched with one another, which takes memory by their size
    # VBench weights each video in a mean by its frames minus this number, in one process and in several. None: equally.
    weighted: tuple[int | None, int | None] = (None, None)
    # For dimensions outside this package: the records of the columns, and where the code comes from.
    records: tuple[Column, ...] = ()
    source: str = ""
    plugin: str = ""  # its name as a plug-in, such as FILE.py:NAME

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scores of a video; `record` describes each."""
        return tuple(record.name for record in self.records) or (self.name,)

    def record(self, column: str) -> Column:
        """The record of a column. By default, a higher number is better."""
        own = {record.name: record for record in self.records}
        return own.get(column) or COLUMNS.get(column) or Column(column)

    @property
    def stored(self) -> bool:
        """Whether its scores can be stored and reused: its code is this package's, a plug-in's, or has a `version`."""
        if self.source or "version" in vars(self):
            return True
        own = [cls for cls in type(self).__mro__ if not is_ours(cls) and cls is not object]
        return any("version" in vars(cls) for cls in own) if own else not isinstance(self, ByFunction)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        """Loads the networks in float32.

        Args:
            paths: where `weights` were found, by `Weights.name`.
        """

    def score(self, video: Video, reader: Reader) -> Scoring:
        """Scores a video while it is decoded, as a generator: each `yield` gives the next batch, or None at the end.

        Raises:
            ValueError: the video cannot be scored, with the reason.
        """
        raise NotImplementedError


class ByFrame(Dimension):
    """A dimension whose score is a mean over frames."""

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        """The score of each frame of a batch, (n,)."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        total = 0.0
        while (batch := (yield)) is not None:
            total += self.of_frames(batch, video).double().sum().item()
        return total / reader.frames


class ByFunction(Dimension):
    """A dimension that is a function of a video's frames.

    Args:
        function: takes the frames, (F, H, W, 3), RGB, uint8, and the `prompt` if it has a parameter of that name. It
            returns a number, or numbers by column; NaN if it does not apply to the video.
        columns: the names of the scores, and which direction is better. Default: the function's name, higher is better.
        version: identifies stored scores; change it when scores change. None: scores are not stored.
        least_frames: the fewest frames that a video must have.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *columns: Column,
        version: int | str | None = None,
        least_frames: int = 1,
    ):
        name = str(getattr(function, "__name__", type(function).__name__))
        self.name = columns[0].name if len(columns) == 1 else name
        self.records = columns or (Column(name),)
        self.least_frames = least_frames
        self.function = function
        if version is not None:
            self.version = version
        try:
            self.prompted = "prompt" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # of some functions that are not Python's
            self.prompted = False

    def score(self, video: Video, reader: Reader) -> Scoring:
        import numpy as np

        seen = []
        while (batch := (yield)) is not None:
            seen.append(batch.pixels)
        prompt_argument = {"prompt": video.prompt} if self.prompted else {}
        scores: float | dict[str, float] = self.function(np.concatenate(seen), **prompt_argument)
        return scores


class Compared(Dimension):
    """A dimension that compares features of frames: a video's, or a whole group's, with the references'.

    The features of a video are stored, so that another comparison needs no network.
    """

    referenced = True  # whether it needs reference images
    of_groups = False  # whether a group has one score, and its videos none
    enough = 1  # the fewest pictures of a group for a score that does not mislead

    def features(self, batch: Batch) -> torch.Tensor:
        """The features (n, channels) of a batch's n frames."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        import torch

        seen = []
        while (batch := (yield)) is not None:
            seen.append(self.features(batch).float().cpu())
        return torch.cat(seen).numpy()

    def compare(self, features: NDArray[np.float32], references: Any) -> float:
        """The score of a video or group.

        Args:
            features: (n, channels), of its frames.
            references: what `gathered` or `statistics` returned.

        Raises:
            ValueError: there are too few features; the message says how many are needed.
        """
        raise NotImplementedError

    def gathered(self, references: NDArray[np.float32]) -> Any:
        """The references' features as `compare` takes them; a subclass may return a summary, such as their mean.

        Raises:
            ValueError: there are too few features; the message says how many are needed.
        """
        return references

    def statistics(self, path: Path) -> Any:
        """The references' statistics from an .npz file, as `compare` takes them.

        Raises:
            ValueError: the file has no statistics for this dimension.
        """
        raise ValueError(f"it compares with pictures, and {path} holds statistics")


class Similarity(Compared):
    """The mean cosine similarity of each frame with each reference."""

    def compare(self, features: NDArray[np.float32], references: NDArray[np.float32]) -> float:
        import torch
        import torch.nn.functional as F

        ours, theirs = (F.normalize(torch.from_numpy(each), dim=-1).double() for each in (features, references))
        return (ours @ theirs.mT).mean().item()


def is_ours(code: Any) -> bool:
    """Whether a class or a function belongs to this package."""
    return str(code.__module__).partition(".")[0] == __name__.partition(".")[0]
