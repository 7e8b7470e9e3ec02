"""Runs dimensions: finds out which can be computed here, loads their networks, and scores videos."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import sys
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from w2sd_video import plugins
from w2sd_video.columns import LARGEST
from w2sd_video.errors import out_of_memory, shown
from w2sd_video.interrupts import of_plugin

from .decode import first_line
from .dimensions import AllSkipped, ByFunction, Compared, Dimension, Skipped
from .dimensions.dimension import is_ours
from .weights import hashes

if TYPE_CHECKING:
    import torch

    from .dimensions import Scoring
    from .frames import Reader
    from .store import Scored
    from .videos import Video


class Scorer:
    """The dimensions of a run, with their networks.

    `ready` holds the dimensions that can be computed; `skipped` the others, with the reasons.

    Args:
        wanted: the dimensions.
        folder: the folder with the networks' weights. None: the libraries' caches.
        skipped: dimensions that are left out already.

    Raises:
        AllSkipped: no dimension is ready.
    """

    def __init__(
        self,
        wanted: list[Dimension],
        folder: Path | None,
        device: torch.device,
        skipped: Iterable[Skipped] = (),
    ):
        self.device = device
        self.ready = wanted
        self.skipped = list(skipped)
        self.hashes: dict[str, dict[str, str]] = {}
        self._loaded: dict[Dimension, dict[str, Any]] = {}  # with each one's attributes before it was loaded
        self._paths: dict[str, dict[str, Path]] = {}
        for dimension in wanted:
            try:
                paths = {each.name: each.find(folder) for each in dimension.weights}
                of_files = {name: hashes(path) for name, path in paths.items() if path}
            except ValueError as error:
                self.skip(dimension, str(error))
                continue
            missing = [each for each in dimension.weights if paths[each.name] is None]
            lacking = [each for each in dimension.weights if not each.importable]
            if missing or lacking:
                ways = [f"the weights of {w.name} are missing; get them with: {w.command(folder)}" for w in missing]
                ways += [f"{w.name} needs: pip install {w.needs}" for w in lacking]
                self.skip(dimension, "; ".join(ways))
                continue
            self._paths[dimension.name] = {name: path for name, path in paths.items() if path}
            self.hashes[dimension.name] = of_files

    def skip(self, dimension: Dimension, reason: str) -> None:
        """Leaves out a dimension that cannot be computed.

        Raises:
            AllSkipped: no dimension is left.
        """
        self.ready = [each for each in self.ready if each is not dimension]
        self.skipped.append(Skipped(dimension.name, reason))
        if not self.ready:
            raise AllSkipped(self.skipped)

    def load(self, dimensions: list[Dimension]) -> None:
        """Loads the networks of dimensions that are not loaded yet; skips dimensions whose loading fails.

        Raises:
            AllSkipped: no dimension is left.
        """
        for dimension in dimensions:
            if dimension in self._loaded:
                continue
            before = dict(vars(dimension))
            try:
                dimension.load(self._paths[dimension.name], self.device)
                self._loaded[dimension] = before
            except (ValueError, OSError, ImportError) as error:
                self.skip(dimension, f"{error}{_place(dimension, error)}")
            except SystemExit as error:
                self.skip(dimension, f"it cannot be loaded: {of_plugin(error)}")
            except Exception as error:  # in a user's code
                if out_of_memory(error):
                    raise
                said = f"{type(error).__name__}: {first_line(error)}{_place(dimension, error)}"
                self.skip(dimension, f"it cannot be loaded: {said}")

    def unload(self) -> None:
        """Frees all networks."""
        for dimension, before in self._loaded.items():
            vars(dimension).clear()
            vars(dimension).update(before)
        self._loaded.clear()
        gc.collect()  # transformers' networks refer to themselves

    def key(self, dimension: Dimension, video: Video) -> str:
        """The key of a stored score: everything that decides it."""
        parts = [video.sha256, dimension.name, str(dimension.version), *self.hashes[dimension.name].values()]
        parts += [dimension.source, dimension.plugin] if dimension.source else []  # a file may have several
        return " ".join([*parts, json.dumps(video.prompt)] if dimension.prompted else parts)

    def score(self, video: Video, reader: Reader, todo: list[Dimension]) -> tuple[dict[str, Scored], dict[str, str]]:
        """Scores a video on dimensions.

        Returns:
            By dimension, its scores by column, or its features; and by dimension, why it has none.

        Raises:
            ValueError: the video cannot be read to its end, with the reason.
        """
        import torch

        scores: dict[str, Scored] = {}
        problems: dict[str, str] = {}
        running: dict[str, Any] = {}

        by_name = {dimension.name: dimension for dimension in todo}

        def advance(name: str, batch: Any) -> None:
            try:
                try:
                    running[name].send(batch)
                except StopIteration as done:
                    scores[name] = _columns(by_name[name], done.value)
                    del running[name]
            except (ValueError, ImportError) as error:
                problems[name] = f"{error}{_place(by_name[name], error)}"
                del running[name]
            except SystemExit as error:
                problems[name] = str(of_plugin(error))
                del running[name]
            except Exception as error:  # what no dimension foresaw in one video must not end the run for the rest
                problems[name] = f"{type(error).__name__}: {first_line(error)}{_place(by_name[name], error)}"
                del running[name]

        with torch.inference_mode(), exact():
            for dimension in todo:
                if dimension.prompted and not video.prompt:
                    problems[dimension.name] = "it has no prompt"
                    continue
                if reader.frames < dimension.least_frames:
                    has = f"it has {reader.frames} frame{'s' * (reader.frames > 1)}"
                    problems[dimension.name] = f"{has}, and at least {dimension.least_frames} are compared"
                    continue
                running[dimension.name] = _scoring(dimension, video, reader)
                advance(dimension.name, None)
            if running:
                for batch in reader.batches(self.device):
                    for name in list(running):
                        advance(name, batch)
                    if not running:
                        break
            for name in list(running):
                advance(name, None)
        problems |= dict.fromkeys(running, "it gave no score after the last frame")
        return scores, problems


def _scoring(dimension: Dimension, video: Video, reader: Reader) -> Scoring:
    """Runs a dimension's `score` as a generator, so that errors before its first `yield` are raised in it too.

    Raises:
        ValueError: `score` is not a generator.
    """
    scoring = dimension.score(video, reader)
    if not isinstance(scoring, Generator):
        raise ValueError(f"its `score` returned {shown(scoring)} at once: each batch is the value of a `yield`")
    return (yield from scoring)


def _place(dimension: Dimension, error: BaseException) -> str:
    """The file and line of a user's dimension that raised an error, in brackets; empty for this package's own."""
    code = dimension.function if isinstance(dimension, ByFunction) else type(dimension)
    file = getattr(sys.modules.get(getattr(code, "__module__", "")), "__file__", None)
    place = None if is_ours(code) else plugins.place_of(error, [str(file)])
    return f" ({place})" if place else ""


def _columns(dimension: Dimension, returned: Any) -> Scored:
    """A dimension's return value as scores by column, with None for NaN; or as features.

    Raises:
        ValueError: it returned something else.
    """
    if isinstance(dimension, Compared) and isinstance(returned, np.ndarray):
        return returned
    columns = returned if isinstance(returned, dict) else dict.fromkeys(dimension.columns[:1], returned)
    if not set(columns) <= set(dimension.columns) or (returned is not columns and len(dimension.columns) != 1):
        names = ", ".join(map(str, columns)) if returned is columns else "one score"
        raise ValueError(f"it returned {names}, and its columns are {', '.join(dimension.columns)}")
    scores: dict[str, float | None] = {}
    for column, value in columns.items():
        try:
            score = float(value)
        except OverflowError:  # a whole number that no float holds
            score = math.inf
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"its score {column} is {shown(value)}, and has to be a number") from None
        if abs(score) / min(dimension.record(column).scale, 1) > LARGEST:  # means are divided by the scale
            accepted = f"finite, from -{LARGEST:g} to {LARGEST:g}, or NaN where there is none"
            raise ValueError(f"its score {column} is {score:g}, and has to be {accepted}")
        if dimension.record(column).kind == "verdict" and not (math.isnan(score) or 0 <= score <= 1):
            raise ValueError(f"its score {column} is {score:g}, and has to be from 0 to 1, as that of a verdict")
        scores[column] = None if math.isnan(score) else score
    return scores


@contextlib.contextmanager
def exact():
    """Computes convolutions in full float32 while the context lasts: TF32, the GPU default, can change a verdict."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
