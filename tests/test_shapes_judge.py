"""The judge of shapes against videos that are wrong in a part of their frames or pixels, and against its own files."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, gaussian_filter

from w2sd_video import video
from w2sd_video.shapes import captions, grammar, world
from w2sd_video.shapes.grammar import describe, parse
from w2sd_video.shapes.judge import judge, read
from w2sd_video.shapes.world import Scene, Thing, render, sample_scene

CIRCLE = "a large red circle moving right slowly on a black background"


def pixels(frames):
    return (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)


def drawn(*things, background="black", frames=16):
    """A video of things, each (kind, colour, x, y, size): a value, or a function of the frame's number."""
    x, y = world.grid(64, 64)
    pictures = []
    for t in range(frames):
        picture = np.full((64, 64, 3), world.BACKGROUNDS[background])
        for thing in things:
            kind, colour, cx, cy, size = (each(t) if callable(each) else each for each in thing)
            cover = world.coverage(kind, x - cx, y - cy, size)[..., None]
            picture = picture * (1 - cover) + np.array(world.COLOURS[colour]) * cover
        pictures.append(picture)
    return pixels(np.stack(pictures))


def right(t):
    return 20 + t


def test_the_drawing_of_these_tests_is_right_where_nothing_is_wrong():
    assert judge(drawn(("circle", "red", right, 32, 12)), parse(CIRCLE))["right"] == 1


# Files


def filed(frames, folder):
    path = folder / "video.mp4"
    path.unlink(missing_ok=True)
    video.write_mp4(frames, path, 8)
    return video.read(path)


@pytest.mark.parametrize("size", world.SIZES)
@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_video_is_judged_alike_before_it_is_written_and_after(shape, size, tmp_path):
    """H.264 stores one chroma for 2 x 2 pixels, which is a blur of the edge by a pixel."""
    scene = Scene((Thing("red", shape, size, "right", "slowly"),), None, "grey")
    frames = pixels(render(scene, 1))
    written = judge(filed(frames, tmp_path), scene)
    assert written["right"] == 1
    assert written["form"] == pytest.approx(judge(frames, scene)["form"], abs=0.045)


@pytest.mark.exhaustive
def test_the_judge_is_right_on_at_least_99_percent_of_rendered_videos_that_were_written(tmp_path):
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(150):
        scene = sample_scene(rng)
        verdicts.append(judge(filed(pixels(render(scene, rng)), tmp_path), scene)["right"])
    assert np.mean(verdicts) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("corners, formed", [(5, False), (6, True)])
def test_a_polygon_is_no_more_of_a_circle_for_being_written(corners, formed, tmp_path):
    x, y = world.grid(64, 64)
    pictures = []
    for t in range(16):
        turns = 0.2 + 2 * np.pi * np.arange(corners)[:, None, None] / corners
        distance = (np.cos(turns) * (x - 22.3 - t) + np.sin(turns) * (y - 31.6)).max(0) - 11
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        pictures.append(0.45 * (1 - cover) + np.array(world.COLOURS["red"]) * cover)
    frames, scene = pixels(np.stack(pictures)), parse("a red circle")
    forms = [judge(each, scene)["form"] for each in (frames, filed(frames, tmp_path))]
    assert forms[1] == pytest.approx(forms[0], abs=0.01)
    assert [judge(each, scene)["shape"] for each in (frames, filed(frames, tmp_path))] == [formed, formed]


# Wrong in some of the frames


def test_an_object_that_changes_its_shape_is_wrong():
    """Of 16 frames, one may differ: 15 are more than 90 %, 14 are not."""
    for circles, wanted in ((15, 1), (14, 0), (10, 0), (8, 0)):
        frames = drawn((lambda t, n=circles: "circle" if t < n else "square", "red", right, 32, 12))
        assert judge(frames, parse(CIRCLE))["shape"] == wanted, circles
    alternating = drawn((lambda t: "square" if t % 3 == 2 else "circle", "red", right, 32, 12))
    assert judge(alternating, parse(CIRCLE))["right"] == 0


