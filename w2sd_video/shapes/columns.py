"""The columns that the judges give: of a video of shapes, of outlines of shapes, and of a picture of a digit."""

from __future__ import annotations

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
# The ten digits are all that there are.
DIGITS = (Column("right", kind="verdict", classes=10), Column("distance", sign=-1, classes=10))
