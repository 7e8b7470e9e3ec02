"""Video files that tests read and score."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from w2sd_video import video
from w2sd_video.eval.videos import Video, find
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
