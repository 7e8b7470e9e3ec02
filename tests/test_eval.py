"""Scoring videos: finding them, reading them once, keeping scores, and what they come to."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from w2sd_video import video
from w2sd_video.cli import app
from w2sd_video.eval import containers, official, official_worker, report, videos
from w2sd_video.eval.cli import table
from w2sd_video.eval.columns import COLUMNS
from w2sd_video.eval.dimensions import NAMES, OFFICIAL, Dimension, expand, get
from w2sd_video.eval.evaluate import Scorer, Scores, Store, evaluate
from w2sd_video.eval.frames import Batch, Reader
from w2sd_video.eval.results import Summary
from w2sd_video.eval.vbench import aggregate, normalise, totals
from w2sd_video.eval.vbench import read as read_vbench
from w2sd_video.eval.videos import Video, find
from w2sd_video.runs import Refused
from w2sd_video.shapes import digits
from w2sd_video.shapes.grammar import parse
from w2sd_video.shapes.world import render

PROMPT = "a large red circle moving right"


def shapes_video(seed: int = 0, prompt: str = PROMPT) -> np.ndarray:
    return (render(parse(prompt), seed) * 255).round().astype(np.uint8)


def noise(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(frames, height, width, 3), dtype=np.uint8)


def encode(frames: np.ndarray, path: Path, *options: str, rate: float = 8) -> Path:
    """Writes frames by ffmpeg with other options than the product's own writer has."""
    _, height, width, _ = frames.shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(rate), "-i", "-", *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def one(path: Path) -> Video:
    (found,) = find([path])
    return found


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("written")
    for seed in range(3):
        video.write_mp4(shapes_video(seed), made / f"{PROMPT}-{seed}.mp4", 8)
    return made


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Three videos, a test's own."""
    return Path(shutil.copytree(written, tmp_path / "videos"))


# Finding


def test_prompts_come_from_the_json_then_the_sidecar_then_the_name(folder):
    (folder / f"{PROMPT}-1.json").write_text(
        json.dumps({"request": {"prompt": "from the sidecar", "seed": 4, "variant": "w2sd"}})
    )
    found = find([folder], {f"{PROMPT}-2.mp4": "from the json"})
    assert [v.prompt for v in found] == [PROMPT, "from the sidecar", "from the json"]
    assert [v.pair for v in found] == [f"{PROMPT}, seed 0", "from the sidecar, seed 4", f"{PROMPT}, seed 2"]


def test_globs_folders_and_files_are_groups(folder):
    found = find([folder, str(folder / "*-0.mp4"), folder / f"{PROMPT}-1.mp4"])
    assert [v.group for v in found] == [str(folder)] * 3 + [str(folder / "*-0.mp4"), str(folder / f"{PROMPT}-1.mp4")]


def test_a_gif_or_frames_beside_an_mp4_are_not_scored_twice(folder):
    video.write_gif(shapes_video(), folder / f"{PROMPT}-0.gif", 8)
    video.write_pngs(shapes_video(), folder / f"{PROMPT}-0")
    video.write_pngs(shapes_video(), folder / f"{PROMPT}-1-frames")  # as `generate --png` names them
    assert len(find([folder])) == 3


def test_frames_have_the_prompt_and_seed_of_the_video_that_they_are_of(tmp_path):
    for group, stem in {"plain": "v1.5, seed0-plain", "w2sd": "v1.5, seed0-w2sd"}.items():
        video.write_pngs(shapes_video(), tmp_path / group / f"{stem}-frames")
        request = {"prompt": PROMPT, "seed": 0, "variant": group}
        (tmp_path / group / f"{stem}.json").write_text(json.dumps({"request": request}))
    found = find([tmp_path / "plain", tmp_path / "w2sd"])
    assert [(v.prompt, v.pair) for v in found] == [(PROMPT, f"{PROMPT}, seed 0")] * 2


def test_a_folder_of_pictures_is_a_video(tmp_path):
    video.write_pngs(shapes_video(), tmp_path / "frames")
    (found,) = find([tmp_path])
    assert found.path == tmp_path / "frames" and found.open().frames == 16


