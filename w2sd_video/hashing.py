"""SHA-256 of files, read in pieces: a checkpoint or a video need not fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256(paths: Iterable[Path]) -> str:
    """The SHA-256 of files' bytes, one file after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
