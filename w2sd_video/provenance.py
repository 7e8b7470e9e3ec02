"""Hashes of a pipeline's weights and versions of packages, for a run's record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .hashing import sha256_of

Stamps = tuple[tuple[str, int, int], ...]
REMEMBER_ABOVE = 64 * 2**20  # bytes; smaller files are hashed each time, which is fast


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """The versions of packages by name; None for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def remember_files(module: torch.nn.Module, files: Iterable[Path]) -> None:
    """Stores on a module the files of its weights, with their present size and time."""
    note_files(module, tuple((str(file), *stamp(file)) for file in files))


def note_files(module: torch.nn.Module, stamps: Stamps) -> None:
    """Stores on a module the files of its weights; see `files_of`."""
    module._w2sd_files = stamps  # type: ignore[assignment]


def files_of(module: object) -> Stamps:
    """The files of a module's weights: path, and size in bytes and time of last change in ns when it was loaded."""
    return getattr(module, "_w2sd_files", ())


def weight_hashes(pipeline: Any) -> dict[str, str]:
    """A SHA-256 for each network of a diffusers pipeline, by component name.

    `sha256:…` is the hash of the file from which the component was loaded, as model sites publish it; for a sharded
    component, the hash of its shards' hashes. It does not reflect later changes in memory (dtype, fused LoRA).
    `tensors-sha256:…` is the hash of names, dtypes, shapes and values, for a component that was built in memory or
    whose file has changed.

    Hashes of large files are cached in the user's cache folder, by path, size and time of last change. Files in the
    hub's cache have their hash as their name. A few MB take milliseconds, an uncached checkpoint of 7 GB some seconds.
    """
    hashes: dict[str, str] = {}
    of_files: dict[tuple[str, ...], str] = {}
    for name, module in sorted(pipeline.components.items()):
        if not isinstance(module, torch.nn.Module):
            continue
        files = files_of(module)
        if files and all(_unchanged(*file) for file in files):
            paths = tuple(path for path, *_ in files)
            if paths not in of_files:
                of_files[paths] = _combined([file_sha256(Path(path)) for path in paths])
            hashes[name] = "sha256:" + of_files[paths]
        else:
            hashes[name] = "tensors-sha256:" + tensors_sha256(module)
    return hashes


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; `weight_hashes` says which are cached."""
    real = path.resolve()
    if path.is_symlink() and real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    size, changed = stamp(real)
    if size < REMEMBER_ABOVE:
        return sha256_of(real)

    key = f"{real}|{size}|{changed}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "w2sd-video" / "sha256.json"
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    if key in known:
        return known[key]
    digest = sha256_of(real)
    with contextlib.suppress(OSError):  # if the cache cannot be written, the next run just hashes again
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = cache.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps({**known, key: digest}, indent=1))
        draft.replace(cache)
    return digest


def tensors_sha256(module: torch.nn.Module) -> str:
    """The SHA-256 of a module's names, dtypes, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _combined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def stamp(file: Path) -> tuple[int, int]:
    """A file's size in bytes and time of last change in ns, which tell whether it has changed."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _unchanged(path: str, size: int, changed: int) -> bool:
    try:
        return stamp(Path(path)) == (size, changed)
    except OSError:
        return False
