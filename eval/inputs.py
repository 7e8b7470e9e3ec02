"""The inputs of `evaluate` in one form: videos with their prompts and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from w2sd_video.errors import Refused

from . import memory
from .videos import Video, find

ACCEPTED = "give files, folders, globs, or videos in memory: arrays, tensors, lists of PIL images"


@dataclass(frozen=True)
class Inputs:
    """The `videos` to score; the `arguments` that name files among them; and `prompts` by file name."""

    videos: list[Video]
    arguments: list[str | Path]
    prompts: Mapping[str, str] | None


def gather(
    videos: Any, prompts: Mapping[str, str] | Sequence[str] | None, images: bool, official: str | Path | None
) -> Inputs:
    """What is to be scored; arguments as of `evaluate`.

    Raises:
        Refused: an argument cannot be used, or there is no video.
    """
    if isinstance(videos, Mapping) and videos:
        entries: list[Any] = []
        held = [each for group, some in videos.items() for each in _group(group, some, images)]
    else:
        entries, held = _held(videos, images)
    files = listed("videos", entries, Video) if entries else []
    if held and official:
        raise Refused("official", str(official), "VBench's package reads files, and videos are in memory: give None")
    named = [replace(video) for video in files if isinstance(video, Video)]  # to be hashed as they are now
    arguments = [each for each in files if not isinstance(each, Video)]
    by_name, held = _prompted(held, prompts, files=bool(files))
    every = named + held + (find(arguments, by_name, images) if arguments or not held else [])
    if not every:
        raise Refused("videos", "", "give files, folders or globs of videos, or videos in memory")
    return Inputs(every, arguments, by_name)


def _group(name: Any, videos: Any, images: bool) -> list[Video]:
    """The videos in memory of a group.

    Raises:
        Refused: its name is no text, or not all of its videos are in memory.
    """
    if not isinstance(name, str) or not name.strip():
        raise Refused("videos", name, "give groups names that are not empty")
    entries, held = _held(videos, images, f"videos[{name!r}]")
    if entries or not held:
        value = entries[0] if entries else videos
        raise Refused(f"videos[{name!r}]", value, "give videos in memory; files have groups by LABEL=PATH")
    return [replace(each, group=name) for each in held]


def _held(videos: Any, images: bool, argument: str = "videos") -> tuple[list[Any], list[Video]]:
    """What of `videos` is not in memory, and what is, as videos.

    Raises:
        Refused: a video in memory cannot be used; names it.
    """
    alone = isinstance(videos, (str, Path, Video)) or memory.is_in_memory(videos)
    if not alone and (isinstance(videos, Mapping) or not isinstance(videos, Iterable)):
        raise Refused(argument, videos, ACCEPTED)
    entries: list[Any] = []
    held: list[Video] = []
    for index, entry in enumerate([videos] if alone else videos):
        if not memory.is_in_memory(entry):
            entries.append(entry)
            continue
        for each, frames in memory.split(entry, images, argument if alone else f"{argument}[{index}]"):
            held.append(memory.in_memory(frames, name=f"video {len(held)}", argument=each))
    return entries, held


def _prompted(
    held: list[Video], prompts: Mapping[str, str] | Sequence[str] | None, files: bool
) -> tuple[Mapping[str, str] | None, list[Video]]:
    """Prompts by file name, and the videos in memory with theirs.

    Args:
        files: whether there are others, which are not in memory.

    Raises:
        Refused: they are not one for each of the videos in memory.
    """
    if prompts is None or isinstance(prompts, Mapping):
        if prompts and held and not files:
            raise Refused("prompts", prompts, f"videos in memory have no file name: give a list of {len(held)} texts")
        return prompts, held
    texts = list(prompts) if isinstance(prompts, Sequence) and not isinstance(prompts, (str, bytes)) else None
    if texts is None or files or not held:
        raise Refused("prompts", prompts, "give texts by file name; or a list of texts where all videos are in memory")
    if len(texts) != len(held) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise Refused("prompts", texts, f"give a list of {len(held)} texts, one for each video in memory, none empty")
    return None, [replace(video, prompt=text) for video, text in zip(held, texts, strict=True)]


def listed(argument: str, value: Any, *kinds: type) -> list[Any]:
    """Paths as a list, in which a single one stands for itself.

    Raises:
        Refused: something else is given.
    """
    if isinstance(value, (str, Path, *kinds)):
        return [value]
    paths = list(value) if isinstance(value, Iterable) else [value]
    for each in paths:
        if not isinstance(each, (str, Path, *kinds)):
            raise Refused(argument, each, ACCEPTED if Video in kinds else "give files, folders or globs")
    return paths
