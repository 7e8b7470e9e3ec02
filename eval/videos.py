"""Finds the videos to score, with their prompts, groups and seeds."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from w2sd_video.documents import read_bytes
from w2sd_video.errors import Refused
from w2sd_video.provenance import file_sha256, stamp
from w2sd_video.runs import check_files
from w2sd_video.video import PICTURES, pictures

from .containers import is_animated
from .decode import ANIMATIONS
from .decoder import Decoder
from .frames import CLIP_NORM, DINO_NORM, Batch, Reader, by_pillow, centre, normalised, resized
from .prompts import match

# What dimensions of other packages import from here lies in `frames`.
__all__ = ["CLIP_NORM", "DINO_NORM", "Batch", "Reader", "Video", "by_pillow", "centre", "find", "grouped", "lacking"]
__all__ += ["left_out", "normalised", "resized"]

EXTENSIONS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".gif")
# Of other videos, which are scored where they are named one by one.
OTHERS = tuple(
    f".{end}"
    for end in "m4v qt ts mts m2ts mpg mpeg vob wmv asf flv f4v 3gp 3g2 ogv rm rmvb divx mxf y4m ivf h264 h265 hevc"
    " obu".split()
)


SCORED = (*EXTENSIONS, *ANIMATIONS, *OTHERS, *PICTURES)


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
        """The hash of the file's bytes; for a folder, that of its pictures' names and hashes."""
        return self._hashed[1]

    @cached_property
    def _hashed(self) -> tuple[list[tuple[int, int]], str]:
        """The sizes and times of its files before they were hashed, and the hash."""
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
    def sidecar(self) -> dict[str, Any]:
        """The content of its sidecar; empty without one."""
        return _sidecar(self.path)

    @property
    def timed(self) -> bool:
        """Whether it has a frame rate of its own, unlike a folder of pictures."""
        return not self.path.is_dir()

    @property
    def differs_from_its_sidecar(self) -> bool:
        """Whether its sidecar records another hash of the video."""
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
            raise ValueError(
                "it shows several videos side by side; score the single ones, in weak/, plain/ and w2sd/ beside it"
            )
        return Reader(self.path, by_ffmpeg, process)


# A label has nothing of a path or glob, so that a mistyped `runs/scale=*` does not stand for `*`.
UNLABELLED = ", where LABEL has none of / \\ * ? ["
LABELLED = re.compile(r"([^=/\\*?\[]*)=(.*)", re.DOTALL)


def grouped(arguments: Sequence[str | Path]) -> list[tuple[str, str]]:
    """The group of each argument, and the file, folder or glob that it names.

    A group is called as its argument is; of `LABEL=PATH`, `LABEL`. What as a whole names something that is there, and a
    `Path`, has no label.

    Raises:
        Refused: a label or its path is empty, or two arguments that are not the same have one group.
    """
    groups: dict[str, tuple[str, str]] = {}
    for argument in arguments:
        text = re.sub("(?<=[^/=])/+$", "", str(argument))  # modelA/ is modelA
        labelled = None if isinstance(argument, Path) or _names_something(text) else LABELLED.fullmatch(text)
        group, path = labelled.groups() if labelled else (text, text)
        if not group.strip() and labelled:
            raise Refused("videos", text, "its label is empty; give LABEL=PATH, such as w2sd=outputs/w2sd")
        if not path:  # which would be the current folder
            raise Refused("videos", text, "give files, folders or globs" + ", as LABEL=PATH" * bool(labelled))
        taken, _ = groups.get(group, (text, ""))
        if taken != text or (labelled and group in groups):
            raise Refused("videos", text, f"{group!r} is the group of {taken!r} already; give each a label of its own")
        groups[group] = text, path
    return [(group, path) for group, (_, path) in groups.items()]


def _names_something(text: str) -> bool:
    path = os.path.expanduser(text)
    return "=" not in text or os.path.lexists(path) or any(glob.iglob(path, recursive=True))


def find(
    arguments: Sequence[str | Path], prompts: Mapping[str, str] | None = None, images: bool = False
) -> list[Video]:
    """The videos that files, folders and globs name, each argument a group; see `grouped`.

    A folder stands for the videos in it, and in its folders; one with pictures and no videos is itself a video; or,
    with `images`, every picture is what is scored, as a video of one frame. A prompt comes from `prompts`, by file
    name (see `prompts.match`), else from a sidecar, the JSON of the same name that w2sd-video writes, else from the
    file's name (`PROMPT-3.mp4`, as VBench names them, 3 being its seed).

    Raises:
        Refused: an argument names nothing that can be scored, or no prompt is of any video.
    """
    places: dict[tuple[Path, str], str] = {}  # where each video, by its path and group, lies in its argument
    within = _pictures if images else _videos
    for group, named in grouped(arguments):
        root = Path(os.path.expanduser(named))
        if root.is_dir():
            paths = list(within(root))
        elif root.exists():
            paths = [root]
        else:
            paths = sorted(Path(path) for path in glob.glob(str(root), recursive=True))
            paths = [each for path in paths for each in (within(path) if path.is_dir() else [path])]
            root = Path(os.path.commonpath([path.parent for path in paths])) if paths else root
        if not paths:
            accepted = f"videos ({' '.join(EXTENSIONS)}), or folders of pictures"
            if images:
                accepted = f"pictures ({' '.join(PICTURES)})"
            value = named if group == named else f"{group}={named}"
            nothing = "it matches no video; " if glob.has_magic(named) else "there is no such file or folder; "
            lacks = "" if root.is_dir() else nothing
            accepted = f"{lacks}give files, folders or globs of {accepted}; or LABEL=PATH{UNLABELLED}"
            raise Refused("videos", value, accepted)
        for path in paths:
            place = path.name if path == root else str(path.relative_to(root if root.is_dir() else root.parent))
            places.setdefault((path, group), place)
    texts, _ = match(prompts, [path for path, _ in places])
    own = {path: texts.get(path) or _prompt(path) for path, _ in places}
    # A name that a group has several times is told apart by its folder, also in other groups that have that folder.
    there = Counter((_named(path), group) for path, group in places)
    folders = {key: str(Path(place).parent) for key, place in places.items()}
    apart = {(_named(path), folders[path, group]) for path, group in places if there[_named(path), group] > 1}
    prompted = Counter(name for name, _ in {(_named(path), own[path]) for path, _ in places})
    return [
        video_at(path, group, folder if (name, folder) in apart else "", texts.get(path), prompted[name] > 1)
        for (path, group), folder in folders.items()
        for name in [_named(path)]
    ]


def _named(path: Path) -> tuple[str, int | None]:
    """The prompt and the seed that a video's name gives, as VBench names videos; or its name alone."""
    stem = unicodedata.normalize("NFC", _stem(path))  # macOS writes an accent apart from its letter
    numbered = re.fullmatch(r"(.+)-(\d+)", stem)
    return (numbered[1], int(numbered[2])) if numbered else (stem, None)