@pytest.mark.parametrize(
    "argument, why",
    [
        ("missing.mp4", "there is no such file or folder; "),
        ("missing", "there is no such file or folder; "),
        ("missing/*.mp4", "it matches no video; "),
        ("empty", ""),
        ("", ""),
    ],
)
def test_what_names_no_video_is_refused(tmp_path, monkeypatch, argument, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "v.mp4").write_bytes(b"")
    with pytest.raises(Refused, match=f"videos: .*is not accepted; {why}give files, folders or globs"):
        find([argument])


def test_every_video_of_a_folder_is_found_once(tmp_path):
    for name in ("a.mp4", "a.avi", "a.gif", "a/b.mp4", "c/d.mp4", "c/e/f.mp4", ".hidden/g.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    video.write_pngs(noise(2, 8, 8), tmp_path / "pictures")
    (tmp_path / "pictures" / "videos").mkdir()
    (tmp_path / "pictures" / "videos" / "h.mp4").write_bytes(b"")
    (tmp_path / "c" / "up").symlink_to(tmp_path)
    video.write_pngs(noise(2, 8, 8), tmp_path / "pictures" / "masks")
    video.write_pngs(noise(1, 8, 8), tmp_path / "a" / "more")
    found = [str(v.path.relative_to(tmp_path)) for v in find([tmp_path])]
    assert found == ["a.avi", "a.mp4", "a/b.mp4", "c/d.mp4", "c/e/f.mp4", "pictures", "pictures/videos/h.mp4"]


def test_hidden_pictures_are_none(tmp_path):
    video.write_pngs(noise(2, 8, 8), tmp_path / "v")
    for name in ("v/._0000.png", ".thumbnails/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    assert [v.path.name for v in find([tmp_path], images=True)] == ["0000.png", "0001.png"]
    assert find([tmp_path])[0].open().frames == 2


def test_pairs_are_known_by_prompt_and_seed_or_by_name(tmp_path):
    for name in ("1/cat-0.mp4", "2/cat-0.webm", "3/other.mp4", "1/dog.mp4", "2/dog.gif", "1/null.mp4", "2/empty.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, prompt in {"3/other": "cat", "1/null": None, "2/empty": ["cat"]}.items():
        request = {"prompt": prompt, "seed": 0, "variant": "w2sd"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"request": request}))
    found = {v.path.name: v.pair for v in find([tmp_path / group for group in "123"])}
    assert found["cat-0.mp4"] == found["cat-0.webm"] == found["other.mp4"] == "cat, seed 0"
    assert found["dog.mp4"] == found["dog.gif"] == "dog"
    assert (found["null.mp4"], found["empty.mp4"]) == ("null", "empty")


def test_a_prompt_for_a_video_that_is_not_there_is_refused(folder):
    with pytest.raises(Refused, match="prompts: 'other.mp4' is not accepted"):
        find([folder], {"other.mp4": "a prompt"})


# Reading


@pytest.mark.parametrize(
    ("size", "options", "rate", "suffix"),
    [
        ((64, 64), ["-pix_fmt", "yuv420p"], 8, ".mp4"),
        ((64, 98), ["-pix_fmt", "yuv420p"], 12.5, ".mp4"),
        ((32, 48), ["-pix_fmt", "yuv420p"], 8, ".mp4"),
        ((61, 97), ["-pix_fmt", "yuv444p"], 24, ".mp4"),
        ((48, 80), ["-pix_fmt", "yuv422p"], 30, ".mp4"),
        ((48, 80), ["-pix_fmt", "yuv444p10le"], 30, ".mp4"),
        ((48, 80), ["-pix_fmt", "yuv420p", "-bf", "3", "-g", "7"], 24000 / 1001, ".mp4"),
        ((64, 64), ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"], 8, ".webm"),
        ((64, 64), ["-c:v", "mjpeg", "-q:v", "2"], 8, ".avi"),
    ],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda rate: rate in (12.5, 24))
def test_decord_and_ffmpeg_give_the_same_frames(tmp_path, monkeypatch, size, options, rate, suffix):
    path = encode(noise(9, *size), tmp_path / f"v{suffix}", *options, rate=rate)
    first = Reader(path)
    assert (first.frames, first.height, first.width) == (9, *size)
    assert first.fps == pytest.approx(rate, abs=0.01)
    frames = np.concatenate([batch.pixels for batch in first.batches()])
    monkeypatch.setitem(sys.modules, "decord", None)
    second = Reader(path)
    assert (second.frames, second.height, second.width) == (9, *size)
    assert second.fps == pytest.approx(rate, abs=0.01)
    assert np.array_equal(frames, np.concatenate([batch.pixels for batch in second.batches()]))


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [False, True])
def test_every_stored_frame_of_a_variable_frame_rate_is_read_once(tmp_path, monkeypatch, jitter):
    path = tmp_path / "v.mp4"
    times = "settb=1/90000,setpts=N*3600+random(0)*3000" if jitter else "setpts=N*N/8/TB"
    encode(noise(8, 48, 48), path, "-vf", times, "-fps_mode", "passthrough", "-pix_fmt", "yuv420p")
    reader = Reader(path)
    frames = np.concatenate([batch.pixels for batch in reader.batches()])
    monkeypatch.setitem(sys.modules, "decord", None)
    assert np.array_equal(frames, np.concatenate([batch.pixels for batch in Reader(path).batches()]))
    assert len(frames) == reader.frames == 8


@pytest.mark.slow
def test_a_rotated_video_is_read_as_it_is_shown(tmp_path, monkeypatch):
    encode(noise(4, 48, 96), tmp_path / "v.mp4", "-pix_fmt", "yuv420p")
    turn = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90", "-i", tmp_path / "v.mp4"]
    subprocess.run([*turn, "-c", "copy", tmp_path / "turned.mp4"], check=True)
    for reader in (Reader(tmp_path / "turned.mp4"), Reader(tmp_path / "turned.mp4", by_ffmpeg=True)):
        (batch,) = reader.batches()
        assert batch.pixels.shape == (4, 96, 48, 3)


@pytest.mark.slow
def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.write_mp4(shapes_video(), tmp_path / "a cat: close up-0.mp4", 8)
    (found,) = find(["."])
    assert found.open().frames == found.open(by_ffmpeg=True).frames == 16


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    frames = noise(12, 16, 16)
    (tmp_path / "v").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "v" / f"{index}.png")
    (batch,) = Reader(tmp_path / "v").batches()
    assert np.array_equal(batch.pixels, frames)


