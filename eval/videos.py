"""What is scored: finding videos, their prompts and groups, and reading their frames a batch at a time.

Every video is decoded once for all dimensions, in a process of its own; `decode` says by what.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from w2sd_video.documents import read_bytes
from w2sd_video.errors import Refused
from w2sd_video.provenance import file_sha256, stamp
from w2sd_video.runs import check_files
from w2sd_video.video import PICTURES, pictures

from .containers import is_animated
from .decode import ANIMATIONS, Crashed, Decoder, of_pillow
from .prompts import match

if TYPE_CHECKING:
    import torch

    from w2sd_video.video import Frames

Made = TypeVar("Made")
EXTENSIONS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".gif")
# Of other videos, which are scored where they are named one by one.
OTHERS = tuple(
    f".{end}"
    for end in "m4v qt ts mts m2ts mpg mpeg vob wmv asf flv f4v 3gp 3g2 ogv rm rmvb divx mxf y4m ivf h264 h265 hevc"
    " obu".split()
)
BATCH_PIXELS = 2**23  # of one batch: 32 frames of 512x512, 4 of 1080p
FACTS = ("frames", "fps", "height", "width")
MORE_FACTS = ("decoder", "notes")  # which scores of earlier versions do not have
CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Video:
    """A video to score.

    `group` is what it is compared as: the argument that it was found under. Videos of different groups with the same
    `pair`, their prompt and seed or else their name without its end, are compared.
    """

    path: Path
    group: str
    pair: str
    prompt: str | None
    prompt_from: str = field(default="name", compare=False)  # prompts, sidecar or name

    @property
    def sha256(self) -> str:
        """Of the file's bytes; of a folder's, the hash of its pictures' names and hashes."""
        return self._hashed[1]

    @cached_property
    def _hashed(self) -> tuple[list[tuple[int, int]], str]:
        """What its files' stamps were before it was hashed, and the hash."""
        stamps = self._stamps()
        if self.path.is_dir():
            lines = [f"{picture.name} {file_sha256(picture)}" for picture in pictures(self.path)]
            return stamps, hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return stamps, file_sha256(self.path)

    def _stamps(self) -> list[tuple[int, int]]:
        files = pictures(self.path) if self.path.is_dir() else [self.path]
        for file in files:
            if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe could take for ever
                raise OSError(f"{file.name} is not a file")
        return [stamp(file) for file in files]

    def same(self) -> None:
        """Makes sure that it is what it was when it was hashed.

        Raises:
            ValueError: it is not.
        """
        if self._stamps() != self._hashed[0]:
            raise ValueError("it changed while it was scored; score it again")

    @property
    def timed(self) -> bool:
        """Whether it has a frame rate of its own, which a folder of pictures does not."""
        return not self.path.is_dir()

    @property
    def differs_from_its_sidecar(self) -> bool:
        """Whether its sidecar has hashes, and another one of it."""
        try:
            self._stamps()
            return bool(check_files(self.path.parent, _sidecar(self.path), hashed=True, only=[self.path.name]))
        except OSError:  # which reading it then names
            return False

    def open(self, by_ffmpeg: bool = False, process: Decoder | None = None) -> Reader:
        """Its frames; arguments as for `Reader`.

        Raises:
            ValueError: it holds no video that can be read, or is damaged; says why.
        """
        if _request(self.path).get("variant") == "compare":
            raise ValueError("it shows several videos side by side; score them one by one")
        return Reader(self.path, by_ffmpeg, process)


