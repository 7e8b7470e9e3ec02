"""Videos: finding them, and reading each of their frames once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from videofiles import PROMPT, broken, encode, noise, shapes_video

from w2sd_video import video
from w2sd_video.eval import containers
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.eval.frames import Reader
from w2sd_video.eval.videos import Video, find
from w2sd_video.runs import Refused

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