def test_batches_are_bounded_by_pixels_and_lose_nothing(tmp_path, monkeypatch):
    frames = noise(7, 16, 24)
    video.write_pngs(frames, tmp_path / "v")
    monkeypatch.setattr("w2sd_video.eval.frames.BATCH_PIXELS", 3 * 16 * 24)
    batches = list(Reader(tmp_path / "v").batches())
    assert [(batch.first, len(batch)) for batch in batches] == [(0, 3), (3, 3), (6, 1)]
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), frames)


def test_alpha_is_dropped_and_sixteen_bits_of_colour_read_as_eight(tmp_path):
    frames = noise(2, 16, 16)
    (tmp_path / "v").mkdir()
    Image.fromarray(np.concatenate([frames[0], np.full((16, 16, 1), 9, np.uint8)], -1)).save(tmp_path / "v" / "0.png")
    Image.fromarray(frames[1]).save(tmp_path / "v" / "1.png")
    (batch,) = Reader(tmp_path / "v").batches()
    assert np.array_equal(batch.pixels, frames)


def test_the_clock_of_a_gif_is_read(tmp_path):
    video.write_gif(shapes_video(), tmp_path / "v.gif", 12)
    reader = Reader(tmp_path / "v.gif")
    assert (reader.frames, reader.height, reader.width) == (16, 64, 64)
    assert reader.fps == pytest.approx(12.5)  # of hundredths of a second


def broken(path: Path, kind: str) -> Path:
    """A file that cannot be scored."""
    whole = path.with_name("whole.mp4")
    video.write_mp4(shapes_video(), whole, 8)
    data = whole.read_bytes()
    whole.unlink()
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a video at all\n" * 100)
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "damaged":
        path.write_bytes(data[:-900] + bytes(900))
    elif kind == "sound":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 800, "NONE", ""))
            sound.writeframes(bytes(1600))
    return path


