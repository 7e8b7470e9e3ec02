"""The shapes world: prompts are read back, the judge reads the renderer, the trainer resumes to the same weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from w2sd_video import runs
from w2sd_video.methods import METHODS
from w2sd_video.shapes import bench, captions, grammar, reading, rows, run, table, train, tuning, world
from w2sd_video.shapes.cli import app
from w2sd_video.shapes.grammar import describe, parse
from w2sd_video.shapes.judge import FORMED, judge, read
from w2sd_video.shapes.model import tokenizer
from w2sd_video.shapes.pairs import COLUMNS
from w2sd_video.shapes.recipe import Recipe
from w2sd_video.shapes.world import Scene, Thing, forget, render, sample_scene


def scenes(count, seed=0, things=None):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        scene = sample_scene(rng, things)
        yield scene, rng


# Grammar


@pytest.mark.slow
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
    assert parse(
        "a red circle passing behind a small blue square growing and a cyan circle on a white background"
    ) == Scene(
        (Thing("red", "circle"), Thing("blue", "square", "small", "growing"), Thing("cyan", "circle")),
        "passing behind",
        "white",
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a dog running", "at 'dog' (word 2), expected a size or a colour"),
        ("a red circl moving right", "did you mean 'circle'?"),
        ("a red circle moving", "at the end, expected a direction (left, right, up, down)"),
        ("", "at the end, expected an object"),
        ("a red circle moving right fastly", "expected a motion, a relation, a background or the end"),
        ("a red circle above a red square", "different colours"),
        ("a red circle and a blue square and a red triangle", "different colours"),
        ("a red circle and a blue square and a green circle and a cyan circle", "expected a motion, a relation"),
        ("a red circle growing quickly", "expected a motion, a relation"),
        ("a red circle growing passing behind a blue square", "what is passing behind another object has to move"),
        ("a red circle standing still passing in front of a blue square", "has to move"),
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
    thing = "a large {} circle moving right quickly"
    longest = f"{thing} passing in front of {thing} and {thing} on a white background".format("red", "blue", "green")
    assert len(longest.split()) == 30
    assert describe(parse(longest)) == longest
    assert len(tokens(longest).input_ids) <= tokens.model_max_length


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


@pytest.mark.slow
def test_rendering_is_a_function_of_the_seed_and_never_clips():
    for scene, _ in scenes(20):
        assert np.array_equal(render(scene, 5), render(scene, 5))
        assert 0.05 < render(scene, 5).min() and render(scene, 5).max() < 0.95


@pytest.mark.parametrize("change", ["growing", "shrinking"])
def test_what_changes_its_size_does_so_evenly_by_a_quarter_of_it_either_way(change):
    video = render(Scene((Thing("red", "circle", "large", change),), None, "black"), 0)
    radius = np.sqrt((np.ptp(video, axis=-1) / np.ptp(world.COLOURS["red"])).sum((1, 2)) / np.pi)
    expected = 12 * np.linspace(0.75, 1.25, 16)
    assert radius == pytest.approx(expected if change == "growing" else expected[::-1], abs=0.05)


@pytest.mark.parametrize(("relation", "whole"), [("passing in front of", "red"), ("passing behind", "blue")])
def test_what_is_in_front_hides_what_it_passes(relation, whole):
    """The areas of both are counted by hue, without the judge: one stays, the other loses a tenth at least."""
    things = Thing("red", "square", "small", "right", "quickly"), Thing("blue", "square", "small", "still")
    for seed in range(5):
        video = render(Scene(things, relation, "black"), seed)
        areas = {
            "red": ((video[..., 0] > 0.5) & (video[..., 2] < 0.3)).sum((1, 2)),
            "blue": ((video[..., 2] > 0.5) & (video[..., 0] < 0.3)).sum((1, 2)),
        }
        for colour, area in areas.items():
            lost = 1 - area.min() / area.max()
            assert lost < 0.13 if colour == whole else lost > 0.13, (colour, lost)


@pytest.mark.slow
def test_three_things_stay_apart():
    for scene, rng in scenes(20, things=3):
        if scene.relation not in world.PASSING:
            tracks = read((render(scene, rng) * 255).round().astype(np.uint8)).tracks
            assert len(tracks) == 3 and not any(t.any() for track in tracks for t in track.touched.values())


def test_a_picture_of_what_moves_has_it_in_its_size():
    picture = render(parse("a small red circle growing on a black background"), 0, frames=1)
    assert np.sqrt((np.ptp(picture, axis=-1) / np.ptp(world.COLOURS["red"])).sum() / np.pi) == pytest.approx(
        8, abs=0.05
    )


def test_a_scene_without_room_is_refused():
    with pytest.raises(ValueError, match="no room on 64x64 pixels in 200 frames"):
        render(Scene((Thing("red", "circle", "large", "right", "quickly"),)), frames=200)


# Judge


@pytest.mark.parametrize("things", [1, 2, 3])
@pytest.mark.parametrize("count", [30, 60])
@pytest.mark.exhaustive
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


def formed(kind, size, of):
    """Form by the formula, without the judge's code: soft IoU of an ideal `of` with the ideal `kind` of equal area."""
    x, y = (np.arange(800)[None] - 400) / 20, (np.arange(800)[:, None] - 400) / 20
    inside = {
        "circle": np.hypot(x, y) < size,
        "square": np.maximum(abs(x), abs(y)) < 0.88 * size,
        "triangle": np.maximum((np.sqrt(3) * abs(x) - y) / 2, y) < 0.72 * size,
    }[of]
    area = inside.sum() / 400
    side = {"circle": np.sqrt(area / np.pi), "square": np.sqrt(area) / 2, "triangle": np.sqrt(area / 3 / np.sqrt(3))}[
        kind
    ]
    ideal = {
        "circle": np.hypot(x, y) < side,
        "square": np.maximum(abs(x), abs(y)) < side,
        "triangle": np.maximum((np.sqrt(3) * abs(x) - y) / 2, y) < side,
    }[kind]
    return (inside & ideal).sum() / (inside | ideal).sum()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), FORMED)
