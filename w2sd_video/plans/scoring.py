"""Scores the videos of a run with parallel workers, and stores the scores where `evaluate` finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..eval.decode import Decoder
from ..eval.dimensions import chosen
from ..eval.evaluate import to_do
from ..eval.passes import score_here
from ..eval.scorer import Scorer
from ..eval.store import Store
from ..eval.videos import Video
from ..runs import usable_device
from .engine import Engine, Outcome


@dataclass(frozen=True)
class VideoTask:
    """A video to score on dimensions, by name."""

    key: str
    video: Video
    dimensions: tuple[str, ...]
    models: None = None

    @property
    def stem(self) -> str:
        return self.video.path.stem


class Scoring:
    """Scores videos one after another, and keeps the networks of the dimensions loaded."""

    def __init__(self, dimensions: Sequence[str], weights: Path | None, device: str):
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self.scorer = Scorer(chosen(dimensions), weights, usable_device(device, auto=("cuda",)))
        self.decoder = Decoder()

    def make(self, task: VideoTask) -> Outcome:
        store = Store(None)
        wanted = [dimension for dimension in self.scorer.ready if dimension.name in task.dimensions]
        try:
            score_here(self.scorer, store, {task.video: wanted}, self.decoder, lambda done, total, video: None)
        except Exception as error:  # `evaluate` scores the video again, and reports the error
            return Outcome(task, error=f"{type(error).__name__}: {error}")
        return Outcome(task, store.rows)


def score(
    videos: Sequence[Video],
    dimensions: Sequence[str],
    path: Path,
    engine: Engine,
    threads: int,
    weights: Path | None = None,
    device: str = "auto",
    scored_on: Callable[[str], Collection[str] | None] = lambda dimension: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes scores that are missing and that can be stored. `evaluate` then reads them and computes the rest.

    Args:
        path: the run's folder.
        engine: runs the workers; its own errors are raised too.
        threads: per worker.
        weights: a folder with the weights of the dimensions' networks.
        scored_on: returns the prompts on which a dimension is scored; None: all.
        progress: called with the number of videos done and of videos in all.

    Raises:
        Refused, FileNotFoundError: see `evaluate`.
    """
    scorer = Scorer(chosen(dimensions), weights, usable_device(device, auto=("cuda",)))
    store = Store(path / "scores" / "scores.jsonl")
    tasks: list[VideoTask] = []
    known: set[str] = set()
    for video, missing in to_do(scorer, store, list(videos), [])[0].items():
        own = [each for each in missing if (only := scored_on(each.name)) is None or video.prompt in only]
        new = {scorer.key(each, video): each.name for each in own if each.stored}
        if new := {key: name for key, name in new.items() if key not in known}:
            known |= new.keys()
            tasks.append(VideoTask(str(video.path), video, tuple(new.values())))
    if not tasks:
        return
    start = partial(Scoring, [each.name for each in scorer.ready], weights, device)
    progress(0, len(tasks))
    with closing(engine.run(tasks, start, threads, path)) as outcomes:
        for number, outcome in enumerate(outcomes, 1):
            store.keep((outcome.record or {}).values())
            progress(number, len(tasks))


__all__ = ["score"]