@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
@pytest.mark.parametrize("kind", ["zero bytes", "text", "cut", "sound"])
@pytest.mark.slow_unless(case=lambda kind, decoder: decoder == "decord" or kind == "cut")
def test_a_broken_video_is_named_and_the_rest_is_scored(folder, monkeypatch, kind, decoder):
    if decoder == "ffmpeg":
        monkeypatch.setitem(sys.modules, "decord", None)
    broken(folder / "broken.mp4", kind)
    scores = evaluate([folder], ["temporal_flickering"])
    assert len(scores.of) == 3
    ((bad, _, problem),) = scores.problems
    assert bad.path.name == "broken.mp4" and problem


@pytest.mark.parametrize("by_ffmpeg", [False, True])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.mp4", ["-pix_fmt", "yuv420p", "-movflags", "+faststart"]),
        ("v.mp4", ["-pix_fmt", "yuv420p", "-movflags", "frag_keyframe+empty_moov"]),
        ("v.mkv", ["-pix_fmt", "yuv420p"]),
        ("v.webm", ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p"]),
        ("v.avi", ["-c:v", "mjpeg", "-q:v", "3"]),
    ],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda part, name: part == 0.5 and name in ("v.mp4", "v.webm"))
def test_a_file_that_was_cut_short_is_no_shorter_video(tmp_path, name, options, part, by_ffmpeg):
    path = encode(noise(20, 48, 64), tmp_path / name, *options, "-g", "4")
    assert sum(map(len, Reader(path, by_ffmpeg).batches())) == 20
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match="the file is cut short"):
        Reader(path, by_ffmpeg)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.avi", ["-c:v", "mjpeg"]),  # whose length is not known yet where it is written to a pipe
        ("v.webm", ["-c:v", "libvpx-vp9"]),
        ("v.mp4", ["-pix_fmt", "yuv420p"]),
    ],
)
def test_a_file_that_does_not_say_how_long_it_is_is_not_cut_short(tmp_path, name, options):
    path = encode(noise(4, 48, 64), tmp_path / name, *options)
    if name == "v.mp4":
        path.write_bytes(path.read_bytes() + b"TAG, as some cameras write it, and no box")
    else:
        pipe = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", path, "-c", "copy", "-f", name[2:], "-"]
        path.write_bytes(subprocess.run(pipe, capture_output=True, check=True).stdout)
    assert not containers.cut_short(path)
    scores = evaluate(path, "temporal_flickering")  # by ffmpeg where decord does not open it, or dies of it
    assert [fact["frames"] for fact in scores.facts.values()] == [4] and not scores.problems


@pytest.mark.slow
def test_a_file_that_ends_its_decoder_is_read_by_another(folder, tmp_path):
    pytest.importorskip("decord")
    options = ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-g", "4"]
    first = encode(noise(12, 64, 64), folder / f"{PROMPT}-0.mp4", *options)
    data = bytearray(first.read_bytes())
    data[data.index(b"stts") + 11] = (
        206  # entries of the table of times, of which there is 1: decord runs out of memory
    )
    first.write_bytes(data)
    reader, other = Reader(first), Reader(folder / f"{PROMPT}-1.mp4")
    assert (reader.decoder, reader.decord_crashed) == ("PyAV", True)
    assert (other.decoder, other.decord_crashed) == ("decord", False)
    shutil.copy(first, folder / "other end.m4v")
    scores = evaluate([folder, folder / "other end.m4v"], ["temporal_flickering"])
    assert len(scores.of) == 4 and not scores.problems


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_gif_that_was_cut_short_is_named(folder, part):
    video.write_gif(shapes_video(), folder / "cut.gif", 8)
    data = (folder / "cut.gif").read_bytes()
    (folder / "cut.gif").write_bytes(data[: int(part * len(data))])
    scores = evaluate([folder], ["temporal_flickering"])
    assert len(scores.of) == 3 and [bad.path.name for bad, _, _ in scores.problems] == ["cut.gif"]


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_scored_has_no_score(folder, tmp_path):
    last = folder / f"{PROMPT}-2.mp4"

    def change(done: int, total: int, video_: Video) -> None:
        if done == 1:
            video.write_mp4(shapes_video(9), last, 8)

    scores = evaluate([folder], ["temporal_flickering"], tmp_path / "rows.jsonl", progress=change)
    ((bad, _, problem),) = scores.problems
    assert bad.path == last and problem == "it changed while it was scored; score it again"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert len(evaluate([folder], ["temporal_flickering"], tmp_path / "rows.jsonl").of) == 3
    found = find([folder])
    evaluate(found, ["temporal_flickering"])
    video.write_mp4(shapes_video(10), last, 8)
    assert not evaluate(found, ["temporal_flickering"]).problems


