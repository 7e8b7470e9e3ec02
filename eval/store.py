"""Stores scores in a JSON Lines file, each as soon as it is computed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video.columns import LARGEST
from w2sd_video.runs import naming, rows

from .frames import FACTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # Of a video by a dimension: scores by column, None where it says nothing of it; or features, (frames, channels).
    Scored = dict[str, float | None] | NDArray[np.float32]


class Store:
    """Scores by key. Each is written to a JSON Lines file at once, except those of the dimensions in `passing`."""

    def __init__(self, path: Path | None, passing: Iterable[str] = ()):
        self.path, self._passing = path, set(passing)
        self.rows: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(rows(path) if path else [], 1):
            own = isinstance(row, dict) and row.keys() >= {"key", "scores", *FACTS}
            if not own or not isinstance(row["key"], str) or not isinstance(row["scores"], dict):
                raise ValueError(f"{path}, line {number}, is no score of this program")
            if row.get("dimension") in self._passing or any(map(_too_large, row["scores"].values())):
                continue
            self.rows[row["key"]] = row

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, scored: dict[str, tuple[str, Scored]], facts: dict[str, Any]) -> None:
        """Adds a video's scores by key; they are on the disk when it returns."""
        fresh = []
        for key, (name, scores) in scored.items():
            said = {"scores": {}, "features": packed(scores)} if isinstance(scores, np.ndarray) else {"scores": scores}
            fresh.append({"key": key, "dimension": name, **facts, **said})
        self.keep(fresh)

    def keep(self, fresh: Iterable[dict[str, Any]]) -> None:
        """Adds rows; they are on the disk when it returns."""
        fresh = list(fresh)
        self.rows |= {row["key"]: row for row in fresh}
        kept = [row for row in fresh if row["dimension"] not in self._passing]
        if self.path and kept:
            with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
                file.flush()
                os.fsync(file.fileno())


def _too_large(score: object) -> bool:
    """Whether it is a score that earlier versions kept, of which no variance is finite."""
    return isinstance(score, (int, float)) and abs(score) > LARGEST


def packed(features: NDArray[np.float32]) -> dict[str, Any]:
    """Features (n, channels) as a lossless JSON value."""
    data = base64.b64encode(features.astype("<f4").tobytes()).decode()
    return {"shape": features.shape, "float32": data}


def unpacked(features: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(features["float32"]), "<f4").reshape(features["shape"])