def test_the_line_of_a_shape_is_half_way_between_the_truth_and_the_best_impostor(kind, size):
    impostors = [formed(kind, world.SIZES[size], other) for other in world.SHAPES if other != kind]
    truths = []
    for seed in range(10):
        video = render(Scene((Thing("red", kind, size, "right", "slowly"),), None, "grey"), seed)
        truths.append(judge((video * 255).round().astype(np.uint8), Scene((Thing("red", kind),)))["form"])
    assert min(truths) > 0.99
    assert FORMED[kind, size] == pytest.approx((np.mean(truths) + max(impostors)) / 2, abs=0.005)


def squeezed(kind, by):
    """A video of a shape that is drawn narrower by a factor."""
    x, y = world.grid(64, 64)
    cover = world.coverage(kind, (x - 32) / by, (y - 32) * by, 12.0)[..., None]
    frame = (0.45 * (1 - cover) + np.array(world.COLOURS["red"]) * cover) * 255
    return np.repeat(frame.round().astype(np.uint8)[None], 16, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "by", "radius"), [("circle", 0.8, 12), ("square", 0.9, 11.92), ("triangle", 0.8, 11.11)]
)
def test_a_shape_that_is_nearest_to_the_right_one_but_badly_formed_is_wrong(kind, by, radius):
    scene = Scene((Thing("red", kind),))
    good, bad = judge(squeezed(kind, 1.0), scene), judge(squeezed(kind, by), scene)
    assert read(squeezed(kind, by)).tracks[0].shape == kind  # of the three it is still the nearest
    assert good["shape"] == good["right"] == 1 and bad["shape"] == bad["right"] == 0
    assert bad["form"] < FORMED[kind, "large"] < good["form"]
    assert bad["edge_error"] == pytest.approx((1 - bad["form"]) * radius, rel=0.02)