def test_pictures_of_more_than_eight_bits_of_grey_are_refused(tmp_path):
    (tmp_path / "v").mkdir()
    for n in range(2):
        Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(tmp_path / "v" / f"{n}.png")
    ((_, _, problem),) = evaluate([tmp_path / "v"], ["temporal_flickering"]).problems
    assert "0.png cannot be read: it has more than 8 bits a channel" in problem


def test_frames_of_different_sizes_are_refused(tmp_path):
    video.write_pngs(noise(2, 16, 16), tmp_path / "v")
    Image.fromarray(noise(1, 16, 20)[0]).save(tmp_path / "v" / "9.png")
    ((_, _, problem),) = evaluate([tmp_path / "v"], ["temporal_flickering"]).problems
    assert problem == "frame 2 is 20x16, the first is 16x16"


def test_a_video_of_one_frame_has_no_flickering(tmp_path):
    video.write_pngs(noise(1, 16, 16), tmp_path / "v")
    ((_, name, problem),) = evaluate([tmp_path / "v"], ["temporal_flickering"]).problems
    assert (name, problem) == ("temporal_flickering", "it has 1 frame, and at least 2 are compared")


def test_side_by_side_videos_are_not_scored(folder):
    (folder / f"{PROMPT}-0.json").write_text(
        json.dumps({"request": {"prompt": PROMPT, "seed": 0, "variant": "compare"}})
    )
    ((_, _, problem),) = evaluate([folder], ["temporal_flickering"]).problems
    assert "side by side" in problem


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
        process = subprocess.Popen(
            [sys.executable, "-m", "w2sd_video.cli", *command("killed")], stdout=subprocess.DEVNULL
        )
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
        assert all(weights.licence and weights.command for weights in dimension.weights)


def test_an_unknown_dimension_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="did you mean 'subject_consistency'"):
        expand(["subject_consitency"])
    with pytest.raises(Refused, match="--backend official"):
        get(OFFICIAL[0])


@pytest.mark.slow
def test_missing_weights_skip_a_dimension_with_a_reason(folder, tmp_path):
    scores = evaluate([folder], ["imaging_quality", "temporal_flickering"], weights=tmp_path)
    ((name, reason),) = [(each.name, each.reason) for each in scores.skipped]
    assert name == "imaging_quality" and "curl -L" in reason
    assert [set(s) for s in scores.of.values()] == [{"temporal_flickering"}] * 3


@pytest.mark.slow
def test_a_folder_of_the_hub_without_weights_skips_a_dimension(folder, tmp_path):
    (tmp_path / "dino-vitb16").mkdir()
    (tmp_path / "dino-vitb16" / "config.json").write_text("{}")
    scores = evaluate([folder], ["subject_consistency", "temporal_flickering"], weights=tmp_path)
    assert "dino-vitb16 has none of model.safetensors" in scores.skipped[0].reason and len(scores.of) == 3


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


def made_up(values: dict[str, list[float]]) -> Scores:
    scored = [
        Video(Path(f"{group}/{n}.mp4"), group, str(n), None) for group in values for n in range(len(values[group]))
    ]
    scores = Scores([get("shapes")], scored)
    for each in scored:
        scores.of[each] = {"shapes_jerk": values[each.group][int(each.pair)]}
    return scores


def test_groups_are_compared_pair_by_pair_with_the_first():
    # Pairs differ by little, videos by much: only the paired comparison can tell.
    base = [float(n) for n in range(20)]
    (found,) = Summary(made_up({"a": base, "b": [n - 0.1 * (1 + i % 2) for i, n in enumerate(base)]})).comparisons
    assert (found.column, found.base, found.group, found.win_rate) == ("shapes_jerk", "a", "b", 1.0)
    assert found.difference.mean == pytest.approx(-0.15) and found.better is True  # lower jerk is better


