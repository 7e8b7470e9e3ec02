"""Tables of the paper: their files, what of them runs on the shipped models, and which directions are reproduced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from w2sd_video import plans, prompts, runs
from w2sd_video.eval.dimensions import get
from w2sd_video.eval.videos import Video
from w2sd_video.plans import Folder, Keys, Plan
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import CANVAS, coverage, grid

TINY = {"num_inference_steps": 1, "device": "cpu"}


# What plans have for them


def test_without_a_seed_of_the_draw_the_first_prompts_of_a_suite_are_taken():
    suite = prompts.load("shapes").prompts
    assert Plan(prompts="shapes", n=5, sample_seed=None).suite.prompts == suite[:5]
    with pytest.raises(Exception, match="n: 201 is not accepted; shapes has 200"):
        Plan(prompts="shapes", n=201, sample_seed=None).suite  # noqa: B018


def test_prompts_of_pictures_say_nothing_of_motion_and_their_tags_count_the_objects():
    suite = prompts.load("shapes-pictures").prompts
    for prompt in suite:
        scene = parse(prompt.text)
        assert prompt.tags["objects"] == (str(len(scene.things)),)
        assert all(thing.direction is thing.speed is None for thing in scene.things)


def test_a_plan_refines_prompts_once_and_the_weak_arm_is_told_the_raw_ones(tmp_path):
    arms = {"arm": {"strong": {"variant": "plain"}, "w2sd": {}}}
    plan = Plan(prompts=["a red circle"], preset="shapes-prompt", settings=TINY, axes=arms)
    assert plans.status(plan, tmp_path / "run")["left"] == 2
    done = plans.run(plan, tmp_path / "run")
    assert (done.made, done.failed) == (2, [])
    of_run = plans.read(tmp_path / "run" / "plan.yaml")
    refined = of_run.refined["a red circle"]
    assert refined != "a red circle" and "red circle" in refined
    for path in (tmp_path / "run" / "videos").rglob("*.json"):
        request, _ = runs.read_sidecar(path)
        assert (request.prompt, request.weak_prompt) == (refined, "a red circle")
    assert plans.run(plan, tmp_path / "run").kept == 2 and plans.status(plan, tmp_path / "run")["left"] == 0
    assert {video.prompt for video in plans.videos(plan, tmp_path / "run")} == {"a red circle"}
    # What a prompt is refined to decides its cells.
    other = replace(plan, refined={"a red circle": "a large red circle on a white background"})
    assert plans.status(other, tmp_path / "run")["left"] == 2
    assert not {*map(Keys(1).of, plan.cells())} & {*map(Keys(1).of, other.cells())}


def test_the_plan_of_a_run_that_is_damaged_is_as_none(tmp_path):
    plan = Plan(prompts=["a red circle"], preset="shapes-prompt", settings=TINY)
    (tmp_path / "plan.yaml").write_text("refined: [")
    assert plans.prepare.known(plan, Folder(tmp_path)) == plan
    assert plans.prepare.prepared(plan, Folder(tmp_path)).refined


def test_outlines_are_judged_as_the_shapes_that_they_are_of():
    x, y = grid(CANVAS, CANVAS)
    full = coverage("circle", x - 32, y - 32, np.float32(12))[None]
    hole = coverage("circle", x - 32, y - 32, np.float32(8))[None]
    red = np.array([1.0, 0.0, 0.0])

    def scores(cover) -> dict[str, float]:
        frames = 0.5 * (1 - cover[..., None]) + cover[..., None] * red * 0.9
        dimension = get("outlines")
        scoring = dimension.score(Video("x.png", "a", "a", "a red circle"), None)
        next(scoring)
        batch = type("Batch", (), {"pixels": (frames * 255).round().astype(np.uint8)})
        scoring.send(batch)
        with pytest.raises(StopIteration) as end:
            scoring.send(None)
        return end.value.value

    solid, ring = scores(full), scores(full - hole)
    assert ring["outlines_outlined"] > 0.9 > 0.2 > solid["outlines_outlined"]
    assert ring["outlines_colour"] == ring["outlines_count"] == ring["outlines_shape"] == 1