def test_an_object_that_the_border_cuts_in_most_frames_has_no_form_and_no_right_shape():
    video = render(parse("a red circle standing still on a black background"), 0)
    cut = np.stack([np.roll(frame, -int(np.argmax(np.ptp(frame, axis=-1).max(0) > 0.3)) - 3, 1) for frame in video])
    scores = judge(np.concatenate([cut[:11], video[11:]]), parse("a red circle"))
    assert np.isnan(scores["form"]) and scores["shape"] == 0
    assert judge(np.concatenate([cut[:10], video[10:]]), parse("a red circle"))["form"] > 0.99


def test_objects_and_attributes_are_scored_each_and_what_is_exchanged_is_seen():
    scene = parse("a small red circle moving right above a large blue square moving left")
    swapped = parse("a small red square moving right above a large blue circle moving left")
    scores = judge(render(scene, 3), swapped)
    assert (scores["shape"], scores["size"], scores["direction"], scores["colour"]) == (0, 1, 1, 1)
    assert scores["exchanged"] == pytest.approx(2 / 6) and scores["objects"] == 0
    half = parse("a small red square moving right above a large blue square moving left")
    scores = judge(render(scene, 3), half)
    assert (scores["shape"], scores["objects"], scores["right"], scores["exchanged"]) == (0.5, 0.5, 0, 0)


@pytest.mark.slow
def test_passing_is_seen_and_who_is_in_front():
    scene = parse("a red circle moving right quickly passing in front of a blue square moving left slowly")
    for seed in range(5):
        video = render(scene, seed)
        assert judge(video, scene)["right"] == 1
        for other in ("passing behind", "above", "to the left of"):
            assert judge(video, Scene(scene.things, other))["relation"] == 0
    apart = render(parse("a red circle moving right quickly above a blue square moving left slowly"), 1)
    assert judge(apart, scene)["relation"] == 0


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
    assert judge(video, parse("a red square growing"))["direction"] == 0
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

TINY = tiny.recipe(Recipe, videos=3, vae_batch=2, image_batch=2, video_batch=1)


def weights(folder):
    return {p.relative_to(folder): load_file(p) for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 1)
    train.Trainer(tmp_path / "whole", TINY, "cpu").train()

    kills = {(stage, 1) for stage in range(1, 7)}  # in its second step, after a checkpoint
    rng = train.Trainer.rng

    def killed(self, *key):
        if key in kills:
            kills.remove(key)
            raise KeyboardInterrupt
        return rng(self, *key)

    monkeypatch.setattr(train.Trainer, "rng", killed)
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            train.Trainer(tmp_path / "broken", TINY, "cpu").train()
    trainer = train.Trainer(tmp_path / "broken", TINY, "cpu")
    trainer.train()
    assert trainer.finished
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for path in whole:
        assert all(torch.equal(whole[path][k], broken[path][k]) for k in whole[path]), path

    monkeypatch.setattr(train, "HELD_OUT", 2)
    trainer.export(tmp_path / "weights", "the command")
    card = (tmp_path / "weights" / "README.md").read_text()
    assert "the command" in card
    assert all(f"is {trainer.held_out('base'):.4f} of `base`" in card for _ in range(2))
    assert not (tmp_path / "weights/base/vae").exists() and (tmp_path / "weights/tuned/vae").is_dir()
    base, tuned = (
        load_file(tmp_path / "weights" / m / "unet/diffusion_pytorch_model.safetensors") for m in ("base", "tuned")
    )
    assert base.keys() == tuned.keys() and any(not torch.equal(base[k], tuned[k]) for k in base)


def test_a_folder_is_not_continued_with_another_recipe(tmp_path):
    train.Trainer(tmp_path, TINY, "cpu")
    with pytest.raises(ValueError, match="started with another"):
        train.Trainer(tmp_path, Recipe(seed=1), "cpu")


def test_export_before_the_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vae, decoder, text, image, video, tuned not done"):
        train.Trainer(tmp_path, TINY, "cpu").export(tmp_path / "weights", "")


