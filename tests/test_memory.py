"""Videos in memory, and dimensions of one's own, in `evaluate`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from w2sd_video import video
from w2sd_video.columns import Column
from w2sd_video.errors import Refused
from w2sd_video.eval.dimensions import ByFunction, Dimension
from w2sd_video.eval.evaluate import Scores, evaluate
from w2sd_video.eval.memory import in_memory
from w2sd_video.eval.results import Summary
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import render

PROMPTS = ["a large red circle moving right", "a small blue square moving up"]
DIMENSIONS = ["temporal_flickering", "clipped", "shapes"]


def frames(index: int) -> np.ndarray:
    return (render(parse(PROMPTS[index]), index) * 255).round().astype(np.uint8)


def of(scores: Scores) -> list[dict[str, float | None]]:
    assert not scores.problems
    return [scores.of[video] for video in scores.videos]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[dict[str, float | None]]:
    """The scores of folders of PNG with the frames."""
    folder = tmp_path_factory.mktemp("png")
    for index, prompt in enumerate(PROMPTS):
        video.write_pngs(frames(index), folder / f"{prompt}-{index}")
    paths = [folder / f"{prompt}-{index}" for index, prompt in enumerate(PROMPTS)]
    return of(evaluate(paths, DIMENSIONS))


def layouts() -> dict[str, object]:
    """Both videos, in every form that the pipelines of diffusers give back, and that a user has."""
    both = np.stack([frames(0), frames(1)])
    exact = both.astype(np.float32) / 255
    return {
        "list of arrays": [frames(0), frames(1)],
        "np": exact,
        "np of float64": both.astype(np.float64) / 255,
        "np of float16": (both / 255).astype(np.float16),
        "pt": torch.from_numpy(exact).permute(0, 1, 4, 2, 3),
        "pt with a gradient": torch.from_numpy(exact).permute(0, 1, 4, 2, 3).requires_grad_(),
        "pt of uint8, channels last": torch.from_numpy(both),
        "pil": [[Image.fromarray(frame) for frame in frames(index)] for index in range(2)],
        "mixed": [frames(0), [Image.fromarray(frame) for frame in frames(1)]],
    }


@pytest.mark.parametrize("layout", layouts())
def test_videos_in_memory_score_as_folders_of_their_frames(layout, expected):
    assert of(evaluate(layouts()[layout], DIMENSIONS, prompts=PROMPTS)) == expected


def test_paths_and_videos_in_memory_go_together_and_are_groups_apart(tmp_path, expected):
    folder = tmp_path / f"{PROMPTS[0]}-0"
    video.write_pngs(frames(0), folder)
    scores = evaluate([folder, in_memory(frames(1), PROMPTS[1])], DIMENSIONS)
    assert of(scores) == [expected[1], expected[0]]
    assert {each.group for each in scores.videos} == {str(folder), "memory"}


def test_with_images_every_frame_is_a_picture(expected):
    scores = evaluate(frames(0), "clipped", images=True)
    assert len(scores.of) == len(frames(0))
    assert {facts["frames"] for facts in scores.facts.values()} == {1}
    assert np.mean([each["clipped"] for each in scores.of.values()]) == expected[0]["clipped"]


def test_the_frame_rate_is_that_of_a_folder_unless_said_and_is_a_fact_of_the_video():
    guessed, said = (evaluate(in_memory(frames(0), fps=fps), "clipped") for fps in (None, 24))
    assert [facts["fps"] for facts in guessed.facts.values()] == [8]
    assert [facts["fps"] for facts in said.facts.values()] == [24]
    assert any("no frame rate" in note for note in guessed.notes)
    assert not said.notes


def test_videos_of_one_name_in_two_groups_are_compared():
    groups = [in_memory(frames(n), PROMPTS[n], f"seed {n}", group) for group in ("plain", "w2sd") for n in range(2)]
    summary = Summary(evaluate(groups, "temporal_flickering"))
    (comparison,) = summary.comparisons
    assert (comparison.base, comparison.group, comparison.difference.n) == ("plain", "w2sd", 2)


def test_scores_in_memory_are_stored_by_the_frames_and_not_made_again(tmp_path):
    rows, calls = tmp_path / "rows.jsonl", []

    def count(frames: np.ndarray) -> float:
        calls.append(len(frames))
        return 1.0

    def score(pixels: np.ndarray, version: int | None, fps: float | None = None) -> None:
        evaluate(in_memory(pixels, fps=fps), ByFunction(count, version=version), rows_file=rows)

    score(frames(0), 1)
    score(frames(0), 1)
    assert len(calls) == 1
    score(frames(1), 1)  # other frames under the same name
    score(frames(0), 1, fps=24)
    score(frames(0), 2)
    assert len(calls) == 4
    kept = rows.read_text()
    score(frames(0), None)  # whose code may have changed since
    score(frames(0), None)
    assert len(calls) == 6 and rows.read_text() == kept


def test_frames_are_those_of_the_call_whatever_becomes_of_the_array():
    pixels = frames(0)
    kept = in_memory(pixels)
    pixels[:] = 0
    assert (kept.pixels == frames(0)).all()


FLOATS = np.full((2, 8, 8, 3), 0.5, np.float32)
BAD = {
    "not finite": (np.where(np.arange(2)[:, None, None, None] == 1, np.nan, FLOATS), "videos: 'numpy (2, 8, 8, 3)"),
    "of [-1, 1]": (FLOATS * 2 - 1.5, "from -0.5 to -0.5"),
    "of 0 to 255 as floats": (FLOATS * 510, "from 255 to 255"),
    "of whole numbers": ((FLOATS * 255).astype(np.int64), "uint8 or float"),
    "of one colour": (FLOATS[..., :1], "(F, H, W, 3)"),
    "of three axes": (FLOATS[0], "(F, H, W, 3)"),
    "of no frames": (FLOATS[:0], "empty"),
    "of no videos": (FLOATS[None][:0], "no video"),
    "of either layout": (np.zeros((2, 3, 8, 3), np.uint8), "both are 3 long"),
    "latents": (torch.zeros(1, 4, 2, 8, 8), "(F, H, W, 3)"),
    "the second of two": ([FLOATS, FLOATS * 3], "videos[1]"),
    "the second of a batch": (np.stack([FLOATS, FLOATS * 2 - 1.1]), "videos[1]"),
    "one picture": (Image.new("RGB", (8, 8)), "images=True"),
    "pictures of two sizes": ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], "videos[1]"),
    "pictures of 16 bits": ([Image.new("I;16", (8, 8))], "8 bits"),
    "masked": (np.ma.masked_array(FLOATS, FLOATS > 0), "it is masked"),
    "sparse": (torch.zeros(2, 8, 8, 3).to_sparse(), "give a dense tensor"),
    "without values": (torch.zeros(2, 8, 8, 3, device="meta"), "give a dense tensor"),
    "a number": (3, "arrays, tensors"),
    "a group of files": ({"a": FLOATS, "b": "folder"}, "give videos in memory; files have groups by LABEL=PATH"),
    "a group of nothing": ({"a": []}, "give videos in memory"),
    "a group without a name": ({"": FLOATS}, "names that are not empty"),
    "the second of a group": ({"a": [FLOATS, FLOATS * 3]}, "videos['a'][1]"),
    "no group": ({}, "arrays, tensors"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_scored_is_refused_by_name_before_anything_is(kind):
    def never(frames: np.ndarray) -> float:
        raise AssertionError

    given, says = BAD[kind]
    with pytest.raises(Refused) as error:
        evaluate(given, never)
    assert str(error.value).startswith("videos") and says in str(error.value)


@pytest.mark.parametrize(
    ("given", "prompts", "says"),
    [
        ([FLOATS, FLOATS], ["one"], "a list of 2 texts"),
        ([FLOATS], [" "], "none empty"),
        ([FLOATS], "a cat", "a list of texts"),
        ([FLOATS], {"video.mp4": "a cat"}, "a list of 1 texts"),
    ],
)
def test_prompts_in_memory_are_one_for_each_video(given, prompts, says):
    with pytest.raises(Refused, match="^prompts: ") as error:
        evaluate(given, "clipped", prompts=prompts)
    assert says in str(error.value)


@pytest.mark.parametrize("name, value", [("weights", ""), ("rows_file", ""), ("official", ""), ("images", "no")])
def test_an_empty_path_is_not_the_default_and_words_are_no_answer(name, value):
    with pytest.raises(Refused, match=f"{name}: '{value}' is not accepted; give (a path|True or False)"):
        evaluate(FLOATS, "clipped", **{name: value})


def test_a_dictionary_names_groups_whose_videos_are_pairs_in_their_order():
    scores = evaluate({"plain": frames(0), "w2sd": [frames(1), frames(0)]}, "clipped", prompts=["a", "b", "c"])
    found = [(each.group, each.prompt, each.pair) for each in scores.videos]
    assert found == [("plain", "a", "video 0"), ("w2sd", "b", "video 0"), ("w2sd", "c", "video 1")]
    (compared,) = Summary(scores).comparisons
    assert (compared.base, compared.group, compared.difference.n) == ("plain", "w2sd", 1)


def test_vbenchs_package_reads_no_videos_in_memory():
    with pytest.raises(Refused, match="^official: "):
        evaluate(FLOATS, official="python")


# Dimensions of one's own


def brightness(frames: np.ndarray) -> float:
    return frames.mean() / 255


class Darkest(Dimension):
    """Both ends of the brightness, with an argument and a record of each column."""

    name = "darkest"
    records = (Column("darkest", sign=-1), Column("brightest"))

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def score(self, video, reader):
        levels = []
        while (batch := (yield)) is not None:
            levels += [self.scale * frame.mean() for frame in batch.pixels]
        return {"darkest": min(levels), "brightest": max(levels)}


def test_an_instance_a_class_and_a_function_score_beside_named_ones():
    grey = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (51, 102)])
    scores = evaluate(grey, ["temporal_flickering", Darkest, brightness])
    (said,) = of(scores)
    assert said == {
        "temporal_flickering": pytest.approx(204 / 255),
        "darkest": 51.0,
        "brightest": 102.0,
        "brightness": pytest.approx(0.3),
    }
    summary = Summary(scores)
    assert (summary.columns["darkest"].sign, summary.columns["brightest"].sign) == (-1, 1)
    assert json.dumps(summary.data([]))
    assert of(evaluate(grey, Darkest(scale=2.0)))[0]["darkest"] == 102.0


def test_an_instance_keeps_its_settings_where_networks_are_let_go_for_large_frames():
    (said,) = of(evaluate(np.full((1, 1100, 1000, 3), 10, np.uint8), [Darkest(scale=3.0)]))
    assert said["darkest"] == 30.0


def test_a_function_gets_the_prompt_where_it_takes_it_and_a_column_says_what_it_is_called():
    def length(frames: np.ndarray, prompt: str) -> float:
        return len(prompt)

    scores = evaluate([frames(0), frames(1)], ByFunction(length, Column("words", sign=0)), prompts=PROMPTS)
    assert [each["words"] for each in of(scores)] == [len(prompt) for prompt in PROMPTS]
    assert Summary(scores).columns["words"].sign == 0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "has to be a number"),
        ("much", "has to be a number"),
        (float("inf"), "has to be finite"),
        (10**400, "is inf, and has to be finite"),
        (-1e160, "is -1e+160, and has to be finite, from -1e+100 to 1e+100"),
        ({"other": 1.0}, "its columns are mine"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_what_is_no_score_is_a_problem_of_its_dimension_and_the_others_go_on(value, says):
    def mine(frames: np.ndarray) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    scores = evaluate(FLOATS, ["clipped", mine])
    ((_, dimension, problem),) = scores.problems
    assert dimension == "mine" and says in problem
    assert all("clipped" in each for each in scores.of.values())


def test_nan_says_nothing_of_a_video():
    assert of(evaluate(FLOATS, ByFunction(lambda frames: float("nan"), Column("mine")))) == [{"mine": None}]


class Taken(Dimension):
    name = "clipped"


class NeedsMore(Dimension):
    name = "more"

    def __init__(self, scale):
        self.scale = scale


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Taken, "built in"),
        (ByFunction(brightness, Column("shapes_right")), "column 'shapes_right'"),
        ([brightness, brightness], "has a column 'brightness' too"),
        (lambda frames: 0.0, "it is a lambda, which has no name: use def"),
        (NeedsMore, "give an instance"),
        (3, "give names"),
        ("temporal_flikering", "did you mean 'temporal_flickering'?"),
    ],
)
def test_a_dimension_that_cannot_be_taken_is_refused(given, says):
    with pytest.raises(Refused, match="^dimensions: ") as error:
        evaluate(FLOATS, given)
    assert says in str(error.value)


@pytest.mark.parametrize("dimension", ["shapes", "outlines"])
@pytest.mark.parametrize("number", [1, 16])
def test_what_takes_several_frames_to_see_is_not_scored_of_a_picture(dimension, number):
    video = in_memory(frames(0)[:number], PROMPTS[0])
    (scores,) = of(evaluate(video, dimension))
    columns = {"area_instability", "colour_instability", "background_instability", "jerk", "motion"}
    assert {scores[f"{dimension}_{column}"] is None for column in columns} == {number == 1}
    assert scores[f"{dimension}_right"] is not None
