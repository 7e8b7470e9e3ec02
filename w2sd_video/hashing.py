"""SHA-256 of files, read in pieces: a checkpoint or a video need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

SETTLED = 2 * 10**9  # nanoseconds; a change this long after the last one is sure to alter the file's times
_HASHES: dict[tuple[object, ...], str] = {}  # by identity of the file; kept for this process


def sha256(paths: Iterable[Path]) -> str:
    """The SHA-256 of the files' concatenated bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. A process reads an unchanged file only once.

    A change shows in the file's ctime, which, unlike its mtime, a program cannot set back.
    """
    before = _identity(path)
    if before not in _HASHES:
        digest = sha256([path])
        if before != _identity(path) or time.time_ns() - path.stat().st_ctime_ns < SETTLED:
            return digest
        _HASHES[before] = digest
    return _HASHES[before]


def _identity(path: Path) -> tuple[object, ...]:
    stat = path.stat()
    return os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