def find(
    arguments: Sequence[str | Path], prompts: Mapping[str, str] | None = None, images: bool = False
) -> list[Video]:
    """The videos that files, folders and globs name, each argument a group.

    A folder stands for the videos in it, and in its folders; one with pictures and no videos is itself a video; or,
    with `images`, every picture is what is scored, as a video of one frame. A prompt comes from `prompts`, by file
    name (see `prompts.match`), else from a sidecar, the JSON of the same name that w2sd-video writes, else from the
    file's name (`PROMPT-3.mp4`, as VBench names them, 3 being its seed).

    Raises:
        Refused: an argument names nothing that can be scored, or no prompt is of any video.
    """
    places: dict[tuple[Path, str], str] = {}  # where each video, by its path and group, lies in its argument
    within = _pictures if images else _videos
    for argument in map(str, arguments):
        if not argument:  # which would be the current folder
            raise Refused("videos", argument, "give files, folders or globs")
        root = Path(os.path.expanduser(argument))
        if root.is_dir():
            paths = list(within(root))
        elif root.exists():
            paths = [root]
        else:
            paths = sorted(Path(path) for path in glob.glob(str(root), recursive=True))
            paths = [found for path in paths for found in (within(path) if path.is_dir() else [path])]
            root = Path(os.path.commonpath([path.parent for path in paths])) if paths else root
        if not paths:
            accepted = f"videos ({' '.join(EXTENSIONS)}), or folders of pictures"
            if images:
                accepted = f"pictures ({' '.join(PICTURES)})"
            raise Refused("videos", argument, f"give files, folders or globs of {accepted}")
        for path in paths:
            place = path.name if path == root else str(path.relative_to(root if root.is_dir() else root.parent))
            places.setdefault((path, argument), place)
    texts, _ = match(prompts, [path for path, _ in places])
    return [_video(path, group, place, texts.get(path)) for (path, group), place in places.items()]


def _video(path: Path, group: str, place: str, prompt: str | None) -> Video:
    request = _request(path)
    numbered = re.fullmatch(r"(.+)-(\d+)", _stem(path))
    own, seed = numbered.groups() if numbered else (_stem(path), None)
    pair = str(Path(place).parent / (f"{own}, seed {int(seed)}" if seed else own))
    if request:
        pair = f"{request['prompt']}, seed {request['seed']}"
    if prompt:
        return Video(path, group, pair, prompt, "prompts")
    if request:
        return Video(path, group, pair, request["prompt"] or None, "sidecar")
    return Video(path, group, pair, own or None, "name")


