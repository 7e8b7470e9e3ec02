"""Files are hashed once by a process: what reads a file is counted where Python opens it."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from w2sd_video import hashing, runs, video
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.generation import conflicts, generate

OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once: a test does not wait."""
    monkeypatch.setattr(hashing, "SETTLED", 0)


def output(folder: Path) -> runs.Output:
    """What a run left: a video and its sidecar."""
    (made,) = runs.place([runs.Request.of("a red circle moving right", 0)], folder, ["mp4"])
    folder.mkdir(exist_ok=True)
    file = made.paths["mp4"]
    video.write_mp4(np.full((3, 16, 16, 3), 90, np.uint8), file, 8)
    record = {
        "videos": {"w2sd": {"frames_sha256": "0" * 64}},
        "files": [file.name],
        "formats": ["mp4"],
        "hashes": runs.hashes([file]),
    }
    made.paths["json"].write_text(runs.sidecar(made.request, record), encoding="utf-8")
    return made


def reads(file: Path) -> int:
    return sum(os.path.basename(name) == file.name for name in OPENED)


def test_verifying_what_is_there_reads_each_file_once(tmp_path, settled):
    there = output(tmp_path / "outputs")
    hashing._HASHES.clear()
    OPENED.clear()
    assert not conflicts([there.request], there.folder, ["mp4"], hashed=True)
    assert [made.kept for made in generate([there.request], there.folder, ["mp4"], hashed=True)] == [True]
    assert not runs.check_files(there.folder, runs.read_sidecar(there.paths["json"])[1], hashed=True)
    assert reads(there.paths["mp4"]) == 1


def test_eval_reads_a_video_once_for_its_hash_and_its_sidecars(tmp_path, settled):
    there = output(tmp_path / "outputs")
    hashing._HASHES.clear()
    OPENED.clear()
    scores = evaluate([there.folder], ["clipped"])
    assert not scores.problems and reads(there.paths["mp4"]) == 1  # frames are decoded by a process of their own


def test_a_file_that_changed_is_read_again_whatever_its_time_says(tmp_path, settled):
    file = tmp_path / "file"
    file.write_bytes(b"before")
    stat = file.stat()
    assert hashing.sha256_of(file) == hashlib.sha256(b"before").hexdigest()
    while file.stat().st_ctime_ns == stat.st_ctime_ns:
        file.write_bytes(b"after!")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert hashing.sha256_of(file) == hashlib.sha256(b"after!").hexdigest()


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path):
    file = tmp_path / "file"
    for content in (b"before", b"after!"):  # within what a file system's clock tells apart
        file.write_bytes(content)
        assert hashing.sha256_of(file) == hashlib.sha256(content).hexdigest()
