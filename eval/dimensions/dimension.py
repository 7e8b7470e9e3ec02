"""What a dimension is: a measure of a video, by its frames as they pass by."""

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

    # Is sent the batches of a video in order, then None when there are no more; returns the score as soon as it is
    # certain, or scores by column, or features.
    Scoring = Generator[None, Batch | None, float | dict[str, float] | NDArray[np.float32]]


class Dimension:
    """A measure of a video. One is made for a run, with its networks, and scores many videos.

    A subclass says what it is by class attributes, loads its networks in `load`, and scores in `score`. All that an
    object has of its own is what `load` gave it.
    """

    name: str
    version: int | str = 1  # raised when scores change; those of other versions are not reused
    weights: tuple[Weights, ...] = ()
    least_frames: int = 1
    prompted: bool = False  # whether the score depends on the prompt
    of_motion: bool = False  # whether frames are matched with one another, in memory by their size
    # VBench's means over videos, on one process and on several, weight each by its frames less this; None: all alike.
    weighted: tuple[int | None, int | None] = (None, None)
    # Of a dimension that is not of this package: the records of its columns, and what its code is from.
    records: tuple[Column, ...] = ()
    source: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scores that it gives a video; `record` has more of each."""
        return tuple(record.name for record in self.records) or (self.name,)

    def record(self, column: str) -> Column:
        """What is known of one of its columns; where nothing is said, a higher number is better."""
        own = {record.name: record for record in self.records}
        return own.get(column) or COLUMNS.get(column) or Column(column)

    @property
    def stored(self) -> bool:
        """Whether its scores can be known again: its code is this package's, a plug-in's, or says its `version`."""
        if self.source or "version" in vars(self):
            return True
        own = [cls for cls in type(self).__mro__ if not is_ours(cls) and cls is not object]
        return any("version" in vars(cls) for cls in own) if own else not isinstance(self, ByFunction)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        """Loads the networks from where `weights` were found, by `Weights.name`, in float32."""

    def score(self, video: Video, reader: Reader) -> Scoring:
        """Scores a video while its frames pass by.

        Raises:
            ValueError: it cannot be scored; says why.
        """
        raise NotImplementedError


class ByFrame(Dimension):
    """A dimension that is a mean over frames."""

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
        function: of the frames, (F, H, W, 3), RGB, uint8, and, where it has a parameter of that name, of the `prompt`.
            It returns a number, or numbers by column; NaN where it says nothing of the video.
        columns: what the scores are called and which way is better; default: the function's name, higher is better.
        version: by which stored scores are known; to be raised when scores change. None: scores are not stored.
        least_frames: how many a video must have.
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
    """A dimension that is a function of frames' features: of a video's and the references', or of a whole group's.

    The features are what is kept of a video, so that another comparison takes no network.
    """

    referenced = True  # whether it needs reference images
    of_groups = False  # whether a group has one score, and its videos none
    enough = 1  # pictures of a group, with fewer of which its score misleads

    def features(self, batch: Batch) -> torch.Tensor:
        """(n, channels) of a batch's frames."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        import torch

        seen = []
        while (batch := (yield)) is not None:
            seen.append(self.features(batch).float().cpu())
        return torch.cat(seen).numpy()

    def compare(self, features: NDArray[np.float32], references: Any) -> float:
        """The score of a video or group with these features, against those of the references, or `statistics`.

        Raises:
            ValueError: they are too few; says how many it takes.
        """
        raise NotImplementedError

    def gathered(self, references: NDArray[np.float32]) -> Any:
        """What `compare` takes of all references' features: those, unless something smaller says as much.

        Raises:
            ValueError: they are too few; says how many it takes.
        """
        return references

    def statistics(self, path: Path) -> Any:
        """What an .npz file that is given as references says of them.

        Raises:
            ValueError: it says nothing that the dimension compares with.
        """
        raise ValueError(f"it compares with pictures, and {path} holds statistics")


class Similarity(Compared):
    """The mean cosine of each frame with each reference."""

    def compare(self, features: NDArray[np.float32], references: NDArray[np.float32]) -> float:
        import torch
        import torch.nn.functional as F

        ours, theirs = (F.normalize(torch.from_numpy(each), dim=-1).double() for each in (features, references))
        return (ours @ theirs.mT).mean().item()


def is_ours(code: Any) -> bool:
    """Whether a class, or a function, is this package's."""
    return str(code.__module__).partition(".")[0] == __name__.partition(".")[0]