def test_a_few_pairs_say_nothing():
    (found,) = Summary(made_up({"a": [1.0, 2.0, 3.0], "b": [0.5, 1.5, 2.5]})).comparisons
    assert found.better is None and found.reason == "no verdict: under 10 prompts"


def test_groups_without_pairs_are_not_compared():
    scores = made_up({"a": [1.0, 2.0]})
    other = Video(Path("b/x.mp4"), "b", "x", None)
    scores.videos.append(other)
    scores.of[other] = {"shapes_jerk": 1.0}
    summary = Summary(scores)
    assert summary.comparisons == [] and "b: nothing to compare" in summary.notes[0]


def test_videos_without_a_pair_are_counted():
    scores = made_up({"a": [1.0, 2.0, 3.0], "b": [1.0]})
    assert Summary(scores).notes == ["b: 2 videos of it and a have no pair in the other, and are not compared"]


def test_of_a_pair_that_a_group_has_twice_none_is_compared():
    scores = made_up({"a": [1.0, 2.0], "b": [1.5, 3.0]})
    twin = Video(Path("b/twin.mp4"), "b", scores.videos[0].pair, None)
    scores.videos.append(twin)
    scores.of[twin] = {"shapes_jerk": 9.0}
    summary = Summary(scores)
    (found,) = summary.comparisons
    assert (found.difference.n, found.difference.mean) == (1, 1.0)
    assert "b: 1 of 2 pairs are left out" in summary.notes[0]


# The command line

runner = CliRunner()


def command(*arguments: object) -> tuple[int, str]:
    ran = runner.invoke(app, ["eval", *map(str, arguments)])
    return ran.exit_code, ran.output


