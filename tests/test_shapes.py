"""The shapes world: prompts are read back, the judge reads the renderer, the trainer resumes to the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from w2sd_video.methods import METHODS
from w2sd_video.shapes import bench, grammar, train, world
from w2sd_video.shapes.cli import app
from w2sd_video.shapes.grammar import describe, parse
from w2sd_video.shapes.judge import judge, read
from w2sd_video.shapes.model import tokenizer
from w2sd_video.shapes.pairs import COLUMNS
from w2sd_video.shapes.world import Scene, Thing, forget, render, sample_scene


def scenes(count, seed=0, things=None):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        scene = sample_scene(rng, things)
        yield scene, rng


# Grammar


def test_every_scene_is_read_back_from_its_description():
    for scene, rng in scenes(300):
        assert parse(describe(scene)) == scene
        part = forget(scene, rng)
        assert parse(describe(part)) == part


def test_a_prompt_says_what_a_person_would_think_it_says():
    assert parse("A large red circle moving right quickly above a blue square, on a gray background.") == Scene(
        (Thing("red", "circle", "large", "right", "quickly"), Thing("blue", "square")), "above", "grey"
    )
    assert parse("a green triangle standing still") == Scene((Thing("green", "triangle", None, "still"),))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a dog running", "at 'dog' (word 2), expected a size or a colour"),
        ("a red circl moving right", "did you mean 'circle'?"),
        ("a red circle moving", "at the end, expected a direction (left, right, up, down)"),
        ("", "at the end, expected an object"),
        ("a red circle moving right fastly", "expected a motion, a relation, a background or the end"),
        ("a red circle above a red square", "different colours"),
    ],
)
def test_a_prompt_outside_the_grammar_is_refused_with_the_place(prompt, expected):
    with pytest.raises(ValueError) as error:
        parse(prompt)
    assert expected in str(error.value)


def test_the_tokenizer_has_a_token_for_every_word():
    tokens = tokenizer()
    for word in grammar.VOCABULARY:
        assert len(tokens(word).input_ids) == 3, word
    longest = "a large magenta triangle moving right quickly to the right of a small yellow circle standing still"
    assert len(tokens(longest + " on a white background").input_ids) <= tokens.model_max_length


# Renderer


def test_areas_and_centres_are_those_of_the_shapes():
    """A circle covers pi r^2, a square (2 * 0.88 r)^2, an equilateral triangle of inradius q 3 sqrt(3) q^2."""
    x, y = world.grid(64, 64)
    for shape, area in (
        ("circle", np.pi * 11**2),
        ("square", (2 * 0.88 * 11) ** 2),
        ("triangle", 3 * np.sqrt(3) * (0.72 * 11) ** 2),
    ):
        cover = world.coverage(shape, x - 32.3, y - 31.6, 11.0)
        assert cover.sum() == pytest.approx(area, rel=0.01)
        assert (cover * x).sum() / cover.sum() == pytest.approx(32.3, abs=0.05)
        assert (cover * y).sum() / cover.sum() == pytest.approx(31.6, abs=0.1)


def test_an_object_moves_as_fast_as_its_speed_says():
    scene = Scene((Thing("red", "circle", "small", "right", "quickly"),), None, "black")
    video = render(scene, seed=3)
    x, _ = world.grid(64, 64)
    red = video[..., 0] - video[..., 1]
    centres = (red * x).sum((1, 2)) / red.sum((1, 2))
    assert np.diff(centres) == pytest.approx(np.full(15, 2.0), abs=0.02)  # antialiasing


@pytest.mark.parametrize("direction, axis, sign", [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_an_object_that_moves_alone_starts_at_the_side_that_it_comes_from(direction, axis, sign):
    """A small circle has 44 px for its centre, 10 from either side: it starts in the 6 px nearest to that side."""
    scene = Scene((Thing("red", "circle", "small", direction, "slowly"),), None, "black")
    for seed in range(10):
        red = np.ptp(render(scene, seed)[0], axis=-1)
        start = (red * world.grid(64, 64)[axis]).sum() / red.sum()
        assert 10 - 0.1 <= (start if sign > 0 else 64 - start) <= 16 + 0.1


def test_rendering_is_a_function_of_the_seed_and_never_clips():
    for scene, _ in scenes(20):
        assert np.array_equal(render(scene, 5), render(scene, 5))
        assert 0.05 < render(scene, 5).min() and render(scene, 5).max() < 0.95


def test_a_scene_without_room_is_refused():
    with pytest.raises(ValueError, match="no room on 64x64 pixels in 200 frames"):
        render(Scene((Thing("red", "circle", "large", "right", "quickly"),)), frames=200)


# Judge


@pytest.mark.parametrize("things", [1, 2])
@pytest.mark.parametrize("count", [30, 300])
@pytest.mark.slow_unless(case=lambda count: count == 30)
def test_the_judge_is_right_on_at_least_99_percent_of_rendered_videos(things, count):
    right = [
        judge((render(scene, rng) * 255).round().astype(np.uint8), scene)["right"]
        for scene, rng in scenes(count, seed=things, things=things)
    ]
    assert np.mean(right) >= 0.99


def test_the_judge_notices_each_thing_that_is_wrong():
    scene = Scene((Thing("red", "circle", "large", "right", "quickly"),), None, "black")
    video = render(scene, 0)
    other = {
        "colour": Thing("blue", "circle", "large", "right", "quickly"),
        "shape": Thing("red", "square", "large", "right", "quickly"),
        "size": Thing("red", "circle", "small", "right", "quickly"),
        "direction": Thing("red", "circle", "large", "left", "quickly"),
        "speed": Thing("red", "circle", "large", "right", "slowly"),
    }
    assert judge(video, scene)["right"] == 1
    for name, thing in other.items():
        scores = judge(video, Scene((thing,), None, "black"))
        assert scores[name] == 0 and scores["right"] == 0, name
        assert all(scores[o] == 1 for o in other if o != name), name
    assert judge(video, Scene(scene.things, None, "white"))["background"] == 0
    pair = Scene((*scene.things, Thing("blue", "square")), "above", "black")
    assert judge(video, pair)["count"] == 0


def test_a_relation_holds_one_way_round():
    scene = parse("a red circle moving right above a blue square moving left on a white background")
    video = render(scene, 1)
    assert judge(video, scene)["relation"] == 1
    for other in ("below", "to the left of", "to the right of"):
        assert judge(video, Scene(scene.things, other, "white"))["relation"] == 0


def test_measures_are_those_of_the_motion():
    """A square that grows from 16 x 16 to 20 x 20 px in every other frame, and hops 3 px aside and back."""
    video = np.full((16, 64, 64, 3), 26, np.uint8)
    for t in range(16):
        half, x = (8, 30) if t % 2 == 0 else (10, 33)
        video[t, 30 - half : 30 + half, x - half : x + half] = (217, 38, 38)
    scores = judge(video, parse("a red square standing still"))
    areas = np.array([256, 400] * 8)
    assert scores["area_instability"] == pytest.approx(areas.std() / areas.mean(), rel=1e-3)
    assert scores["jerk"] == pytest.approx(4 * 3, rel=1e-3)  # third difference of 0, 3, 0, 3
    assert scores["motion"] == pytest.approx(3, rel=1e-3)
    assert scores["colour_instability"] == pytest.approx(0, abs=1e-6)
    assert scores["clipped"] == 0
    video[0, :32] = 255
    assert judge(video, parse("a red square"))["clipped"] == pytest.approx(100 * 32 / 64 / 16, rel=0.1)


def test_a_background_that_flickers_is_measured():
    video = np.stack([np.full((64, 64, 3), 26 + 40 * (t % 2), np.uint8) for t in range(16)])
    video[:, 20:40, 20:40] = (217, 38, 38)
    assert judge(video, parse("a red square"))["background_instability"] == pytest.approx(20 / 255)


def test_an_empty_video_is_scored_and_not_a_crash():
    scores = judge(np.full((16, 64, 64, 3), 26, np.uint8), parse("a red circle moving right"))
    assert scores["right"] == scores["colour"] == scores["direction"] == 0
    assert np.isnan(scores["jerk"])


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match=r"\(16, 64, 64\) is not \(frames, height, width, 3\)"):
        read(np.zeros((16, 64, 64)))


# Trainer

TINY = train.Recipe(
    videos=3, vae_steps=2, image_steps=2, video_steps=2, tuned_steps=2, vae_batch=2, image_batch=2, video_batch=1
)


def weights(folder):
    return {p.relative_to(folder): load_file(p) for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 1)
    train.Trainer(tmp_path / "whole", TINY, "cpu").train()

    kills = {(stage, 1) for stage in (1, 2, 3, 4)}  # in its second step, after a checkpoint
    rng = train.Trainer._rng

    def killed(self, *key):
        if key in kills:
            kills.remove(key)
            raise KeyboardInterrupt
        return rng(self, *key)

    monkeypatch.setattr(train.Trainer, "_rng", killed)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            train.Trainer(tmp_path / "broken", TINY, "cpu").train()
    trainer = train.Trainer(tmp_path / "broken", TINY, "cpu")
    trainer.train()
    assert trainer.finished
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for path in whole:
        assert all(torch.equal(whole[path][k], broken[path][k]) for k in whole[path]), path

    trainer.export(tmp_path / "weights", "the command")
    assert "the command" in (tmp_path / "weights" / "README.md").read_text()
    base, tuned = (
        load_file(tmp_path / "weights" / m / "unet/diffusion_pytorch_model.safetensors") for m in ("base", "tuned")
    )
    assert base.keys() == tuned.keys() and any(not torch.equal(base[k], tuned[k]) for k in base)


def test_a_folder_is_not_continued_with_another_recipe(tmp_path):
    train.Trainer(tmp_path, TINY, "cpu")
    with pytest.raises(ValueError, match="begun with another"):
        train.Trainer(tmp_path, train.Recipe(seed=1), "cpu")


def test_export_before_the_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vae, image, video, tuned not done"):
        train.Trainer(tmp_path, TINY, "cpu").export(tmp_path / "weights", "")


def test_mislabelling_replaces_about_the_share_that_is_asked_for():
    rng = np.random.default_rng(0)
    pairs = [(scene, train.mislabel(scene, rng, 0.2)) for scene, _ in scenes(500, things=1)]
    assert np.mean([a.things[0].colour != b.things[0].colour for a, b in pairs]) == pytest.approx(0.2, abs=0.06)
    assert all(train.mislabel(scene, rng, 0.0) == scene for scene, _ in pairs[:50])


# Bench


def test_prompts_of_the_bench_do_not_depend_on_how_many_there_are():
    assert grammar.prompts(20)[:8] == grammar.prompts(8)
    assert [len(parse(p).things) for p in grammar.prompts(6)] == [1, 2, 1, 2, 1, 2]


def test_equal_cost_is_the_reflections_own_count():
    """3 / 1 at T = 15: 14 reflected steps of 5 evaluations and one plain step of 2 make 72, or 36 plain steps."""
    rows = bench.methods(bench.preset("shapes"))
    assert rows["equal-cost"][1]["num_inference_steps"] == 36
    assert rows["guidance"][1]["guidance_scale"] == 5.0
    both = bench.methods(bench.preset("shapes", {"weak_guidance_scale": 3.0}))  # 14 of 6 and one of 2
    assert both["equal-cost"][1]["num_inference_steps"] == 43


def test_the_table_marks_what_is_better_and_what_is_worse(tmp_path):
    rng = np.random.default_rng(0)
    with open(tmp_path / "rows.jsonl", "w") as file:
        for name, jerk, direction in (("strong", 2.0, 0.9), ("w2sd", 1.0, 0.5)):
            for n in range(100):
                scores = {"right": 1.0, "jerk": jerk + 0.1 * rng.random(), "direction": float(rng.random() < direction)}
                row = {
                    "pair": "shapes",
                    "method": name,
                    "n": n,
                    "prompt": f"prompt {n % 50}",
                    "evaluations": 30,
                    "seconds": 1.0,
                    "scores": scores,
                }
                file.write(json.dumps(row) + "\n")
    summary = bench.summarise(bench.read(tmp_path / "rows.jsonl", "shapes"), COLUMNS)
    found = summary["w2sd"]["against strong"]["jerk"]
    assert found.difference.mean == pytest.approx(-1, abs=0.02) and found.verdict == "better"
    assert (found.difference.counted, found.difference.units) == ("100 of 100", 50)
    table = bench.markdown(summary, {"strong": "strong", "w2sd": "W2SD"}, COLUMNS)
    jerk_line = next(line for line in table.splitlines() if line.startswith("| jerk"))
    direction_line = next(line for line in table.splitlines() if line.startswith("| direction"))
    assert "| **1.0" in jerk_line and "| *0." in direction_line
    assert jerk_line.startswith("| jerk (100 of 100) |") and "| right (one object) (50 of 100) |" in table
    assert "| samples, of prompts | 100 of 50 | 100 of 50 |" in table
    assert "adjusted by Holm's method over all 4 comparisons of the table" in table


def test_a_results_file_that_was_cut_in_its_last_line_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, 3, ["rendered"])
    made = [row | {"seconds": 0} for row in bench.rows(path)]
    path.write_text(path.read_text()[:-20])
    assert len(bench.rows(path)) == 2
    bench.run("shapes", path, 3, ["rendered"])
    assert [row | {"seconds": 0} for row in bench.rows(path)] == made
    assert made[0]["scores"]["right"] == 1.0


def test_a_results_file_is_not_continued_with_other_settings(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, 2, ["rendered"])
    made = path.read_text()
    bench.run("shapes", path, 2, ["rendered"], {"num_inference_steps": 20})
    assert path.read_text() == made  # the renderer has no steps, and its videos are there
    row = json.loads(made.splitlines()[0]) | {"method": "strong", "arguments": {"variant": "plain"}}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="take another file"):
        bench.run("shapes", path, 1, ["strong"], {"num_inference_steps": 20})


def test_a_results_file_is_of_one_pair(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, 1, ["rendered"])
    held = path.read_text()
    for table in ([], ["--table"]):
        ran = CliRunner().invoke(app, ["bench", "--pair", "shapes-image", "--samples", "1", "--out", str(path), *table])
        assert ran.exit_code == 2 and path.read_text() == held
        assert "holds rows of shapes, and not of shapes-image; take another file" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "options, says",
    [
        (["--pair", "shapes-stile"], "did you mean 'shapes-style'?"),
        (["--pair", "shapes-digits", "--set", "height=64"], "the data of shapes-digits has its size"),
        (["--pair", "shapes-image", "--method", "motion-gain-2"], "--method: motion-gain-2 is not one of"),
        (["--set", "guidance_scale=high"], "guidance_scale='high' is not a number"),
        (["--out", "file/below/rows.jsonl"], "give a folder that can be written to"),
        (["--table"], "--out: shapes-bench.jsonl is not there"),
    ],
)
def test_the_bench_refuses_bad_input_before_it_starts(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    ran = CliRunner().invoke(app, ["bench", *options])
    assert ran.exit_code == 2 and says in " ".join(ran.output.split()), ran.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_every_other_method_has_a_row(tmp_path):
    """Each is sampled, in one step and two frames, with its own options."""
    path = tmp_path / "rows.jsonl"
    few = {"num_inference_steps": 2, "num_frames": 2}
    bench.run("shapes", path, 1, ["w2sd", *bench.OTHERS], few)
    made = {row["method"]: row for row in bench.rows(path)}
    assert set(METHODS) - {"w2sd", "weak"} == {asked.get("method") for _, asked in bench.OTHERS.values()} - {None}
    assert len({json.dumps(row["scores"]) for row in made.values()}) == len(made)
    assert {row["arguments"]["num_frames"] for row in made.values()} == {2}


@pytest.mark.slow
def test_optimistic_reflection_makes_w2sds_videos_at_the_price_of_auto_guidance():
    """At T = 15 and guidance 3 and 1: pixels of six videos, from the same prompts and seeds."""
    asked = bench.preset("shapes")
    pipelines = bench.load(bench.Request.of(grammar.prompts(1)[0], 0, asked))
    distances: dict[str, list[float]] = {}
    for n, prompt in enumerate(grammar.prompts(6)):
        videos = {}
        for name, (_, arguments) in {"w2sd": ("", {}), **bench.OTHERS}.items():
            if name in ("w2sd", "auto-guidance", "optimistic"):
                request = bench.Request.of(prompt, n, asked, **arguments)
                videos[name], counted = bench.sample(pipelines["w2sd"], request, "w2sd")
                assert counted["total"] == (72 if name == "w2sd" else 44)
        for name in ("auto-guidance", "optimistic"):
            difference = videos[name].astype(float) - videos["w2sd"]
            distances.setdefault(name, []).append(float(np.sqrt((difference**2).mean())))
    assert np.mean(distances["optimistic"]) < 0.5 * np.mean(distances["auto-guidance"]), distances
    assert np.median(distances["optimistic"]) < 5
