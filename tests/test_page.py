"""The page of scores, by what its drawings are made of."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from w2sd_video.columns import Column
from w2sd_video.eval import report
from w2sd_video.eval.cli import _print_text
from w2sd_video.eval.dimensions import ByFunction, Dimension
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.report import Experiment
from w2sd_video.eval.report.data import Data
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


# Differences that are of too few prompts, and which way is better


def lower_is_better(folder, prompts: int, shift: float = -1.0) -> Summary:
    """Scores of two groups, of which the second is lower, and so better; or by another shift."""
    scores = Scores([ByFunction(lambda frames: 0.0, Column("noise", sign=-1))], [], weights={"noise": {}})
    for group, of_group in (("strong", 0.0), ("w2sd", shift)):
        for n in range(prompts):
            each = Video(folder / group / f"{n}.mp4", group, f"p{n}", f"p{n}")
            object.__setattr__(each, "_hashed", ([], f"{len(scores.videos):024x}"))
            scores.videos.append(each)
            scores.of[each], scores.facts[each] = {"noise": 2.0 + of_group + 0.1 * (n % 3)}, {"frames": 2}
    return Summary(scores)


def test_a_difference_is_drawn_to_the_right_where_the_group_is_better_though_its_scores_are_lower(tmp_path):
    ((bar,),) = Data(lower_is_better(tmp_path, 12), Experiment(), {}, {}).bars.values()
    assert bar["verdict"] == "better" and 0 < bar["low"] <= bar["mean"] <= bar["high"]
    assert bar["text"].startswith("-1.0000")


def test_on_a_terminal_it_is_said_once_that_prompts_are_too_few_and_intervals_are_left_out(tmp_path):
    def printed(prompts: int) -> str:
        shown = io.StringIO()
        _print_text(Console(file=shown, width=80), lower_is_better(tmp_path, prompts), None, tmp_path / "r.json", "")
        return shown.getvalue()

    few, enough = printed(4), printed(12)
    assert few.count("under 10 prompts") == 1 and few.startswith("No verdict: under 10 prompts.")
    assert "±" not in few and "difference -1.0000" in few
    assert "±" in enough and "better, adjusted p" in enough and "under 10" not in enough


@pytest.mark.parametrize("lists", ["", "w2sd-video score r --worst N"])
def test_what_lists_the_worse_prompts_is_named_only_by_a_command_that_has_a_way(tmp_path, lists):
    shown = io.StringIO()
    console = Console(file=shown, width=300)
    _print_text(console, lower_is_better(tmp_path, 12, shift=1.0), None, tmp_path / "r.json", lists)
    assert "Prompts on which a group is worse than strong are listed in" in shown.getvalue()
    assert (f", and with {lists} here." if lists else "r.json.") in shown.getvalue()
    assert bool(lists) == ("--worst" in shown.getvalue())
