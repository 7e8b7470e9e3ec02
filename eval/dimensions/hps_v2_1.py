"""HPS v2.1: the same network as HPS v2's, trained further by its authors."""

from __future__ import annotations

from ..weights import HPS_V2_1
from .hps_v2 import HPSv2


class HPSv21(HPSv2):
    name = "hps_v2_1"
    weights = (HPS_V2_1,)


DIMENSION = HPSv21
