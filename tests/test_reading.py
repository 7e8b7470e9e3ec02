"""Reading what is scored: no file ends a run, both decoders see the same, and what would mislead is said."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, features
from rich.console import Console

from w2sd_video import runs, video
from w2sd_video.eval import decode, decoder
from w2sd_video.eval.cli import run
from w2sd_video.eval.dimensions.temporal_flickering import DIMENSION as Flickering
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.eval.frames import Reader
from w2sd_video.eval.notes import of_flickering
from w2sd_video.eval.prompts import match, read_prompts
from w2sd_video.eval.videos import find, left_out
from w2sd_video.runs import Refused

CASES = Path(__file__).with_name("golden") / "cases"
PROCESS = decoder.Decoder()
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def noise(frames: int, height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(frames, height, width, channels), dtype=np.uint8)


def encode(frames: np.ndarray, path: Path, *options: str, rate: float = 8) -> Path:
    _, height, width, channels = frames.shape
    command = [FFMPEG, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgba" if channels == 4 else "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(rate), "-i", "-", *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def copied(source: Path, path: Path, *options: str | Path, before: tuple[str, ...] = ()) -> Path:
    subprocess.run(
        [FFMPEG, "-y", "-loglevel", "error", *before, "-i", source, *options, "-c", "copy", path], check=True
    )
    return path


def animate(frames: np.ndarray, path: Path, milliseconds: int = 40) -> Path:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    settings = {"format": "PNG"} if path.suffix == ".apng" else {}
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, lossless=True, **settings)
    return path


def opened(path: Path, by_ffmpeg: bool = False) -> Reader:
    return Reader(path, by_ffmpeg, PROCESS)


def pixels(path: Path, by_ffmpeg: bool = False) -> np.ndarray:
    return np.concatenate([batch.pixels for batch in opened(path, by_ffmpeg).batches()])


def problems(*arguments: Path, **options) -> dict[str, str]:
    scores = evaluate(list(arguments), ["temporal_flickering"], **options)
    return {video.path.name: problem for video, _, problem in scores.problems}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with a video that is scored."""
    (tmp_path / "videos").mkdir()
    encode(noise(4), tmp_path / "videos" / "good.mp4", "-pix_fmt", "yuv420p")
    return tmp_path / "videos"


# Frames and their rate


@pytest.mark.slow
def test_of_frames_that_an_edit_list_hides_none_is_read():
    path = CASES / "trimmed_editlist.mp4"
    reader = opened(path)
    assert (reader.frames, reader.fps) == (11, 25)  # as OpenCV reads it
    assert np.array_equal(pixels(path), pixels(path, by_ffmpeg=True)) and len(pixels(path)) == 11
    assert any("counts 24 frames; 11 are shown" in note for note in reader.notes)
    assert not problems(path)


AVIF = pytest.mark.skipif(not features.check("avif"), reason="Pillow writes AVIF since 11.3")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", pytest.param(".avif", marks=AVIF)])
def test_the_clock_of_an_animation_is_read(tmp_path, suffix):
    reader = opened(animate(noise(5), tmp_path / f"v{suffix}"))
    assert (reader.frames, reader.fps, reader.height, reader.width) == (5, 25, 48, 64)
    if suffix in (".webp", ".apng"):
        assert np.array_equal(pixels(tmp_path / f"v{suffix}"), noise(5))


def test_animated_pictures_of_a_folder_are_videos_each_and_still_ones_its_frames(tmp_path):
    for name in ("moving", "still"):
        (tmp_path / name).mkdir()
    for n in range(2):
        animate(noise(3), tmp_path / "moving" / f"{n}.webp")
        Image.fromarray(noise(1)[0]).save(tmp_path / "still" / f"{n}.webp")
    shutil.copy(tmp_path / "moving" / "0.webp", tmp_path / "moving" / "2.webp")
    encode(noise(3), tmp_path / "moving" / "2.mp4", "-pix_fmt", "yuv420p")  # of which 2.webp is a copy for the eye
    found = [each.path.relative_to(tmp_path).as_posix() for each in find([tmp_path])]
    assert found == ["moving/0.webp", "moving/1.webp", "moving/2.mp4", "still"]
    assert [opened(tmp_path / "moving" / "0.webp").frames, opened(tmp_path / "still").frames] == [3, 2]


