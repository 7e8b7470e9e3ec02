"""Scores the videos of a run by workers side by side. What each scores is stored where scoring then finds it."""

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
    """A video to score, on the dimensions of these names."""

    key: str
    video: Video
    dimensions: tuple[str, ...]
    models: None = None

    @property
    def stem(self) -> str:
        return self.video.path.stem


class Scoring:
    """Scores videos one after another, and holds the networks of the dimensions."""

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
        except Exception as error:  # it is scored again, and the error is told then
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
    """Scores what was not scored yet, and can be: `evaluate` then finds it, scores the rest, and says what cannot be.

    Args:
        path: the run's folder.
        threads: of each worker.
        scored_on: the prompts that a dimension is scored on; None: all.
        progress: called with how many videos are done, of how many.

    Raises:
        Refused, FileNotFoundError: as of `evaluate`; and what the engine raises.
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
