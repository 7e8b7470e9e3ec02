"""Plans of whole tables: samples of suites, refined prompts, tuned arms, dimensions' own prompts, VBench's names."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from videofiles import encode, noise

from w2sd_video import plans, prompts, runs
from w2sd_video.errors import Failed, Refused
from w2sd_video.eval.dimensions import AllSkipped, get
from w2sd_video.eval.results import Summary
from w2sd_video.eval.vbench import QUALITY, SEMANTIC
from w2sd_video.eval.videos import Video
from w2sd_video.plans import Folder, Keys, Plan, tuning
from w2sd_video.plans.by_dimension import by_dimension
from w2sd_video.plans.prepare import prepared
from w2sd_video.plans.stored import with_stored
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import CANVAS, coverage, grid

TEXT = ["a red circle"]
TINY = {"num_inference_steps": 1, "device": "cpu"}


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


@pytest.mark.slow
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
    assert with_stored(plan, Folder(tmp_path)) == plan
    assert prepared(plan, Folder(tmp_path), plans.run).refined


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


TUNED = {
    "preset": "shapes-image",
    "settings": {"num_inference_steps": 2, "device": "cpu"},
    "axes": {
        "arm": {
            "w2sd": {},
            "tuned": {"variant": "plain", "tune": {"guidance_scale": [1.0, 3.0]}},
            "equal": {"variant": "plain", "as_costly_as": "w2sd", "tune": {"guidance_scale": [1.0, 3.0]}},
        }
    },
    "prompts": "shapes-pictures",
    "n": 3,
    "dimensions": ["shapes"],
    "tuning": {"n": 4, "by": ["shapes_right", "shapes_form"]},
}


def test_an_arm_is_tuned_on_prompts_and_seeds_that_the_plan_does_not_have(tmp_path):
    plan = Plan(**TUNED)
    _, tuned, equal = plan.arms
    trial = tuning.plan_of(plan, tuned.grid)
    assert [arm.template.guidance_scale for arm in trial.arms] == [1, 3]
    assert {arm.template.variant for arm in trial.arms} == {"plain"} and trial.dimensions == ["shapes"]
    assert not {p.text for p in trial.suite.prompts} & {p.text for p in plan.suite.prompts}
    assert len(trial.suite.prompts) == 4 and not {*trial.all_seeds} & {*plan.all_seeds}
    # W2SD takes 2 + 2 + 3 evaluations; a step takes 1 at guidance 1 and 2 at 3.
    assert [arm.template.num_inference_steps for arm in tuning.plan_of(plan, equal.grid).arms] == [7, 4]
    about = plans.status(plan, tmp_path)
    assert about["arms"]["tuned"]["evaluations"] == 2  # at the first guidance, as long as it is not tuned
    assert about["tuning_evaluations"] == 4 * (2 + 4) + 4 * (7 + 8)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tuning": {}}, "an arm has `tune`"),
        ({"tuning": {"by": ["right"]}}, "Available: shapes_right"),
        ({"tuning": {"by": ["shapes_right"], "n": 198}}, "shapes-pictures has 197 prompts besides the plan's"),
        ({"tuning": {"by": ["shapes_right"], "many": 1}}, "tuning.many: 1 is not accepted"),
        ({"tuning": {"by": ["shapes_right"], "prompts": TEXT}, "prompts": TEXT, "n": None}, "tune on others"),
        ({"axes": {"arm": {"a": {"tune": {"guidance_scale": [1]}}}}}, "give a setting and two numbers or more"),
        (
            {"tuning": {"by": ["shapes_motion"], "n": 1}},
            "tuning.by: 'shapes_motion' .* of which more, or less, is better",
        ),
        ({"tuning": {"by": []}}, "tuning.by: .* is not accepted; give columns"),
        (
            {"axes": {"arm": {"w2sd": {}, "a": {"as_costly_as": "w2sd", "tune": {"num_inference_steps": [1, 2]}}}}},
            "tune: 'num_inference_steps' is not accepted; as_costly_as sets it",
        ),
        ({"axes": {"arm": {"a": {"tune": 3}}}}, "give a setting and two numbers or more"),
    ],
)
def test_tuning_that_cannot_be_is_refused(more, says, tmp_path):
    with pytest.raises(Exception, match=says):
        plans.status(Plan(**{**TUNED, **more}), tmp_path)


@pytest.mark.slow
def test_the_cells_of_a_tuned_arm_have_what_was_best_and_the_run_says_so(tmp_path):
    axes = {"arm": {"w2sd": {}, "tuned": {"variant": "plain", "tune": {"guidance_scale": [1.0, 3.0]}}}}
    plan = Plan(**{**TUNED, "axes": axes, "settings": {"num_inference_steps": 1, "device": "cpu"}})
    done = plans.run(plan, tmp_path / "run")
    assert (done.made, done.failed) == (6, [])
    found = plans.read(tmp_path / "run" / "plan.yaml").tuned["tuned"]
    best = max(found["means"], key=lambda label: [-1 if m is None else m for m in found["means"][label]])
    assert found["prompts"] == 4 and best == f"guidance_scale {found['settings']['guidance_scale']:g}"
    made = [runs.read_sidecar(path)[0] for path in (tmp_path / "run" / "videos" / "tuned").glob("*.json")]
    assert {request.guidance_scale for request in made} == {found["settings"]["guidance_scale"]} and len(made) == 3
    about = plans.status(plan, tmp_path / "run")
    assert (about["left"], about["tuning_evaluations"]) == (0, 0)
    assert plans.run(plan, tmp_path / "run").kept == 6
    # With other prompts to tune on, it is to be tuned again.
    other = replace(plan, tuning={**plan.tuning, "n": 5})
    assert plans.status(other, tmp_path / "run")["tuning_evaluations"] == 5 * (1 + 2)


@pytest.mark.slow
def test_an_arm_is_not_tuned_on_videos_that_could_not_be_made(tmp_path):
    def make(plan, folder):
        return [{"arm": "guidance_scale 3", "error": "OSError: no space"}]

    with pytest.raises(
        Failed, match="1 of the videos that tuned is tuned on could not be made; guidance_scale 3: OSError"
    ):
        prepared(Plan(**TUNED), Folder(tmp_path), make)


def test_videos_are_linked_under_the_names_that_vbench_reads(tmp_path):
    vbench = pytest.importorskip("vbench")
    texts = ["a red circle.", "A red circle.", "a blue square"]
    small = {"num_inference_steps": 1, "num_frames": 2, "device": "cpu"}
    plan = Plan(prompts=texts, seeds="7,3", settings=small, names="vbench")
    assert plans.run(plan, tmp_path).made == 6
    linked = tmp_path / "vbench" / "all"
    assert {path.name for path in linked.iterdir()} == {f"{text}-{n}.mp4" for text in texts for n in (0, 1)}
    for cell in plan.cells():
        folder, stem = Folder(tmp_path).place(cell)
        assert (linked / f"{cell.prompt.text}-{[7, 3].index(cell.seed)}.mp4").samefile(folder / f"{stem}.mp4")
    # VBench's own reading of a folder, of prompts that stand for its own.
    rows = [{"prompt_en": text, "dimension": ["subject_consistency"]} for text in texts]
    (tmp_path / "info.json").write_text(json.dumps(rows))
    reader = vbench.VBench("cpu", str(tmp_path / "info.json"), str(tmp_path / "out"))
    read = json.loads(Path(reader.build_full_info_json(str(linked), "x", ["subject_consistency"])).read_text())
    assert {Path(video).name for row in read for video in row["video_list"]} == {p.name for p in linked.iterdir()}
    # With fewer seeds, links of the others go.
    plans.run(replace(plan, seeds=7), tmp_path)
    assert {path.name for path in linked.iterdir()} == {f"{text}-0.mp4" for text in texts}


def test_prompts_that_no_file_can_be_named_after_are_refused_before_anything_is_made(tmp_path):
    for preset, text in (("shapes-image", "a red circle"), ("animatediff-sdxl-guidance", "and/or")):
        with pytest.raises(Exception, match="names: 'vbench' is not accepted"):
            plans.run(Plan(prompts=[text], preset=preset, names="vbench"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(Exception, match="Available: own, vbench"):
        Plan(prompts=["a"], names="other")


@pytest.mark.slow
def test_a_dimension_is_scored_on_its_own_prompts_and_what_is_of_vbench_alone_is_skipped(tmp_path):
    rows = [
        {"prompt": "a red circle", "dimension": ["temporal_flickering"]},
        {"prompt": "a blue square", "dimension": ["object_class"]},
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    plan = Plan(
        prompts=str(tmp_path / "suite.json"),
        settings={"num_inference_steps": 1, "num_frames": 2, "device": "cpu"},
        dimensions=["temporal_flickering", "clipped", "object_class"],
        by_dimension=True,
    )
    plans.run(plan, tmp_path / "run")
    scores = plans.score(plan, tmp_path / "run")
    by_prompt = {video.prompt: set(scores.of[video]) for video in scores.videos}
    assert by_prompt == {"a red circle": {"temporal_flickering", "clipped"}, "a blue square": {"clipped"}}
    assert [each.name for each in scores.skipped] == ["object_class"] and not scores.problems
    assert "--official-python" in scores.skipped[0].reason
    means = Summary(scores).means["all"]
    assert (means["temporal_flickering"].n, means["clipped"].n) == (1, 2)
    together = plans.score(replace(plan, by_dimension=False), tmp_path / "run")
    assert Summary(together).means["all"]["temporal_flickering"].n == 2


def test_a_tag_that_is_the_name_of_no_dimension_is_said(tmp_path, caplog):
    rows = [{"prompt": "a red circle", "dimension": [name]} for name in ("clipped", "color", "a tag")]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    told = {"prompts": str(tmp_path / "suite.json"), "dimensions": ["clipped"]}
    with caplog.at_level(logging.WARNING, "w2sd_video"):
        Plan(**told).check()
        assert not caplog.text
        Plan(**told, by_dimension=True).check()
    assert caplog.text.count("no dimension has this name") == 1 and "tag dimension=a tag, and" in caplog.text


def test_by_dimension_what_lacks_weights_is_skipped_and_the_rest_is_scored(tmp_path):
    rows = [{"prompt": "a", "dimension": ["temporal_flickering"]}, {"prompt": "b", "dimension": ["dynamic_degree"]}]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    plan = Plan(prompts=str(tmp_path / "suite.json"), preset="sdxl-guidance", by_dimension=True)
    encode(noise(4, 32, 32), tmp_path / "a.mp4")
    own = [Video(tmp_path / "a.mp4", "all", text, text) for text in "ab"]
    (tmp_path / "empty").mkdir()
    names = ["temporal_flickering", "dynamic_degree"]
    scores = by_dimension(plan, own, names, weights=tmp_path / "empty", device="cpu")
    assert scores.of[own[0]].keys() == {"temporal_flickering"}
    assert [each.name for each in scores.skipped] == ["dynamic_degree"] and "weights" in scores.skipped[0].reason
    both = by_dimension(plan, own, [*names, "subject_consistency", "object_class"], weights=tmp_path / "empty")
    of = {each.name: each.reason for each in both.skipped}
    assert of.keys() == {"dynamic_degree", "subject_consistency", "object_class"}
    assert "RAFT" in of["dynamic_degree"] and "no prompt of the plan" in of["subject_consistency"]
    with pytest.raises(AllSkipped) as none:
        by_dimension(plan, own, ["dynamic_degree"], weights=tmp_path / "empty")
    assert [each.name for each in none.value.skipped] == ["dynamic_degree"]
    assert str(pickle.loads(pickle.dumps(none.value))) == str(none.value)


def test_a_python_without_vbench_is_refused_before_anything_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(plans.scoring, "videos", None)
    plan = Plan(prompts=TEXT, preset="sdxl-guidance")
    with pytest.raises(FileNotFoundError, match="VBench's package is not installed for /no/python"):
        plans.score(plan, tmp_path, ["clipped", "object_class"], official="/no/python")


def test_numbers_to_tune_over_have_names_of_their_own_however_near_they_are():
    arms = {"a": {"variant": "plain", "tune": {"guidance_scale": [1.5, 1.50000001, 3]}}}
    plan = Plan(
        prompts=TEXT,
        axes={"arm": arms},
        dimensions=["clipped"],
        tuning={"by": ["clipped"], "prompts": ["a blue square"]},
    )
    assert [arm.name for arm in tuning.plan_of(plan, plan.arms[0].grid).arms] == [
        "guidance_scale 1.5",
        "guidance_scale 1.50000001",
        "guidance_scale 3",
    ]


def test_a_plan_without_dimensions_and_counts_that_are_none_are_refused(tmp_path):
    plan = Plan(prompts=["a red circle"], settings=TINY)
    with pytest.raises(Refused, match="dimensions: None is not accepted; the plan names none"):
        plans.score(plan, str(tmp_path))
    counts = [("threads", -1), ("threads", 0), ("threads", 5000), ("workers", 0), ("workers", "2"), ("workers", True)]
    for argument, value in counts:
        with pytest.raises(Refused, match=f"{argument}: .* is not accepted; give a whole number from 1"):
            plans.run(plan, str(tmp_path / "run"), **{argument: value})
    for shard in ((0, 0), (3, 2), (1.5, 2), "1/2", (1,), None):
        for use in (plans.run, plans.status):
            with pytest.raises(Refused, match=r"shard: .* is not accepted; give \(i, n\), with i from 1 to n"):
                use(plan, tmp_path / "run", shard=shard)
    with pytest.raises(Refused, match="threads: '2' is not accepted"):
        plans.status(plan, tmp_path / "run", threads="2")
    for use in (plans.run, plans.status, plans.score, plans.videos):
        for path in ("", None, 5):
            with pytest.raises(Refused, match="path: .* is not accepted; give the folder of a run"):
                use(plan, path)
    with pytest.raises(Refused, match="folder: .*none' is not accepted; it is not there: give the folder of a run"):
        plans.write_page(plan, tmp_path / "none", None)
    assert not (tmp_path / "run").exists()


def test_a_dimension_whose_prompts_are_not_drawn_is_refused_and_not_scored_on_others(tmp_path):
    rows = [
        {"prompt": text, "dimension": [name]} for text, name in (("a red circle", "color"), ("a blue square", "scene"))
    ]
    (tmp_path / "suite.json").write_text(json.dumps(rows))
    plan = Plan(prompts=str(tmp_path / "suite.json"), settings=TINY, dimensions=["clipped"], by_dimension=True)
    plan.check()
    with pytest.raises(Exception, match="dimensions: 'temporal_flickering' is not accepted; no prompt of the plan has"):
        replace(plan, dimensions=["temporal_flickering"]).check()
    with pytest.raises(FileNotFoundError, match="temporal_flickering: no prompt of the plan has the tag"):
        by_dimension(plan, [], ["temporal_flickering"])


def test_a_prompt_of_which_all_fails_counts_as_failed_in_its_own_dimensions_alone(tmp_path):
    from test_verdicts import shapes_scores

    scores = shapes_scores(4, 1, right=lambda group, i, seed: 1.0)
    (lost,) = {video.prompt for video in scores.videos[:1]}
    for video in [video for video in scores.videos if video.prompt == lost]:
        del scores.of[video]
        scores.problems.append((video, "", "it was not made"))
    group = scores.videos[0].group
    assert Summary(scores).means[group]["shapes_right"].mean == 0.75
    scores.unasked = {(lost, "shapes_right")}
    assert Summary(scores).means[group]["shapes_right"].mean == 1


def test_the_leaderboard_is_a_plan_of_the_sixteen_dimensions(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "runs.md").read_text()
    (tmp_path / "leaderboard.yaml").write_text(text.split('title="leaderboard.yaml"\n')[1].split("```")[0])
    plan = plans.read(tmp_path / "leaderboard.yaml")
    assert sorted(plan.dimensions) == sorted((*QUALITY, *SEMANTIC)) and len(plan.dimensions) == 16
    assert plan.by_dimension and plan.names == "vbench" and plan.all_seeds == [0, 1, 2, 3, 4]
    with pytest.raises(Exception, match="VBench's package scores videos"):
        Plan(prompts=TEXT, preset="shapes-image", dimensions=["object_class"]).check()
