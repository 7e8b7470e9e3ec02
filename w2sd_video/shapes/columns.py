"""The columns that the judges give: of a video of shapes, of outlines of shapes, and of a picture of a digit."""

from __future__ import annotations

from collections.abc import Mapping

from ..columns import Column

# Verdicts, then measures.
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
    Column("exchanged", sign=-1),
    Column("area_instability", sign=-1),
    Column("colour_instability", sign=-1),
    Column("background_instability", sign=-1),
    Column("jerk", sign=-1),
    Column("motion", sign=0),
    Column("clipped", sign=-1),
)
OUTLINES = (Column("outlined"), *SHAPES)
# Measures of how frames differ, of which a picture has none.
OF_TIME = {"area_instability", "colour_instability", "background_instability", "jerk", "motion"}
# The ten digits are all that there are.
DIGITS = (Column("right", kind="verdict", classes=10), Column("distance", sign=-1, classes=10))


def seen(scores: Mapping[str, float], frames: int) -> dict[str, float]:
    """The judge's scores, without measures of how frames differ where there is one."""
    return {name: score for name, score in scores.items() if frames > 1 or name not in OF_TIME}
