"""The references that dimensions compare with, and the scores of these comparisons, of videos or whole groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.errors import Refused

from .dimensions import COMPARED, Compared, Dimension
from .scorer import Scorer
from .videos import Video, find

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .evaluate import Scores


@dataclass(frozen=True)
class References:
    """References: `statistics` by dimension, or `pictures`."""

    statistics: dict[str, Any]
    pictures: list[Video]


def references_of(scorer: Scorer, wanted: list[Dimension], paths: list[str]) -> References:
    """The references that are given, pictures or the file of their statistics; skips dimensions that lack them.

    Raises:
        Refused: they are not there, or no dimension compares with any.
    """
    statistics: dict[str, Any] = {}
    of_file = Path(paths[0]) if len(paths) == 1 and paths[0].endswith(".npz") else None
    if of_file and not of_file.is_file():
        raise Refused("references", paths[0], "there is no such file")
    if paths and not any(isinstance(d, Compared) and d.referenced for d in wanted):
        raise Refused("references", paths[0], f"it takes {', '.join(COMPARED[:-1])} among the dimensions")
    needed = [d for d in scorer.ready if isinstance(d, Compared) and d.referenced]
    for dimension in needed:
        try:
            if of_file:
                statistics[dimension.name] = dimension.statistics(of_file)
            elif not paths:
                raise ValueError("it compares with pictures: give references")
        except ValueError as error:
            scorer.skip(dimension, str(error))
    try:
        pictures = [] if of_file else find(paths, images=True)
    except Refused as refused:
        raise Refused("references", refused.value, refused.accepted) from None
    return References(statistics, pictures if needed else [])


def compare(
    dimension: Compared,
    features: dict[Video, NDArray[np.float32]],
    videos: Iterable[Video],
    references: References,
    scores: Scores,
) -> None:
    """Adds what a dimension makes of the features of each video, or of each group.

    Args:
        features: also those of the references.
        videos: those to compare.
    """
    against = references.statistics.get(dimension.name)
    if against is None:
        theirs = [features[picture] for picture in references.pictures if picture in features]
        try:
            if dimension.referenced and not theirs:
                raise ValueError("none of the references can be read")
            against = dimension.gathered(np.concatenate(theirs)) if theirs else None
        except ValueError as error:
            scores.problems.append((references.pictures[0], dimension.name, str(error)))
            return
    together: dict[Any, list[Video]] = {}
    for video in videos:
        together.setdefault(video.group if dimension.of_groups else video, []).append(video)
    for unit, members in together.items():
        frames = np.concatenate([features[video] for video in members])
        try:
            score = dimension.compare(frames, against)
        except ValueError as error:
            scores.problems.append((members[0], dimension.name, str(error)))
            continue
        if dimension.of_groups:
            scores.of_groups.setdefault(unit, {})[dimension.name] = (score, len(frames))
        else:
            scores.of[unit][dimension.name] = score
