"""The names of all dimensions, and their columns: which side is better, their kind and their scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from w2sd_video.columns import Column
from w2sd_video.shapes.columns import DIGITS, OUTLINES, SHAPES

# The six that VBench documents for any videos, and that the paper's Table 12 reports.
_SIX = (
    Column("subject_consistency"),
    Column("background_consistency"),
    Column("motion_smoothness"),
    Column("dynamic_degree", kind="verdict"),
    Column("aesthetic_quality"),
    Column("imaging_quality", scale=100.0),  # VBench divides the mean over videos by 100
)
# Two more of its sixteen.
_TWO = (Column("temporal_flickering"), Column("overall_consistency"))
# The rest of its sixteen; they need object detectors and captioners, and are left to its own package.
_OFFICIAL = (
    Column("object_class"),
    Column("multiple_objects"),
    Column("human_action", kind="verdict"),
    Column("color"),
    Column("spatial_relationship"),
    Column("scene"),
    Column("appearance_style"),
    Column("temporal_style"),
)
# Of images, or of each frame of a video: those that need no other images, and those that compare.
_IMAGES = (
    Column("clip_t"),
    Column("laion_aesthetic"),
    Column("pick_score", odds=True),
    Column("hps_v2", odds=True),
    Column("hps_v2_1", odds=True),
    Column("image_reward", odds=True),
    Column("mps", odds=True),
)
_COMPARED = (
    Column("clip_i"),
    Column("dino"),
    Column("fid", sign=-1, kind="group"),
    Column("inception_score", kind="group"),
)
_PIXELS = (Column("clipped", sign=-1),)
# Dimensions of several columns, whose names begin with the dimension's.
_JUDGES = {"shapes": SHAPES, "outlines": OUTLINES, "digits": DIGITS}


def _names(columns: Iterable[Column]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)


SIX, OFFICIAL, IMAGES, COMPARED = map(_names, (_SIX, _OFFICIAL, _IMAGES, _COMPARED))
VBENCH = (*SIX, *_names(_TWO))
GROUPS = {"six": SIX, "vbench": VBENCH, "images": IMAGES}
NAMES = (*VBENCH, *IMAGES, *COMPARED, *_names(_PIXELS), *_JUDGES)  # each a file in `dimensions`
COLUMNS: dict[str, Column] = {
    column.name: column for column in (*_SIX, *_TWO, *_OFFICIAL, *_IMAGES, *_COMPARED, *_PIXELS)
} | {
    f"{world}_{column.name}": replace(column, name=f"{world}_{column.name}")
    for world, columns in _JUDGES.items()
    for column in columns
}