@pytest.mark.slow
def test_objects_that_exchange_their_shapes_or_colours_halfway_are_wrong():
    scene = parse("a red circle above a blue square")
    for half in (6, 8, 9, 12):
        one, other = (
            (lambda t, n=half: "circle" if t < n else "square"),
            (lambda t, n=half: "square" if t < n else "circle"),
        )
        assert judge(drawn((one, "red", 32, 14, 10), (other, "blue", 32, 48, 10)), scene)["right"] == 0
        red, blue = (lambda t, n=half: "red" if t < n else "blue"), (lambda t, n=half: "blue" if t < n else "red")
        assert judge(drawn(("circle", red, 32, 14, 10), ("square", blue, 32, 48, 10)), scene)["right"] == 0


def test_an_object_that_changes_its_size_while_it_moves_has_no_size():
    for size in (
        lambda t: 8 if t < 8 else 12,
        lambda t: 12 if t < 10 else 8,
        lambda t: 10 + 4 * (t % 2),
        lambda t: 9 + 6 * t / 15,
    ):
        frames = drawn(("circle", "red", right, 32, size))
        for name in world.SIZES:
            assert judge(frames, parse(f"a {name} red circle moving right"))["size"] == 0


@pytest.mark.parametrize("change", world.CHANGES)
@pytest.mark.parametrize("size", world.SIZES)
def test_what_grows_or_shrinks_keeps_the_size_that_it_is_called(change, size):
    scene = Scene((Thing("red", "circle", size, change),), None, "black")
    assert judge(render(scene, 2), scene)["size"] == 1


def test_an_object_that_is_there_in_some_frames_only_is_counted():
    """A seam of two colours is a third one, and no object."""
    for frames, wanted in ((1, 1), (2, 0), (7, 0), (16, 0)):
        extra = ("circle", "blue", 55, 55, lambda t, n=frames: 6 if t < n else -9)
        assert judge(drawn(("circle", "red", right, 16, 12), extra), parse(CIRCLE))["count"] == wanted, frames
    scene = parse("a small red square moving right quickly passing in front of a large blue square standing still")
    blurred = gaussian_filter(render(scene, 0), (0, 0.8, 0.8, 0))
    assert {track.colour for track in read(blurred).tracks} == {"red", "blue"}


@pytest.mark.parametrize(
    "way",
    [
        lambda t: (16 + t, 16 + 0.9 * t),  # down as well
        lambda t: (16 + t, 16 + 0.5 * t),
        lambda t: (18 + t, 32 + 12 * (t % 8 < 4)),  # up and down
    ],
)
def test_what_strays_from_its_direction_is_wrong(way):
    frames = drawn(("circle", "red", lambda t: way(t)[0], lambda t: way(t)[1], 12))
    scores = judge(frames, parse(CIRCLE))
    assert scores["direction"] == scores["right"] == 0 and scores["shape"] == 1


def test_what_goes_there_and_back_does_not_stand_still():
    frames = drawn(("circle", "red", lambda t: 20 + 2 * min(t, 15 - t), 32, 12))
    assert judge(frames, parse("a red circle standing still"))["direction"] == 0
    trembling = drawn(("circle", "red", lambda t: 20 + t % 2, 32, 12))
    assert judge(trembling, parse("a red circle standing still"))["direction"] == 1


# Backgrounds


def test_a_background_has_to_be_there_in_most_frames_and_pixels():
    frames = drawn(("circle", "red", right, 16, 12))
    for white, wanted in ((1, 1), (2, 0), (7, 0)):
        changed = frames.copy()
        changed[:white] = drawn(("circle", "red", right, 16, 12), background="white")[:white]
        assert judge(changed, parse(CIRCLE))["background"] == wanted, white
    for rows, wanted in ((4, 1), (20, 0)):
        changed = frames.copy()
        changed[:, 64 - rows :] = 224
        assert judge(changed, parse(CIRCLE))["background"] == wanted, rows


