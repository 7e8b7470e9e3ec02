"""What is scored, of what was expected: missing videos, files that only one decoder reads, and every order of files."""

from __future__ import annotations

import json
import math
import random
import subprocess
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_verdicts import scored

from w2sd_video.columns import Column
from w2sd_video.eval import decoder, report
from w2sd_video.eval.cli import table
from w2sd_video.eval.evaluate import Scores, Store, evaluate
from w2sd_video.eval.frames import Reader
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import find, lacking
from w2sd_video.shapes import table as bench_table

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
PROCESS = decoder.Decoder()


def encode(path: Path, *options: str, seed: int = 0, count: int = 4) -> Path:
    """Noise of 64x48 pixels, 8 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(256, size=(count, 48, 64, 3), dtype=np.uint8)
    command = [FFMPEG, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "8"]
    subprocess.run([*command, "-i", "-", *options, str(path)], input=frames.tobytes(), check=True)
    return path


def sidecar(folder: Path, stem: str, prompt: str, seed: int, *files: str, variant: str = "w2sd") -> None:
    request = {"prompt": prompt, "seed": seed, "variant": variant}
    (folder / f"{stem}.json").write_text(json.dumps({"format": 2, "request": request, "files": list(files)}))


def flickering(*arguments: object, **options: object) -> Scores:
    return evaluate(list(arguments), ["temporal_flickering"], **options)  # type: ignore[arg-type]


# What was expected


@pytest.mark.slow
def test_a_video_that_is_missing_beside_its_sidecar_was_expected_and_failed(tmp_path):
    for group in ("plain", "w2sd"):
        for seed in range(2):
            encode(tmp_path / group / f"{seed}.mp4", "-pix_fmt", "yuv420p", seed=seed)
            sidecar(tmp_path / group, str(seed), "a prompt", seed, f"{seed}.mp4", f"{seed}.gif")
    (tmp_path / "w2sd" / "1.mp4").unlink()
    scores = flickering(tmp_path / "plain", tmp_path / "w2sd")
    assert [(v.path.name, v.prompt, why) for v, _, why in scores.problems] == [
        ("1.mp4", "a prompt", "it is not there, though its sidecar says that it was made")
    ]
    summary = Summary(scores)
    assert summary.counted(str(tmp_path / "w2sd")) == "1 prompt, 2 videos; 1 of 2 failed"
    assert summary.means[str(tmp_path / "w2sd")]["temporal_flickering"].counted == "1 of 2"
    assert summary.comparisons[0].failed == 1


def test_what_is_there_under_another_name_or_was_not_to_be_scored_is_not_missing(tmp_path):
    for stem, there in {"a": "a.webm", "b": "b.gif", "c": "c.ts"}.items():
        (tmp_path / there).touch()
        sidecar(tmp_path, stem, stem, 0, f"{stem}.mp4")
    (tmp_path / "d-frames").mkdir()
    sidecar(tmp_path, "d", "d", 0, "d.mp4", "d-frames")
    sidecar(tmp_path, "e", "e", 0, "e.mp4", variant="compare")  # whose videos are scored one by one
    sidecar(tmp_path, "f", "f", 0, "../f.mp4", "f.png")
    (tmp_path / "results.json").write_text('{"groups": {}, "files": ["results.mp4"]}')
    assert lacking([tmp_path]) == []
    sidecar(tmp_path, "g", "g", 7, "g.mp4", "g.png")
    assert [(v.path, v.pair, v.prompt) for v in lacking([tmp_path])] == [(tmp_path / "g.mp4", "g, seed 7", "g")]
    assert [v.path.name for v in lacking([tmp_path], images=True)] == ["f.png", "g.png"]
    assert [v.prompt for v in lacking([tmp_path], {"g.mp4": "of the file"})] == ["of the file"]
    assert [v.group for v in lacking([tmp_path / "*.mp4", tmp_path / "*"])] == [str(tmp_path / "*")]


def test_a_glob_expects_what_sidecars_beside_its_files_name(tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}-plain.mp4").touch()
        sidecar(tmp_path, f"{seed}-plain", "a prompt", seed, f"{seed}-plain.mp4")
        sidecar(tmp_path, f"{seed}-w2sd", "a prompt", seed, f"{seed}-w2sd.mp4")
    (tmp_path / "0-plain.mp4").unlink()
    (tmp_path / "2-w2sd.mp4").touch()
    absent = {glob: [v.path.name for v in lacking([str(tmp_path / glob)])] for glob in ("*-plain.mp4", "*-w2sd.mp4")}
    assert absent == {"*-plain.mp4": ["0-plain.mp4"], "*-w2sd.mp4": ["0-w2sd.mp4", "1-w2sd.mp4"]}


# Decoders


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("v.ts", ("-pix_fmt", "yuv420p")), ("v.mpg", ("-c:v", "mpeg2video"))])
def test_a_stream_in_which_decord_fails_midway_is_read_by_pyav(tmp_path, name, options):
    path = encode(tmp_path / name, *options, count=20)
    scores = flickering(path)
    (facts,) = scores.facts.values()
    assert not scores.problems and facts["frames"] == 20
    frames = np.concatenate([batch.pixels for batch in Reader(path, by_ffmpeg=True, process=PROCESS).batches()])
    steps = np.abs(np.diff(frames.astype(float), axis=0)).mean()
    assert scores.of[scores.videos[0]]["temporal_flickering"] == pytest.approx((255 - steps) / 255, rel=1e-6)


def test_bytes_of_a_codec_alone_have_the_rate_that_the_codec_says_and_else_a_guess_that_is_said(tmp_path):
    said = Reader(encode(tmp_path / "v.h264", "-pix_fmt", "yuv420p"), process=PROCESS)
    assert (said.frames, said.fps, said.notes) == (4, 8, [])
    guessed = Reader(encode(tmp_path / "v.mjpeg", "-f", "mjpeg"), process=PROCESS)
    assert guessed.notes == [f"it has no frame rate, and is taken to have {guessed.fps:g} frames a second"]
    first, *rest = (Image.new("L", (64, 48), 50 * n) for n in range(3))
    first.save(tmp_path / "v.gif", save_all=True, append_images=rest, duration=0)
    still = Reader(tmp_path / "v.gif", process=PROCESS)
    assert (still.frames, still.notes) == (3, ["it has no frame rate, and is taken to have 8 frames a second"])


def test_pixels_that_are_no_squares_are_said(tmp_path):
    path = encode(tmp_path / "v.mp4", "-pix_fmt", "yuv420p", "-vf", "setsar=2/1")
    (note,) = Reader(path, process=PROCESS).notes
    assert note == "its pixels are to be shown 2 as wide as they are high, and are scored as squares"


def test_a_codec_that_nobody_knows_is_no_video_that_can_be_decoded(tmp_path):
    path = encode(tmp_path / "v.mp4", "-pix_fmt", "yuv420p")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9"))
    with pytest.raises(ValueError, match="it is not a video that can be decoded"):
        Reader(path, process=PROCESS)


# Orders


@pytest.mark.slow
def test_in_whatever_order_videos_are_given_the_files_and_the_page_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    for group in ("plain", "w2sd"):
        for n in range(4):
            name = f"{group}/a prompt-{n}.mp4"
            encode(tmp_path / name, "-pix_fmt", "yuv420p", *["-vf", "setsar=2/1"] * (n % 2), seed=n)
        (tmp_path / group / "broken-0.mp4").write_bytes(b"no video")
        (tmp_path / group / "empty-0.mp4").touch()
    groups = [find([tmp_path / group]) for group in ("plain", "w2sd")]
    written = []
    for n in range(3):
        for videos in groups:
            random.Random(n).shuffle(videos)
        scores = flickering(*groups[0], *groups[1], prompts=None)
        scores.seconds = 0.0
        summary = Summary(scores)
        (tmp_path / f"out{n}").mkdir()
        files = summary.write(tmp_path / f"out{n}" / "r.json", [])
        written.append([file.read_bytes() for file in files] + [report.page(summary).encode()])
    assert written[0] == written[1] == written[2]


# What is printed


def test_the_table_says_of_how_many_pairs_a_difference_is_where_one_does_not_show_it():
    rng = np.random.default_rng(0)
    videos = {
        group: {
            (f"prompt {i}", 0): {"shapes_jerk": None if group == "w2sd" and i < 2 else rng.normal()} for i in range(14)
        }
        for group in ("plain", "w2sd")
    }
    summary = Summary(scored(videos, ["shapes"]))
    assert any("both videos of a pair show it (n of N pairs)" in line for line in summary.legend)
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(table(summary, 200))
    assert "(12 of 14 pairs)" in shown.get() and "(12 of 14 pairs)" in report.page(summary)
    assert not math.isnan(summary.comparisons[0].p_adjusted)


# Links


def test_a_link_to_a_video_that_is_not_there_is_named_and_a_folder_that_links_lead_to_is_scored_once(tmp_path):
    encode(tmp_path / "real" / "v-0.mp4", "-pix_fmt", "yuv420p")
    (tmp_path / "group").mkdir()
    for name in ("a", "b"):
        (tmp_path / "group" / name).symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "group" / "gone-0.mp4").symlink_to("nowhere.mp4")
    assert [video.path.name for video in find([tmp_path / "group"])] == ["gone-0.mp4", "v-0.mp4"]
    ((video, _, why),) = flickering(tmp_path / "group").problems
    assert (video.path.name, why) == ("gone-0.mp4", "No such file or directory")


def test_nothing_wins_in_a_column_without_a_better_side():
    rng = np.random.default_rng(0)
    videos = {
        group: {(f"prompt {i}", 0): {f"shapes_{c}": rng.normal() for c in ("motion", "jerk")} for i in range(12)}
        for group in ("plain", "w2sd")
    }
    jerk, motion = (
        row.split("</table>")[0]
        for row in report.page(Summary(scored(videos, ["shapes"]), worst=0)).split("<tr>")
        if row.startswith("<th scope=row>shapes_") and "difference" in row
    )
    assert ("wins" in jerk, "higher in" in jerk) == (True, False)
    assert ("wins" in motion, "higher in" in motion) == (False, True)


def test_a_column_that_differs_by_failed_videos_alone_is_drawn():
    videos: dict = {
        group: {(f"prompt {i}", 0): {"shapes_count": 1.0} for i in range(12)} for group in ("plain", "w2sd")
    }
    videos["w2sd"][("prompt 3", 0)] = None
    assert "Not drawn" not in report.page(Summary(scored(videos, ["shapes"])))
    del videos["w2sd"][("prompt 3", 0)]
    assert "Not drawn, as all videos have the same score: shapes_count" in report.page(
        Summary(scored(videos, ["shapes"]))
    )


def test_the_bench_says_that_measures_are_compared_where_both_show_the_object():
    column = Column("jerk", sign=-1)
    rows = [
        {
            "pair": "shapes", "method": method, "n": n, "prompt": f"prompt {n}", "evaluations": 2, "seconds": 1.0,
            "scores": {"jerk": None if lost and method == "w2sd" and not n else float(n)},
        }
        for lost in (False, True) for method in ("strong", "w2sd") for n in range(12)
    ]  # fmt: skip
    tables = [
        bench_table.markdown(bench_table.summarise(half, [column]), {"strong": "strong", "w2sd": "W2SD"}, [column])
        for half in (rows[:24], rows[24:])
    ]
    assert ["They are compared where both samples of a pair do" in each for each in tables] == [False, True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_is_an_error_that_names_the_file_of_scores():
    store = Store(None)
    store.path = Path("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        store.add({"key": ("clipped", {"clipped": 1.0})}, {"frames": 1, "fps": 8.0, "height": 1, "width": 1})
    assert full.value.filename == "/dev/full"


def test_a_score_that_an_earlier_version_kept_and_no_variance_can_be_computed_of_is_not_read_again(tmp_path):
    about = {"frames": 1, "fps": 8.0, "height": 1, "width": 1}
    Store(tmp_path / "rows.jsonl").add({"large": ("mine", {"mine": -1e160}), "other": ("mine", {"mine": None})}, about)
    assert set(Store(tmp_path / "rows.jsonl").rows) == {"other"}