def test_a_video_without_a_frame_rate_says_so(tmp_path):
    encode(noise(3), tmp_path / "v.h264", "-pix_fmt", "yuv420p")
    reader = opened(tmp_path / "v.h264", by_ffmpeg=True)
    assert reader.frames == 3 and reader.fps > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "options", "suffix"),
    [
        ((64, 96), ["-vf", "scale=out_color_matrix=bt709", "-pix_fmt", "yuv420p", "-colorspace", "bt709"], ".mp4"),
        ((64, 96), ["-vf", "scale=out_color_matrix=bt601", "-pix_fmt", "yuv420p", "-colorspace", "smpte170m"], ".mp4"),
        ((64, 96), ["-vf", "scale=out_range=pc", "-pix_fmt", "yuvj420p", "-color_range", "pc"], ".mp4"),
        ((64, 96), ["-pix_fmt", "yuv422p10le"], ".mp4"),
        ((64, 96), ["-c:v", "libx265", "-x265-params", "log-level=error", "-pix_fmt", "yuv420p"], ".mp4"),
        ((64, 96), ["-c:v", "ffv1", "-pix_fmt", "bgr0"], ".mkv"),
        ((64, 96), ["-c:v", "ffv1", "-pix_fmt", "gray"], ".mkv"),
        ((64, 96), ["-pix_fmt", "yuv420p", "-flags", "+ilme+ildct"], ".mp4"),
        ((64, 96), ["-pix_fmt", "yuv420p", "-movflags", "frag_keyframe+empty_moov"], ".mp4"),
        ((61, 97), ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv444p"], ".webm"),
    ],
)
def test_pyav_gives_the_frames_of_decord_and_of_ffmpeg(tmp_path, size, options, suffix):
    path = encode(noise(5, *size), tmp_path / f"v{suffix}", *options)
    frames = pixels(path, by_ffmpeg=True)
    assert np.array_equal(frames, video.read(path))
    if opened(path).decoder == "decord":  # which has no wheel for macOS
        assert np.array_equal(frames, pixels(path))


def test_where_decord_reads_other_colours_than_ffmpeg_the_video_says_so(tmp_path):
    pytest.importorskip("decord")
    other = encode(noise(2, 61, 97), tmp_path / "v.webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p")
    levels = np.abs(pixels(other).astype(int) - pixels(other, by_ffmpeg=True)).max(axis=(1, 2, 3))
    assert f"otherwise, by up to {levels[0]} of 255" in opened(other).notes[0] and levels[0] > 2
    same = encode(noise(2), tmp_path / "v.mp4", "-pix_fmt", "yuv420p")
    assert opened(same).decoder == "decord" and not opened(same).notes


def test_of_several_streams_both_decoders_read_the_one_that_is_marked_and_say_so(tmp_path):
    small = encode(noise(3), tmp_path / "small.mp4", "-pix_fmt", "yuv420p")
    large = encode(noise(3, 64, 96), tmp_path / "large.mp4", "-pix_fmt", "yuv420p")
    marks = ("-map", "0", "-map", "1", "-disposition:0", "0", "-disposition:1", "default")
    path = copied(large, tmp_path / "two.mkv", "-i", small, *marks)
    for by_ffmpeg in (False, True):
        reader = opened(path, by_ffmpeg)
        assert (reader.height, reader.width) == (48, 64)
        assert [note for note in reader.notes if "2 video streams; number 2 is scored" in note]
    Image.fromarray(noise(1)[0]).save(tmp_path / "cover.png")
    cover = ("-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-disposition:v:1", "attached_pic")
    assert not opened(copied(small, tmp_path / "cover.mp4", *cover)).notes


def test_the_decoders_start_without_torch():
    code = "import sys, w2sd_video.eval.decode; print({'torch', 'diffusers'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# What is no good


def test_a_library_that_cannot_be_imported_is_no_fault_of_a_video(good, tmp_path, monkeypatch):
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)  # which the decoder's process has too
    with pytest.raises(ModuleNotFoundError, match="what decodes videos cannot be imported .libavcodec.so: cannot open"):
        evaluate([good], "clipped")