@pytest.mark.parametrize("colour", ["red", "blue"])
@pytest.mark.parametrize("share", [0.3, 0.45])
def test_a_tinted_background_is_neither_black_nor_grey_nor_white(colour, share):
    bare = np.array(world.COLOURS[colour]) * share + 0.1 * (1 - share)
    cover = np.ptp(drawn(("circle", "red", right, 32, 12)) / 255, axis=-1)[..., None] / 0.7
    scores = judge(pixels(bare * (1 - cover) + np.array(world.COLOURS["red"]) * cover), parse(CIRCLE))
    assert scores["background"] == scores["right"] == 0


# Passing


def test_what_others_pass_is_not_trusted_in_what_it_hides_from_nobody():
    """Of three objects two pass each other; the border cuts the third in every frame, so that its shape is not seen."""
    text = "a red circle moving right quickly passing in front of a blue square standing still"
    frames = render(parse(text + " on a black background"), 3)
    x, y = world.grid(64, 64)
    cover = world.coverage("triangle", x - 62, y - 6, 8.0)[..., None]
    frames = pixels(frames * (1 - cover) + np.array(world.COLOURS["green"]) * cover)
    scores = judge(frames, parse(text + " and a green triangle"))
    assert scores["relation"] == scores["count"] == 1
    assert scores["shape"] == pytest.approx(2 / 3) and scores["right"] == 0


# Arrays


@pytest.mark.parametrize(
    "frames, says",
    [
        (np.zeros((0, 64, 64, 3), np.uint8), r"shape \(0, 64, 64, 3\)"),
        (np.zeros((4, 0, 0, 3), np.uint8), r"shape \(4, 0, 0, 3\)"),
        (np.full((2, 64, 64, 3), np.nan), "floats from nan to nan"),
        (np.full((2, 64, 64, 3), np.inf), "floats from inf to inf"),
        (np.full((2, 64, 64, 3), 200.0), "floats from 200 to 200"),
        (np.linspace(-1, 1, 2 * 64 * 64 * 3).reshape(2, 64, 64, 3), "floats from -1 to 1"),
        (np.full((2, 64, 64, 3), 200), "int64 is not accepted; give uint8"),
        (np.zeros((2, 64, 64, 3), bool), "bool is not accepted"),
    ],
)
def test_values_that_are_no_colours_are_refused(frames, says):
    with pytest.raises(ValueError, match=says):
        read(frames)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_every_width_are_judged_like_bytes(dtype):
    frames = drawn(("circle", "red", right, 32, 12))
    scores = judge(frames.astype(np.float64).__truediv__(255).astype(dtype), parse(CIRCLE))
    assert scores == pytest.approx(judge(frames, parse(CIRCLE)), abs=2e-3)


@pytest.mark.parametrize("height, width", [(64, 96), (97, 65), (48, 48)])
def test_a_video_of_any_sides_is_judged(height, width):
    scene = parse("a large red circle moving right slowly above a small blue square on a grey background")
    assert judge(render(scene, 1, height=height, width=width), scene)["right"] == 1


# Form, by its definition and none of the judge's code


