"""The columns of the judges, for videos of shapes, for outlines of shapes, and for pictures of digits."""

from __future__ import annotations

from collections.abc import Mapping

from ..columns import Column

SHAPES = (
    Column("right", kind="verdict"),
    Column("objects", kind="verdict"),
    Column("count", kind="verdict"),
    Column("colour", kind="verdict"),
    Column("shape", kind="verdict"),
    Column("size", kind="verdict"),
    Column("direction", kind="verdict"),
    Column("speed", kind="verdict"),
    Column("relation", kind="verdict"),
    Column("background", kind="verdict"),
    Column("form"),
    Column("edge_error", sign=-1),
    Column("exchanged", sign=-1, kind="verdict"),
    Column("area_instability", sign=-1),
    Column("colour_instability", sign=-1),
    Column("background_instability", sign=-1),
    Column("jerk", sign=-1),
    Column("motion", sign=0),
    Column("clipped", sign=-1),
)
OUTLINES = (Column("outlined"), *SHAPES)
# Measures of differences between frames, which a picture does not have.
OF_TIME = {"area_instability", "colour_instability", "background_instability", "jerk", "motion"}
# Of what the judge says of every video, whatever its prompt: what always has a number, and all.
ALWAYS = ("right", "objects", "count", "colour", "shape")
OF_EVERY = (*ALWAYS, "form", "edge_error", *sorted(OF_TIME), "clipped")
# Means over the objects of the prompt that a video shows. Where it lacks one, they are of fewer objects than another
# video's, perhaps of the easier ones.
OF_OBJECTS = {"form", "edge_error", "exchanged", "area_instability", "colour_instability", "jerk", "motion"}
# The ten digits are a whole population, so they are strata; see `verdicts`.
DIGITS = (Column("right", kind="verdict", classes=10), Column("distance", sign=-1, classes=10))


def seen(scores: Mapping[str, float], frames: int) -> dict[str, float]:
    """The judge's scores, without measures of differences between frames if there is a single frame."""
    return {name: score for name, score in scores.items() if frames > 1 or name not in OF_TIME}
