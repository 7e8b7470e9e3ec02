"""The page's media: videos as hard links or copies, each with a still and a strip of frames, named by the video's hash.

    media/HASH.mp4          the video; re-encoded if it is a GIF or a folder of pictures, where browsers cannot seek
    media/HASH-still.webp   its first frame
    media/HASH-strip.webp   some of its frames, side by side
    media/HASH.json         the number of frames, frames per second and size; written last

Files are moved to their place when they are complete. So an interrupted page continues where it stopped, and writing a
page again only adds new videos.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.documents import read_json
from w2sd_video.runs.files import hidden, naming

from ..decoder import Decoder
from ..videos import Video

if TYPE_CHECKING:
    from w2sd_video.video import Frames

AS_THEY_ARE = (".mp4", ".webm", ".m4v")  # formats that browsers play
OURS = re.compile(r"[0-9a-f]{24}(\.\w{2,4}|-still\.webp|-strip\.webp)")
STILL, STRIP, STRIP_FRAMES = 512, 192, 8  # the longest side of a still, and of a frame in a strip
KEYS = ("frames", "fps", "width", "height", "file", "still", "strip")


def add(folder: Path, videos: Sequence[Video]) -> tuple[dict[Video, dict[str, Any]], dict[Video, str]]:
    """Writes the media of videos into a folder.

    Returns:
        The files and facts of each video that can be shown, and the reason for each one that cannot.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips: dict[Video, dict[str, Any]] = {}
    broken: dict[Video, str] = {}
    with hidden(folder) as staged, closing(Decoder()) as process:
        for video in videos:
            try:
                name = video.sha256[:24]
            except OSError as error:
                broken[video] = (
                    "it was not made" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
                )
                continue
            kept = _kept(folder, name)
            if not kept:
                try:
                    kept = _staged(folder, staged, name, video, process)
                except ValueError as error:
                    broken[video] = str(error)
                    continue
            clips[video] = kept
    return clips, broken


def prune(folder: Path, clips: Mapping[Video, dict[str, Any]]) -> None:
    """Removes the media of videos that the page no longer shows."""
    names = {video.sha256[:24] for video in clips}
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name[:24] not in names:
            with suppress(OSError):
                path.unlink()


def _kept(folder: Path, name: str) -> dict[str, Any]:
    """The facts of a video whose media are in the folder; empty if a file is missing."""
    try:
        facts = read_json(folder / f"{name}.json")
        if set(facts) != set(KEYS):
            return {}
    except (OSError, ValueError, TypeError):
        return {}
    there = all((folder / str(facts[key])).is_file() for key in ("file", "still", "strip") if facts[key])
    return dict(facts) if there else {}


def _staged(folder: Path, staged: Path, name: str, video: Video, process: Decoder) -> dict[str, Any]:
    """Writes the media of a video into `staged` and moves them to `folder`. Returns its facts.

    Raises:
        ValueError: it cannot be decoded; says why.
        OSError: a file cannot be written.
    """
    from PIL import Image

    from w2sd_video.video import PICTURES, write_mp4

    encode = video.path.is_dir() or video.path.suffix.lower() not in AS_THEY_ARE
    picture = not video.path.is_dir() and video.path.suffix.lower() in PICTURES
    reader = video.open(by_ffmpeg=True, process=process)
    wanted = np.unique(np.linspace(0, reader.frames - 1, min(reader.frames, STRIP_FRAMES)).round().astype(int))
    kept: dict[int, Frames] = {}
    every: list[Frames] = []
    for batch in reader.batches():
        kept |= {i: batch.pixels[i - batch.first] for i in wanted if batch.first <= i < batch.first + len(batch)}
        if encode and reader.frames > 1:
            every.append(batch.pixels)
    moves: dict[str, Path] = {}

    def put(end: str) -> Path:
        moves[f"{name}{end}"] = path = staged / f"{name}{end}"
        return path

    still = Image.fromarray(kept[0])
    still.thumbnail((STILL, STILL))
    with naming(folder):
        still.save(put("-still.webp"), quality=86)
        if reader.frames > 1:
            frames = [Image.fromarray(kept[i]) for i in wanted]
            for frame in frames:
                frame.thumbnail((STRIP, STRIP))
            width, height = frames[0].size
            strip = Image.new("RGB", (width * len(frames), height))
            for n, frame in enumerate(frames):
                strip.paste(frame, (n * width, 0))
            strip.save(put("-strip.webp"), quality=80)
        if reader.frames == 1 and not picture:
            Image.fromarray(kept[0]).save(put(".png"))
        elif every:
            write_mp4(np.concatenate(every), put(".mp4"), max(1, round(reader.fps)))
        else:
            _linked(video.path, put(video.path.suffix.lower()))
    file = next(each for each in moves if not each.endswith(("-still.webp", "-strip.webp")))
    facts = {
        "frames": reader.frames,
        "fps": float(max(1, round(reader.fps))) if every else reader.fps,
        "width": reader.width,
        "height": reader.height,
        "file": file,
        "still": f"{name}-still.webp",
        "strip": f"{name}-strip.webp" if reader.frames > 1 else "",
    }
    put(".json").write_text(json.dumps(facts), encoding="ascii")
    for final, path in moves.items():
        os.replace(path, folder / final)
    return facts


def _linked(source: Path, place: Path) -> None:
    """Links a file under another name, or copies it if the file system has no hard links."""
    real = source.resolve()
    try:
        os.link(real, place)
    except OSError:
        shutil.copyfile(real, place)