@pytest.mark.slow
@pytest.mark.parametrize("by_ffmpeg", [False, True])
def test_a_damaged_video_is_named_whatever_decodes_it(good, monkeypatch, by_ffmpeg):
    shutil.copy(CASES / "damaged_scored_silently.mp4", good / "damaged.mp4")
    if by_ffmpeg:
        monkeypatch.setitem(sys.modules, "decord", None)
    said = problems(good)
    assert list(said) == ["damaged.mp4"] and "it is damaged; ffmpeg reports: " in said["damaged.mp4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile good.mp4\n",
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.mkv"])
def test_a_list_of_other_files_is_no_video(good, text, name):
    (good / name).write_text(text)
    said = problems(good)
    assert list(said) == [name] and "it is a list of other files or addresses" in said[name]


@pytest.mark.slow
def test_whatever_is_in_a_file_the_rest_is_scored(good, tmp_path):
    rng = random.Random(0)
    containers = {".mp4": ("-pix_fmt", "yuv420p", "-g", "4"), ".avi": ("-c:v", "mjpeg"), ".mkv": ("-c:v", "ffv1")}
    wholes = [encode(noise(6), tmp_path / f"v{end}", *options) for end, options in containers.items()]
    wholes += [animate(noise(3), tmp_path / f"v{end}") for end in (".gif", ".webp")]
    for path in wholes:
        for n in range(4):
            data = bytearray(path.read_bytes())
            for _ in range(8):
                data[rng.randrange(len(data) if n % 2 else 600)] = rng.randrange(256)
            (good / f"{n} of {path.suffix[1:]}{path.suffix}").write_bytes(data)
    (good / "random.mp4").write_bytes(rng.randbytes(5000))
    scores = evaluate([good], ["temporal_flickering"])
    assert {each.path for each in scores.of} | {each.path for each, _, _ in scores.problems} == set(good.iterdir())
    assert good / "good.mp4" in {each.path for each in scores.of}


@pytest.mark.slow
def test_a_decoder_that_ends_or_never_answers_leaves_the_rest(good, monkeypatch):
    process = decoder.Decoder()
    assert Reader(good / "good.mp4", process=process).frames == 4
    assert process._process
    process._process.kill()
    with pytest.raises(decoder.Crashed, match="its decoder crashes on it"):
        process.read(1, 48, 64)
    assert Reader(good / "good.mp4", process=process).frames == 4
    process.close()
    code = "import time; from w2sd_video.eval import decode; decode.PATIENCE = 0.2\n"
    code += "list(decode.watched(time.sleep(900) for _ in range(2)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600).returncode == 1


def test_what_no_dimension_foresaw_in_a_video_is_named_and_the_rest_is_scored(good, monkeypatch):
    encode(noise(5, 32, 32), good / "odd.mp4", "-pix_fmt", "yuv420p")

    def score(self, video_, reader):
        if reader.frames == 5:
            raise RuntimeError("the size of tensor a must match")
        yield
        return 0.5

    monkeypatch.setattr(Flickering, "score", score)
    assert problems(good) == {"odd.mp4": "RuntimeError: the size of tensor a must match"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_no_video_and_is_not_waited_for(good):
    os.mkfifo(good / "pipe.mp4")
    assert problems(good / "good.mp4", good / "pipe.mp4") == {"pipe.mp4": "pipe.mp4 is not a file"}
    (good / "pipe.json").write_text(json.dumps({"request": {}, "hashes": {"pipe.mp4": "0"}}))
    assert problems(good / "good.mp4", good / "pipe.mp4", prompts={"pipe.mp4": "a pipe"}) == {
        "pipe.mp4": "pipe.mp4 is not a file"
    }


# What would mislead


def notes(*arguments: Path, dimensions: str = "temporal_flickering", **options) -> str:
    return "\n".join(evaluate(list(arguments), dimensions, **options).notes)


def test_transparency_is_said(tmp_path):
    clear = noise(3, channels=4)
    assert decode.ALPHA in opened(animate(clear, tmp_path / "a.webp")).notes
    assert decode.ALPHA in opened(encode(clear, tmp_path / "a.webm", "-pix_fmt", "yuva420p")).notes
    assert decode.ALPHA in opened(encode(clear, tmp_path / "a.mov", "-c:v", "qtrle")).notes
    assert not opened(animate(noise(3), tmp_path / "b.webp")).notes
    assert not opened(animate(noise(3), tmp_path / "b.gif")).notes
    assert decode.ALPHA in notes(tmp_path / "a.webp")


def test_orientation_is_said(tmp_path):
    path = encode(noise(3), tmp_path / "v.mp4", "-pix_fmt", "yuv420p")
    turned = copied(path, tmp_path / "turned.mp4", before=("-display_rotation", "90"))
    mirrored = copied(path, tmp_path / "mirrored.mp4", before=("-display_hflip",))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1)[0]).save(tmp_path / "p.jpg", exif=exif)
    assert "stored turned by 90 degrees, and scored as it is shown" in opened(turned).notes[0]
    assert "to be shown mirrored" in opened(mirrored).notes[0]
    assert np.array_equal(pixels(mirrored), pixels(mirrored, by_ffmpeg=True))
    assert "EXIF orientation" in opened(tmp_path / "p.jpg").notes[0]
    said = notes(turned, turned, tmp_path / "turned.mp4")
    assert said.count("stored turned by 90 degrees") == 1


