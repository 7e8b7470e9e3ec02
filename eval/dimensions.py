"""What a dimension is, and which there are: one file each, found by name, imported when it is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from w2sd_video.presets import did_you_mean
from w2sd_video.runs import Refused

if TYPE_CHECKING:
    import torch

    from .videos import Batch, Reader, Video
    from .weights import Weights

    # Is sent the batches of a video in order, then None when there are no more; returns the score as soon as it is
    # certain, or scores by column.
    Scoring = Generator[None, Batch | None, float | dict[str, float]]

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
NAMES = (*VBENCH, "shapes")


class Dimension:
    """A measure of a video. One is made for a run, with its networks, and scores many videos.

    A subclass says what it is by class attributes, loads its networks in `load`, and scores in `score`.
    """

    name: str
    version: int | str = 1  # raised when scores change; those of other versions are not reused
    weights: tuple[Weights, ...] = ()
    least_frames: int = 1
    prompted: bool = False  # whether the score depends on the prompt
    by_pairs: bool = False  # whether VBench's mean over videos weights each by its frames less one
    scale: float = 1.0  # VBench divides its mean over videos by this
    # Of its columns: -1 where lower is better, 0 where neither is; 1 for the rest.
    signs: Mapping[str, int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scores that it gives a video."""
        return (self.name,)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        """Loads the networks from where `weights` were found, by `Weights.name`, in float32."""

    def score(self, video: Video, reader: Reader) -> Scoring:
        """Scores a video while its frames pass by.

        Raises:
            ValueError: it cannot be scored; says why.
        """
        raise NotImplementedError


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


def expand(names: Iterable[str]) -> list[str]:
    """Names, and the groups `six` and `vbench`, as names of dimensions, each once.

    Raises:
        Refused: there is none of that name.
    """
    groups = {"six": SIX, "vbench": VBENCH}
    found = [each for name in names for each in groups.get(name, (name,))]
    for name in found:
        if name not in (*NAMES, *OFFICIAL):
            raise Refused("dimensions", name, did_you_mean(name, (*groups, *NAMES, *OFFICIAL)))
    if not found:
        raise Refused("dimensions", "", f"give some of {', '.join((*groups, *NAMES))}")
    return list(dict.fromkeys(found))
