"""What a dimension is, and which there are: one file each, found by name, imported when it is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2sd_video.errors import Refused, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from .videos import Batch, Reader, Video
    from .weights import Weights

    # Is sent the batches of a video in order, then None when there are no more; returns the score as soon as it is
    # certain, or scores by column, or features.
    Scoring = Generator[None, Batch | None, float | dict[str, float] | NDArray[np.float32]]

# The six that VBench documents for any videos, and that the paper's Table 12 reports; then two more of its sixteen.
SIX = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
VBENCH = (*SIX, "temporal_flickering", "overall_consistency")
# The rest of VBench's sixteen; they need object detectors and captioners, and are left to its own package.
OFFICIAL = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
)
# Of images, or of each frame of a video: those that need no other images, and those that compare.
IMAGES = ("clip_t", "laion_aesthetic", "pick_score", "hps_v2", "hps_v2_1", "image_reward", "mps")
COMPARED = ("clip_i", "dino", "fid", "inception_score")
NAMES = (*VBENCH, *IMAGES, *COMPARED, "clipped", "shapes", "digits")


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

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scores that it gives a video; `columns.COLUMNS` has a record of each."""
        return (self.name,)

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


@dataclass(frozen=True)
class Skipped:
    """A dimension that was asked for and cannot be computed here, and why."""

    name: str
    reason: str


def get(name: str) -> Dimension:
    """A dimension by its name, without its networks.

    Raises:
        Refused: there is none of that name.
    """
    if name in OFFICIAL:
        raise Refused("dimensions", name, "VBench's own package computes it: give --backend official")
    if name not in NAMES:
        raise Refused("dimensions", name, did_you_mean(name, (*NAMES, *OFFICIAL)))
    return import_module(f".{name}", __package__).DIMENSION()


def expand(names: str | Iterable[str]) -> list[str]:
    """Names, or one text with commas between, and the groups `six`, `vbench` and `images`, as names of dimensions.

    Each is there once.

    Raises:
        Refused: there is none of that name.
    """
    try:
        names = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    except (TypeError, AttributeError):
        raise Refused("dimensions", names, "give names") from None
    groups = {"six": SIX, "vbench": VBENCH, "images": IMAGES}
    found = [each for name in names for each in groups.get(name, (name,))]
    for name in found:
        if name not in (*NAMES, *OFFICIAL):
            raise Refused("dimensions", name, did_you_mean(name, (*groups, *NAMES, *OFFICIAL)))
    if not found:
        raise Refused("dimensions", "", f"give some of {', '.join((*groups, *NAMES))}")
    return list(dict.fromkeys(found))
