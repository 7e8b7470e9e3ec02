"""What is said beside a table of scores: of what a verdict takes so many, and which options had no part in it."""

from __future__ import annotations

import numpy as np
import pytest
from test_worse import scores
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.columns import Column
from w2sd_video.eval.dimensions import ByFunction
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.eval.memory import in_memory
from w2sd_video.eval.results import Summary


def legend(prompts: int, seeds: int) -> str:
    columns = {"up": 1.0, "down": 0.0, "right": 1.0, "neither": 1.0}
    keys = [(f"p{n}", seed) for n in range(prompts) for seed in range(seeds)]
    groups = {"plain": {key: columns for key in keys}, "w2sd": {key: columns | {"up": 2.0} for key in keys}}
    return " ".join(Summary(scores(groups)).legend)


@pytest.mark.parametrize(
    "prompts, seeds, says",
    [
        (12, 1, "over all 4 comparisons of 10 prompts or more"),
        (1, 12, "over all 4 comparisons of 10 seeds or more"),
        (3, 1, "a verdict takes 10 prompts, and no comparison has as many"),
        (1, 3, "a verdict takes 10 seeds, and no comparison has as many"),
    ],
)
def test_a_verdict_takes_ten_of_what_the_test_is_over(prompts, seeds, says):
    assert says in legend(prompts, seeds)


def test_of_one_video_a_group_nothing_is_said_of_intervals():
    assert "its 95 % interval, and how many" in legend(2, 1) and "Intervals are not adjusted" in legend(2, 1)
    assert "Each cell: the mean and how many of the group's" in legend(1, 1) and "Intervals" not in legend(1, 1)


def test_notes_name_columns_without_a_score_and_prompts_that_have_one_video_between_them():
    grey = {"a red circle": 9, "A Red Circle": 9, "a blue square": 200}
    shades = [(prompt, group) for prompt in grey for group in ("plain", "w2sd")]
    videos = [in_memory(np.full((2, 8, 8, 3), grey[prompt], np.uint8), prompt, prompt, g) for prompt, g in shades]
    none = ByFunction(lambda frames: float("nan"), Column("none"))
    result = evaluate(videos, [ByFunction(lambda frames: float(frames.mean()), Column("mean")), none])
    assert Summary(result).notes[len(result.notes) :] == [
        "not in the table, because no video has a score of it: none",
        "2 prompts have the same video as another one, such as 'A Red Circle' and 'a red circle'; each counts as a"
        " prompt, so that intervals are too narrow",
    ]
    result = evaluate(videos[:1] + videos[4:5], "clipped")
    assert Summary(result).notes == result.notes


@pytest.mark.slow
def test_worst_of_one_group_is_said_to_have_no_effect(tmp_path):
    (tmp_path / "a").mkdir()
    video.write_pngs(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "a" / "one")
    call = ["eval", str(tmp_path / "a"), "--dimensions", "clipped", "--out", str(tmp_path / "results.json")]
    said = [CliRunner().invoke(app, [*call, *more]).output for more in ((), ("--worst", "2"))]
    assert ["--worst has no effect on one group" in each for each in said] == [False, True]