def _videos(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """The videos of a folder, and of its folders; of a folder that links lead to again, once."""
    seen = set() if seen is None else seen
    seen.add(folder.resolve())
    try:
        files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        named = [path for path in files if path.suffix.lower() in (*EXTENSIONS, *ANIMATIONS) and _is_file(path)]
    except OSError:
        yield folder  # which opening it then says of it
        return
    moving = {path: path.suffix.lower() in EXTENSIONS or is_animated(path) for path in named}
    # A picture that cannot be read is one of a folder's frames, or beside videos another video; opening names it.
    videos = [path for path in named if moving[path] or (moving[path] is None and any(moving.values()))]
    frames = not videos and _is_frames(folder)
    if frames:
        yield folder
    # A GIF or a folder of frames beside the MP4 of the same name is the same video, made for the eye.
    others = {_stem(path) for path in videos if path.suffix.lower() not in ANIMATIONS}
    yield from (path for path in videos if path.suffix.lower() not in ANIMATIONS or _stem(path) not in others)
    shown = {_stem(path) for path in videos}
    for path in files:
        if path.is_dir() and path.resolve() not in seen:  # a link to a folder above would never end
            within = _videos(path, seen)
            # Beside a video of its name, or frames, a folder has no more frames to score.
            yield from (found for found in within if not found.is_dir()) if frames or _stem(path) in shown else within


def left_out(arguments: Sequence[str | Path]) -> list[Path]:
    """The videos that `find` leaves out of folders because it does not score their suffix there."""
    roots = [os.path.expanduser(argument) for argument in arguments]
    named = [Path(path) for root in roots for path in ([root] if os.path.exists(root) else glob.glob(root))]
    found = {file for folder in named if folder.is_dir() for file in _seen(folder, OTHERS)}
    return sorted(found.difference(named))


def lacking(
    arguments: Sequence[str | Path], prompts: Mapping[str, str] | None = None, images: bool = False
) -> list[Video]:
    """The videos that sidecars in what `find` looks through say were made, and that are not there.

    They were expected, so that they count as failed. A video that is there under another suffix is not one of them.
    """
    absent: dict[tuple[Path, str], None] = {}
    for argument in map(str, arguments):
        root = Path(os.path.expanduser(argument))
        named = [root] if root.exists() else [Path(path) for path in glob.glob(str(root), recursive=True)]
        absent |= {(path, argument): None for each in named if each.is_dir() for path in _absent(each, images)}
        if not root.exists():  # a glob, of files that sidecars would be beside
            for folder in sorted({path.parent for path in named if path.is_file()}):
                beside = [path for path in _absent(folder, images) if fnmatch.fnmatchcase(str(path), str(root))]
                absent |= {(path, argument): None for path in beside}
    try:
        texts, _ = match(prompts, [path for path, _ in absent])
    except Refused:  # they are of other videos
        texts = {}
    return [_video(path, group, path.name, texts.get(path)) for path, group in absent]


def _absent(folder: Path, images: bool) -> Iterator[Path]:
    """The files that sidecars in a folder, and in its folders, name, of those beside which no file has their name."""
    stems: dict[Path, set[str]] = {}
    for file in _seen(folder, (".json",)):
        try:
            if file.parent not in stems:
                stems[file.parent] = {_stem(each) for each in file.parent.iterdir() if each.suffix != ".json"}
        except OSError:
            continue
        if file.stem in stems[file.parent]:
            continue
        listed = _sidecar(file).get("files")
        if isinstance(listed, list) and _request(file).get("variant", "compare") != "compare":
            names = [name for name in listed if isinstance(name, str) and os.path.basename(name) == name]
            ends = PICTURES if images else (*EXTENSIONS, "-frames")
            yield from (file.with_name(name) for name in [n for n in names if n.lower().endswith(ends)][:1])


def _is_frames(folder: Path) -> bool:
    try:
        return bool(pictures(folder))
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one that is not there, which opening it then says."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _pictures(folder: Path) -> Iterator[Path]:
    return _seen(folder, PICTURES)


def _seen(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files in a folder, and in its folders, that have one of some suffixes; without hidden ones."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and _is_file(path) and not hidden:
            yield path


def _stem(path: Path) -> str:
    """What a video, its folder of frames and its sidecar have in common of their names."""
    return path.name.removesuffix("-frames") if path.is_dir() else path.stem


def _sidecar(path: Path) -> dict[str, Any]:
    """What a video's sidecar says; empty without one."""
    file = path.with_name(f"{_stem(path)}.json")
    try:
        said = json.loads(read_bytes(file)) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _request(path: Path) -> dict[str, Any]:
    """The prompt, seed and variant that a video was asked for by, from its sidecar; empty without one."""
    try:
        request = _sidecar(path)["request"]
        found = {name: request[name] for name in ("prompt", "seed", "variant")}
    except (KeyError, TypeError):
        return {}
    return found if isinstance(found["prompt"], str) and isinstance(found["seed"], int) else {}


class Reader:
    """The frames of a video: how many (`frames`), of which size (`height`, `width`), how many a second (`fps`).

    `decoder` reads them, and `notes` say what is peculiar about the video; `decord_crashed` says whether decord did.

    Args:
        by_ffmpeg: whether PyAV, which brings FFmpeg, reads it even where decord could.
        process: the process that decodes, which reads one video at a time; default: one of its own.

    Raises:
        ValueError: it holds no video that can be read, or is damaged; says why.
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
        """What is recorded of a video beside its scores."""
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
    """Consecutive frames of a video, and what more than one dimension wants of them, each made once.

    `first` is the index of the first of them; `pixels` are (n, height, width, 3), RGB, uint8.
    """

    def __init__(self, first: int, pixels: Frames, device: torch.device | str = "cpu"):
        self.first, self.pixels, self.device = first, pixels, device
        self._made: dict[Hashable, Any] = {}

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

    def once(self, network: Hashable, run: Callable[[], Made]) -> Made:
        """What `run` makes of it with a network, computed once for all dimensions that have the same network."""
        if network not in self._made:
            self._made[network] = run()
        return self._made[network]


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