@pytest.mark.slow
def test_an_exchange_moves_values_between_objects_and_invents_none():
    rng = np.random.default_rng(0)
    changed = {"shape": [], "size": [], "direction": []}
    for scene, _ in scenes(400, things=2):
        other = captions.exchange(scene, rng, 0.3)
        parse(describe(other))
        by_colour = {thing.colour: thing for thing in other.things}
        assert by_colour.keys() == {thing.colour for thing in scene.things}
        for name, moved in changed.items():
            own = [getattr(thing, name) for thing in scene.things]
            theirs = [getattr(by_colour[thing.colour], name) for thing in scene.things]
            assert sorted(own) == sorted(theirs)
            if len(set(own)) == 2:
                moved.append(own != theirs)
    assert {name: pytest.approx(0.3, abs=0.08) for name in changed} == {n: np.mean(m) for n, m in changed.items()}
    alone = [scene for scene, _ in scenes(20, things=1)]
    assert [captions.exchange(scene, rng, 1.0) for scene in alone] == alone


def test_mislabelling_replaces_about_the_share_that_is_asked_for():
    rng = np.random.default_rng(0)
    pairs = [(scene, captions.mislabel(scene, rng, 0.2)) for scene, _ in scenes(500, things=1)]
    assert np.mean([a.things[0].colour != b.things[0].colour for a, b in pairs]) == pytest.approx(0.2, abs=0.06)
    assert all(captions.mislabel(scene, rng, 0.0) == scene for scene, _ in pairs[:50])


# Bench

RENDERED = {"rendered": bench.Row("rendered truth")}


@pytest.mark.slow
def test_prompts_of_the_bench_do_not_depend_on_how_many_there_are():
    assert grammar.prompts(20)[:8] == grammar.prompts(8)
    assert [len(parse(p).things) for p in grammar.prompts(8)] == [1, 2, 2, 3, 1, 2, 2, 3]
    assert len(set(grammar.prompts(500))) == 500


def test_equal_cost_is_the_reflections_own_count():
    """1.5 / 1 at T = 25: 24 reflected steps of 5 evaluations and one plain step of 2 make 122, or 61 plain steps."""
    rows = bench.methods(bench.preset("shapes"))
    assert rows["equal-cost"].says["num_inference_steps"] == 61
    assert rows["guidance"].says["guidance_scale"] == 2.0
    both = bench.methods(bench.preset("shapes", {"weak_guidance_scale": 1.5}))  # 24 of 6 and one of 2
    assert both["equal-cost"].says["num_inference_steps"] == 73
    fewer = bench.methods(bench.preset("shapes", {"reflection_steps": 5}))  # 5 of 5 and 20 of 2
    assert fewer["equal-cost"].says["num_inference_steps"] == 33


def test_the_table_marks_what_is_better_and_what_is_worse(tmp_path):
    rng = np.random.default_rng(0)
    texts = grammar.prompts(52)
    texts = [text for text in texts if len(parse(text).things) == 2][:25] + [
        text for text in texts if len(parse(text).things) != 2
    ][:25]
    with open(tmp_path / "rows.jsonl", "w") as file:
        for name, jerk, direction in (("strong", 2.0, 0.9), ("w2sd", 1.0, 0.5)):
            for n in range(100):
                scores = {"right": 1.0, "jerk": jerk + 0.1 * rng.random(), "direction": float(rng.random() < direction)}
                scores["motion"] = 10 * jerk + rng.random()
                row = {
                    "pair": "shapes",
                    "method": name,
                    "n": n,
                    "prompt": texts[n % 50],
                    "evaluations": 30,
                    "seconds": 1.0,
                    "scores": scores,
                }
                file.write(json.dumps(row) + "\n")
    lines = rows.read(tmp_path / "rows.jsonl", "shapes")
    summary = table.summarise(lines, COLUMNS)
    found = summary["w2sd"]["against strong"]["jerk"]
    assert found.difference.mean == pytest.approx(-1, abs=0.02) and found.verdict == "better"
    assert (found.difference.counted, found.difference.units) == ("100 of 100", 50)
    labels = {"strong": "strong", "w2sd": "W2SD"}
    printed = table.markdown(summary, labels, COLUMNS)
    jerk_line = next(line for line in printed.splitlines() if line.startswith("| jerk"))
    direction_line = next(line for line in printed.splitlines() if line.startswith("| direction"))
    assert "| **1.0" in jerk_line and "| *0." in direction_line
    assert jerk_line.startswith("| jerk (100 of 100) |") and "| right (two objects) (50 of 100) |" in printed
    assert "| samples, of prompts | 100 of 50 | 100 of 50 |" in printed
    primary = ", ".join(f"right ({n})" for n in ("one object", "two objects", "three objects"))
    assert (
        f"over the 4 comparisons in primary columns ({primary}, jerk), and apart from them over the other 2" in printed
    )
    said = table.verdicts(table.rivalry(lines, COLUMNS), labels, COLUMNS)
    assert said.startswith("- W2SD against strong: worse in direction (-0.")
    assert "; differs in motion (-10" in said or "; differs in motion (-9.9" in said
    assert said.index("worse in") < said.index("not decided in right (one object)") < said.index("better in jerk (")


