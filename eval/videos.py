"""What is scored: finding videos, their prompts and groups, and reading their frames a batch at a time.

Every video is decoded once, for all dimensions. decord decodes; where it has no wheel, or cannot open a file, ffmpeg
does, to the same frames. (Two differ: 10-bit 4:2:0, which every version of ffmpeg converts otherwise, by up to some 30
levels of 255, and frames that an edit list hides, which decord, and VBench by it, gives and ffmpeg does not.)
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from w2sd_video.documents import read_text
from w2sd_video.errors import Refused
from w2sd_video.provenance import file_sha256, stamp
from w2sd_video.video import PICTURES, of_pictures, pictures, stream

if TYPE_CHECKING:
    import torch

    from w2sd_video.video import Frames

Made = TypeVar("Made")
EXTENSIONS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".gif")
BATCH_PIXELS = 2**23  # of one batch: 32 frames of 512x512, 4 of 1080p
FACTS = ("frames", "fps", "height", "width")
FOLDER_FPS = 8.0  # of a folder of pictures, which has no clock: VBench takes every picture
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
        return [stamp(file) for file in (pictures(self.path) if self.path.is_dir() else [self.path])]

    def same(self) -> None:
        """Makes sure that it is what it was when it was hashed.

        Raises:
            ValueError: it is not.
        """
        if self._stamps() != self._hashed[0]:
            raise ValueError("it changed while it was scored; score it again")

    def open(self, by_ffmpeg: bool = False) -> Reader:
        """Its frames, by ffmpeg or by what is best.

        Raises:
            ValueError: it holds no video that can be read; says why.
        """
        if _request(self.path).get("variant") == "compare":
            raise ValueError("it shows several videos side by side; score them one by one")
        return Reader(self.path, by_ffmpeg)


def find(
    arguments: Sequence[str | Path], prompts: Mapping[str, str] | None = None, images: bool = False
) -> list[Video]:
    """The videos that files, folders and globs name, each argument a group.

    A folder stands for the videos in it, and in its folders; one with pictures and no videos is itself a video; or,
    with `images`, every picture is what is scored, as a video of one frame. A prompt comes from `prompts`, by file
    name, else from a sidecar, the JSON of the same name that w2sd-video writes, else from the file's name
    (`PROMPT-3.mp4`, as VBench names them, 3 being its seed).

    Raises:
        Refused: an argument names nothing that can be scored, or a prompt names a video that is not there.
    """
    if prompts is not None and not _are_prompts(prompts):
        raise Refused("prompts", prompts, 'give texts by file name, such as {"video.mp4": "a prompt"}')
    videos: list[Video] = []
    known: set[str] = set()
    within = _pictures if images else _videos
    for argument in map(str, arguments):
        if not argument:  # which would be the current folder
            raise Refused("videos", argument, "give files, folders or globs")
        root = Path(os.path.expanduser(argument))
        if root.is_dir():
            paths = list(within(root))
        elif root.exists() and not root.is_file():  # reading a pipe may wait for ever
            raise Refused("videos", argument, "give files, folders or globs; this is a pipe or a device")
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
            name = path.name if path == root else str(path.relative_to(root if root.is_dir() else root.parent))
            request = _request(path)
            numbered = re.fullmatch(r"(.+)-(\d+)", _stem(path))
            own, seed = numbered.groups() if numbered else (_stem(path), None)
            pair = str(Path(name).parent / (f"{own}, seed {int(seed)}" if seed else own))
            if request:
                own, pair = request["prompt"], f"{request['prompt']}, seed {request['seed']}"
            prompt = (prompts or {}).get(name) or (prompts or {}).get(path.name) or own
            videos.append(Video(path, argument, pair, prompt or None))
            known |= {name, path.name}
    if prompts:
        if unknown := [name for name in prompts if name not in known]:
            raise Refused("prompts", unknown[0], "its keys are file names of the videos that are scored")
    return list({(video.path, video.group): video for video in videos}.values())


def _videos(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    above = (*above, folder.resolve())
    try:
        files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        videos = [path for path in files if path.is_file() and path.suffix.lower() in EXTENSIONS]
    except OSError:
        yield folder  # which opening it then says of it
        return
    frames = not videos and _is_frames(folder)
    if frames:
        yield folder
    # A GIF or a folder of frames beside the MP4 of the same name is the same video, made for the eye.
    others = {_stem(path) for path in videos if path.suffix.lower() != ".gif"}
    yield from (path for path in videos if path.suffix.lower() != ".gif" or _stem(path) not in others)
    shown = {_stem(path) for path in videos}
    for path in files:
        if path.is_dir() and path.resolve() not in above:  # a link to a folder above would never end
            within = _videos(path, above)
            # Beside a video of its name, or frames, a folder has no more frames to score.
            yield from (found for found in within if found.is_file()) if frames or _stem(path) in shown else within


def _is_frames(folder: Path) -> bool:
    try:
        return bool(pictures(folder))
    except OSError:
        return False


def _pictures(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PICTURES and path.is_file() and not hidden:
            yield path


def _stem(path: Path) -> str:
    """What a video, its folder of frames and its sidecar have in common of their names."""
    return path.name.removesuffix("-frames") if path.is_dir() else path.stem


def _request(path: Path) -> dict[str, Any]:
    """The prompt, seed and variant that a video was asked for by, from its sidecar; empty without one."""
    try:
        request = json.loads(read_text(path.with_name(f"{_stem(path)}.json")))["request"]
        found = {name: request[name] for name in ("prompt", "seed", "variant")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found["prompt"], str) and isinstance(found["seed"], int) else {}


def read_prompts(path: Path) -> dict[str, str]:
    """A JSON object of file names and prompts.

    Raises:
        Refused: it is something else.
    """
    accepted = 'give a JSON file such as {"video.mp4": "a prompt"}'
    try:
        prompts = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused("prompts", str(path), f"{accepted} ({error})") from None
    if not _are_prompts(prompts):
        raise Refused("prompts", str(path), accepted)
    return prompts


def _are_prompts(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(text, str) and text.strip() for text in given.values())


class Reader:
    """The frames of a video: how many (`frames`), of which size (`height`, `width`), how many a second (`fps`).

    Raises:
        ValueError: it holds no video that can be read; says why.
    """

    def __init__(self, path: Path, by_ffmpeg: bool = False):
        self.path = path.absolute()  # a relative one with a colon would be taken for a protocol
        self._decode: Callable[[], Iterator[Frames]]
        if not path.is_dir() and not path.stat().st_size:
            raise ValueError("the file is empty")
        if not path.is_dir() and cut_short(path):
            raise ValueError("the file is cut short: it says itself that it is longer")
        if of_pictures(path):
            self._open_pictures()
        else:
            try:
                import decord
            except ImportError:
                by_ffmpeg = True
            if not by_ffmpeg:
                try:
                    self._open_decord(decord)
                except ValueError:  # as of AV1, and of WebM whose length is not known
                    by_ffmpeg = True
            if by_ffmpeg:
                self._open_ffmpeg()
        if not self.frames:
            raise ValueError("it holds no frame")

    @property
    def facts(self) -> dict[str, Any]:
        """What is recorded of a video beside its scores."""
        return {name: getattr(self, name) for name in FACTS}

    def _open_decord(self, decord: Any) -> None:
        try:
            # It would put what is at hand in the place of a frame that it cannot decode, but for this many of them.
            reader = decord.VideoReader(str(self.path), num_threads=1, fault_tol=1e-6)
            self.frames, self.fps = len(reader), float(reader.get_avg_fps())
            start = reader[0]
            self.height, self.width = start.shape[:2]
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise ValueError(f"it is not a video that can be decoded ({_first_line(error)})") from None

        def decode() -> Iterator[Frames]:
            try:
                for index in range(self.frames):
                    frame = reader[index] if index else start
                    # Of decord's own class, or of what the caller set as its bridge.
                    frame = frame.asnumpy() if hasattr(frame, "asnumpy") else np.asarray(frame)
                    # Narrow frames come with their rows filled up, taken for a fourth channel.
                    rows = frame.reshape(self.height, -1)
                    yield rows[:, : 3 * self.width].reshape(self.height, self.width, 3)
            except (decord.DECORDError, RuntimeError) as error:
                raise ValueError(f"frame {index} of {self.frames} cannot be decoded ({_first_line(error)})") from None

        self._decode = decode

    def _open_ffmpeg(self) -> None:
        import imageio_ffmpeg

        try:
            with_meta = imageio_ffmpeg.read_frames(str(self.path))
            meta = next(with_meta)
            with_meta.close()
            self.frames, _ = imageio_ffmpeg.count_frames_and_secs(str(self.path))
        except (OSError, RuntimeError, StopIteration) as error:
            raise ValueError(f"it is not a video that can be decoded ({_first_line(error)})") from None
        self.fps, (self.width, self.height) = float(meta["fps"]), meta["size"]
        self._decode = lambda: stream(self.path)

    def _open_pictures(self) -> None:
        from PIL import Image

        files = pictures(self.path) if self.path.is_dir() else [self.path]
        if not files:
            raise ValueError("it holds no picture")
        try:
            with Image.open(files[0]) as first:
                self.frames = len(files) if self.path.is_dir() else getattr(first, "n_frames", 1)
                self.width, self.height = first.size
                milliseconds = [0]
                if not self.path.is_dir():
                    for index in range(self.frames):
                        first.seek(index)
                        milliseconds.append(first.info.get("duration", 0))
        except Exception as error:  # of damaged files, Pillow's plug-ins raise errors of every kind
            raise ValueError(f"{files[0].name} is not a picture that can be read ({_first_line(error)})") from None
        self.fps = 1000 * self.frames / sum(milliseconds) if sum(milliseconds) else FOLDER_FPS
        self._decode = lambda: stream(self.path)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The frames in order, as many at a time as `BATCH_PIXELS` allows.

        Raises:
            ValueError: a frame cannot be decoded, is of another size, or is missing.
        """
        size = max(1, BATCH_PIXELS // (self.height * self.width))
        held: list[Frames] = []
        first = 0
        for frame in self._decode():
            if frame.shape != (self.height, self.width, 3):
                was, now = (f"{shape[1]}x{shape[0]}" for shape in ((self.height, self.width), frame.shape))
                raise ValueError(f"frame {first + len(held)} is {now}, the first is {was}")
            held.append(frame)
            if len(held) == size:
                yield Batch(first, np.stack(held), device)
                first, held = first + len(held), []
        if held:
            yield Batch(first, np.stack(held), device)
        if first + len(held) != self.frames:
            raise ValueError(f"only {first + len(held)} of its {self.frames} frames can be decoded")


BOXES = [name.encode() for name in "ftyp moov mdat moof mfra sidx styp free skip wide udta uuid meta emsg prft".split()]


def cut_short(path: Path) -> bool:
    """Whether a file ends before its container says that it does.

    By the boxes of MP4 (ISO/IEC 14496-12), the RIFF chunk of AVI, the segment of Matroska and WebM (RFC 8794), where
    they say, and the blocks of GIF.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            says = int.from_bytes(head[4:8], "little")
            return says != 2**32 - 1 and 8 + says > size
        if head[:4] == b"\x1a\x45\xdf\xa3":
            at, header = _vint(head, 4)
            if header is None or head[at + header : at + header + 4] != b"\x18\x53\x80\x67":
                return False
            at, segment = _vint(head, at + header + 4)
            return segment is not None and at + segment > size
        if head[:4] == b"GIF8":
            return _gif_is_cut_short(head + file.read())
        at = 0
        while head[4:8] == b"ftyp" and at + 8 <= size:
            file.seek(at)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 1:
                length = int.from_bytes(box[8:], "big")
            if length < 8 or box[4:8] not in BOXES:  # to the end of the file, or something after the boxes
                return False
            at += length
        return at > size


def _gif_is_cut_short(data: bytes) -> bool:
    def colours(flags: int) -> int:
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    try:
        at = 13 + colours(data[10])
        while at < len(data) and data[at] in (0x21, 0x2C):  # an extension, an image
            at += 2 if data[at] == 0x21 else 11 + colours(data[at + 9])
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError:
        return True
    return False


def _vint(data: bytes, at: int) -> tuple[int, int | None]:
    """Where a length of EBML ends, and what it is; None where it is unknown."""
    length = 9 - data[at].bit_length() if at < len(data) and data[at] else 8
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, None if value == (1 << 7 * length) - 1 else value


class Trial:
    """Opens videos in another process, in their order and ahead of who asks: some damaged ones end decord's process."""

    CODE = """if True:
        import sys
        sys.path[:] = [folder for folder in sys.path if folder]
        import decord, json
        print(flush=True)
        for path in json.load(sys.stdin):
            try:
                decord.VideoReader(path, num_threads=1)[0]
            except Exception:
                pass
            print(flush=True)
    """

    def __init__(self, paths: Iterable[Path]):
        tried = (path for path in paths if not of_pictures(path))
        self._left = deque(dict.fromkeys(tried) if find_spec("decord") else ())
        self._waiting, self._fatal = set(self._left), set[Path]()
        self._process: subprocess.Popen[str] | None = None

    def fatal(self, path: Path) -> bool:
        """Whether decord does not survive to open it."""
        while path in self._waiting:
            if not self._process and not self._start():
                self._waiting.clear()  # decord cannot be imported there, which says nothing of files
                break
            survived, tried = self._line(), self._left.popleft()
            self._waiting.discard(tried)
            if not survived:
                self._fatal.add(tried)
                self.close()
        return path in self._fatal

    def _start(self) -> bool:
        """Starts the other process on what is left; whether it could import decord."""
        command, pipe = [sys.executable, "-c", self.CODE], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdin
        with suppress(BrokenPipeError), self._process.stdin:
            json.dump([str(each.absolute()) for each in self._left], self._process.stdin)
        return bool(self._line())

    def _line(self) -> str:
        """What it says next; nothing where it has ended."""
        assert self._process and self._process.stdout
        return self._process.stdout.readline()

    def close(self) -> None:
        """Ends the other process."""
        if self._process:
            self._process.kill()
            if self._process.stdout:
                self._process.stdout.close()
            self._process.wait()
            self._process = None


def _first_line(error: BaseException) -> str:
    """What a library said, without the dumps that some add."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][-200:] if lines else type(error).__name__


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