def test_notes_stay_with_kept_scores(tmp_path):
    animate(noise(3, channels=4), tmp_path / "a.webp")
    for _ in range(2):
        assert decode.ALPHA in notes(tmp_path / "a.webp", rows_file=tmp_path / "rows.jsonl")


@pytest.mark.slow
def test_clips_that_vbench_takes_for_long_are_said(tmp_path):
    encode(noise(41, 16, 16), tmp_path / "long.mp4", "-pix_fmt", "yuv420p")
    encode(noise(39, 16, 16), tmp_path / "short.mp4", "-pix_fmt", "yuv420p")
    assert f"{tmp_path / 'long.mp4'} is 5 s long or longer: VBench-Long" in notes(tmp_path)
    assert "VBench-Long" not in notes(tmp_path / "short.mp4")


@pytest.mark.slow
def test_flickering_is_said_to_be_of_still_videos(good):
    assert "VBench scores still videos only" in notes(good)
    assert "VBench scores still videos only" not in notes(good, dimensions="clipped")


@pytest.mark.slow
def test_of_a_suite_the_videos_of_flickering_are_said_to_count_unfiltered_and_no_others_are_called_moving(good):
    paths = [good / f"a still-{n}.mp4" for n in range(6)]
    for path in paths:
        path.write_bytes((good / "good.mp4").read_bytes())
    (good / "good.mp4").rename(good / "a dog runs-0.mp4")
    asked = {"temporal_flickering": ["a still"], "clipped": ["a dog runs"]}
    said = notes(good, dimensions="temporal_flickering,clipped", asked=asked)
    assert "`vbench static_filter` keeps" in said and "; there are more than 5 of 1 prompt" in said
    moves = evaluate([good], "temporal_flickering,clipped", asked=asked)
    other = next(video for video in moves.videos if video.prompt == "a dog runs")
    moves.of[other]["dynamic_degree"] = 1.0
    assert "moving" not in "".join(of_flickering(moves, {}))
    moves.of[next(video for video in moves.of if video != other)]["dynamic_degree"] = 1.0
    assert "a still-0.mp4 is moving" in "".join(of_flickering(moves, {}))


@pytest.mark.slow
def test_a_video_that_is_not_the_one_of_its_sidecar_is_pointed_out_before_it_is_scored(good):
    request = {"prompt": "a prompt", "seed": 0, "variant": "w2sd"}
    recorded = runs.hashes([good / "good.mp4"])
    for hashes in (None, {}, recorded, {"other.mp4": "0"}, "damaged"):
        (good / "good.json").write_text(json.dumps({"request": request, "files": ["good.mp4"], "hashes": hashes}))
        assert "sidecar has the hash" not in notes(good)
    (good / "good.json").write_text(
        json.dumps({"request": request, "hashes": {"good.mp4": {**recorded["good.mp4"], "sha256": "0" * 64}}})
    )
    happened: list[str] = []
    evaluate([good], "temporal_flickering", say=happened.append, progress=lambda *_: happened.append("scoring"))
    assert "not the file that the sidecar has the hash of" in happened[0] and happened[1] == "scoring"


def test_videos_that_a_folder_leaves_out_are_counted(good):
    shutil.copy(good / "good.mp4", good / "a.m4v")
    shutil.copy(good / "good.mp4", good / "b.MPG")
    (good / "readme.txt").write_text("no video")
    assert left_out([good]) == [good / "a.m4v", good / "b.MPG"]
    said = f"2 videos, such as {good / 'a.m4v'}, are left out of folders for the suffix (.m4v, .mpg)"
    assert said in notes(good)
    assert not left_out([good / "a.m4v"]) and not left_out([good / "*"])  # which are named one by one
    assert left_out([f"{good.parent}/vid*"]) == left_out([good, good / "missing.mp4"]) == left_out([good])