def test_what_settings_were_tuned_on_is_in_no_row_of_the_table():
    row = {"pair": "shapes", "method": "strong", "n": 0, "prompt": "a red circle", "evaluations": 2, "seconds": 1.0}
    rows = [row | {"scores": {"right": 1.0}}, row | {"scores": {"right": 0.0}, "tuning": True}]
    assert table.summarise(rows, COLUMNS)["strong"]["columns"]["right (one object)"].mean == 1


@pytest.mark.parametrize(
    ("at", "found", "tried"),
    [(2.2, 2.0, 8), (0.4, 1.0, 8), (9.0, 9.8, 10), (14.0, 13.72, 11)],
)
def test_tuning_finds_the_best_of_a_grid_that_grows_where_its_best_is_at_an_end(at, found, tried):
    """Of scores that fall with the distance from a setting, in `right` first, and where that is equal in `form`."""
    asked = tuning.tuned(bench.preset("shapes"))["tuned"]
    seen = []

    def made(rows, count):
        seen.extend(rows)
        off = {name: abs(row.says["guidance_scale"] - at) for name, row in rows.items()}
        return {
            name: [{"right": -float(int(d * 2)), "form": -d}, {"right": 0.0, "form": np.nan}] for name, d in off.items()
        }

    assert tuning.best("tuned", asked, 2, made) == {"guidance_scale": pytest.approx(found)}
    assert len(seen) == len(set(seen)) == tried


def test_w2sd_is_tuned_with_as_many_settings_as_guidance():
    rows = tuning.tuned(bench.preset("shapes"))
    seen = []

    def made(wanted, count):
        seen.extend(wanted)
        return {name: [{"right": row.says.get("reflection_steps", 14) / 14, "form": 0}] for name, row in wanted.items()}

    assert tuning.best("w2sd-tuned", replace(rows["w2sd-tuned"], first=rows["w2sd-tuned"].first[1:]), 1, made)
    plain = rows["tuned"].first
    assert len(rows["w2sd-tuned"].first) + len(rows["w2sd-tuned"].then({})) == len(plain) == 8


def test_a_setting_that_is_clearly_worse_on_the_first_prompts_is_not_tried_on_the_rest():
    """At guidance 3 every prompt is right, at 2.5 every second one of the rest but most of the first, else none."""
    asked = tuning.tuned(bench.preset("shapes"))["tuned"]
    tried = {}

    def made(rows, count):
        for row in rows.values():
            tried[row.says["guidance_scale"]] = count
        right = {3.0: lambda n: 1, 2.5: lambda n: 1 if n < tuning.HEAT - 2 else n % 2}
        return {
            name: [{"right": right.get(row.says["guidance_scale"], lambda n: 0)(n), "form": 0} for n in range(count)]
            for name, row in rows.items()
        }

    assert tuning.best("tuned", asked, 200, made) == {"guidance_scale": 3.0}
    assert tried == dict.fromkeys(tuning.GUIDANCE, 50) | {2.5: 200, 3.0: 200}