def _prompt(path: Path) -> str:
    """A video's prompt by its sidecar, or by its name."""
    return str(_request(path).get("prompt") or _named(path)[0])


def video_at(path: Path, group: str, folder: str, prompt: str | None, several: bool = False) -> Video:
    """A video, which need not be there, with its pair and prompt.

    Args:
        folder: where it is below its group's, if that tells it from others of its name.
        prompt: its prompt, of those that were given.
        several: whether videos of its name have several prompts.
    """
    request = _request(path)
    own, seed = _named(path)
    name = own if seed is None else f"{own}, seed {seed}"
    pair = str(Path(unicodedata.normalize("NFC", folder)) / name) + f" of {prompt or own}" * several
    if request:
        pair = unicodedata.normalize("NFC", f"{request['prompt']}, seed {request['seed']}")
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
    stems = {_stem(path) for path in videos}
    for path in files:
        if path.is_dir() and path.resolve() not in seen:  # a link to a folder above would never end
            within = _videos(path, seen)
            # Beside a video of its name, or frames, a folder has no more frames to score.
            yield from (each for each in within if not each.is_dir()) if frames or _stem(path) in stems else within


def left_out(arguments: Sequence[str | Path]) -> list[Path]:
    """The videos that `find` leaves out of folders because it does not score their suffix there."""
    roots = [os.path.expanduser(path) for _, path in grouped(arguments)]
    named = [Path(path) for root in roots for path in ([root] if os.path.exists(root) else glob.glob(root))]
    unscored = {file for folder in named if folder.is_dir() for file in _seen(folder, OTHERS)}
    return sorted(unscored.difference(named))


def lacking(
    arguments: Sequence[str | Path], prompts: Mapping[str, str] | None = None, images: bool = False
) -> list[Video]:
    """The videos that sidecars in what `find` looks through say were made, and that are not there.

    They were expected, so that they count as failed. A video that is there under another suffix is not one of them.
    """
    absent: dict[tuple[Path, str], None] = {}
    for group, text in grouped(arguments):
        root = Path(os.path.expanduser(text))
        named = [root] if root.exists() else [Path(path) for path in glob.glob(str(root), recursive=True)]
        absent |= {(path, group): None for each in named if each.is_dir() for path in _absent(each, images)}
        if not root.exists():  # a glob, of files that sidecars would be beside
            for folder in sorted({path.parent for path in named if path.is_file()}):
                beside = [path for path in _absent(folder, images) if fnmatch.fnmatchcase(str(path), str(root))]
                absent |= {(path, group): None for path in beside}
    try:
        texts, _ = match(prompts, [path for path, _ in absent])
    except Refused:  # they are of other videos
        texts = {}
    return [video_at(path, group, "", texts.get(path)) for path, group in absent]


def _absent(folder: Path, images: bool) -> Iterator[Path]:
    """The files that sidecars in a folder, and in its folders, name, of those beside which no file has their name."""
    stems: dict[Path, set[str]] = {}
    for file in _seen(folder, (".json",)):
        try:
            if file.parent not in stems:
                there = [p for p in file.parent.iterdir() if p.is_dir() or p.suffix.lower() in SCORED]
                stems[file.parent] = {_stem(each) for each in there}
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
    """Whether a path is a file, or a broken link, which fails later, when it is opened."""
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
    """The common part of the names of a video, its folder of frames and its sidecar."""
    return path.name.removesuffix("-frames") if path.is_dir() else path.stem


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a video, or of a folder of frames, is if it has one."""
    return path.with_name(f"{_stem(path)}.json")


def _sidecar(path: Path) -> dict[str, Any]:
    """The content of a video's sidecar; empty without one."""
    file = sidecar_of(path)
    try:
        said = json.loads(read_bytes(file)) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _request(path: Path) -> dict[str, Any]:
    """The prompt, seed and variant of a video's request, from its sidecar; empty without one."""
    try:
        request = _sidecar(path)["request"]
        fields = {name: request[name] for name in ("prompt", "seed", "variant")}
    except (KeyError, TypeError):
        return {}
    return fields if isinstance(fields["prompt"], str) and isinstance(fields["seed"], int) else {}
