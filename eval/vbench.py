"""VBench's conventions: its results file, its two means over videos, and its normalised totals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2sd_video.documents import once, read_text
from w2sd_video.prompts import Suite
from w2sd_video.runs import write_text

from .dimensions import NAMES, OFFICIAL, SIX, VBENCH, get

# From VBench's leaderboard: the range (smallest, largest) that normalises a dimension's score, unless it is (0, 1), and
# the dimension's weight, unless it is 1.
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
WEIGHTS = {"dynamic_degree": 0.5}
MOST_BYTES = 2**30  # of a results file, which can have a number for each frame
QUALITY = (*SIX, "temporal_flickering")
SEMANTIC = (*OFFICIAL, "overall_consistency")


def asked_of(suite: Suite, dimensions: Iterable[str]) -> dict[str, frozenset[str]]:
    """The prompts of which each of some dimensions is asked, by the tag `dimension` of a suite's prompts.

    A dimension that no tag names is left out, so that it is scored on all. One of VBench's has none then, if the tags
    name others.

    Args:
        dimensions: their names, as `dimensions.expand` returns them. One from a file or a plug-in counts by the name
            that it gives itself.
    """
    tags = {prompt.text: prompt.tags.get("dimension", ()) for prompt in suite.prompts}
    names = [name if name in (*NAMES, *OFFICIAL) else get(name).name for name in dimensions]
    asked = {name: frozenset(text for text, of in tags.items() if name in of) for name in names}
    tagged = any(tags.values())
    return {name: own for name, own in asked.items() if own or (tagged and name in (*VBENCH, *OFFICIAL))}


def aggregate(
    scores: Sequence[float], frames: Sequence[int], weighted: tuple[int | None, int | None], scale: float
) -> tuple[float, float]:
    """A dimension's score over videos as VBench computes it with one process, and with several; NaN without videos.

    Args:
        scores: by video.
        frames: the number of frames, by video.
        weighted: for each of the two, the number to subtract from a video's frames for its weight. None: equal weights.
        scale: divides the mean.
    """
    if not scores:
        return math.nan, math.nan
    one, several = (
        sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights) / scale
        for weights in (weights_of(frames, less) for less in weighted)
    )
    return one, several


def weights_of(frames: Sequence[int], less: int | None) -> list[int]:
    """The weight of each video in a mean; see `aggregate`."""
    return [1 if less is None else n - less for n in frames]


def normalise(dimension: str, score: float) -> float:
    """A score normalised as in the leaderboard, usually to 0-1."""
    smallest, largest = RANGES.get(dimension, (0.0, 1.0))
    return (score - smallest) / (largest - smallest)


def totals(scores: Mapping[str, float]) -> dict[str, float]:
    """The normalised scores `quality`, `semantic` and `total`; one whose dimensions are incomplete is left out."""
    scores_by_kind = {}
    for name, dimensions in {"quality": QUALITY, "semantic": SEMANTIC}.items():
        if all(dimension in scores for dimension in dimensions):
            weights = [WEIGHTS.get(dimension, 1.0) for dimension in dimensions]
            weighted = [w * normalise(d, scores[d]) for w, d in zip(weights, dimensions, strict=True)]
            scores_by_kind[name] = sum(weighted) / sum(weights)
    if len(scores_by_kind) == 2:
        scores_by_kind["total"] = (4 * scores_by_kind["quality"] + scores_by_kind["semantic"]) / 5
    return scores_by_kind


Results = dict[str, tuple[float, list[tuple[str, Any]]]]


def write(path: Path, results: Results) -> None:
    """Writes results in VBench's schema. `results` has, by dimension, the aggregate and (path of a video, score)."""
    data = {
        dimension: [total, [{"video_path": video, "video_results": score} for video, score in videos]]
        for dimension, (total, videos) in results.items()
    }
    write_text(path, json.dumps(data, indent=4))


def read(path: Path) -> Results:
    """Reads a file in VBench's schema.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file has another schema.
    """
    try:
        data = json.loads(read_text(path, MOST_BYTES), object_pairs_hook=once)
        results = {
            dimension: (float(total), [(video["video_path"], video["video_results"]) for video in videos])
            for dimension, (total, videos) in data.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a results file of VBench: {error}") from None
    if not results or not all(name.strip() for name in results):
        raise ValueError(f"{path} is not a results file of VBench: it has no dimension, or one without a name")
    return results