def test_a_packed_file_gives_the_same_table(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(5))
    told = ["bench", "--table", "--out", str(path)]
    printed = CliRunner().invoke(app, [*told, "--pack"]).output
    packed = CliRunner().invoke(app, [*told[:-1], str(tmp_path / "rows.jsonl.xz")])
    assert packed.exit_code == 0 and printed.endswith(packed.output)
    (tmp_path / "rows.jsonl.xz").write_bytes(b"no such file")
    assert CliRunner().invoke(app, [*told[:-1], str(tmp_path / "rows.jsonl.xz")]).exit_code == 2


@pytest.mark.slow
def test_processes_side_by_side_make_what_one_makes(tmp_path):
    """And a table that tunes goes on where it stands: nothing is made twice."""
    few = ["--set", "num_inference_steps=2", "--set", "num_frames=2", "--videos", "4", "--method", "strong"]
    for name, processes in (("one", "1"), ("two", "2")):
        ran = CliRunner().invoke(app, ["bench", "--out", str(tmp_path / name), "--processes", processes, *few])
        assert ran.exit_code == 0, ran.output
    one, two = ({row["n"]: row for row in runs.rows(tmp_path / name)} for name in ("one", "two"))
    assert one.keys() == two.keys() == set(range(4))
    for n in one:  # to the last digit, and NaN where there is no score
        assert json.dumps(one[n] | {"seconds": 0}) == json.dumps(two[n] | {"seconds": 0})
    tuned = ["bench", "--out", str(tmp_path / "one"), *few, "--method", "tuned", "--tune", "1"]
    for _ in range(2):
        ran = CliRunner().invoke(app, tuned)
        assert ran.exit_code == 0 and "strong, tuned guidance (" in ran.output
        held = (tmp_path / "one").read_text()
    assert (tmp_path / "one").read_text() == held
    trials = [row for row in runs.rows(tmp_path / "one") if row.get("tuning")]
    assert len(trials) >= 8 and not {row["prompt"] for row in trials} & {row["prompt"] for row in one.values()}


def test_a_results_file_that_was_cut_in_its_last_line_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(3))
    made = [row | {"seconds": 0} for row in runs.rows(path)]
    path.write_text(path.read_text()[:-20])
    assert len(runs.rows(path)) == 2
    bench.run("shapes", path, RENDERED, grammar.prompts(3))
    assert [row | {"seconds": 0} for row in runs.rows(path)] == made
    assert made[0]["scores"]["right"] == 1.0


def test_a_results_file_is_not_continued_with_other_settings(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(2))
    made = path.read_text()
    bench.run("shapes", path, RENDERED, grammar.prompts(2), {"num_inference_steps": 20})
    assert path.read_text() == made  # the renderer has no steps, and its videos are there
    row = json.loads(made.splitlines()[0]) | {"method": "strong", "arguments": {"variant": "plain"}}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="take another file"):
        bench.run("shapes", path, {"strong": bench.Row("", bench.PLAIN)}, ["a red circle"], {"num_inference_steps": 20})