def test_the_command_writes_every_file_and_says_where(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for seed in range(3):
        video.write_mp4(shapes_video(seed + 5), other / f"{PROMPT}-{seed}.mp4", 8)
    out = tmp_path / "results.json"
    code, said = command(folder, other, "--dimensions", "shapes,temporal_flickering", "--out", out)
    assert code == 0, said
    for name in ("results.json", "results.csv", "results.html", "results_1_eval_results.json"):
        assert (tmp_path / name).exists() and name in said
    data = json.loads(out.read_text())
    assert len(data["videos"]) == 6 and {c["group"] for c in data["comparisons"]} == {str(other)}
    total, listed = read_vbench(tmp_path / "results_1_eval_results.json")["temporal_flickering"]
    assert total == pytest.approx(np.mean([score for _, score in listed])) and len(listed) == 3
    page = (tmp_path / "results.html").read_text()
    assert "data-plot=bars" in page and "shapes_right" in page and (tmp_path / "results_files").is_dir()


@pytest.mark.slow
def test_the_exit_code_says_that_a_video_was_not_scored(folder, tmp_path):
    broken(folder / "broken.mp4", "cut")
    code, said = command(folder, "--dimensions", "temporal_flickering", "--out", tmp_path / "r.json")
    assert code == 1 and "broken.mp4: the file is cut short" in said
    assert len(json.loads((tmp_path / "r.json").read_text())["videos"]) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.mp4"], "'missing.mp4' is not accepted"),
        (["{folder}", "--dimensions", "beauty"], "'beauty' is not accepted"),
        (["{folder}", "--dimensions", ""], "is not accepted; did you mean|is not accepted; "),
        (["{folder}", "--out", "results.txt"], "give the name of a .json file"),
        (["{folder}", "--prompts", "missing.json"], "give a JSON file such as"),
        (["{folder}", "--weights", "missing"], "'missing' is not accepted; give a folder"),
        (["{folder}", "--device", "toaster"], "'toaster' is not accepted"),
        (["{folder}", "--dimensions", "imaging_quality"], "the weights of MUSIQ"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(folder, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "none"))
    if "--dimensions" not in arguments:
        arguments = [*arguments, "--dimensions", "temporal_flickering"]
    code, said = command(*[each.format(folder=folder) for each in arguments])
    assert code == 2 and any(each in said for each in says.split("|")), said
    assert not list(tmp_path.glob("results*"))


def test_what_another_program_wrote_is_left_as_it_is(folder, tmp_path):
    cases = {
        "folder.json": None,
        "sidecar.json": '{"request": {"prompt": "a cat"}}',
        "list.json": "[1]",
        "table.csv": "a,b\n",
        "page.html": "<p>",
        "rows.jsonl": '{"foreign": true}\n',
        "row.jsonl": '{"foreign": true}',
        "part.html": None,
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.mkdir() if content is None else path.write_text(content)
        code, said = command(folder, "--dimensions", "temporal_flickering", "--out", path.with_suffix(".json"))
        assert code in (1, 2) and name in said.replace("\n", ""), (name, said)
        assert path.is_dir() if content is None else path.read_text() == content
        assert content is None or name.endswith(".json") or not path.with_suffix(".json").exists()


@pytest.mark.slow
def test_what_this_command_wrote_it_writes_again(folder, tmp_path):
    out = tmp_path / "r.json"
    options = ["--dimensions", "temporal_flickering", "--out", out]
    (tmp_path / "r2_eval_results.json").write_text("{}")
    for removed in ("", "r.json", "r.json r.jsonl", "r.json r.csv r.html"):
        for name in removed.split():
            (tmp_path / name).unlink()
        assert command(folder, *options)[0] == 0
    for name in ("r.json", "r.jsonl", "r.csv", "r.html"):
        (tmp_path / name).unlink()
    code, said = command(folder, *options)  # by whom it was written, a file in VBench's schema does not say
    assert code == 2 and "r_eval_results.json is there" in said.replace("\n", "")


def test_names_that_are_no_text_or_look_like_markup_are_shown(tmp_path):
    groups = ["g$x_$", "_u", "gr[red]x", "caf\udce9"]
    names = ("temporal_flickering", "subject_consistency", "imaging_quality")  # three make a radar
    scored = [Video(tmp_path / group / "v.mp4", group, "v", None) for group in groups]
    scores = Scores([get(name) for name in names], scored, weights=dict.fromkeys(names, {}))
    for each in scored:
        each.path.parent.mkdir()
        video.write_mp4(shapes_video(), each.path, 8)
        scores.of[each], scores.facts[each] = dict.fromkeys(names, 0.5), {"frames": 16}
    summary = Summary(scores)
    files = summary.write(tmp_path / "r.json", [])
    report.write(tmp_path / "r.html", summary)
    page = (tmp_path / "r.html").read_text()
    assert "data-plot=radar" in page and "caf\\udce9" in page and json.loads(files[0].read_text())["groups"]
    shown = io.StringIO()
    Console(file=shown, width=400).print(table(summary))
    assert "gr[red]x" in shown.getvalue() and "caf\\udce9" in shown.getvalue()


def test_many_groups_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = made_up({f"g{n}": [float(n)] for n in range(9)})
    for n in range(9):  # as if a shell had put all files of a folder on the command line
        Path(f"g{n}").touch()
    shown = io.StringIO()
    Console(file=shown, width=60).print(table(Summary(scores)))
    assert all(f"g{n}" in shown.getvalue() for n in range(9))
    assert "put a glob in quotes" in Summary(scores).notes[0]


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"videos": None}, "videos"),
        ({"videos": [3]}, "videos"),
        ({"dimensions": [3]}, "dimensions"),
        ({"dimensions": None}, "dimensions"),
        ({"rows_file": 3}, "rows_file"),
        ({"prompts": ["a prompt"]}, "prompts"),
        ({"prompts": {"v.mp4": 3}}, "prompts"),
        ({"weights": "nowhere"}, "weights"),
        ({"references": [3]}, "references"),
        ({"references": "nowhere", "dimensions": "clip_i,clipped"}, "references"),
        ({"references": "nowhere.npz", "dimensions": "fid,clipped"}, "references"),
        ({"official": True}, "official"),
        ({"device": None}, "device"),
        ({"device": 3}, "device"),
        ({"device": "meta"}, "device"),
    ],
)
def test_bad_arguments_are_named_with_their_values(folder, tmp_path, monkeypatch, arguments, argument):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "none"))
    given = {"videos": [folder], "dimensions": "temporal_flickering"} | arguments
    with pytest.raises(Refused, match="is not accepted; ") as refused:
        evaluate(**given)
    assert refused.value.argument == argument


