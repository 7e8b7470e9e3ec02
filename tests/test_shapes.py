"""The shapes world: prompts are read back, scenes are rendered as they say, and the judge reads the renderer."""

import numpy as np
import pytest

from w2sd_video.shapes import grammar, world
from w2sd_video.shapes.grammar import describe, parse
from w2sd_video.shapes.judge import FORMED, judge, read
from w2sd_video.shapes.model import tokenizer
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
