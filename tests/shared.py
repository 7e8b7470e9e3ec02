"""Large files that tests read, written once for all workers and sessions: a folder named by the hash of its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

WEEK = 7 * 24 * 3600


def root() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "w2sd-video-tests"


def shared(name: str, write: Callable[[Path], None], *recipe: object, folder: Path | None = None) -> Path:
    """The folder that `write` fills; it is written if there is none of this recipe, and there whole or not at all.

    The recipe is what the content follows from: sources as `Path`s, and values that JSON has; the versions of the
    libraries that write it count too. Folders that no test has read for a week are removed, and so is what a killed
    process left. `folder` is in place of the user's cache.
    """
    folder = folder or root()
    folder.mkdir(parents=True, exist_ok=True)
    said = [part.read_text(encoding="utf-8") if isinstance(part, Path) else part for part in recipe]
    said += [version(package) for package in ("numpy", "torch", "transformers", "safetensors")]
    place = folder / f"{name}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second worker waits for the first one's files
        if not place.exists():
            for old in folder.iterdir():
                if old.is_dir() and time.time() - old.stat().st_mtime > WEEK:
                    shutil.rmtree(old, ignore_errors=True)
            made = Path(tempfile.mkdtemp(dir=folder))
            try:
                write(made)
                made.rename(place)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        os.utime(place)
    return place