@pytest.mark.slow
def test_one_path_stands_for_itself_and_an_iterator_for_what_it_gives(folder):
    one_by_one = evaluate((path for path in [folder]), (name for name in ["temporal_flickering"]))
    assert evaluate(str(folder), " temporal_flickering ").of.keys() == one_by_one.of.keys() != set()


# VBench's own package


def python_with_metadata_only(tmp_path: Path) -> str:
    """A Python in which VBench's package is listed as installed, and cannot be imported."""
    site = tmp_path / "site"
    (site / "vbench-0.1.5.dist-info").mkdir(parents=True)
    (site / "vbench-0.1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vbench\nVersion: 0.1.5\n")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_the_official_backend_says_where_its_package_is_missing(folder, tmp_path):
    code, said = command(
        folder, "--backend", "official", "--out", tmp_path / "r.json", "--official-python", "no-python"
    )
    assert code == 2 and "VBench's package is not installed for no-python" in said
    assert not (tmp_path / "r.json").exists()


@pytest.mark.slow
def test_the_official_backend_reports_what_its_package_says(folder, tmp_path):
    options = ["--backend", "official", "--dimensions", "scene", "--out", tmp_path / "r.json"]
    code, said = command(folder, *options, "--official-python", python_with_metadata_only(tmp_path))
    assert code == 2 and "scene: VBench's package" in said and "No module named 'vbench'" in said


@pytest.mark.slow
def test_the_official_backend_scores_as_we_do_and_what_it_cannot_is_named(folder, tmp_path, monkeypatch):
    pytest.importorskip("vbench")
    pytest.importorskip("cv2")
    ours = evaluate([folder], ["temporal_flickering"])
    video.write_mp4(shapes_video()[:1], folder / "one frame.mp4", 8)
    video.write_mp4(shapes_video(7), folder / "side.mp4", 8)
    video.write_pngs(shapes_video(8), folder / "pictures")  # which its temporal_flickering leaves out without a word
    compared = {"prompt": PROMPT, "seed": 0, "variant": "compare"}
    (folder / "side.json").write_text(json.dumps({"request": compared}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decord.py").write_text("raise ImportError('the current folder is not for import')")
    scores = evaluate([folder], ["temporal_flickering", "appearance_style"], official=sys.executable)
    assert {v.path.name: said for v, _, said in scores.problems} == {
        "one frame.mp4": "VBench gave it no score",
        "pictures": "VBench gave it no score",
        "side.mp4": "it shows several videos side by side; score them one by one",
    }
    assert len(ours.of) == 3 and scores.of == ours.of
    assert [each.name for each in scores.skipped] == ["appearance_style"]
    assert "no video is of one of them" in scores.skipped[0].reason


@pytest.mark.slow
def test_scores_of_the_official_package_are_kept_beside_videos_of_other_prompts(folder, tmp_path):
    pytest.importorskip("vbench")
    first, *_ = find([folder])
    (dimension,) = official.dimensions(["appearance_style"], sys.executable)
    key = Scorer([dimension], None, torch.device("cpu")).key(dimension, first)
    Store(tmp_path / "rows.jsonl").add({key: (dimension.name, {dimension.name: 0.5})}, first.open().facts)
    scores = evaluate([folder], [dimension.name], tmp_path / "rows.jsonl", official=sys.executable)
    assert scores.of == {first: {"appearance_style": 0.5}} and not scores.problems and not scores.skipped


def test_the_official_package_is_given_names_that_it_reads(tmp_path):
    (tmp_path / "a-person-is-riding-a-bike-35-seed0.webm").write_bytes(b"a video")
    asked = {"path": str(next(tmp_path.iterdir())), "prompt": "A person is riding a bike"}
    (tmp_path / "links").mkdir()
    place = official_worker.linked(asked, 7, str(tmp_path / "links"))
    assert Path(place).read_bytes() == b"a video" and place.endswith(".mp4")
    # human_action.py, line 78 of vbench 0.1.5
    assert place.split("/")[-1].lower().split("-")[0].split("person is ")[-1].split("_")[0] == "riding a bike"


def test_every_column_of_a_dimension_has_a_record():
    assert {column for name in NAMES for column in get(name).columns} | set(OFFICIAL) == set(COLUMNS)
