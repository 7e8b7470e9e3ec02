"""The page of scores, by what its drawings are made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from w2sd_video.eval import report
from w2sd_video.eval.dimensions import Dimension
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video

NAMES = ("subject_consistency", "dynamic_degree", "aesthetic_quality")


class Named(Dimension):
    def __init__(self, name: str):
        self.name = name


def page(groups: int) -> str:
    scores = Scores([Named(name) for name in NAMES], [], weights={name: {} for name in NAMES})
    for group in range(groups):
        video = Video(Path(f"g{group}/p-0.mp4"), f"g{group}", "p, seed 0", "p")
        object.__setattr__(video, "_hashed", ([], "0"))
        scores.videos.append(video)
        scores.of[video] = dict.fromkeys(NAMES, group / 20)
        scores.facts[video] = {"frames": 16, "fps": 8.0, "height": 16, "width": 16}
    return report.page(Summary(scores))


@pytest.mark.parametrize("groups", [2, 7, 8, 16])
def test_no_two_groups_are_drawn_alike(groups):
    text = page(groups)
    (data,) = re.findall(r"<script id=data [^>]*>(.*?)</script>", text)
    drawn = json.loads(data)
    styles = {(group["colour"], group["dash"]) for group in drawn["groups"]}
    assert "VBench, normalised" in text and len(styles) == groups == len(drawn["radar"]["values"])