def test_a_results_file_is_of_one_pair(tmp_path):
    path = tmp_path / "rows.jsonl"
    bench.run("shapes", path, RENDERED, grammar.prompts(1))
    held = path.read_text()
    for only in ([], ["--table"]):
        ran = CliRunner().invoke(app, ["bench", "--pair", "shapes-image", "--samples", "1", "--out", str(path), *only])
        assert ran.exit_code == 2 and path.read_text() == held
        assert "holds rows of shapes, and not of shapes-image; take another file" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "options, says",
    [
        (["--pair", "shapes-stile"], "did you mean 'shapes-style'?"),
        (["--pair", "shapes-digits", "--set", "height=64"], "the data of shapes-digits has its size"),
        (
            ["--pair", "shapes-image", "--method", "motion-gain-2"],
            "'motion-gain-2' is not accepted; ",
        ),
        (["--set", "guidance_scale=high"], "'guidance_scale=high' is not accepted; give a number"),
        (["--out", "file/below/rows.jsonl"], "give a folder that can be written to"),
        (["--table"], "--out: 'shapes-bench.jsonl' is not accepted; it is not there"),
        (["--method", "tuned"], "--method: 'tuned' is not accepted; it is tuned: give --tune, on how many prompts"),
        (
            ["--out", "rows.jsonl.xz"],
            "'rows.jsonl.xz' is not accepted; a packed file is only for --table",
        ),
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
    """Each is sampled, in three steps and two frames, with its own options."""
    path = tmp_path / "rows.jsonl"
    few = {"num_inference_steps": 3, "num_frames": 2}
    bench.run("shapes", path, {"w2sd": bench.Row("W2SD"), **bench.OTHERS}, ["a red circle"], few)
    made = {row["method"]: row for row in runs.rows(path)}
    # A schedule of guidance is no method by itself: it takes its numbers.
    assert set(METHODS) - {"w2sd", "weak", "guidance_schedule"} == {
        row.says.get("method") for row in bench.OTHERS.values()
    } - {None}
    assert len({json.dumps(row["scores"]) for row in made.values()}) == len(made)
    assert {row["arguments"]["num_frames"] for row in made.values()} == {2}


@pytest.mark.exhaustive
def test_optimistic_reflection_makes_w2sds_videos_at_the_price_of_auto_guidance():
    """At T = 12: pixels of four videos of four frames, from the same prompts and seeds."""
    asked = bench.preset("shapes", {"num_inference_steps": 12, "num_frames": 4})
    pipelines = bench.load(bench.Request.of(grammar.prompts(1)[0], 0, asked))
    distances: dict[str, list[float]] = {}
    for n, prompt in enumerate(grammar.prompts(4)):
        videos = {}
        for name, row in {"w2sd": bench.Row("W2SD"), **bench.OTHERS}.items():
            if name in ("w2sd", "auto-guidance", "optimistic"):
                request = bench.Request.of(prompt, n, asked, **row.says)
                videos[name], counted = bench.sample(pipelines["w2sd"], request, "w2sd")
                assert counted["total"] == (57 if name == "w2sd" else 35)
        for name in ("auto-guidance", "optimistic"):
            difference = videos[name].astype(float) - videos["w2sd"]
            distances.setdefault(name, []).append(float(np.sqrt((difference**2).mean())))
    assert np.mean(distances["optimistic"]) < 0.5 * np.mean(distances["auto-guidance"]), distances
    assert np.median(distances["optimistic"]) < 5


def test_words_are_told_of_the_object_they_belong_to():
    prompt = "a red circle moving right above a small blue square on a grey background"
    tokens = tokenizer()
    ids = tokens([prompt, "a red circle"], padding="max_length", return_tensors="pt").input_ids
    things, scenes = reading.facts([parse(prompt), parse("a red circle")])
    number = reading.numbers(ids, tokens.convert_tokens_to_ids("a</w>"), tokens.eos_token_id, things)
    none = reading.UNSAID
    assert number[0, :15].tolist() == [none, *[0] * 6, *[1] * 5, none, none, none]
    assert number[1, :5].tolist() == [none, 0, 0, 0, none] and (number[:, 15:] == none).all()
    assert things[0].tolist() == [[0, 0, none, 1, none], [2, 1, 0, none, none], [none] * 5]
    assert scenes.tolist() == [[0, 1], [none, none]]


@pytest.mark.parametrize("can, dtype", [({"avx512_bf16": True}, torch.bfloat16), ({"avx512_f": True}, torch.float32)])
def test_a_cpu_trains_in_bfloat16_only_if_it_has_instructions_for_it(tmp_path, monkeypatch, can, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    trainer = train.Trainer(tmp_path, TINY, "cpu")
    with trainer._autocast():
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == dtype
