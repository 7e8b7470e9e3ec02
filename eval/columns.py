"""The columns of all dimensions: which side is better, their kind and their scale."""

from __future__ import annotations

from dataclasses import replace

from w2sd_video.columns import Column
from w2sd_video.shapes.columns import DIGITS, OUTLINES, SHAPES

_DIMENSIONS = (
    Column("subject_consistency"),
    Column("background_consistency"),
    Column("motion_smoothness"),
    Column("dynamic_degree", kind="verdict"),
    Column("aesthetic_quality"),
    Column("imaging_quality", scale=100.0),  # VBench divides the mean over videos by 100
    Column("temporal_flickering"),
    Column("overall_consistency"),
    # Only VBench's package computes these.
    Column("object_class"),
    Column("multiple_objects"),
    Column("human_action", kind="verdict"),
    Column("color"),
    Column("spatial_relationship"),
    Column("scene"),
    Column("appearance_style"),
    Column("temporal_style"),
    # For pictures.
    Column("clip_t"),
    Column("laion_aesthetic"),
    Column("pick_score", odds=True),
    Column("hps_v2", odds=True),
    Column("hps_v2_1", odds=True),
    Column("image_reward", odds=True),
    Column("mps", odds=True),
    Column("clip_i"),
    Column("dino"),
    Column("fid", sign=-1, kind="group"),
    Column("inception_score", kind="group"),
    Column("clipped", sign=-1),
)
_JUDGES = {"shapes": SHAPES, "outlines": OUTLINES, "digits": DIGITS}
COLUMNS: dict[str, Column] = {column.name: column for column in _DIMENSIONS} | {
    f"{world}_{column.name}": replace(column, name=f"{world}_{column.name}")
    for world, columns in _JUDGES.items()
    for column in columns
}
