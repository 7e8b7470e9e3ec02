"""Which prompt of a JSON file is a video's: keys are its file name, or a path of any system that ends in it."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from w2sd_video.documents import once, read_bytes
from w2sd_video.errors import Refused

Parts = tuple[str, ...]
EXAMPLE = '{"video.mp4": "a prompt"}'


def read_prompts(path: Path) -> dict[str, str]:
    """A JSON object of file names and prompts, in any of Unicode's encodings; or VBench's `NAME_full_info.json`.

    Raises:
        Refused: it is something else.
    """
    try:
        prompts = json.loads(read_bytes(path), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused("prompts", str(path), f"give a JSON file such as {EXAMPLE} ({error})") from None
    if isinstance(prompts, list):
        prompts = _of_full_info(prompts)
    if not _are_prompts(prompts):
        raise Refused("prompts", str(path), f"give a JSON file such as {EXAMPLE}")
    return prompts


def _of_full_info(rows: list[Any]) -> dict[Any, Any] | None:
    """The prompts by path in what VBench writes beside its results; None if it is something else, or has two of one."""
    try:
        listed = [(row["prompt_en"], row["video_list"]) for row in rows if "video_list" in row]
        pairs = [(path, text) for text, own in listed for path in ([own] if isinstance(own, str) else own)]
        prompts = dict(pairs)
    except (KeyError, TypeError):
        return None
    return prompts if prompts and all(prompts[path] == text for path, text in pairs) else None


def match(prompts_by_key: Mapping[str, str] | None, paths: Iterable[Path]) -> tuple[dict[Path, str], list[str]]:
    """The prompts of videos, and the keys that are of none of them.

    A relative key is the end of a video's path, at least its name; of several the longest counts. An absolute key is
    the whole path, or else, as of another machine, the path that has the most of its end in common, at least the
    name. Separators, `./` and Unicode's normal forms make no difference.

    Raises:
        Refused: they are no prompts, two keys are one path with different prompts, or there are prompts and none is of
            any of the videos.
    """
    if prompts_by_key is not None and not _are_prompts(prompts_by_key):
        raise Refused("prompts", prompts_by_key, f"give texts by file name, such as {EXAMPLE}")
    prompts = dict(prompts_by_key or {})
    keys: dict[Parts, str] = {}
    for key in prompts:
        if prompts[keys.setdefault(parts := _parts(key), key)] != prompts[key]:
            raise Refused("prompts", key, f"{keys[parts]!r} is the same path, and has another prompt")
    named: dict[str, list[Parts]] = {}
    for parts in keys:
        named.setdefault(parts[-1] if parts else "", []).append(parts)
    matched: dict[Path, Parts] = {}
    elsewhere: list[tuple[Path, Parts]] = []
    for path in paths:
        whole = _parts(os.path.abspath(path))
        same = [parts for parts in named.get(whole[-1], ()) if whole[len(whole) - len(parts) :] == parts]
        if same:
            matched[path] = max(same, key=len)
        else:
            elsewhere.append((path, whole))
    here = set(matched.values())
    for path, whole in elsewhere:
        others = [parts for parts in named.get(whole[-1], ()) if _absolute(parts) and parts not in here]
        common = [len(os.path.commonprefix([parts[::-1], whole[::-1]])) for parts in others]
        best = {keys[parts]: parts for parts, n in zip(others, common, strict=True) if n == max(common)}
        if len({prompts[key] for key in best}) == 1:
            matched[path] = next(iter(best.values()))
    if prompts and not matched:
        accepted = "its keys are file names of the videos that are scored, and none is of any"
        raise Refused("prompts", next(iter(prompts)), accepted)
    used = set(matched.values())
    unused = [key for key in prompts if _parts(key) not in used]
    return {path: prompts[keys[parts]] for path, parts in matched.items()}, unused


def _parts(key: str) -> Parts:
    """A path's parts, an absolute one's with its root, `/` or a drive, as the first."""
    key = unicodedata.normalize("NFC", key).replace("\\", "/")
    if key.startswith("../"):
        key = f"{os.getcwd()}/{key}".replace("\\", "/")
    root = re.match(r"[A-Za-z]:/|/*", key)
    assert root
    parts: list[str] = [root[0].upper()] if root[0] else []
    for part in key[root.end() :].split("/"):
        if part == ".." and len(parts) > bool(root[0]):
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def _absolute(parts: Parts) -> bool:
    return "/" in parts[0]


def _are_prompts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(text, str) and text.strip() for key, text in value.items()
    )