# Prompts


@pytest.mark.parametrize(
    "key",
    [
        "{name}",
        "./{name}",
        "b/{name}",
        "a/./b//{name}",
        "b/../b/{name}",
        "{folder}/a/b/{name}",
        "b\\{name}",
        "C:\\Users\\me\\b\\{name}",
        "/another/machine/{name}",
    ],
)
def test_keys_of_prompts_are_paths_of_any_system(tmp_path, key):
    name = "ein Bär-0.mp4"
    path = tmp_path / "a" / "b" / name
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, key.format(folder=tmp_path, name=name))
        assert match({written: "a bear", "more.mp4": "of no video"}, [path]) == ({path: "a bear"}, ["more.mp4"])


def test_a_name_is_one_prompt_however_a_system_writes_its_accents(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        (tmp_path / form / f"{unicodedata.normalize(form, 'ein Bär')}-0.mp4").touch()
    found = find([tmp_path / form for form in ("NFC", "NFD")])
    assert {(each.prompt, each.pair) for each in found} == {("ein B\u00e4r", "ein B\u00e4r, seed 0")} and len(
        found
    ) == 2


def test_the_key_that_says_most_counts(tmp_path):
    paths = [tmp_path / folder / "v.mp4" for folder in "abc"]
    keys = {"v.mp4": "any", "b/v.mp4": "of b", f"{tmp_path}/c/v.mp4": "of c"}
    assert list(match(keys, paths)[0].values()) == ["any", "of b", "of c"]
    assert match({"b/v.mp4": "of b"}, paths)[0] == {paths[1]: "of b"}
    foreign = {"/x/a/v.mp4": "of a", "/x/b/v.mp4": "of b"}  # of another machine, none of which is c's
    assert match(foreign, paths)[0] == {paths[0]: "of a", paths[1]: "of b"}


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"v.mp4": "one", "./v.mp4": "two"}, "'v.mp4' is the same path"),
        ({"other.mp4": "one"}, "none is of any"),
        ({"v.mp4": " "}, "give texts"),
        ({"v.mp4": 3}, "give texts"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(tmp_path, prompts, says):
    with pytest.raises(Refused, match=says):
        match(prompts, [tmp_path / "v.mp4"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompts_are_read_in_any_encoding_of_unicode(tmp_path, encoding):
    (tmp_path / "p.json").write_bytes(json.dumps({"v.mp4": "Bär"}, ensure_ascii=False).encode(encoding))
    assert read_prompts(tmp_path / "p.json") == {"v.mp4": "Bär"}


def test_a_name_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "p.json").write_text('{"v.mp4": "a cat", "v.mp4": "a dog"}')
    with pytest.raises(Refused, match="prompts: .*'v.mp4' stands twice"):
        read_prompts(tmp_path / "p.json")


def test_prompts_nested_without_end_are_refused(tmp_path):
    (tmp_path / "p.json").write_text("[" * 100_000)
    with pytest.raises(Refused, match="give a JSON file"):
        read_prompts(tmp_path / "p.json")


@pytest.mark.slow
def test_the_command_says_what_has_no_prompt_and_what_prompts_are_of_nothing(good, tmp_path, capsys):
    shutil.copy(good / "good.mp4", good / "video_0002.mp4")
    (tmp_path / "p.json").write_text(json.dumps({"good.mp4": "a bunny", "c.mp4": "c"}))
    out, err = Console(width=300), Console(width=300, stderr=True)
    prompts = read_prompts(tmp_path / "p.json")
    score = partial(evaluate, [str(good)], "temporal_flickering", prompts=prompts, device="cpu")
    done = run(out, err, score, tmp_path / "r.json")
    said = capsys.readouterr().err
    assert done
    assert f"{good / 'video_0002.mp4'} is not in the prompts file, so the prompt is taken from the file's name" in said
    assert "1 of the 2 prompts are of no video that is scored, such as 'c.mp4'" in said
    assert said.count("is not in the prompts file") == 1
    kept = json.loads((tmp_path / "r.json").read_text())
    assert [note for note in kept["notes"] if "is not in the prompts file" in note]
    assert "is not in the prompts file" in (tmp_path / "r.html").read_text()
    assert kept["videos"][0]["decoder"] in ("decord", "PyAV")
