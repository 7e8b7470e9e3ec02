"""Sidecars: beside every video lies `NAME.json`, its request and what came of it.

A sidecar is written last, so a video that has one is complete. It records the size, time of change and SHA-256 of every
file that belongs to it, so that a file that was cut short or replaced later is noticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .. import settings
from ..documents import Unreadable, read_json
from ..errors import Refused, shown
from ..hashing import sha256_of
from .request import Request

FORMAT = 2  # of sidecars; sidecars of format 1 have neither `format` nor `hashes`
IMPLIED = {"family": "animatediff-sdxl"}  # in requests of format 1, since there was one family at first


def sidecar(request: Request, record: Mapping[str, Any]) -> str:
    """The text of a sidecar."""
    data = {"format": FORMAT, "request": asdict(request), **record}
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_sidecar(path: Path) -> tuple[Request, dict[str, Any]]:
    """The request of a sidecar, and its whole content.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a sidecar of this program, or has keys that this version does not know.
    """
    try:
        data = read_json(path)
        recorded, version = data["request"], data.get("format", 1)
        recorded = {**IMPLIED, **recorded} if version == 1 else recorded
        needed = {f.name for f in fields(Request) if f.default is MISSING and f.default_factory is MISSING}
        unknown, missing = recorded.keys() - set(settings.names()), needed - recorded.keys()
    except (Unreadable, KeyError, TypeError, AttributeError) as error:
        why = f": {str(error).removeprefix(f'{path}: ')}" if isinstance(error, Unreadable) else ""
        raise ValueError(f"{path} is not a sidecar, the JSON that w2sd-video writes beside a video{why}") from None
    if isinstance(version, bool) or version not in range(1, FORMAT + 1):
        raise ValueError(f"{path} is a sidecar of format {shown(version)}; this version reads 1 to {FORMAT}")
    if unknown or missing:
        says = [f"has unknown {', '.join(sorted(unknown))[:300]}"] if unknown else []
        says += [f"lacks {', '.join(sorted(missing))}"] if missing else []
        raise ValueError(f"{path}: its request {' and '.join(says)}: it is of another version")
    try:
        request = Request(**recorded)
        _RECORD.validate_python(data)
    except Refused as error:
        raise ValueError(f"{path}: its request's {error}") from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{path}: {place} is not what w2sd-video writes there") from None
    return request, data


class _Video(TypedDict):
    frames_sha256: str


class _Record(TypedDict, total=False):
    """The entries of a sidecar, beside its request, that this program reads again."""

    videos: dict[str, _Video]
    formats: list[Literal["mp4", "gif", "png", "differences"]]


_RECORD = TypeAdapter(_Record)


def unlike(request: Request, other: Request) -> list[str]:
    """The fields in which two requests differ, as sidecars record them; for a changed picture, the argument's name."""
    if request == other:
        return []
    one, two = (json.loads(json.dumps(asdict(each))) for each in (request, other))
    pictures = [each.pop("pictures") for each in (one, two)]
    changed = {name for name in {**pictures[0], **pictures[1]} if pictures[0].get(name) != pictures[1].get(name)}
    return sorted(changed | {name for name in one if one[name] != two[name]}, key=[*one, *changed].index)


def hashes(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes, time of change in ns and SHA-256 of files and folders' files, by name (`FOLDER/FILE`)."""
    by_name = {}
    for path in paths:
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            stat = file.stat()
            of = {"size": stat.st_size, "modified_ns": stat.st_mtime_ns, "sha256": sha256_of(file)}
            by_name[file.relative_to(path.parent).as_posix()] = of
    return by_name


def check_files(
    folder: Path, record: Mapping[str, Any], hashed: bool = False, only: Iterable[str] | None = None
) -> dict[Path, str]:
    """Compares files with what their sidecar records of them.

    Sizes and times of change are always compared. A file with another time, such as a copy, is compared by its hash.

    Args:
        folder: the folder of the sidecar.
        record: the sidecar's content. Sidecars of format 1 record nothing of their files, so nothing is compared.
        hashed: compare all hashes, to find files that were changed and dated back, and failing disks.
        only: compare only these files and folders of frames, by name.

    Returns:
        What is wrong, in words, by path; empty if all files are as recorded.
    """
    wrong: dict[Path, str] = {}
    recorded = record.get("hashes")
    names = None if only is None else set(only)
    for name, of in recorded.items() if isinstance(recorded, Mapping) else ():
        parts = PurePosixPath(name).parts
        if names is not None and not names & {name, *parts[:1]}:
            continue
        path = folder / name
        if ".." in parts or os.path.isabs(name):
            wrong[path] = "lies elsewhere than its sidecar"
        elif not path.is_file():
            wrong[path] = "is no file" if path.exists() else "is missing"
        elif what := _unlike_record(path, of, hashed):
            wrong[path] = what
    return wrong


def _unlike_record(path: Path, of: Any, hashed: bool) -> str:
    """How a file differs from its record in a sidecar, in words; empty if it does not."""
    try:
        size, modified, recorded = (of[key] for key in ("size", "modified_ns", "sha256"))
    except (KeyError, TypeError):
        return "has no size, time and hash in its sidecar"
    now = path.stat()
    if now.st_size != size:
        return f"has {now.st_size} bytes, and its sidecar says {size}"
    if (hashed or now.st_mtime_ns != modified) and sha256_of(path) != recorded:
        return "is not the file whose hash its sidecar has"
    return ""
