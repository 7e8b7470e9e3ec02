"""Videos in memory: arrays, tensors and lists of PIL images, which score like a folder with these frames.

    scores = evaluate(pipe(prompts, output_type="np").frames, ["six"], prompts=prompts)

A video's frames are copied, as uint8: floats `x` in [0, 1] become `round(255 x)`, as this program and diffusers write
them to files. So later changes of the caller's array do not change a score.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from w2sd_video.errors import Refused

from .decode import ALPHA, FOLDER_FPS, NO_CLOCK
from .decoder import Decoder
from .frames import BATCH_PIXELS, Batch, Reader
from .videos import Video

if TYPE_CHECKING:
    import torch

    from w2sd_video.video import Frames

GROUP = "memory"
ACCEPTED = "give (F, H, W, 3) or (F, 3, H, W), uint8 or float in [0, 1], or a list of PIL images"


@dataclass(frozen=True)
class InMemory(Video):
    """A video in memory: `pixels` (F, H, W, 3), RGB, uint8; `path` is only a name. `in_memory` makes one.

    `digest` is the SHA-256 of the size, the frame rate and the pixels, by which its scores are stored.
    """

    digest: str = ""
    fps: float | None = None
    transparent: bool = False
    pixels: Frames = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8), compare=False, repr=False)

    @cached_property
    def _hashed(self) -> tuple[list[tuple[int, int]], str]:
        return [], self.digest

    def _stamps(self) -> list[tuple[int, int]]:
        return []

    @property
    def timed(self) -> bool:
        return self.fps is not None

    @property
    def differs_from_its_sidecar(self) -> bool:
        return False

    def open(self, by_ffmpeg: bool = False, process: Decoder | None = None) -> Reader:
        return _Reader(self)


class _Reader(Reader):
    """The frames of a video in memory."""

    decoder = "memory"
    decord_crashed = False

    def __init__(self, video: InMemory):
        self.path, self._pixels = video.path, video.pixels
        self.frames, self.height, self.width, _ = video.pixels.shape
        self.fps = video.fps or FOLDER_FPS
        self.notes = [ALPHA] if video.transparent else []
        if self.frames > 1 and video.fps is None:
            self.notes.append(NO_CLOCK.format(self.fps))

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        size = max(1, BATCH_PIXELS // (self.height * self.width))
        for first in range(0, self.frames, size):
            yield Batch(first, self._pixels[first : first + size].copy(), device)


def in_memory(
    frames: Any,
    prompt: str | None = None,
    name: str = "video 0",
    group: str = GROUP,
    fps: float | None = None,
    argument: str = "frames",
) -> InMemory:
    """A video in memory, for `evaluate`.

    Args:
        frames: (F, H, W, 3) or (F, 3, H, W), an array or a tensor, uint8 or float in [0, 1]; or a list of PIL images.
        prompt: what it shows, for dimensions that compare it with that.
        name: videos of the same name in different groups are compared.
        group: what it is summed up with.
        fps: frames a second, by which dynamic_degree picks frames; default: 8, as of a folder of pictures.
        argument: what errors call the frames.

    Raises:
        Refused: the frames have another shape or type, values that are not finite or outside [0, 1], or there are none;
            or another argument cannot be used.
    """
    if prompt is not None and not (isinstance(prompt, str) and prompt.strip()):
        raise Refused("prompt", prompt, "give a text that is not empty, or None")
    for what, text in (("name", name), ("group", group)):
        if not isinstance(text, str) or not text:
            raise Refused(what, text, "give a text that is not empty")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float, np.number)) or not 0 < fps < 1e6):
        raise Refused("fps", fps, "give a number of frames a second above 0, or None")
    pixels, transparent = _pixels(frames, argument)
    fps = None if fps is None else float(fps)
    digest = hashlib.sha256(f"{pixels.shape} {fps} {transparent}\n".encode())
    digest.update(pixels.data)
    return InMemory(Path(name), group, name, prompt, "prompts", digest.hexdigest(), fps, transparent, pixels)


def is_in_memory(value: Any) -> bool:
    """Whether a value holds frames, or is a list of such values that does not stand for paths."""
    return _is_array(value) or isinstance(value, Image.Image) or (_is_list(value) and _all_pictures(value))


def split(value: Any, images: bool, argument: str) -> list[tuple[str, Any]]:
    """The videos of a value that is in memory, each with the name by which errors call it.

    Of five axes the first counts videos, as diffusers has it. With `images`, every picture is a video by itself: of
    four axes the first counts pictures, and so does a list.

    Raises:
        Refused: it holds no videos.
    """
    if isinstance(value, Image.Image):
        if not images:
            raise Refused(argument, _of(value), "it is one picture: give a list of frames, or images=True")
        return [(argument, [value])]
    if _is_list(value):
        return [(f"{argument}[{n}]", [each]) for n, each in enumerate(value)] if images else [(argument, value)]
    axes = len(value.shape)
    if axes == 3 and images:
        return [(argument, value[None])]
    if axes == 4 and images:
        return [(f"{argument}[{n}]", value[n : n + 1]) for n in range(value.shape[0])]
    if axes == 5:
        if not value.shape[0]:
            raise Refused(argument, _of(value), "it holds no video")
        videos = [(f"{argument}[{n}]", value[n]) for n in range(value.shape[0])]
        return [part for name, each in videos for part in split(each, images, name)]
    return [(argument, value)]


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only where torch has been imported
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _all_pictures(value: Sequence[Any]) -> bool:
    return len(value) > 0 and all(isinstance(each, Image.Image) for each in value)


def _of(value: Any) -> str:
    """What messages call a value: its type and shape, in place of its numbers."""
    if isinstance(value, Image.Image):
        return f"a picture of {value.width}x{value.height}"
    if _is_list(value):
        return f"a list of {len(value)}"
    return f"{type(value).__module__.partition('.')[0]} {tuple(value.shape)} {value.dtype}"


def _pixels(frames: Any, argument: str) -> tuple[Frames, bool]:
    """A video's frames as (F, H, W, 3), uint8, a copy; and whether some had transparency, which is left out.

    Raises:
        Refused: as `in_memory` says.
    """
    if _is_list(frames):
        if not _all_pictures(frames):
            raise Refused(argument, _of(frames), ACCEPTED)
        return _of_pictures(frames, argument)
    if not _is_array(frames):
        raise Refused(argument, frames, ACCEPTED)
    said = _of(frames)
    if isinstance(frames, np.ma.MaskedArray):
        raise Refused(argument, said, "it is masked: give all values, such as by `.filled(0)`")
    if not isinstance(frames, np.ndarray) and (frames.device.type == "meta" or str(frames.layout) != "torch.strided"):
        raise Refused(argument, said, "it has no values, or is sparse: give a dense tensor")
    array = frames if isinstance(frames, np.ndarray) else _to_numpy(frames)
    if array.ndim != 4:
        raise Refused(argument, said, ACCEPTED)
    last, first = array.shape[-1] == 3, array.shape[1] == 3
    if last and first:
        raise Refused(argument, said, "the axis of the colours is the second or the last, and both are 3 long")
    if not (last or first):
        raise Refused(argument, said, ACCEPTED)
    if 0 in array.shape:
        raise Refused(argument, said, "it is empty: give at least one frame of at least one pixel")
    array = array if last else array.transpose(0, 2, 3, 1)
    if array.dtype == np.uint8:
        return np.array(array, order="C"), False
    if array.dtype.kind != "f":
        raise Refused(argument, said, ACCEPTED)
    array = array.astype(np.float32) if array.dtype == np.float16 else array
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
        raise Refused(argument, said, f"{bad} of its {len(array)} frames have values that are not finite")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise Refused(argument, said, f"its values go from {low:g} to {high:g}: give float in [0, 1], or uint8")
    return np.ascontiguousarray((array * 255).round().astype(np.uint8)), False


def _to_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor's values on the CPU; those of types that NumPy lacks, such as bfloat16, as float32."""
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array


def _of_pictures(pictures: Sequence[Image.Image], argument: str) -> tuple[Frames, bool]:
    frames, transparent = [], False
    for index, picture in enumerate(pictures):
        if picture.mode.startswith(("I", "F")):  # Pillow would cut it off at 255
            raise Refused(f"{argument}[{index}]", _of(picture), "it has more than 8 bits a channel: give 8")
        if picture.size != pictures[0].size:
            size = "x".join(map(str, pictures[0].size))
            raise Refused(f"{argument}[{index}]", _of(picture), f"the first frame is {size}: give frames of one size")
        if picture.has_transparency_data:
            transparent |= bool(np.asarray(picture.convert("RGBA"))[..., 3].min() < 255)
        frames.append(np.asarray(picture.convert("RGB")))
    if 0 in frames[0].shape:
        raise Refused(argument, _of(pictures), "it is empty: give frames of at least one pixel")
    return np.stack(frames), transparent
