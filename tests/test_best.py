"""Best-of-N: the best video of each prompt by a column of scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.eval.best import Best, best, copy, dimension_of, ranking
from w2sd_video.eval.dimensions import ByFunction
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.videos import Video
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import render

PROMPTS = ("a red circle moving right", "a small blue square moving up")


def scores(column: str, videos: dict[tuple[str, int], float | None]) -> Scores:
    made = Scores([ByFunction(lambda frames: 0.0, Column(column))], [])
    for (prompt, seed), score in videos.items():
        each = Video(Path(f"{prompt}-{seed}.mp4"), "all", f"{prompt}, seed {seed}", prompt)
        made.videos.append(each)
        if score is not None:
            made.of[each] = {column: score}
    return made


def test_the_best_is_the_highest_or_the_lowest_as_the_column_says_and_the_first_of_equals():
    of = scores("x", {("a", 0): 1.0, ("b", 0): 5.0, ("a", 1): 3.0, ("a", 2): 3.0, ("b", 1): 4.0})
    up, down = (best(of, Column("x", sign=sign)) for sign in (1, -1))
    assert up == [Best("a", Path("a-1.mp4"), 3.0, 3, 0), Best("b", Path("b-0.mp4"), 5.0, 2, 0)]
    assert [each.video for each in down] == [Path("a-0.mp4"), Path("b-1.mp4")]


def test_videos_without_a_score_are_counted_and_never_the_best():
    of = scores("x", {("a", 0): None, ("a", 1): math.nan, ("a", 2): 0.1, ("b", 0): None})
    assert best(of, Column("x")) == [Best("a", Path("a-2.mp4"), 0.1, 1, 2), Best("b", None, None, 0, 1)]


def test_a_column_is_found_with_its_dimension_and_has_to_rank_videos():
    assert [dimension_of(name) for name in ("clipped", "shapes_jerk", "hps_v2_1")] == ["clipped", "shapes", "hps_v2_1"]
    assert ranking("shapes_jerk", "shapes").sign == -1 and ranking("clipped", "clipped").sign == -1
    with pytest.raises(Refused, match="by: 'shapes_jrek' is not accepted; .*shapes_jerk"):
        dimension_of("shapes_jrek")
    with pytest.raises(Refused, match="by: 'jerk' is not accepted; did you mean 'shapes_jerk'"):
        dimension_of("jerk")
    with pytest.raises(Refused, match="by: 'x' is not accepted"):
        ranking("x", "clipped")
    with pytest.raises(Refused, match="of which more, or less, is better"):
        ranking("n", ByFunction(lambda frames: 0.0, Column("n", sign=0)))
    with pytest.raises(Refused, match="this one is of a group as a whole"):
        ranking("fid", "fid")
    with pytest.raises(Refused, match="by: None is not accepted"):
        ranking(None, "clipped")
    of = scores("x", {("a", 0): 1.0})
    for column in (Column("zz"), "x"):
        with pytest.raises(Refused, match="column: '(zz|x)' is not accepted; give what `ranking` returns"):
            best(of, column)


@pytest.mark.slow
def test_the_command_names_the_best_copies_it_with_its_sidecar_and_keeps_scores(tmp_path, monkeypatch):
    """Of frames rendered as the prompts say, and of others: the judge of shapes tells them apart."""
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    for prompt in PROMPTS:
        for seed, shown in enumerate([PROMPTS[1 - PROMPTS.index(prompt)], prompt]):
            frames = (render(parse(shown), 0) * 255).round().astype(np.uint8)
            video.write_mp4(frames, Path("made") / f"{prompt}-{seed}.mp4", 8)
    run = ["best", "made", "--by", "shapes_right", "--scores", "kept.jsonl"]
    made = CliRunner().invoke(app, [*run, "--out", "chosen", "--format", "json"])
    assert made.exit_code == 0, made.output
    rows = json.loads(made.stdout)
    assert [(Path(r["video"]).name, r["score"], r["of"]) for r in rows] == [(f"{p}-1.mp4", 1.0, 2) for p in PROMPTS]
    assert sorted(path.name for path in Path("chosen").iterdir()) == sorted(f"{prompt}-1.mp4" for prompt in PROMPTS)
    kept = Path("kept.jsonl").read_bytes()
    again = CliRunner().invoke(app, run)
    assert "a red circle moving right: made/a red circle moving right-1.mp4 (1, the best of 2)" in again.stdout
    assert Path("kept.jsonl").read_bytes() == kept
    taken = CliRunner().invoke(app, [*run, "--out", "chosen"])
    assert taken.exit_code == 2 and "give another folder: it has a" in " ".join(taken.output.split())


def test_two_best_videos_of_one_name_are_not_copied_over_each_other(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").write_bytes(b"0")
    found = [Best(folder, tmp_path / folder / "x.mp4", 1.0, 1, 0) for folder in ("a", "b")]
    with pytest.raises(Refused, match="two of the best videos are called x.mp4"):
        copy(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()
