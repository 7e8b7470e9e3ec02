"""Reading a video's frames a batch at a time, and what more than one dimension wants of them.

Every video is decoded once for all dimensions, in a process of its own; `decode` says by what.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .decode import of_pillow
from .decoder import Crashed, Decoder

if TYPE_CHECKING:
    import torch

    from w2sd_video.video import Frames

T = TypeVar("T")
BATCH_PIXELS = 2**23  # of one batch: 32 frames of 512x512, 4 of 1080p
FACTS = ("frames", "fps", "height", "width")
MORE_FACTS = ("decoder", "notes")  # which scores of earlier versions do not have
CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Reader:
    """Reads the frames of a video.

    Attributes:
        frames: the number of frames.
        fps: frames per second.
        height, width: in pixels.
        decoder: the name of the decoder.
        notes: peculiarities of the video, in words.
        decord_crashed: whether decord crashed on the video, so that PyAV reads it.

    Args:
        by_ffmpeg: read the video with PyAV, which includes FFmpeg, even if decord could.
        process: the process that decodes, which reads one video at a time. Default: a new one.

    Raises:
        ValueError: the file has no readable video, or is damaged, with the reason.
    """

    frames: int
    fps: float
    height: int
    width: int
    decoder: str
    notes: list[str]

    def __init__(self, path: Path, by_ffmpeg: bool = False, process: Decoder | None = None):
        self.path = path.absolute()
        self._process = process or Decoder()
        self._decord = not by_ffmpeg and find_spec("decord") is not None
        self.decord_crashed = False
        if not of_pillow(path) and find_spec("av") is None:
            raise ModuleNotFoundError("No module named 'av'")
        self._open()

    def _open(self) -> None:
        try:
            facts = self._process.open(self.path, self._decord)
        except Crashed:
            if not self._decord:
                raise
            self._decord, self.decord_crashed = False, True
            facts = self._process.open(self.path, self._decord)
        vars(self).update(facts)
        self._unread = True

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of a video that are stored beside its scores."""
        return {name: getattr(self, name) for name in (*FACTS, *MORE_FACTS)}

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The frames in order, as many at a time as `BATCH_PIXELS` allows.

        Raises:
            ValueError: a frame cannot be decoded, is of another size, or is missing.
        """
        if not self._unread:
            self._open()
        self._unread = False
        size = max(1, BATCH_PIXELS // (self.height * self.width))
        first = 0
        while len(pixels := self._process.read(size, self.height, self.width)):
            yield Batch(first, pixels, device)
            first += len(pixels)
        if first != self.frames:
            raise ValueError(f"only {first} of its {self.frames} frames can be decoded")


class Batch:
    """Consecutive frames of a video. Tensors that several dimensions need are computed once.

    `first` is the index of the first frame; `pixels` are (n, height, width, 3), RGB, uint8.
    """

    def __init__(self, first: int, pixels: Frames, device: torch.device | str = "cpu"):
        self.first, self.pixels, self.device = first, pixels, device
        self._outputs: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def frames(self) -> torch.Tensor:
        """(n, 3, height, width), float32, 0-255."""
        import torch

        return torch.from_numpy(self.pixels).to(self.device).permute(0, 3, 1, 2).float()

    @cached_property
    def clip(self) -> torch.Tensor:
        """As CLIP wants them, (n, 3, 224, 224): short side to 224, bicubic, without antialias; centre; normalised."""
        return normalised(centre(resized(self.frames, 224, "bicubic"), 224), CLIP_NORM)

    @cached_property
    def dino(self) -> torch.Tensor:
        """As DINO wants them, (n, 3, h, w) with the short side 224: bilinear, without antialias; normalised."""
        return normalised(resized(self.frames, 224, "bilinear"), DINO_NORM)

    @cached_property
    def clip_by_pillow(self) -> torch.Tensor:
        """As CLIP's own preprocessing makes them, (n, 3, 224, 224); normalised."""
        return normalised(by_pillow(self, 224, 224), CLIP_NORM)

    def once(self, network: Hashable, run: Callable[[], T]) -> T:
        """What `run` makes of it with a network, computed once for all dimensions that have the same network."""
        if network not in self._outputs:
            self._outputs[network] = run()
        return self._outputs[network]


def by_pillow(batch: Batch, short: int, side: int, round_up: bool = True) -> torch.Tensor:
    """The central squares (n, 3, side, side), 0-255, of frames with their short side resized to `short` by Pillow.

    Bicubic, over as many pixels as the scale asks, in 8 bits: what torchvision and transformers do with pictures. They
    differ in which pixel is the centre's first where an odd number of pixels is left over: transformers does not
    `round_up`.
    """
    import torch
    from PIL import Image

    squares = []
    for frame in batch.pixels:
        height, width = frame.shape[:2]
        size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
        left, top = (round(n / 2) if round_up else n // 2 for n in (size[0] - side, size[1] - side))
        squares.append(np.asarray(picture.crop((left, top, left + side, top + side))))
    return torch.from_numpy(np.stack(squares)).to(batch.device).permute(0, 3, 1, 2).float()


def resized(frames: torch.Tensor, short: int, mode: str, antialias: bool = False) -> torch.Tensor:
    """Frames (n, 3, h, w) with their short side resized to `short`, the long one to the whole part of its share.

    Without rounding or clamping, and, as VBench resizes, without antialias.
    """
    import torch.nn.functional as F

    height, width = frames.shape[-2:]
    if height <= width:
        size = (short, int(short * width / height))
    else:
        size = (int(short * height / width), short)
    if size == (height, width):
        return frames
    return F.interpolate(frames, size=size, mode=mode, align_corners=False, antialias=antialias)


def centre(frames: torch.Tensor, side: int) -> torch.Tensor:
    """The central square of frames (n, 3, h, w), both sides at least `side`."""
    top, left = (round((length - side) / 2) for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def normalised(frames: torch.Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    """Frames of 0-255 less a mean and over a deviation, both of 0-1 and by channel."""
    mean, deviation = (frames.new_tensor(values)[:, None, None] for values in norm)
    return (frames / 255 - mean) / deviation
