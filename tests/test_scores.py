"""Scores: what networks are given, values that are kept, and what they come to."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner
from videofiles import PROMPT, noise, one, shapes_video

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.eval import videos
from w2sd_video.eval.columns import COLUMNS
from w2sd_video.eval.dimensions import NAMES, OFFICIAL, Dimension, expand, get
from w2sd_video.eval.evaluate import Scorer, Scores, evaluate
from w2sd_video.eval.frames import Batch
from w2sd_video.eval.vbench import aggregate, normalise, totals
from w2sd_video.runs import Refused
from w2sd_video.shapes import digits

# What the networks are given


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (224, 224), (131, 179), (225, 561)])
def test_frames_are_resized_as_torchvision_does_without_antialias(size):
    transforms = pytest.importorskip("torchvision.transforms")
    batch = Batch(0, noise(2, *size))
    bicubic = transforms.Resize(224, transforms.InterpolationMode.BICUBIC, antialias=False)
    clip = [bicubic, transforms.CenterCrop(224), lambda x: x / 255, transforms.Normalize(*videos.CLIP_NORM)]
    dino = [transforms.Resize(224, antialias=False), lambda x: x / 255, transforms.Normalize(*videos.DINO_NORM)]
    assert torch.equal(batch.clip, transforms.Compose(clip)(batch.frames))
    assert torch.equal(batch.dino, transforms.Compose(dino)(batch.frames))


# Scores


def test_flickering_is_one_less_the_mean_difference_of_neighbours(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[1], frames[2, :8] = 51, 51  # differences of 51, of 25.5, and of 25.5
    video.write_pngs(frames, tmp_path / "v")
    scores = evaluate([tmp_path / "v"], ["temporal_flickering"])
    assert scores.of[one(tmp_path / "v")] == {"temporal_flickering": pytest.approx(1 - 34 / 255, abs=1e-7)}


def test_clipped_counts_channel_values_at_both_ends(tmp_path):
    pixels = np.full((2, 8, 8, 3), 128, np.uint8)
    pixels[0, 0, :, 0], pixels[1, :, 0, 2] = 0, 255  # 16 of 384 values
    video.write_pngs(pixels, tmp_path / "frames")
    scores = evaluate([tmp_path / "frames"], ["clipped"])
    assert list(scores.of.values()) == [{"clipped": pytest.approx(100 * 16 / 384)}]


def test_the_judge_of_digits_scores_pictures_by_the_name_that_they_have(tmp_path):
    for digit in (3, 7):
        Image.fromarray(digits.pictures(digit, 0)[0]).save(tmp_path / f"{digits.NAMES[digit]}-0.png")
    Image.fromarray(digits.pictures(3, 1)[0]).save(tmp_path / "8.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "eleven.png")
    Image.new("RGB", (16, 32)).save(tmp_path / "one.png")
    scores = evaluate([tmp_path], ["digits"], images=True)
    right = {video.path.name: score["digits_right"] for video, score in scores.of.items() if score}
    assert right == {"three-0.png": 1.0, "seven-0.png": 1.0, "8.png": 0.0}
    said = {video.path.name: problem for video, _, problem in scores.problems}
    assert "'eleven' is not accepted; give a digit" in said["eleven.png"] and "16x32" in said["one.png"]


@pytest.mark.slow
def test_the_judge_scores_rendered_videos_right(folder):
    scores = evaluate([folder], ["shapes"])
    assert [scores.of[v]["shapes_right"] for v in scores.videos] == [1.0] * 3
    assert [scores.of[v]["shapes_relation"] for v in scores.videos] == [None] * 3


def test_the_judge_says_that_a_prompt_is_not_of_its_world(tmp_path):
    video.write_mp4(shapes_video(), tmp_path / "a fox-0.mp4", 8)
    ((_, name, problem),) = evaluate([tmp_path], ["shapes"]).problems
    assert name == "shapes" and "outside the shapes world" in problem


@pytest.mark.slow
def test_scores_do_not_depend_on_the_batch_size(folder, monkeypatch):
    before = evaluate([folder], ["temporal_flickering", "shapes"])
    monkeypatch.setattr("w2sd_video.eval.frames.BATCH_PIXELS", 3 * 64 * 64)
    after = evaluate([folder], ["temporal_flickering", "shapes"])
    assert list(before.of.values()) == list(after.of.values())


class Counting(Dimension):
    """Counts, in `opened`, what it is asked to score."""

    name = "temporal_flickering"
    version = 1
    opened: list[str] = []

    def score(self, video, reader):
        self.opened.append(video.path.name)
        yield
        return 0.5


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr("w2sd_video.eval.dimensions.get", lambda name: Counting())
    Counting.opened = []
    return Counting


def test_what_is_scored_is_not_scored_again(folder, tmp_path, counting):
    rows = tmp_path / "rows.jsonl"
    evaluate([folder], ["temporal_flickering"], rows)
    again = evaluate([folder], ["temporal_flickering"], rows)
    assert len(counting.opened) == 3 and [s["temporal_flickering"] for s in again.of.values()] == [0.5] * 3


@pytest.mark.slow
def test_a_changed_video_or_version_is_scored_again(folder, tmp_path, counting, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    evaluate([folder], ["temporal_flickering"], rows)
    video.write_mp4(shapes_video(9), folder / f"{PROMPT}-1.mp4", 8)
    evaluate([folder], ["temporal_flickering"], rows)
    assert counting.opened[3:] == [f"{PROMPT}-1.mp4"]
    monkeypatch.setattr(counting, "version", 2)
    evaluate([folder], ["temporal_flickering"], rows)
    assert len(counting.opened) == 7


def test_equal_videos_are_scored_once(folder, tmp_path, counting):
    (folder / "copy.mp4").write_bytes((folder / f"{PROMPT}-0.mp4").read_bytes())
    assert len(evaluate([folder], ["temporal_flickering"]).of) == 4
    assert len(counting.opened) == 3


@pytest.mark.slow
def test_large_frames_are_scored_by_one_dimension_at_a_time_those_that_match_frames_first(folder, monkeypatch):
    names = ["imaging_quality", "dynamic_degree", "temporal_flickering", "motion_smoothness"]
    motion = ["dynamic_degree", "motion_smoothness"]
    happened: list[tuple[str, list[str]]] = []  # what scored, while which had their networks
    made: dict[str, Dimension] = {}
    shown: list[tuple[int, int]] = []

    class Loaded(Dimension):
        def load(self, paths, device):
            self.network = "a network"

        def score(self, video, reader):
            happened.append((self.name, [name for name in names if hasattr(made[name], "network")]))
            yield
            return 0.5

    def get(name: str) -> Dimension:
        made[name] = type(name, (Loaded,), {"name": name, "of_motion": name in motion})()
        return made[name]

    def score() -> Scores:
        return evaluate([folder], names, progress=lambda done, total, video: shown.append((done, total)))

    monkeypatch.setattr("w2sd_video.eval.dimensions.get", get)
    small = score()
    assert happened == [(name, names) for name in names] * 3 and shown[-1] == (3, 3)

    happened.clear()
    monkeypatch.setattr("w2sd_video.eval.passes.LARGE", 0)
    large = score()
    alone = [(name, [name]) for name in (*motion, "imaging_quality", "temporal_flickering") for _ in range(3)]
    assert happened == alone
    assert large.of == small.of and shown[-1] == (12, 12) and not large.problems
    assert all(done <= total for done, total in shown)

    happened.clear()
    broken = sorted(folder.glob("*.mp4"))[1]
    broken.write_bytes(broken.read_bytes()[:2000])
    named = [(str(video.path), dimension) for video, dimension, _ in score().problems]
    assert named == [(str(broken), "")]  # once, not once a round


@pytest.mark.slow
def test_another_prompt_is_scored_again_where_it_counts(folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    evaluate([folder], ["shapes"], rows)
    names = {f"{PROMPT}-{n}.mp4": "a small blue square" for n in range(3)}
    again = evaluate([folder], ["shapes"], rows, prompts=names)
    assert [scores["shapes_right"] for scores in again.of.values()] == [0.0] * 3


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_ends_in_the_same_results(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    count = 40  # to the last of which it does not come before it is killed
    video.write_mp4(shapes_video(0), tmp_path / "one.mp4", 8)
    for seed in range(count):  # which differ in what a free box holds
        data = (tmp_path / "one.mp4").read_bytes() + b"\0\0\0\x09free" + bytes([seed])
        (tmp_path / "videos" / f"{PROMPT}-{seed}.mp4").write_bytes(data)

    def command(name: str) -> list[str]:
        return ["eval", "videos", "--dimensions", "shapes,temporal_flickering", "--out", f"{name}.json"]

    def results(name: str) -> list:
        ran = CliRunner().invoke(app, command(name))
        assert ran.exit_code == 0, ran.output
        return json.loads((tmp_path / f"{name}.json").read_text())["videos"]

    def kept() -> int:
        rows = tmp_path / "killed.jsonl"
        return rows.read_text().count("\n") if rows.exists() else 0

    monkeypatch.chdir(tmp_path)
    for rows in (1, 12):
        process = subprocess.Popen([sys.executable, "-m", "w2sd_video", *command("killed")], stdout=subprocess.DEVNULL)
        while kept() < rows and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert rows <= kept() < 2 * count
    assert results("killed") == results("whole")
    keys = [json.loads(line)["key"] for line in (tmp_path / "killed.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 2 * count


# Dimensions and weights


def test_every_dimension_says_what_it_is():
    for name in NAMES:
        dimension = get(name)
        assert dimension.name == name
        assert all(weights.licence and weights.command() for weights in dimension.weights)


def test_an_unknown_dimension_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="did you mean 'subject_consistency'"):
        expand(["subject_consitency"])
    with pytest.raises(Refused, match="--backend official"):
        get(OFFICIAL[0])


@pytest.mark.slow
def test_missing_weights_skip_a_dimension_with_a_reason(folder, tmp_path):
    scores = evaluate([folder], ["imaging_quality", "temporal_flickering"], weights=tmp_path)
    ((name, reason),) = [(each.name, each.reason) for each in scores.skipped]
    assert name == "imaging_quality" and f"curl -L --create-dirs -o {tmp_path}" in reason  # where it is looked for
    assert [set(s) for s in scores.of.values()] == [{"temporal_flickering"}] * 3


@pytest.mark.slow
def test_a_folder_of_the_hub_without_weights_skips_a_dimension(folder, tmp_path):
    (tmp_path / "dino-vitb16").mkdir()
    (tmp_path / "dino-vitb16" / "config.json").write_text("{}")
    scores = evaluate([folder], ["subject_consistency", "temporal_flickering"], weights=tmp_path)
    assert "dino-vitb16 has none of model.safetensors" in scores.skipped[0].reason and len(scores.of) == 3


@pytest.mark.parametrize("dimension", ["imaging_quality", "subject_consistency"])
def test_what_a_command_downloads_to_a_folder_is_found_in_it(dimension, tmp_path):
    (weights,) = get(dimension).weights
    words = shlex.split(weights.command(tmp_path))
    to = Path(words[words.index("--local-dir" if weights.in_hub else "-o") + 1])
    file = to / "config.json" if weights.in_hub else to
    file.parent.mkdir(parents=True)
    file.touch()
    if weights.in_hub:
        assert weights.find(tmp_path) == to
    else:  # found, and not what is published
        with pytest.raises(ValueError, match="is damaged"):
            weights.find(tmp_path)


def test_missing_weights_fail_where_nothing_else_was_asked_for(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="aesthetic_quality: the weights of CLIP ViT-L/14 are missing"):
        evaluate([folder], ["aesthetic_quality"], weights=tmp_path)


@pytest.mark.parametrize(
    "dimension, file, digits",
    [
        ("imaging_quality", "musiq_spaq_ckpt-358bb6af.pth", "358bb6af"),  # as torch puts it into names
        ("background_consistency", "ViT-B-32.pt", "40d36571"),  # as OpenAI publishes it
    ],
)
def test_weights_that_are_not_the_published_ones_are_named(tmp_path, dimension, file, digits):
    (tmp_path / file).write_bytes(b"cut short")
    with pytest.raises(FileNotFoundError, match=f"{file} is damaged: its SHA-256 does not begin with {digits}"):
        Scorer([get(dimension)], tmp_path, torch.device("cpu"))


def test_weights_that_cannot_be_used_skip_a_dimension(folder, tmp_path):
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"no weights")
    scores = evaluate([folder], ["subject_consistency", "temporal_flickering"], weights=tmp_path)
    ((name, reason),) = [(each.name, each.reason) for each in scores.skipped]
    assert name == "subject_consistency" and "dino_vitbase16_pretrain.pth" in reason
    assert not scores.problems and len(scores.of) == 3


def test_every_column_of_a_dimension_has_a_record():
    assert {column for name in NAMES for column in get(name).columns} | set(OFFICIAL) == set(COLUMNS)


# What scores come to


def test_vbench_has_two_means():
    # Two videos of 3 and 5 frames: 2 and 4 pairs.
    subject, background, imaging = map(get, ("subject_consistency", "background_consistency", "imaging_quality"))
    assert aggregate([0.5, 0.8], [3, 5], subject.weighted, 1.0) == pytest.approx((0.7, 0.65))
    assert aggregate([0.5, 0.8], [3, 5], background.weighted, 1.0) == pytest.approx((0.7, 0.7))
    assert aggregate([50.0, 80.0], [3, 5], imaging.weighted, 100.0) == pytest.approx((0.65, 0.65))


def test_totals_are_those_of_the_leaderboard():
    # A row of VBench's public leaderboard (VideoCrafter-2.0, as published in percent).
    row = {
        "subject_consistency": 96.85,
        "background_consistency": 98.22,
        "temporal_flickering": 98.41,
        "motion_smoothness": 97.73,
        "dynamic_degree": 42.50,
        "aesthetic_quality": 63.13,
        "imaging_quality": 67.22,
        "object_class": 92.55,
        "multiple_objects": 40.66,
        "human_action": 95.00,
        "color": 92.92,
        "spatial_relationship": 35.86,
        "scene": 55.29,
        "appearance_style": 25.13,
        "temporal_style": 25.84,
        "overall_consistency": 28.23,
    }
    found = totals({dimension: percent / 100 for dimension, percent in row.items()})
    assert found == {
        "quality": pytest.approx(0.8220, abs=1e-4),
        "semantic": pytest.approx(0.7342, abs=1e-4),
        "total": pytest.approx(0.8044, abs=1e-4),
    }
    assert normalise("motion_smoothness", 0.9975) == 1.0
    assert totals({"subject_consistency": 1.0}) == {}
