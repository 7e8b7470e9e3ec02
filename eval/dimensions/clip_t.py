"""CLIP-T (DreamBooth, arXiv:2208.12242, section 4.2): how well a picture shows its prompt, by the cosine in CLIP."""

from __future__ import annotations

from ..weights import CLIP_B32
from .clip_cosine import ClipCosine


class ClipT(ClipCosine):
    name = "clip_t"
    weights = (CLIP_B32,)
    layout = "B/32"
    factor = 1


DIMENSION = ClipT