def ideal(kind, x, y, area):
    """How much of each pixel is inside a shape of this area about (x, y), counted on 8 x 8 points a pixel."""
    across, down = ((np.arange(64 * 8) + 0.5) / 8 - c for c in (x, y))
    across, down = across[None], down[:, None]
    if kind == "circle":
        inside = across**2 + down**2 <= area / np.pi
    elif kind == "square":
        inside = np.maximum(abs(across), abs(down)) <= np.sqrt(area) / 2
    else:  # an equilateral triangle of area 3 sqrt(3) r^2 has the inradius r
        r = np.sqrt(area / 3 / np.sqrt(3))
        inside = (down <= r) & (np.sqrt(3) * abs(across) - down <= 2 * r)
    return inside.reshape(64, 8, 64, 8).mean((1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("blur", [0.0, 0.6, 1.2])
@pytest.mark.parametrize("kind", world.SHAPES)
def test_form_is_the_soft_intersection_over_union_with_the_ideal_of_equal_area_and_centroid(kind, blur):
    frames = render(Scene((Thing("red", kind, None, "up", "slowly"),), None, "white"), 4, frames=8)
    frames = pixels(gaussian_filter(frames, (0, blur, blur, 0)))
    form = read(frames).tracks[0].form
    for wanted in world.SHAPES:
        overlaps = []
        for frame in frames / 255:
            cover = np.clip((frame[..., 0] - frame[..., 1]) / 0.7, 0, 1)
            cover = cover * binary_dilation(cover > 0.5, np.ones((3, 3)))
            down, across = np.mgrid[:64, :64] + 0.5
            area = cover.sum()
            shape = ideal(wanted, (cover * across).sum() / area, (cover * down).sum() / area, area)
            overlaps.append(np.minimum(cover, shape).sum() / np.maximum(cover, shape).sum())
        assert form[wanted] == pytest.approx(np.mean(overlaps), abs=0.015), wanted


# Grammar

OBJECTS = st.builds(
    lambda colour, shape, size, motion: (colour, shape, size, *motion),
    st.sampled_from(list(world.COLOURS)),
    st.sampled_from(world.SHAPES),
    st.sampled_from([None, *world.SIZES]),
    st.sampled_from(
        [(m, None) for m in (None, "still", *world.CHANGES, *world.MOVING)]
        + [(d, s) for d in world.MOVING for s in world.SPEEDS]
    ),
)


@st.composite
def every_scene(draw):
    """What the grammar can say, whether or not there is room for it."""
    objects = draw(st.lists(OBJECTS, min_size=1, max_size=3, unique_by=lambda o: o[0]))
    relation = draw(st.sampled_from([None, *world.RELATIONS, *world.PASSING])) if len(objects) > 1 else None
    if relation in world.PASSING and objects[0][3] not in (None, *world.MOVING):
        relation = None
    return Scene(tuple(Thing(*o) for o in objects), relation, draw(st.sampled_from([None, *world.BACKGROUNDS])))


@settings(deadline=None, max_examples=200)
@given(scene=every_scene(), seed=st.integers(0, 2**32 - 1))
def test_what_is_said_is_read_and_said_again_and_so_is_what_weak_captions_make_of_it(scene, seed):
    text = describe(scene)
    assert parse(text) == scene and describe(parse(text)) == text
    assert parse(f"  {text.upper().replace('A ', 'An ', 1)}.\n") == scene
    rng = np.random.default_rng(seed)
    for other in (captions.exchange(scene, rng, 0.5), captions.mislabel(scene, rng, 0.5)):
        assert parse(describe(other)) == other
    assert set(text.split()) <= set(grammar.VOCABULARY)


@settings(deadline=None, max_examples=200)
@given(words=st.lists(st.sampled_from([*grammar.VOCABULARY, "an", "gray", "dog", "?"]), max_size=14))
def test_any_words_are_read_or_refused_by_one_error(words):
    try:
        scene = parse(" ".join(words))
    except ValueError as error:
        assert str(error).startswith("prompt: ")
    else:
        assert parse(describe(scene)) == scene


@pytest.mark.parametrize(
    "prompt",
    [
        "a large red circle moving right quickly to the left of a large blue circle moving left quickly",
        "a red circle moving up slowly passing in front of a blue circle moving up slowly on a grey background",
        "a large red circle above a large blue circle and a large green circle moving down quickly",
    ],
)
def test_a_prompt_that_no_video_can_show_is_refused_in_its_own_words(prompt):
    with pytest.raises(ValueError, match=f"no room on 64x64 pixels in 16 frames for '{prompt}'; .* take smaller"):
        render(parse(prompt))
