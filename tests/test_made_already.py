"""Videos that are there already: kept, replaced or made again; and what an interruption leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import pytest
from commands import PROMPT, STEM, generate, hashes, listing
from programs import heard

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.slow
def test_what_is_made_already_is_kept_and_the_rest_goes_on(small):
    generate(PROMPT, *small)
    before = (Path("outputs") / f"{STEM}.mp4").stat().st_mtime_ns
    said = generate(PROMPT, *small, "--seed", "0,1")
    assert f"{STEM}.mp4  (already made)" in said and "a-red-cat-seed1.mp4" in listing()
    assert (Path("outputs") / f"{STEM}.mp4").stat().st_mtime_ns == before
    generate(PROMPT, *small, "--gif")  # the same video, one more format
    assert f"{STEM}.gif" in listing()


@pytest.mark.slow
def test_another_video_of_the_same_name_is_not_replaced_unless_told(small):
    generate(PROMPT, *small)
    before = hashes()
    said = generate(PROMPT, *small, "--guidance", 5, code=2)
    assert f"{STEM}.mp4" in said and "--overwrite" in said and hashes() == before
    generate(PROMPT, *small, "--guidance", 5, "--overwrite")
    assert hashes() != before


@pytest.mark.slow
def test_interrupting_leaves_whole_videos_only_and_the_same_command_goes_on(small):
    command = [
        sys.executable,
        "-m",
        "w2sd_video",
        "generate",
        PROMPT,
        *small,
        "--seed",
        "0-99",
        "--steps",
        "20",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heard,
    )
    while not Path(f"outputs/{STEM}.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "Traceback" not in said, said
    made = listing()
    assert not [name for name in made if name.startswith(".")] and len(made) % 2 == 0
    for name in made:
        if name.endswith(".json"):
            json.loads((Path("outputs") / name).read_text())
            assert next(imageio_ffmpeg.read_frames(f"outputs/{name[:-5]}.mp4"))["duration"] > 0
    assert "(already made)" in generate(PROMPT, *small, "--seed", "0", "--steps", 20)


@pytest.mark.slow
def test_overwriting_leaves_no_file_of_the_former_video(small):
    generate(PROMPT, *small, "--gif", "--png")
    Path("outputs/mine.gif").touch()
    generate(PROMPT, *small, "--guidance", 5, "--overwrite")
    assert listing() == [f"{STEM}.json", f"{STEM}.mp4", "mine.gif"]


@pytest.mark.slow
def test_a_truncated_video_is_not_said_to_be_made_and_is_made_again_once_it_is_deleted(small):
    generate(PROMPT, *small)
    path = Path(f"outputs/{STEM}.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = generate(PROMPT, *small, code=2)
    assert (
        f"{path} has {len(whole) // 2} bytes, and its sidecar says {len(whole)}" in said and "already made" not in said
    )
    assert f"{path} has {len(whole) // 2} bytes" in generate("--from", f"outputs/{STEM}.json", "--out", "again")
    path.unlink()
    generate(PROMPT, *small)
    assert path.read_bytes() == whole == Path(f"again/{STEM}.mp4").read_bytes()


def test_verify_compares_hashes(small):
    generate(PROMPT, *small)
    path = Path(f"outputs/{STEM}.mp4")
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "(already made)" in generate(PROMPT, *small)
    assert "is not the file whose hash its sidecar has" in generate(PROMPT, *small, "--verify", code=2)
